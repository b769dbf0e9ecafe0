"""The Wasserstein statistic: features compared as Gaussians, by matrix products alone.

The squared 2-Wasserstein distance of N(μ, Σ) from N(μ', Σ') is (Dowson and Landau 1982)

    ‖μ − μ'‖² + tr Σ + tr Σ' − 2 tr A^½    with A = R Σ R and R = Σ'^½.

The gradient of tr A^½ is half the inverse of A^½, which does not exist where features span fewer
directions than there are channels. So each eigenvalue a of A counts √(a + δ²), with δ² = ε² tr A:
no image, however far away, makes A + δ² I worse conditioned than 1/ε², which is what float32
can invert. R is chosen such that the distance is still smallest, and 0, at Σ = Σ'.

Roots are composed polynomials. Eigenvectors come from LAPACK, which waits in XLA's thread pool for
work that may be queued behind it; NumPy's, for what is prepared once per style, do not.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export
from jaxtyping import Float

from jaxstyle.objective.losses import Scalar

EPSILON = 2e-3
"""Root of the least eigenvalue of A + δ² I over the sum of A's."""

_ABSENT = 1e-5
"""Variances below this share of a style's largest are rounding errors of float32."""

_TINY = 1e-12
"""Floor of tr A, for styles of constant features."""

# Accelerators would round factors to TensorFloat-32 or bfloat16, and A would not be positive.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


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
    return Gaussian(measure.mean, _product(measure.rows.T, measure.rows))


def prepare(style: Gaussian) -> Target:
    """Prepare a style's mean and covariance, on the host and in float64.

    In the eigenvectors of Σ' the distance has its minimum where r² = √(λ r² + δ²), with λ and r
    the eigenvalues of Σ' and R; δ itself depends on r.
    """
    mean, covariance = (np.asarray(leaf) for leaf in style)
    variances, vectors = np.linalg.eigh(covariance.astype(np.float64))
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
    """Return the distance of each measure from its target; their roots are computed together.

    A has C×C entries; of a `Sample` of M positions, the M×M matrix with the same eigenvalues
    other than 0 takes its place.
    """
    inners = [_inner(*pair) for pair in zip(measures, targets, strict=True)]
    deltas_squared = [
        EPSILON**2 * (jnp.trace(inner) + target.floor)
        for inner, target in zip(inners, targets, strict=True)
    ]
    overlaps = traces_of_roots(
        tuple(
            inner + delta_squared * jnp.eye(len(inner), dtype=inner.dtype)
            for inner, delta_squared in zip(inners, deltas_squared, strict=True)
        )
    )
    found: list[Scalar] = []
    for measure, target, inner, delta_squared, overlap in zip(
        measures, targets, inners, deltas_squared, overlaps, strict=True
    ):
        channels = len(measure.mean)
        idle = channels - len(inner) - target.idle
        means = jnp.sum(jnp.square(measure.mean - target.mean))
        total = means + _trace(measure) + target.trace
        found.append((total - 2 * (overlap + idle * jnp.sqrt(delta_squared))) / channels)
    return tuple(found)


def _inner(measure: Gaussian | Sample, target: Target) -> Float[Array, "n n"]:
    root = jnp.asarray(target.root)
    if isinstance(measure, Sample):
        half = _product(measure.rows, root)
        return _product(half, half.T)
    return _product(_product(root, measure.covariance), root)


def _trace(measure: Gaussian | Sample) -> Scalar:
    if isinstance(measure, Sample):
        return jnp.sum(jnp.square(measure.rows))
    return jnp.trace(measure.covariance)


@jax.custom_jvp
def traces_of_roots(matrices: tuple[Float[Array, "_n _n"], ...]) -> tuple[Scalar, ...]:
    """Traces of the square roots of symmetric matrices, of condition number at most 1/ε².

    The gradients are half the inverse roots, from the same iteration as the values.
    """
    return _roots(matrices)[0]


@traces_of_roots.defjvp
def _(
    primals: tuple[tuple[Float[Array, "_n _n"], ...]],
    tangents: tuple[tuple[Float[Array, "_n _n"], ...]],
) -> tuple[tuple[Scalar, ...], tuple[Scalar, ...]]:
    traces, inverses = _roots(primals[0])
    slopes = [
        jnp.sum(inverse * tangent) / 2
        for inverse, tangent in zip(inverses, tangents[0], strict=True)
    ]
    return traces, tuple(slopes)


def _roots(
    matrices: tuple[Float[Array, "_n _n"], ...],
) -> tuple[tuple[Scalar, ...], tuple[Float[Array, "_n _n"], ...]]:
    """Traces of the square roots, and the inverse square roots."""
    # The limits do not depend on the norms.
    sizes = [jax.lax.stop_gradient(jnp.linalg.norm(matrix)) for matrix in matrices]
    scaled = tuple(
        (matrix + matrix.T) / (2 * size) for matrix, size in zip(matrices, sizes, strict=True)
    )
    # An accelerator waits longer for each product than it computes; a CPU does not.
    iterated = jax.lax.platform_dependent(scaled, cpu=_iterated_alone, default=_iterated_together)
    traces: list[Scalar] = []
    inverses: list[Float[Array, "_n _n"]] = []
    for matrix, size, (root, factor, inverse) in zip(matrices, sizes, iterated, strict=True):
        scale = jnp.sqrt(size)
        # What rounding made the inverse too large by made the root too small.
        traces.append((jnp.vdot(inverse.T, matrix) / scale + scale * jnp.vdot(root.T, factor)) / 2)
        inverses.append((inverse + inverse.T) / (2 * scale))
    return tuple(traces), tuple(inverses)


class _Iterates(NamedTuple):
    """What tends to the root, what it still has to be multiplied by, and the inverse root."""

    root: Float[Array, "... n n"]
    factor: Float[Array, "... n n"]
    inverse: Float[Array, "... n n"]


def _iterated(matrix: Float[Array, "... n n"]) -> _Iterates:
    """Iterate from symmetric matrices with eigenvalues of at most 1.

    Y → Y p(Z Y) and Z → p(Z Y) Z tend to the root and its inverse (Higham 2008, section 6.7)
    with polynomials p chosen for how far the eigenvalues have come (Amsel et al. 2025).
    """
    root = matrix
    diagonal = jnp.eye(matrix.shape[-1], dtype=bool)
    inverse = factor = diagonal.astype(matrix.dtype)
    for position, (first, third, fifth) in enumerate(_quintics(jnp.dtype(matrix.dtype).itemsize)):
        if position:
            root = _product(root, factor)
        error = _product(inverse, root) if position else root
        factor = third * error + fifth * _product(error, error)
        factor = jnp.where(diagonal, factor + first, factor)
        inverse = _product(factor, inverse) if position else factor
    return _Iterates(root, factor, inverse)


def _iterated_alone(matrices: tuple[Float[Array, "_n _n"], ...]) -> tuple[_Iterates, ...]:
    return tuple(_iterated(matrix) for matrix in matrices)


def _iterated_together(matrices: tuple[Float[Array, "_n _n"], ...]) -> tuple[_Iterates, ...]:
    """Iterate a batch of matrices as wide as the widest, with the narrower ones as their blocks."""
    places = _packed([len(matrix) for matrix in matrices])
    width = max(len(matrix) for matrix in matrices)
    filled = np.zeros((1 + max(number for number, _ in places), width), bool)
    batch = [jnp.zeros((width, width), matrices[0].dtype)] * len(filled)
    for matrix, (number, start) in zip(matrices, places, strict=True):
        end = start + len(matrix)
        batch[number] += jnp.pad(matrix, (start, width - end))
        filled[number, start:end] = True
    found = _iterated(jnp.stack(batch) + jnp.where(filled[:, None], 0.0, jnp.eye(width)))
    return tuple(
        _Iterates(
            *(
                each[number, start : start + len(matrix), start : start + len(matrix)]
                for each in found
            )
        )
        for matrix, (number, start) in zip(matrices, places, strict=True)
    )


def _packed(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return a bin and an offset for each size, in bins of the largest (first-fit decreasing)."""
    filled: list[int] = []
    places = [(0, 0)] * len(sizes)
    for position in sorted(range(len(sizes)), key=lambda each: -sizes[each]):
        size = sizes[position]
        fitting = [number for number, end in enumerate(filled) if end + size <= max(sizes)]
        if not fitting:
            filled.append(0)
        number = fitting[0] if fitting else len(filled) - 1
        places[position] = number, filled[number]
        filled[number] += size
    return places


@functools.cache
def _quintics(itemsize: int) -> tuple[tuple[float, float, float], ...]:
    """Return coefficients of x, x³, x⁵ of polynomials whose composition maps [ε, 1] to about 1."""
    low, high, wanted = 0.95 * EPSILON, 1.0, 2e-3 if itemsize <= 4 else 1e-9
    polynomials: list[tuple[float, float, float]] = []
    while high - low > wanted:
        first, third, fifth = _nearest_to_one(low, high)
        polynomials.append((first, third, fifth))
        x = np.geomspace(low, high, 10_001)
        reached = x * (first + x**2 * (third + x**2 * fifth))
        low, high = float(reached.min()), float(reached.max())
    return tuple(polynomials)


def _nearest_to_one(low: float, high: float) -> tuple[float, float, float]:
    """Return the odd quintic nearest to 1 on an interval, by the Remez exchange algorithm."""
    inner = np.asarray([3 * low + high, low + 3 * high]) / 4
    first = third = fifth = 0.0
    for _ in range(50):
        points = np.asarray([low, *inner, high])
        system = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        first, third, fifth, _ = (float(each) for each in np.linalg.solve(system, np.ones(4)))
        # The extremes inside, where the derivative is 0.
        width = math.sqrt(max(9 * third**2 - 20 * first * fifth, 0.0))
        inner = np.sqrt((-3 * third + width * np.asarray([-1, 1])) / (10 * fifth))
    return first, third, fifth
