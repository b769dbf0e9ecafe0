"""Averages of the iterates, which are often better than the last of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int


class AverageState(NamedTuple):
    """State of `average_iterates`."""

    average: optax.Params
    iterates: Int[Array, ""]


def average_iterates(decay: float | Float[Array, ""]) -> optax.GradientTransformation:
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
        if params is None:
            raise ValueError(
                "average_iterates needs the parameters: update(updates, state, params)"
            )
        count = state.iterates + 1
        share = (1 - decay) / (1 - decay**count)

        def moved(mean: Array, iterate: Array) -> Array:
            # Skip an iterate that is not finite; a run ends with it.
            nearer = mean + (share * (iterate - mean)).astype(mean.dtype)
            return jnp.where(jnp.isfinite(iterate).all(), nearer, mean)

        iterates = optax.apply_updates(params, updates)
        return updates, AverageState(jax.tree.map(moved, state.average, iterates), count)

    return optax.GradientTransformation(init, update)
