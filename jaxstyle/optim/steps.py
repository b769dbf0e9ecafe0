"""Per-step information of an optimizer, and how to find it in a nested state."""

from typing import NamedTuple, TypeVar

import jax
from jax import Array
from jaxtyping import Bool, Float, Int

T = TypeVar("T")

RUNNING, CONVERGED, STALLED, NOT_FINITE = range(4)
"""Values of `StepInfo.status`."""


class StepInfo(NamedTuple):
    """The outcome of the trial that an update judged, and the size of the next step."""

    step_size: Float[Array, ""]
    """Size of the step to the next trial; 0 once the optimizer has stopped."""
    accepted: Bool[Array, ""]
    status: Int[Array, ""]
    """`RUNNING`, or the reason why the optimizer stopped."""


def find(state: object, kind: type[T]) -> T | None:
    """Return the first instance of `kind` in an optimizer's state, or None.

    Transformations that wrap others (`optax.chain`, `optax.inject_hyperparams`) nest their states.
    """
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return next((leaf for leaf in leaves if isinstance(leaf, kind)), None)
