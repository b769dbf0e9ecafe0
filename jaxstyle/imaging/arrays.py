"""Array types of pictures, without importing JAX: help and error messages do not wait for it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    import numpy as np
    from jax import Array
    from jaxtyping import Float
    from PIL import Image as Pil

    AnyArray = Array | np.ndarray
    Image = Float[AnyArray, "_h _w 3"]
    """An sRGB picture, nominally in 0–1; an image being optimized may leave that range."""
    PictureLike = AnyArray | Pil.Image | str | os.PathLike[str]
    """A picture as callers have it: an array, a Pillow image, or a path."""
else:
    AnyArray = Image = PictureLike = Any
