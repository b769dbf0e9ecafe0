"""The optimizers that a config can name, as optax transformations."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxstyle.config import LBFGS, Adam, Config
from jaxstyle.engine import pyramid
from jaxstyle.engine.records import Progress
from jaxstyle.engine.update import State, init, state_shapes
from jaxstyle.imaging import Image
from jaxstyle.network import vgg
from jaxstyle.objective import GREY_LEVELS
from jaxstyle.optim import average_iterates, lbfgs, smooth

FIRST_STEP = 4.0 / GREY_LEVELS
"""Root-mean-square change of the first L-BFGS step: large enough for float32 to resolve the
curvature along it."""

_LOSS_NOISE = {"float32": 1e-6, "tf32": 1e-4, "bfloat16": 1e-2}


def make_optimizer(
    config: Config, rows: tuple[int, int] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return the optax transformation that `config` names; a schedule spans its `evaluations`.

    Arguments to `update` from `hyperparameters` override its own.

    Args:
        config: the settings.
        rows: numbers of rows of the image and of its padded form; None if they are the same.
    """
    if isinstance(config.optimizer, Adam):
        return _adam(config.optimizer, config.evaluations if config.scheduled else None)
    precision = vgg.chosen_precision(config.precision, config.convolution)
    even = rows is None or rows[0] == rows[1]
    return _lbfgs(config.optimizer, _LOSS_NOISE[precision], (1, 1) if even else rows)


def hyperparameters(config: Config, budget: int) -> dict[str, float]:
    """Return the optimizer's numeric hyperparameters, which change without recompiling.

    A schedule spans `budget` evaluations.
    """
    if not isinstance(config.optimizer, Adam):
        return {}
    return _numbers(config.optimizer, budget if config.scheduled else None)


def state_like(shape: tuple[int, ...], config: Config) -> State:
    """Return the structure, shapes and dtypes of the state for float32 images of `shape`."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return state_shapes(make_optimizer(config), image)


def state_at(config: Config, shape: tuple[int, ...], scale: int) -> State:
    """Return `state_like` at a scale, counted from the coarsest, of a result of `shape`."""
    return state_like((*pyramid.levels(config, shape)[scale].shape, 3), config)


def begin(image: Image, config: Config) -> Progress:
    """Return the progress of a run before its first evaluation, on the host."""
    image = jnp.asarray(image, jnp.float32)
    return Progress(jax.device_get(init(make_optimizer(config), image)))


# Cached, because compiled updates are looked up by the identity of their functions.
@functools.lru_cache
def _lbfgs(
    options: LBFGS, noise: float, rows: tuple[int, int]
) -> optax.GradientTransformationExtraArgs:
    dtype = jnp.dtype(jnp.bfloat16) if options.history_precision == "bfloat16" else None
    own, padded = rows

    def smooth_rows(grad: Array) -> Array:
        return jnp.pad(smooth(grad[:own]), ((0, padded - own), (0, 0), (0, 0)))

    preconditioner = []
    if options.preconditioner == "cosine":
        preconditioner = [smooth if own == padded else smooth_rows]
    # The root-mean-square is taken over the padded image.
    first_step = FIRST_STEP * math.sqrt(own / padded)
    return lbfgs(options.history_size, first_step, noise, dtype, *preconditioner)


@functools.lru_cache
def _adam(options: Adam, decay_steps: int | None) -> optax.GradientTransformationExtraArgs:
    own = _numbers(options, decay_steps)
    # Its decay stays a constant: of an array, optax would subtract the rounded value from 1.
    adam = functools.partial(_adam_of, options.adam_beta2)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **given: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        numbers = {name: given.get(name, number) for name, number in own.items()}
        return adam(**numbers).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(adam(**own).init, update)


def _numbers(options: Adam, decay_steps: int | None) -> dict[str, float]:
    """Return the arguments of `_adam_of` after `b2`, without those that are None."""
    numbers = {
        "learning_rate": options.learning_rate,
        "decay_steps": decay_steps,
        "ema": options.ema,
    }
    return {name: number for name, number in numbers.items() if number is not None}


def _adam_of(
    b2: float, learning_rate: Any, decay_steps: Any = None, ema: Any = None
) -> optax.GradientTransformationExtraArgs:
    step = learning_rate
    if decay_steps is not None:
        # Over 1, since optax looks at the length of a schedule, which may be traced.
        cosine = optax.cosine_decay_schedule(learning_rate, 1)
        step = lambda count: cosine(count / decay_steps)  # noqa: E731
    adam = optax.adam(step, b2=b2)
    return adam if ema is None else optax.chain(adam, average_iterates(ema))
