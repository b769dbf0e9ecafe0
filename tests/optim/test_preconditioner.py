import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle.optim.preconditioner import smooth

SHAPE = (5, 8, 2)


def test_is_symmetric_positive_definite_and_leaves_channels_apart(x64: None) -> None:
    size = int(np.prod(SHAPE))
    rows = jax.jit(jax.vmap(lambda row: smooth(row.reshape(SHAPE)).ravel()))
    matrix = np.asarray(rows(jnp.eye(size)))
    assert_allclose(matrix, matrix.T, atol=1e-14)
    assert np.linalg.eigvalsh(matrix).min() > 0
    across = matrix.reshape(*SHAPE, *SHAPE)[..., 0, :, :, 1]
    assert_allclose(across, 0, atol=1e-15)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 0), (0, 5), (7, 11)])
def test_damps_each_cosine_by_its_frequency(x64: None, row: int, column: int) -> None:
    height, width = 24, 30
    y, x = (np.arange(size) + 0.5 for size in (height, width))
    wave = np.cos(np.pi * row * y / height)[:, None] * np.cos(np.pi * column * x / width)
    frequency = np.hypot(row / (2 * height), column / (2 * width))
    expected = wave / np.sqrt(1 + (frequency / 0.01) ** 2)
    assert_allclose(smooth(jnp.asarray(wave)[:, :, None])[..., 0], expected, atol=1e-12)
