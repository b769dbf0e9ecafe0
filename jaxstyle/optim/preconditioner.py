"""The L-BFGS preconditioner: an estimate of the curvature before the first evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

_CORNER = 0.01
_FEW = 512
"""Rows and columns up to which accelerators compute the transform with whole matrices."""

_contract = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def smooth(grad: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Damp a gradient's frequencies f, in cycles per pixel, by 1/√(1 + (f/0.01)²).

    Features respond to coarse structure through many pixels at once, but the objective is about
    equally steep in every pixel: fine detail changes first, and coarse colour takes hundreds of
    steps. The spectrum of photographs, about 1/f in amplitude (Field 1987), balances the two. The
    basis is cosines, which mirror the picture at its border instead of wrapping it around.

    The transform is a product with a matrix along each axis, and its inverse with the transpose.
    Fast Fourier transforms reorder elements by gathers and scatters, and are no faster at the
    sizes of pictures.
    """
    if max(grad.shape[:2]) > _FEW:
        return _by_halves(grad)
    return jax.lax.platform_dependent(grad, cpu=_by_halves, default=_at_once)


def _at_once(grad: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Multiply by whole matrices, for devices that wait longer for kernels than for products."""
    height, width = grad.shape[:2]
    down, across = (_whole_cosines(size).astype(grad.dtype) for size in (height, width))
    # Columns come first in between, so that no product needs another order of its operands.
    spectrum = _contract("lw,wck->lck", across, _contract("hwc,kh->wck", grad, down))
    rows, columns = (jnp.arange(size, dtype=grad.dtype) / (2 * size) for size in (height, width))
    spectrum = spectrum / _damping(rows, columns[:, None, None])
    return _contract("kh,wck->hwc", down, _contract("lw,lck->wck", across, spectrum))


def _by_halves(grad: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Multiply by the even and the odd cosines apart, in half of the arithmetic."""
    height, width = grad.shape[:2]
    down, across = _cosines(height, grad.dtype), _cosines(width, grad.dtype)
    # Columns come first in between, so that no product needs another order of its operands.
    spectrum = _contract("phwc,pkh->wcpk", _folded(grad), down)
    spectrum = _contract("qlw,qwcpk->qlcpk", across, _folded(spectrum))
    rows, columns = _frequencies(height, grad.dtype), _frequencies(width, grad.dtype)
    spectrum = spectrum / _damping(rows, columns[:, :, None, None, None])
    damped = _unfolded(_contract("qlw,qlcpk->qwcpk", across, spectrum), width)
    return _unfolded(_contract("pkh,wcpk->phwc", down, damped), height)


def _damping(rows: Float[Array, "*_m"], columns: Float[Array, "*_n"]) -> Float[Array, "*_mn"]:
    return jnp.sqrt(1 + (jnp.square(columns) + jnp.square(rows)) / _CORNER**2)


@functools.lru_cache
def _whole_cosines(size: int) -> Float[np.ndarray, "n n"]:
    """Return the orthonormal cosines of a length."""
    numbers = np.arange(size)[:, None]
    scale = np.where(numbers == 0, 1.0, np.sqrt(2.0)) / np.sqrt(size)
    return scale * np.cos(numbers * (2 * np.arange(size) + 1) * (np.pi / (2 * size)))


def _frequencies(size: int, dtype: jnp.dtype) -> Float[Array, "2 n"]:
    """Return the frequencies of the cosines of a length, the even ones before the odd ones."""
    return jnp.asarray(_numbers(size) / (2 * size), dtype)


def _numbers(size: int) -> np.ndarray:
    return 2 * np.arange((size + 1) // 2) + np.arange(2)[:, None]


def _cosines(size: int, dtype: jnp.dtype) -> Float[Array, "2 n n"]:
    """Return the orthonormal cosines of a length, as products with `_folded` arrays need them.

    Even ones are symmetric and odd ones antisymmetric, so half of each is enough.
    """
    numbers = _numbers(size)[:, :, None]
    twice = 2 * jnp.arange((size + 1) // 2) + 1
    # Reduced to one period as integers, which is exact.
    angles = (numbers * twice % (4 * size)).astype(dtype) * (np.pi / (2 * size))
    scale = np.where(numbers == 0, 1.0, np.sqrt(2.0)) / np.sqrt(size)
    # An odd length has one odd cosine less, and its middle is folded onto itself.
    scale = jnp.asarray(np.where(numbers < size, scale, 0.0), dtype)
    return scale * jnp.where(twice == size, 0.5, 1.0).astype(dtype) * jnp.cos(angles)


def _folded(array: Float[Array, "size ..."]) -> Float[Array, "2 n ..."]:
    """Return the sums and the differences of elements at equal distances from the ends."""
    half = (len(array) + 1) // 2
    first, last = array[:half], array[::-1][:half]
    return jnp.stack([first + last, first - last])


def _unfolded(array: Float[Array, "2 n ..."], size: int) -> Float[Array, "size ..."]:
    """Apply the transpose of `_folded`."""
    first, last = array[0] + array[1], array[0] - array[1]
    if size % 2:
        return jnp.concatenate([first[:-1], first[-1:] + last[-1:], last[-2::-1]])
    return jnp.concatenate([first, last[::-1]])
