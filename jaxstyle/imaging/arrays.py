"""Array types of pictures, without importing JAX: help and error messages do not wait for it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jax import Array
    from jaxtyping import Float

    AnyArray = Array | np.ndarray
    Image = Float[AnyArray, "_h _w 3"]
    """An sRGB picture, nominally in 0–1; an image being optimized may leave that range."""
else:
    AnyArray = Image = Any
