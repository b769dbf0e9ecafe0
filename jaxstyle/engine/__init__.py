"""Runs: from objectives, images and an optimizer to results.

One update is one compiled program, driven from Python. Around it: scales from coarse to fine,
lanes for batches, rows sharded over several devices, fitting into memory, and records.
"""

from jaxstyle.engine import pyramid
from jaxstyle.engine.ahead import usable_cores
from jaxstyle.engine.fitting import for_space
from jaxstyle.engine.memory import device_memory
from jaxstyle.engine.optimize import optimize
from jaxstyle.engine.optimizers import begin, make_optimizer, state_at
from jaxstyle.engine.pictures import (
    as_used,
    check_scales,
    fitted_style_shape,
)
from jaxstyle.engine.records import Callback, Keeper, Progress, Record, Result
from jaxstyle.engine.stylize import (
    check_cell,
    compile_ahead,
    pick_devices,
    structure_of,
    stylize,
    stylize_batch,
    stylize_cells,
)
from jaxstyle.engine.targets import Cell, GuideSource, Source
from jaxstyle.engine.update import State, outcome

__all__ = [
    "Callback",
    "Cell",
    "GuideSource",
    "Keeper",
    "Progress",
    "Record",
    "Result",
    "Source",
    "State",
    "as_used",
    "begin",
    "check_cell",
    "check_scales",
    "compile_ahead",
    "device_memory",
    "fitted_style_shape",
    "for_space",
    "make_optimizer",
    "optimize",
    "outcome",
    "pick_devices",
    "pyramid",
    "state_at",
    "structure_of",
    "stylize",
    "stylize_batch",
    "stylize_cells",
    "usable_cores",
]
