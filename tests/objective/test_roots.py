"""Square roots of matrices, of several in a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle.objective.roots import _POLYNOMIALS, EPSILON, Blocks, traces_of_roots


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("spread", [1.0, 1e3, 1e5, 2e5])
def test_roots_are_those_of_eigenvectors(spread: float) -> None:
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0]
    values = np.geomspace(spread, 1, 24) * 300
    matrix = jnp.asarray(vectors * values @ vectors.T)
    blocks = Blocks.of([24])

    def trace_of_root(matrix: Any) -> Any:
        return traces_of_roots(blocks, matrix[None], jnp.trace(matrix)[None])[0]

    trace, gradient = jax.value_and_grad(trace_of_root)(matrix)
    assert_allclose(trace, np.sqrt(values).sum(), rtol=1e-8)
    assert_allclose(gradient, vectors / np.sqrt(values) @ vectors.T / 2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("number", "error"), [(-1, 5e-6), (None, 1e-14)])
def test_polynomials_take_all_allowed_eigenvalues_to_one(number: int | None, error: float) -> None:
    """Those for float32, and all of them; they were made for this ε."""
    found = np.geomspace(0.95 * EPSILON, 1, 100_001)
    for scale, *shifts, last in _POLYNOMIALS[:number]:
        factor = found**2
        for shift in shifts:
            factor = (factor + shift) ** 2
        found *= scale * (factor + last)
    assert_allclose(found, 1, rtol=0, atol=error)


def test_matrices_fill_a_batch_as_wide_as_the_widest() -> None:
    assert Blocks.of([64, 128, 256, 512, 512]).places == (
        (2, 384, 64),
        (2, 256, 128),
        (2, 0, 256),
        (0, 0, 512),
        (1, 0, 512),
    )
    assert Blocks.of([3, 2, 2]).places == ((0, 0, 3), (1, 0, 2), (2, 0, 2))


def test_several_roots_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(0)
    matrices: list[Any] = []
    for size in (3, 8, 2, 5, 8):
        factor = rng.normal(size=(size, size))
        matrices.append(jnp.asarray(factor @ factor.T * 10.0**size, jnp.float32))
    blocks = Blocks.of([len(each) for each in matrices])
    shifts = jnp.asarray([1e-3 * float(jnp.trace(each)) for each in matrices])

    def traces(matrices: Any) -> Any:
        batch = blocks.shifted(blocks.filled(matrices), shifts)
        return traces_of_roots(blocks, batch, blocks.traces(batch))

    found = traces(matrices)
    slopes = jax.grad(lambda matrices: jnp.sum(traces(matrices)))(matrices)
    for matrix, shift, trace, slope in zip(matrices, shifts, found, slopes, strict=True):
        values, vectors = np.linalg.eigh(np.float64(matrix) + float(shift) * np.eye(len(matrix)))
        assert_allclose(trace, np.sqrt(values).sum(), rtol=1e-4)
        expected = vectors / np.sqrt(values) @ vectors.T / 2
        assert_allclose(slope, expected, rtol=0, atol=1e-2 * np.abs(expected).max())
