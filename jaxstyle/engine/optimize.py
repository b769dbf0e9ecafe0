"""`optimize`: the loop for any objective of any parameters, with any optax transformation."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxstyle.engine.layout import Layout
from jaxstyle.engine.loop import Job, run
from jaxstyle.engine.records import Callback, Result
from jaxstyle.optim import lbfgs

_LBFGS = lbfgs()


def optimize(
    objective: Callable[..., Any],
    image: Any,  # not PyTree, of which a strict type checker knows nothing
    optimizer: optax.GradientTransformation = _LBFGS,
    steps: int = 300,
    callback: Callback | None = None,
) -> Result:
    """Minimize `objective` from `image`, driving one compiled update from Python.

    Examples:
        >>> result = optimize(lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(3), optax.adam(0.1))

    Args:
        objective: a function of an image that returns a loss, or a loss and a dictionary of its
            terms. One that is a pytree of arrays (from `build_objective`, a Flax dataclass, a
            `jax.tree_util.Partial`) is an argument of the program, which the next call with such
            an objective uses again; any other is compiled for this call.
        image: where to start: an image or any other pytree of floating-point arrays, such as the
            parameters of a network. They are optimized in at least float32.
        optimizer: any optax transformation. It is given loss, gradient and objective, which line
            searches ask for.
        steps: number of updates, at least 1; fewer if the optimizer ends before.
        callback: see `Callback`.

    Returns:
        The image of the smallest loss, with one record for each update.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    leaves = jax.tree.leaves(objective)
    argument = bool(leaves) and all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves)
    lane = objective if argument else jax.tree_util.Partial(objective)
    job = Job(lane, image, steps, callback=callback)
    layout = Layout((jax.local_devices()[0],))
    ((_, outcome),) = run([lambda: job], optimizer, lambda _: layout, keep=argument)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
