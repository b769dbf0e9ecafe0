"""Optimizers for objectives with expensive evaluations, as optax transformations.

`lbfgs` spends exactly one evaluation on each update. Nothing here is specific to images:
parameters may be any pytree.
"""

from jaxstyle.optim.lbfgs import CONVERGED, NOT_FINITE, RUNNING, STALLED, LBFGSState, lbfgs
from jaxstyle.optim.preconditioner import smooth

__all__ = ["CONVERGED", "NOT_FINITE", "RUNNING", "STALLED", "LBFGSState", "lbfgs", "smooth"]
