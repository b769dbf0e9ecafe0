"""Optimizers for objectives where an evaluation is expensive, as optax transformations.

`lbfgs` spends exactly one evaluation on each update. Nothing here knows of images: parameters are
any pytree.
"""

from jaxstyle.optim.lbfgs import CONVERGED, NOT_FINITE, RUNNING, STALLED, LBFGSState, lbfgs
from jaxstyle.optim.preconditioner import smooth

__all__ = ["CONVERGED", "NOT_FINITE", "RUNNING", "STALLED", "LBFGSState", "lbfgs", "smooth"]
