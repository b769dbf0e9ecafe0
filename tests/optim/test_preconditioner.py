from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from numpy.testing import assert_allclose

from jaxstyle.optim.preconditioner import _at_once, _by_halves, smooth

SHAPE = (5, 8, 2)


@pytest.mark.parametrize("shape", [SHAPE, (8, 5, 2), (1, 2, 2)])
def test_is_symmetric_positive_definite_and_leaves_channels_apart(
    x64: None, shape: tuple[int, int, int]
) -> None:
    size = int(np.prod(shape))
    rows = jax.jit(jax.vmap(lambda row: smooth(row.reshape(shape)).ravel()))
    matrix = np.asarray(rows(jnp.eye(size)))
    assert_allclose(matrix, matrix.T, atol=1e-14)
    assert np.linalg.eigvalsh(matrix).min() > 0
    across = matrix.reshape(*shape, *shape)[..., 0, :, :, 1]
    assert_allclose(across, 0, atol=1e-15)


@pytest.mark.parametrize(("height", "width"), [(24, 30), (23, 30), (24, 31)])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 0), (0, 5), (7, 11)])
def test_damps_each_cosine_by_its_frequency(
    x64: None, row: int, column: int, height: int, width: int
) -> None:
    y, x = (np.arange(size) + 0.5 for size in (height, width))
    wave = np.cos(np.pi * row * y / height)[:, None] * np.cos(np.pi * column * x / width)
    frequency = np.hypot(row / (2 * height), column / (2 * width))
    expected = wave / np.sqrt(1 + (frequency / 0.01) ** 2)
    assert_allclose(smooth(jnp.asarray(wave)[:, :, None])[..., 0], expected, atol=1e-12)


@pytest.mark.parametrize("shape", [SHAPE, (24, 31, 3), (1, 2, 2)])
def test_whole_matrices_do_what_halves_do(x64: None, shape: tuple[int, int, int]) -> None:
    """Accelerators use the former for small images."""
    grad = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    assert_allclose(_at_once(grad), _by_halves(grad), atol=1e-13)


@pytest.mark.parametrize("transform", [smooth, _at_once])
def test_equals_a_fast_cosine_transform_in_float32(transform: Any) -> None:
    grad = np.random.default_rng(0).normal(size=(300, 421, 3)).astype(np.float32)
    wave = scipy.fft.dctn(np.float64(grad), axes=(0, 1), norm="ortho")
    frequencies = [np.arange(size) / (2 * size) for size in grad.shape[:2]]
    wave /= np.sqrt(1 + np.hypot(*np.ix_(*frequencies))[:, :, None] ** 2 / 0.01**2)
    expected = scipy.fft.idctn(wave, axes=(0, 1), norm="ortho")
    error = np.abs(transform(jnp.asarray(grad)) - expected).max()
    assert error < 2e-6 * np.abs(expected).max()
