"""The L-BFGS preconditioner: an estimate of the curvature before the first evaluation."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.fft import dctn, idctn
from jaxtyping import Float

_CORNER = 0.01


def smooth(grad: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Damp a gradient's frequencies f, in cycles per pixel, by 1/√(1 + (f/0.01)²).

    Features respond to coarse structure through many pixels at once, but the objective is about
    equally steep in every pixel: fine detail changes first, and coarse colour takes hundreds of
    steps. The spectrum of photographs, about 1/f in amplitude (Field 1987), balances the two. The
    basis is cosines, which mirror the picture at its border instead of wrapping it around.
    """
    height, width = grad.shape[:2]
    rows = jnp.arange(height, dtype=grad.dtype) / (2 * height)
    columns = jnp.arange(width, dtype=grad.dtype) / (2 * width)
    squared = jnp.square(rows)[:, None] + jnp.square(columns)
    damping = 1 / jnp.sqrt(1 + squared / _CORNER**2)
    spectrum = dctn(grad, axes=(0, 1), norm="ortho")
    return idctn(spectrum * damping[:, :, None], axes=(0, 1), norm="ortho")
