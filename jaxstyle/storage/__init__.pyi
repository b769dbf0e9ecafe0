from . import cells as cells, grid as grid, hosts as hosts, runs as runs
from .cells import Base as Base, product as product
from .folders import (
    check_parent as check_parent,
    check_unused as check_unused,
    has_checkpoint as has_checkpoint,
    is_recorded as is_recorded,
    read_config as read_config,
    read_metrics as read_metrics,
    read_result as read_result,
)
from .grid import run_grid as run_grid
from .identity import Identity as Identity, check_same as check_same
from .pace import Schedule as Schedule
from .shared_run import SharedRun as SharedRun
