"""Square roots of matrices by products alone, for one matrix or a batch of them at a time.

Roots are composed polynomials. Eigenvectors would come from LAPACK, which waits in XLA's thread
pool for work that may be queued behind it.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

EPSILON = 2e-3
"""Square root of the smallest allowed ratio of an eigenvalue to the trace."""

# Accelerators would round factors to TensorFloat-32 or bfloat16, and results would not be positive.
product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


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

    def shifted(
        self, batch: Float[Array, "b n n"], values: Float[Array, " k"]
    ) -> Float[Array, "b n n"]:
        """Add a value to the diagonal of each matrix, and 1 where there is no matrix."""
        return batch + jnp.where(_diagonal(batch), self.spread(values, 1.0), 0.0)


def _diagonal(batch: Float[Array, "b n n"]) -> np.ndarray:
    return np.eye(batch.shape[-1], dtype=bool)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def traces_of_roots(
    blocks: Blocks, batch: Float[Array, "b n n"], traces: Float[Array, " k"]
) -> Float[Array, " k"]:
    """Traces of the square roots of symmetric matrices.

    Each matrix's eigenvalues are at least ε² times its trace. The gradients are half the inverse
    roots, from the same iteration as the values.

    Args:
        blocks: where the matrices are.
        batch: from `Blocks.shifted`.
        traces: of the matrices, on which results do not depend but for rounding.
    """
    return _roots(blocks, batch, traces)[0]


@traces_of_roots.defjvp
def _(
    blocks: Blocks,
    primals: tuple[Float[Array, "b n n"], Float[Array, " k"]],
    tangents: tuple[Float[Array, "b n n"], Float[Array, " k"]],
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    roots, inverse = _roots(blocks, *primals)
    return roots, blocks.sums(jnp.sum(inverse * tangents[0], axis=-1) / 2)


def _roots(
    blocks: Blocks, batch: Float[Array, "b n n"], traces: Float[Array, " k"]
) -> tuple[Float[Array, " k"], Float[Array, "b n n"]]:
    """Traces of the square roots, and the inverse square roots."""
    size = blocks.spread(traces, 1.0)
    scale = jnp.sqrt(size)
    root, factor, inverse = _iterated((batch + batch.mT) / (2 * size))
    # What rounding made the inverse too large by made the root too small.
    products = inverse.mT * batch / scale + scale * root.mT * factor
    roots = blocks.sums(jnp.sum(products, axis=-1) / 2)
    return roots, (inverse + inverse.mT) / (2 * scale)


class _Iterates(NamedTuple):
    """The iterate of the root, the factor still to be applied to it, and that of the inverse."""

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
            root = product(root, factor)
        error = product(inverse, root) if position else root
        factor = third * error + fifth * product(error, error)
        factor = jnp.where(diagonal, factor + first, factor)
        inverse = product(factor, inverse) if position else factor
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
