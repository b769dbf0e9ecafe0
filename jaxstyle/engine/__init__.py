"""Runs: from objectives, images and an optimizer to results.

One update is one compiled program, driven from Python. Around it: scales from coarse to fine,
lanes for batches, rows sharded over several devices, fitting into memory, and records.
"""

from jaxstyle.engine import batch, fitting, loop, pyramid, sharding, transfer
from jaxstyle.engine.batch import (
    Cell,
    GuideSource,
    Source,
    program_of,
    stylize_batch,
    stylize_cells,
)
from jaxstyle.engine.loop import LoopState, Progress, begin, optimize, outcome, state_like
from jaxstyle.engine.memory import Device, device_memory
from jaxstyle.engine.records import Callback, Record, Result
from jaxstyle.engine.transfer import Scale, fitted_shape, stylize
from jaxstyle.engine.waiting import Reader

__all__ = [
    "Callback",
    "Cell",
    "Device",
    "GuideSource",
    "LoopState",
    "Progress",
    "Reader",
    "Record",
    "Result",
    "Scale",
    "Source",
    "batch",
    "begin",
    "device_memory",
    "fitted_shape",
    "fitting",
    "loop",
    "optimize",
    "outcome",
    "program_of",
    "pyramid",
    "sharding",
    "state_like",
    "stylize",
    "stylize_batch",
    "stylize_cells",
    "transfer",
]
