from . import cells as cells, grid as grid, hosts as hosts, runs as runs
from .cells import Base as Base, product as product
from .grid import run_grid as run_grid
from .metrics import read_metrics as read_metrics
from .runs import Schedule as Schedule
