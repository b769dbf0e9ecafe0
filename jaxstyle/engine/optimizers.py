"""The optimizers that a config can name, as optax transformations."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Int

from jaxstyle.config import Config
from jaxstyle.objective import GREY_LEVELS
from jaxstyle.optim import lbfgs, smooth

FIRST_STEP = 4.0 / GREY_LEVELS
"""Root-mean-square change of the first L-BFGS step: large enough for float32 to resolve the
curvature along it."""

_LOSS_NOISE = {"float32": 1e-6, "tf32": 1e-4, "bfloat16": 1e-2}
_DEFAULT_HISTORY = 20
_DEFAULT_LEARNING_RATE, _DEFAULT_BETA2 = 0.02, 0.999


def make_optimizer(
    config: Config, budget: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return the optax transformation that `config` names; schedules span `budget` evaluations."""
    if config.optimizer == "adam":
        cosine = config.learning_rate_schedule == "cosine"
        return _adam(
            config.learning_rate or _DEFAULT_LEARNING_RATE,
            config.adam_beta2 or _DEFAULT_BETA2,
            budget or config.evaluations if cosine else None,
            config.ema,
        )
    return _lbfgs(
        config.history_size or _DEFAULT_HISTORY,
        _LOSS_NOISE[config.precision],
        config.history_precision,
        config.preconditioner != "none",
    )


# Cached, because compiled updates are looked up by the identity of their functions.
@functools.lru_cache
def _lbfgs(
    history_size: int, noise: float, stored: str | None, preconditioned: bool
) -> optax.GradientTransformationExtraArgs:
    dtype = jnp.dtype(jnp.bfloat16) if stored == "bfloat16" else None
    return lbfgs(history_size, FIRST_STEP, noise, dtype, *([smooth] if preconditioned else []))


@functools.lru_cache
def _adam(
    learning_rate: float, beta2: float, decay_steps: int | None, ema: float | None
) -> optax.GradientTransformationExtraArgs:
    schedule = (
        learning_rate
        if decay_steps is None
        else optax.cosine_decay_schedule(learning_rate, decay_steps)
    )
    adam = optax.adam(schedule, b2=beta2)
    return optax.with_extra_args_support(
        adam if ema is None else optax.chain(adam, average_iterates(ema))
    )


class AverageState(NamedTuple):
    """State of `average_iterates`."""

    average: optax.Params
    iterates: Int[Array, ""]


def average_iterates(decay: float) -> optax.GradientTransformation:
    """Keep a bias-corrected exponential moving average of the iterates; updates pass through.

    The average of n iterates weights the one k before the last by decayᵏ(1 − decay)/(1 − decayⁿ),
    the bias correction of Kingma and Ba (2015). The transformation comes last in a chain.
    """

    def init(params: optax.Params) -> AverageState:
        return AverageState(params, jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        assert isinstance(state, AverageState)
        assert params is not None
        count = state.iterates + 1
        share = (1 - decay) / (1 - decay**count)

        def moved(mean: Array, iterate: Array) -> Array:
            # Skip an iterate that is not finite; a run ends with it.
            nearer = mean + (share * (iterate - mean)).astype(mean.dtype)
            return jnp.where(jnp.isfinite(iterate).all(), nearer, mean)

        iterates = optax.apply_updates(params, updates)
        return updates, AverageState(jax.tree.map(moved, state.average, iterates), count)

    return optax.GradientTransformation(init, update)
