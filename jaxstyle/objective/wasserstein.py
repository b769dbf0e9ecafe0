"""The Wasserstein statistic: features compared as Gaussians, by matrix products alone.

The squared 2-Wasserstein distance of N(μ, Σ) from N(μ', Σ') is (Dowson and Landau 1982)

    ‖μ − μ'‖² + tr Σ + tr Σ' − 2 tr A^½    with A = R Σ R and R = Σ'^½.

The gradient of tr A^½ is half the inverse of A^½, which does not exist where features span fewer
directions than there are channels. So each eigenvalue a of A counts √(a + δ²), with δ² = ε² tr A:
no image, however far away, makes A + δ² I worse conditioned than 1/ε², which is what float32
can invert. R is chosen such that the distance is still smallest, and 0, at Σ = Σ'.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export
from jaxtyping import Float

from jaxstyle.objective.losses import Scalar, sums
from jaxstyle.objective.roots import EPSILON, Blocks, product, traces_of_roots

_ABSENT = 1e-5
"""Variances below this share of a style's largest are rounding errors of float32."""

_TINY = 1e-12
"""Floor of tr A, for styles of constant features."""


class Gaussian(NamedTuple):
    """Mean and covariance of features."""

    mean: Float[Array, " c"]
    covariance: Float[Array, "c c"]


# For programs that return one to be stored.
export.register_namedtuple_serialization(Gaussian, serialized_name="jaxstyle.Gaussian")


class Sample(NamedTuple):
    """Mean and centred positions, fewer than channels; the covariance is `rows.T @ rows`."""

    mean: Float[Array, " c"]
    rows: Float[Array, "m c"]


class Target(NamedTuple):
    """A style's Gaussian, prepared for `distance`."""

    mean: Float[np.ndarray, " c"]
    root: Float[np.ndarray, "c c"]
    """R."""
    trace: Float[np.ndarray, ""]
    """Trace of Σ', adjusted so that the distance of the style from itself is 0."""
    floor: Float[np.ndarray, ""]
    """Added to tr A, so that the distance is differentiable at constant features."""
    idle: Float[np.ndarray, ""]
    """Sum of δ / √(a + δ²) over the style's own A: how many directions lie below δ. Their share
    of the trace, which grows with the image, is subtracted."""


def gaussian(measure: Gaussian | Sample) -> Gaussian:
    """Return the mean and covariance of either representation."""
    if isinstance(measure, Gaussian):
        return measure
    return Gaussian(measure.mean, product(measure.rows.T, measure.rows))


def prepare(style: Gaussian) -> Target:
    """Prepare a style's mean and covariance, on the host and in float64.

    In the eigenvectors of Σ' the distance has its minimum where r² = √(λ r² + δ²), with λ and r
    the eigenvalues of Σ' and R; δ itself depends on r.
    """
    mean, covariance = (np.asarray(leaf) for leaf in style)
    if covariance.any():
        variances, vectors = np.linalg.eigh(covariance.astype(np.float64))
    else:  # of an outline, which need not wait for LAPACK
        variances, vectors = np.zeros(len(covariance)), np.eye(len(covariance))
    present = variances > _ABSENT * variances[-1]
    variances = np.where(present, variances, 0.0)
    squares = variances
    overlap = floor = delta_squared = 0.0
    for _ in range(100):
        overlap = float(variances @ squares)
        floor = 1e-4 * overlap + _TINY
        delta_squared = EPSILON**2 * (overlap + floor)
        squares = (variances + np.sqrt(variances**2 + 4 * delta_squared)) / 2 * present
    delta = math.sqrt(delta_squared)
    roots = np.sqrt(variances * squares + delta_squared)
    idle = np.sum(delta / roots)
    trace = 2 * (np.sum(roots) - idle * delta) - np.sum(variances)
    root = (vectors * np.sqrt(squares)) @ vectors.T
    return Target(mean, *(np.asarray(each, mean.dtype) for each in (root, trace, floor, idle)))


def distance(measure: Gaussian | Sample, target: Target) -> Scalar:
    """Return the squared 2-Wasserstein distance from a style, divided by the channels."""
    return distances((measure,), (target,))[0]


def distances(
    measures: Sequence[Gaussian | Sample], targets: Sequence[Target]
) -> tuple[Scalar, ...]:
    """Return the distance of each measure from its target."""
    # An accelerator waits longer for each product than it computes; a CPU does not.
    return jax.lax.platform_dependent(
        tuple(measures), tuple(targets), cpu=_distances_alone, default=_distances_together
    )


def _distances_alone(
    measures: tuple[Gaussian | Sample, ...], targets: tuple[Target, ...]
) -> tuple[Scalar, ...]:
    """Compute each distance from matrices of its own.

    A has C×C entries; of a `Sample` of M positions, the M×M matrix with the same eigenvalues
    other than 0 takes its place.
    """
    found: list[Scalar] = []
    for measure, target in zip(measures, targets, strict=True):
        if isinstance(measure, Sample):
            half = product(measure.rows, target.root)
            inner = product(half, half.T)
            variance = jnp.sum(jnp.square(measure.rows))
        else:
            inner = product(product(target.root, measure.covariance), target.root)
            variance = jnp.trace(measure.covariance)
        traces = jnp.stack([variance, jnp.trace(inner)])[:, None]
        blocks = Blocks.of([len(inner)])
        found += _distances(blocks, inner[None], traces, (measure,), (target,))
    return tuple(found)


def _distances_together(
    measures: tuple[Gaussian | Sample, ...], targets: tuple[Target, ...]
) -> tuple[Scalar, ...]:
    """Compute all distances from one batch of matrices."""
    blocks = Blocks.of([len(measure.mean) for measure in measures])
    covariance = blocks.filled([gaussian(measure).covariance for measure in measures])
    root = blocks.filled([target.root for target in targets])
    inner = product(product(root, covariance), root)
    traces = jax.vmap(blocks.traces)(jnp.stack([covariance, inner]))
    return _distances(blocks, inner, traces, measures, targets)


def _distances(
    blocks: Blocks,
    inner: Float[Array, "b n n"],
    traces: Float[Array, "2 k"],
    measures: Sequence[Gaussian | Sample],
    targets: Sequence[Target],
) -> tuple[Scalar, ...]:
    """Compute distances from the matrices A, and the traces of Σ and of A."""
    variances, overlaps = traces
    floors, idle, style_variances = (
        jnp.stack(each)
        for each in zip(*((each.floor, each.idle, each.trace) for each in targets), strict=True)
    )
    delta_squared = EPSILON**2 * (overlaps + floors)
    channels = [len(measure.mean) for measure in measures]
    sizes = np.asarray([size for *_, size in blocks.places], inner.dtype)
    shifted = blocks.shifted(inner, delta_squared)
    roots = traces_of_roots(blocks, shifted, overlaps + sizes * delta_squared)
    idle = np.asarray(channels, inner.dtype) - sizes - idle
    pairs = zip(measures, targets, strict=True)
    means = sums([jnp.square(measure.mean - target.mean) for measure, target in pairs])
    total = means + variances + style_variances - 2 * (roots + idle * jnp.sqrt(delta_squared))
    return tuple(total / np.asarray(channels, inner.dtype))
