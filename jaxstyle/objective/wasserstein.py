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


class Blocks(NamedTuple):
    """Square matrices as blocks along the diagonals of a batch of wider ones."""

    places: tuple[tuple[int, int, int], ...]
    """Position in the batch, first row and size of each."""

    @classmethod
    def of(cls, sizes: Sequence[int]) -> "Blocks":
        """Fill a batch of matrices as wide as the widest (first-fit decreasing)."""
        filled: list[int] = []
        places = [(0, 0, 0)] * len(sizes)
        for position in sorted(range(len(sizes)), key=lambda each: -sizes[each]):
            size = sizes[position]
            fitting = [number for number, end in enumerate(filled) if end + size <= max(sizes)]
            if not fitting:
                filled.append(0)
            number = fitting[0] if fitting else len(filled) - 1
            places[position] = number, filled[number], size
            filled[number] += size
        return cls(tuple(places))

    @property
    def _rows(self) -> np.ndarray:
        """Which rows belong to which matrix, `[k, b, n]`."""
        batch = 1 + max(number for number, _, _ in self.places)
        rows = np.zeros((len(self.places), batch, max(size for *_, size in self.places)), bool)
        for matrix, (number, start, size) in enumerate(self.places):
            rows[matrix, number, start : start + size] = True
        return rows

    def filled(
        self, matrices: Sequence[Float[Array | np.ndarray, "_n _n"]]
    ) -> Float[Array, "b n n"]:
        """Return the batch, zero beside the blocks."""
        _, batch, width = self._rows.shape
        rows = [jnp.zeros((width, width), matrices[0].dtype)] * batch
        for matrix, (number, start, size) in zip(matrices, self.places, strict=True):
            rows[number] += jnp.pad(matrix, (start, width - start - size))
        return jnp.stack(rows)

    def spread(self, values: Float[Array, " k"], rest: float) -> Float[Array, "b n 1"]:
        """Return each matrix's value for its rows, and `rest` for rows of none."""
        rows = self._rows
        alone = np.where(rows.any(axis=0), 0.0, rest).astype(values.dtype)
        # Elementwise, so that it becomes a part of what it is used in.
        return sum((values[k] * each for k, each in enumerate(rows)), jnp.asarray(alone))[..., None]

    def sums(self, rows: Float[Array, "b n"]) -> Float[Array, " k"]:
        """Return the sum of each matrix's rows."""
        return jnp.sum(jnp.where(self._rows, rows, 0.0), axis=(1, 2))

    def traces(self, batch: Float[Array, "b n n"]) -> Float[Array, " k"]:
        """Return the trace of each matrix."""
        return self.sums(jnp.sum(jnp.where(_diagonal(batch), batch, 0.0), axis=-1))


def _diagonal(batch: Float[Array, "b n n"]) -> np.ndarray:
    return np.eye(batch.shape[-1], dtype=bool)


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
            half = _product(measure.rows, target.root)
            inner = _product(half, half.T)
            variance = jnp.sum(jnp.square(measure.rows))
        else:
            inner = _product(_product(target.root, measure.covariance), target.root)
            variance = jnp.trace(measure.covariance)
        blocks = Blocks.of([len(inner)])
        found += _distances(blocks, inner[None], variance[None], (measure,), (target,))
    return tuple(found)


def _distances_together(
    measures: tuple[Gaussian | Sample, ...], targets: tuple[Target, ...]
) -> tuple[Scalar, ...]:
    """Compute all distances from one batch of matrices."""
    blocks = Blocks.of([len(measure.mean) for measure in measures])
    covariance = blocks.filled([gaussian(measure).covariance for measure in measures])
    root = blocks.filled([target.root for target in targets])
    inner = _product(_product(root, covariance), root)
    return _distances(blocks, inner, blocks.traces(covariance), measures, targets)


def _distances(
    blocks: Blocks,
    inner: Float[Array, "b n n"],
    variances: Float[Array, " k"],
    measures: Sequence[Gaussian | Sample],
    targets: Sequence[Target],
) -> tuple[Scalar, ...]:
    """Compute distances from the matrices A and the traces of Σ."""
    floors, idle, traces = (
        jnp.stack(each)
        for each in zip(*((each.floor, each.idle, each.trace) for each in targets), strict=True)
    )
    delta_squared = EPSILON**2 * (blocks.traces(inner) + floors)
    shift = jnp.where(_diagonal(inner), blocks.spread(delta_squared, 1.0), 0.0)
    overlaps = traces_of_roots(blocks, inner + shift)
    channels = [len(measure.mean) for measure in measures]
    positions = [size for *_, size in blocks.places]
    idle = np.subtract(channels, positions).astype(inner.dtype) - idle
    squares = jnp.square(
        jnp.concatenate([measure.mean for measure in measures])
        - jnp.concatenate([target.mean for target in targets])
    )
    owners = np.repeat(np.arange(len(channels)), channels)
    means = jnp.sum(jnp.where(owners == np.arange(len(channels))[:, None], squares, 0.0), axis=1)
    total = means + variances + traces - 2 * (overlaps + idle * jnp.sqrt(delta_squared))
    return tuple(total / np.asarray(channels, inner.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def traces_of_roots(blocks: Blocks, batch: Float[Array, "b n n"]) -> Float[Array, " k"]:
    """Traces of the square roots of symmetric matrices, with eigenvalues from ε² of their trace on.

    The gradients are half the inverse roots, from the same iteration as the values. The batch has
    1 on the diagonal where there is no matrix.
    """
    return _roots(blocks, batch)[0]


@traces_of_roots.defjvp
def _(
    blocks: Blocks, primals: tuple[Float[Array, "b n n"]], tangents: tuple[Float[Array, "b n n"]]
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    traces, inverse = _roots(blocks, primals[0])
    return traces, blocks.sums(jnp.sum(inverse * tangents[0], axis=-1) / 2)


def _roots(
    blocks: Blocks, batch: Float[Array, "b n n"]
) -> tuple[Float[Array, " k"], Float[Array, "b n n"]]:
    """Traces of the square roots, and the inverse square roots."""
    # The limits do not depend on the sizes, of which a trace is the quickest to compute.
    size = blocks.spread(jax.lax.stop_gradient(blocks.traces(batch)), 1.0)
    scale = jnp.sqrt(size)
    root, factor, inverse = _iterated((batch + batch.mT) / (2 * size))
    # What rounding made the inverse too large by made the root too small.
    products = inverse.mT * batch / scale + scale * root.mT * factor
    traces = blocks.sums(jnp.sum(products, axis=-1) / 2)
    return traces, (inverse + inverse.mT) / (2 * scale)


class _Iterates(NamedTuple):
    """What tends to the root, what it still has to be multiplied by, and the inverse root."""

    root: Float[Array, "b n n"]
    factor: Float[Array, "b n n"]
    inverse: Float[Array, "b n n"]


def _iterated(batch: Float[Array, "b n n"]) -> _Iterates:
    """Iterate from symmetric matrices with eigenvalues of at most 1.

    Y → Y p(Z Y) and Z → p(Z Y) Z tend to the root and its inverse (Higham 2008, section 6.7)
    with polynomials p chosen for how far the eigenvalues have come (Amsel et al. 2025).
    """
    root = batch
    diagonal = jnp.broadcast_to(_diagonal(batch), batch.shape)
    inverse = factor = diagonal.astype(batch.dtype)
    for position, (first, third, fifth) in enumerate(_quintics(jnp.dtype(batch.dtype).itemsize)):
        if position:
            root = _product(root, factor)
        error = _product(inverse, root) if position else root
        factor = third * error + fifth * _product(error, error)
        factor = jnp.where(diagonal, factor + first, factor)
        inverse = _product(factor, inverse) if position else factor
    return _Iterates(root, factor, inverse)


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
