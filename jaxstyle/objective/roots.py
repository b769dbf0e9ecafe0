"""Square roots of matrices by products alone, for one matrix or a batch of them at a time.

Roots are composed polynomials. Eigenvectors would come from LAPACK, which waits in XLA's thread
pool for work that may be queued behind it.
"""

import functools
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
    products = inverse * batch / scale + scale * root * factor
    return blocks.sums(jnp.sum(products, axis=-1) / 2), inverse / scale


class _Iterates(NamedTuple):
    """The iterate of the root, the factor still to be applied to it, and that of the inverse."""

    root: Float[Array, "b n n"]
    factor: Float[Array, "b n n"]
    inverse: Float[Array, "b n n"]


_POLYNOMIALS = (
    (271.0964, -0.5751261, -0.09644008, 0.0002036703),
    (0.489452, -2.258049, -1.432711, 0.3815759),
    (0.2232721, -2.181834, -0.8465567, 3.02455),
    (0.3835834, -1.741209, 2.063974),
    (3 / 8, -5 / 3, 20 / 9),
    (3 / 8, -5 / 3, 20 / 9),
)
"""Polynomials p(e) = a ((e + b)² + c) or a (((e + b)² + c)² + d): squares, so that a GPU needs no
kernels but the products. The maps x p(x²), one after the other, take [0.95 ε, 1] to 1 ± 5e-6, or to
1 ± 1e-15 with the last. The first four come nearest to 1 on the interval that they are given; the
others are Taylor's polynomial of 1/√e."""


def _iterated(batch: Float[Array, "b n n"]) -> _Iterates:
    """Iterate from symmetric matrices with eigenvalues of at most 1.

    Y → Y p(Z Y) and Z → p(Z Y) Z tend to the root and its inverse (Higham 2008, section 6.7)
    with polynomials p chosen for how far the eigenvalues have come (Amsel et al. 2025).
    """
    root = batch
    diagonal = jnp.broadcast_to(_diagonal(batch), batch.shape)
    inverse = factor = diagonal.astype(batch.dtype)
    polynomials = _POLYNOMIALS[:-1] if jnp.dtype(batch.dtype).itemsize <= 4 else _POLYNOMIALS
    for position, (scale, *shifts, last) in enumerate(polynomials):
        if position:
            root = product(root, factor)
        factor = product(inverse, root) if position else root
        for shift in shifts:
            shifted = factor + jnp.where(diagonal, shift, 0.0)
            factor = product(shifted, shifted)
        factor = scale * (factor + jnp.where(diagonal, last, 0.0))
        inverse = product(factor, inverse) if position else factor
    return _Iterates(root, factor, inverse)
