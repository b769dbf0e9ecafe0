"""The sliced Wasserstein statistic: features compared by their sorted projections.

The squared 2-Wasserstein distance of two equally large sets of numbers is the mean square
difference of the sorted numbers (Heitz et al. 2021, eq. 3).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key

from jaxstyle.objective.losses import Scalar


class Projected(NamedTuple):
    """Projections of features on directions."""

    values: Float[Array, "m d"]
    shares: Float[Array, " m"] | None
    """Weights of the positions, which sum to 1; None for equal weights."""


def key_of(seed: int) -> Key[Array, ""]:
    """Return the key that `Config.seed` stands for, whatever JAX's default implementation is."""
    data = jnp.asarray(np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32))
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def directions(layer: int, channels: int, number: int, seed: int) -> Float[Array, "c d"]:
    """Draw `number` random unit vectors, uniform on the sphere, to project features on.

    The first ones are the same whatever their number.
    """
    key = jax.random.fold_in(key_of(seed), layer)
    vectors = jax.random.normal(key, (number, channels)).T
    return vectors / jnp.linalg.norm(vectors, axis=0)


def shares(guide: Float[Array, " m"]) -> Float[Array, " m"]:
    """Reduce a guide to equal weights of the positions in its region, and 0 of the others."""
    inside = (guide >= jnp.max(guide) / 2) & (guide > 0)
    return inside / jnp.maximum(jnp.sum(inside), 1)


def quantiles(style: Projected, positions: int) -> Float[Array, "m d"]:
    """Compute, in each direction, the quantiles at the middles of `positions` equal parts."""
    shares = style.shares
    order, values = _sorted(style.values, shares)
    if shares is None and len(values) == positions:
        return values
    shares = jnp.full(len(values), 1 / len(values)) if shares is None else shares
    wanted = (jnp.arange(positions, dtype=values.dtype) + 0.5) / positions
    columns = jax.vmap(functools.partial(jnp.interp, wanted), in_axes=1, out_axes=1)
    return columns(_middles(shares, order), values)


def distance(image: Projected, quantiles: Float[Array, "m d"]) -> Scalar:
    """Compute the squared 2-Wasserstein distance of projections from quantiles.

    It is averaged over directions.
    """
    projected, shares = image
    order = jnp.argsort(jax.lax.stop_gradient(projected), axis=0)
    if shares is not None:
        last = len(projected) - 1
        place = jnp.clip(_middles(shares, order) * (last + 1) - 0.5, 0, last)
        below = jnp.floor(place).astype(int)
        low, high = (
            jnp.take_along_axis(quantiles, index, axis=0)
            for index in (below, jnp.minimum(below + 1, last))
        )
        quantiles = low + (place - below) * (high - low)
    # No gradient flows through the assignment, which minimizes the distance (envelope theorem).
    partners = jax.lax.stop_gradient(
        jnp.put_along_axis(quantiles, order, quantiles, axis=0, inplace=False)
    )
    squares = jnp.mean(jnp.square(projected - partners), axis=1)
    return jnp.mean(squares) if shares is None else jnp.sum(squares * shares)


def _sorted(
    projected: Float[Array, "m d"], shares: Float[Array, " m"] | None
) -> tuple[Int[Array, "m d"], Float[Array, "m d"]]:
    """Sort projections, returning the order and the sorted values.

    Positions outside a region come last and get the region's largest value; otherwise a quantile
    between the region's last value and the first from outside would be drawn towards the latter.
    """
    if shares is None:
        order = jnp.argsort(projected, axis=0)
        return order, jnp.take_along_axis(projected, order, axis=0)
    inside = (shares > 0)[:, None]
    order = jnp.argsort(jnp.where(inside, projected, jnp.inf), axis=0)
    largest = jnp.max(projected, axis=0, where=inside, initial=-jnp.inf)
    # A region that vanishes has no largest value.
    largest = jnp.where(jnp.any(inside), largest, 0.0)
    return order, jnp.take_along_axis(jnp.where(inside, projected, largest), order, axis=0)


def _middles(shares: Float[Array, " m"], order: Array) -> Float[Array, "m d"]:
    """Compute the middle of each sorted position's share of the interval from 0 to 1."""
    in_order = shares[order]
    return jnp.cumsum(in_order, axis=0) - in_order / 2
