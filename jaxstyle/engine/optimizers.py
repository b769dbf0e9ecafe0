"""The optimizers that a config can name, as optax transformations."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Int

from jaxstyle.config import LBFGS, Adam, Config
from jaxstyle.objective import GREY_LEVELS
from jaxstyle.optim import lbfgs, smooth

FIRST_STEP = 4.0 / GREY_LEVELS
"""Root-mean-square change of the first L-BFGS step: large enough for float32 to resolve the
curvature along it."""

_LOSS_NOISE = {"float32": 1e-6, "tf32": 1e-4, "bfloat16": 1e-2}


def make_optimizer(
    config: Config, budget: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return the optax transformation that `config` names; schedules span `budget` evaluations."""
    if isinstance(config.optimizer, Adam):
        return _adam(config.optimizer, budget or config.evaluations if config.scheduled else None)
    return _lbfgs(config.optimizer, _LOSS_NOISE[config.precision])


# Cached, because compiled updates are looked up by the identity of their functions.
@functools.lru_cache
def _lbfgs(options: LBFGS, noise: float) -> optax.GradientTransformationExtraArgs:
    dtype = jnp.dtype(jnp.bfloat16) if options.history_precision == "bfloat16" else None
    preconditioner = [smooth] if options.preconditioner == "cosine" else []
    return lbfgs(options.history_size, FIRST_STEP, noise, dtype, *preconditioner)


@functools.lru_cache
def _adam(options: Adam, decay_steps: int | None) -> optax.GradientTransformationExtraArgs:
    step = options.learning_rate
    schedule = step if decay_steps is None else optax.cosine_decay_schedule(step, decay_steps)
    adam = optax.adam(schedule, b2=options.adam_beta2)
    if options.ema is not None:
        adam = optax.chain(adam, average_iterates(options.ema))
    return optax.with_extra_args_support(adam)


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
