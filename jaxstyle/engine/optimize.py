"""`optimize`: the loop for any objective of any parameters, with any optax transformation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxstyle.config import ConfigError, ImageError, brief, named
from jaxstyle.engine.layout import Layout
from jaxstyle.engine.loop import Job, run
from jaxstyle.engine.records import Callback, Result
from jaxstyle.objective import Objective
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

    Raises:
        ConfigError: an argument, or what the objective returns, is not what it should be.
        ImageError: the image is not floating-point, has values that are not finite, or does not fit
            the objective.
    """
    _check_arguments(objective, optimizer, steps)
    _check_image(image)
    leaves = jax.tree.leaves(objective)
    argument = bool(leaves) and all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves)
    if isinstance(objective, Objective):
        objective.check_shape(np.shape(image))
        lane = objective
    elif argument:
        lane = jax.tree_util.Partial(_checked, objective)
    else:
        lane = jax.tree_util.Partial(functools.partial(_checked, objective))
    job = Job(lane, image, steps, callback=callback)
    layout = Layout((jax.local_devices()[0],))
    ((_, outcome),) = run([lambda: job], optimizer, lambda _: layout, keep=argument)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _check_arguments(objective: Any, optimizer: Any, steps: Any) -> None:
    if not callable(objective):
        raise ConfigError(f"objective must be a function of an image, not {brief(repr(objective))}")
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        kind = "class " if isinstance(optimizer, type) else "function "
        given = f"the {kind}{named(optimizer)}" if callable(optimizer) else repr(optimizer)
        raise ConfigError(
            f"optimizer must be an optax transformation, such as lbfgs() or optax.adam(0.02), "
            f"not {given}"
        )
    if not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ConfigError(f"steps must be a whole number of at least 1, not {steps!r}")


def _check_image(image: Any) -> None:
    leaves = jax.tree.leaves(image)
    arrays = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in leaves]
    others = [array for array in arrays if isinstance(array, np.ndarray)]
    if not arrays or any(array.dtype.kind in "OSU" for array in others):
        raise ImageError(f"image must be an array or a pytree of arrays, not {brief(repr(image))}")
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ImageError(f"image must be floating-point, not {array.dtype}")
        if not array.size:
            raise ImageError(f"image has an array without values: {_described(array)}")
        # On the device, if the array is there.
        isfinite = jnp.isfinite if isinstance(array, jax.Array) else np.isfinite
        if not isfinite(array).all():
            raise ImageError("image has values that are not finite")


def _checked(objective: Callable[..., Any], image: Any) -> tuple[Any, dict[str, Any]]:
    """Return the loss and the terms, checked while they are traced."""
    found = objective(image)
    loss, *others = found if isinstance(found, tuple) else (found,)
    if len(others) > 1 or not all(isinstance(terms, dict) for terms in others):
        raise ConfigError("objective must return a loss, or a loss and a dictionary of its terms")
    terms = others[0] if others else {}
    loss = _as_number("objective's loss", loss)
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ConfigError(
            f"objective's loss must be a floating-point number, not {_described(loss)}"
        )
    return loss, {
        name: _as_number(f"objective's term {name}", term) for name, term in terms.items()
    }


_REAL = (jnp.floating, jnp.integer, jnp.bool_)


def _as_number(name: str, value: Any) -> Array:
    try:
        number = jnp.asarray(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a number, not {brief(repr(value))}") from None
    if number.shape or not any(jnp.issubdtype(number.dtype, kind) for kind in _REAL):
        raise ConfigError(f"{name} must be a number, not {_described(number)}")
    return number


def _described(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
