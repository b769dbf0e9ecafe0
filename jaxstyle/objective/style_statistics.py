"""What of a style's features is matched, and how far an image is from it.

Every statistic is measured on positions that may count differently: `guide` holds the square
root of what each counts, with mean square 1 (Gatys et al. 2017, eq. 2). Measures of several
styles may be averaged, then `prepared` once, and `distance` is taken at every evaluation. What
parts of a layer contribute can be `merged`, as tiles do. All is finite, gradients too, on
features that are the same everywhere.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxstyle.objective import wasserstein
from jaxstyle.objective.losses import Scalar, gram_matrix, style_loss

Measure = Any
"""A pytree of arrays, of a structure of each statistic's own."""

_DIRECTIONS = 64
_TINY = 1e-6


def directions(layer: int, channels: int, seed: int) -> Float[Array, "c d"]:
    """Unit vectors, uniform on the sphere, on which `sliced` projects a layer's features."""
    key = jax.random.fold_in(jax.random.key(seed), layer)
    vectors = jax.random.normal(key, (channels, _DIRECTIONS))
    return vectors / jnp.linalg.norm(vectors, axis=0)


def measure(
    kind: str,
    features: Float[Array, "h w c"],
    guide: Float[Array, "h w"] | None,
    divisor: float,
    precision: jax.lax.Precision,
    axes: Float[Array, "c d"] | None,
) -> Measure:
    """One statistic of a layer's features.

    - `gram`: FᵀF (Gatys et al. 2016, eq. 3), divided by `divisor`;
    - `covariance`: the same of what is left of the features without their mean, likewise;
    - `wasserstein`: mean and covariance, the latter divided by the positions;
    - `sliced`: features projected on `axes`, and what each position counts, all of it or none,
      as otherwise the distance would jump where two positions change their order;
    - `moments`: mean and standard deviation of each channel.
    """
    whole = gathered(kind, features, guide, precision, axes, whole=True)
    return finished(kind, whole, divisor)


class Spread(NamedTuple):
    """What positions came to, each counting its guide squared."""

    mass: Scalar
    """Sum of what they count."""
    mean: Float[Array, " c"]
    scatter: Float[Array, "c c"] | Float[Array, " c"]
    """Sum of products, or of squares, of what features are apart from their mean."""


def gathered(
    kind: str,
    features: Float[Array, "h w c"],
    guide: Float[Array, "h w"] | None,
    precision: jax.lax.Precision,
    axes: Float[Array, "c d"] | None,
    *,
    whole: bool,
) -> Any:
    """What the positions of a layer, or of a part of it, contribute to a measure.

    Of a `whole` layer of fewer positions than channels, `wasserstein` has the positions
    themselves, which is less to compute with; parts have to be of one form to be merged.
    """
    if kind == "gram":
        return gram_matrix(_guided(features, guide), precision)
    if kind == "sliced":
        assert axes is not None
        flat = _wide(features).reshape(-1, features.shape[-1])
        shares = None if guide is None else _whole(guide.reshape(-1))
        return jnp.matmul(flat, axes.astype(flat.dtype), precision=precision), shares
    wide = _wide(features)
    if guide is None:
        mass = jnp.asarray(features.shape[0] * features.shape[1], wide.dtype)
        mean = jnp.mean(wide, axis=(0, 1))
    else:
        counts = jnp.square(guide.astype(wide.dtype))[:, :, None]
        mass = jnp.sum(counts)
        mean = jnp.sum(counts * wide, axis=(0, 1)) / _at_least_tiny(mass)
    centred = wide - mean
    if kind == "moments":
        return Spread(mass, mean, jnp.sum(jnp.square(_guided(centred, guide)), axis=(0, 1)))
    if kind == "wasserstein" and whole and centred[..., 0].size < centred.shape[2]:
        rows = _guided(centred, guide).reshape(-1, centred.shape[2])
        return wasserstein.Sample(mean, rows / jnp.sqrt(_at_least_tiny(mass)))
    products = gram_matrix(_guided(centred.astype(features.dtype), guide), precision)
    return Spread(mass, mean, products)


def merged(kind: str, some: Any, others: Any) -> Any:
    """What two parts of a layer contribute together (Chan, Golub and LeVeque 1983, eq. 2.1)."""
    if kind == "gram":
        return some + others
    assert isinstance(some, Spread), f"{kind} is of a whole layer"
    mass = some.mass + others.mass
    share = others.mass / _at_least_tiny(mass)
    apart = others.mean - some.mean
    products = jnp.square(apart) if kind == "moments" else jnp.outer(apart, apart)
    scatter = some.scatter + others.scatter + some.mass * share * products
    return Spread(mass, some.mean + share * apart, scatter)


def finished(kind: str, whole: Any, divisor: float) -> Measure:
    """The measure of what all positions of a layer contribute; see `measure`."""
    if kind == "gram":
        return whole / divisor
    if kind == "sliced" or isinstance(whole, wasserstein.Sample):
        return whole
    assert isinstance(whole, Spread)
    if kind == "covariance":
        return whole.scatter / divisor
    variance = whole.scatter / _at_least_tiny(whole.mass)
    if kind == "moments":
        return whole.mean, jnp.sqrt(variance + _TINY)
    return wasserstein.Gaussian(whole.mean, variance)


def _at_least_tiny(mass: Scalar) -> Scalar:
    # A region that vanishes at a layer has none.
    return jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)


def _wide(features: Array) -> Array:
    return features.astype(jnp.promote_types(features.dtype, jnp.float32))


def _whole(guide: Float[Array, " m"]) -> Float[Array, " m"]:
    inside = (guide >= jnp.max(guide) / 2) & (guide > 0)
    return inside / jnp.maximum(jnp.sum(inside), 1)


def _guided(features: Float[Array, "h w c"], guide: Float[Array, "h w"] | None) -> Array:
    return features if guide is None else features * guide[:, :, None].astype(features.dtype)


def as_target(kind: str, measured: Measure, positions: int) -> Measure:
    """`measured` of a style as it is kept.

    Of `wasserstein`, mean and covariance; of `sliced`, quantiles: one for the middle of each of
    `positions` equal parts, in each direction.
    """
    if kind == "wasserstein":
        return wasserstein.gaussian(measured)
    if kind != "sliced":
        return measured
    projected, shares = measured
    order, values = _sorted(projected, shares)
    if shares is None and len(values) == positions:
        return values
    shares = jnp.full(len(values), 1 / len(values)) if shares is None else shares
    wanted = (jnp.arange(positions, dtype=values.dtype) + 0.5) / positions
    columns = jax.vmap(functools.partial(jnp.interp, wanted), in_axes=1, out_axes=1)
    return columns(_middles(shares, order), values)


def _sorted(
    projected: Float[Array, "m d"], shares: Float[Array, " m"] | None
) -> tuple[Int[Array, "m d"], Float[Array, "m d"]]:
    """The order of projections, and they in it: outside a region last, and as its largest.

    Quantiles between the region's last value and one from outside would lean towards that.
    """
    if shares is None:
        order = jnp.argsort(projected, axis=0)
        return order, jnp.take_along_axis(projected, order, axis=0)
    inside = (shares > 0)[:, None]
    order = jnp.argsort(jnp.where(inside, projected, jnp.inf), axis=0)
    largest = jnp.max(projected, axis=0, where=inside, initial=-jnp.inf)
    # A region that vanishes has none.
    largest = jnp.where(jnp.any(inside), largest, 0.0)
    return order, jnp.take_along_axis(jnp.where(inside, projected, largest), order, axis=0)


def prepared(kind: str, target: Measure) -> Measure:
    """`target` with what of its distances does not depend on the image; not to be traced."""
    return wasserstein.prepare(target) if kind == "wasserstein" else target


def distance(
    kind: str,
    measured: Measure,
    target: Measure,
    normalization: Literal["seed", "gatys", "mean"],
) -> Scalar:
    """How far a measure of the image is from a target.

    - `gram`, `covariance`: see `losses.style_loss`;
    - `wasserstein`: see `wasserstein.distance`;
    - `sliced`: the mean over directions of the squared 2-Wasserstein distance of the
      projections (Heitz et al. 2021, eq. 3);
    - `moments`: the mean over channels of (μ−μ')² + (σ−σ')² (Li et al. 2017, eq. 13).
    """
    if kind in ("gram", "covariance"):
        return style_loss(measured, target, normalization)
    if kind == "sliced":
        projected, shares = measured
        return _sliced_distance(projected, shares, target)
    if kind == "moments":
        (mean, spread), (target_mean, target_spread) = measured, target
        return jnp.mean(jnp.square(mean - target_mean)) + jnp.mean(
            jnp.square(spread - target_spread)
        )
    return wasserstein.distance(measured, target)


def _sliced_distance(
    projected: Float[Array, "m d"],
    shares: Float[Array, " m"] | None,
    quantiles: Float[Array, "m d"],
) -> Scalar:
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
    # Whom a position is compared with does not count for the gradient: in sorted order the
    # distance is smallest (the envelope theorem).
    partners = jax.lax.stop_gradient(
        jnp.put_along_axis(quantiles, order, quantiles, axis=0, inplace=False)
    )
    squares = jnp.mean(jnp.square(projected - partners), axis=1)
    return jnp.mean(squares) if shares is None else jnp.sum(squares * shares)


def _middles(shares: Float[Array, " m"], order: Array) -> Float[Array, "m d"]:
    """Where each of the sorted positions stands between 0 and 1, by what they count."""
    in_order = shares[order]
    return jnp.cumsum(in_order, axis=0) - in_order / 2
