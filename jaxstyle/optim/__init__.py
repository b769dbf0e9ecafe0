"""Optimizers for objectives with expensive evaluations, as optax transformations.

`lbfgs` spends exactly one evaluation on each update. Nothing here is specific to images:
parameters may be any pytree.
"""

from jaxstyle.optim.averaging import AverageState, average_iterates
from jaxstyle.optim.lbfgs import LBFGSState, lbfgs
from jaxstyle.optim.preconditioner import smooth
from jaxstyle.optim.steps import CONVERGED, NOT_FINITE, RUNNING, STALLED, StepInfo, find

__all__ = [
    "CONVERGED",
    "NOT_FINITE",
    "RUNNING",
    "STALLED",
    "AverageState",
    "LBFGSState",
    "StepInfo",
    "average_iterates",
    "find",
    "lbfgs",
    "smooth",
]
