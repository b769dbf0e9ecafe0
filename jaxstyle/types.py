"""Array aliases shared by every module; shapes are jaxtyping annotations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Float

Image = Float[Array | np.ndarray, "_h _w 3"]
"""An sRGB picture, nominally in 0–1; an image being optimized may leave that range."""

Features = dict[str, Float[Array, "_h _w _c"]]
"""Activations `[height, width, channels]` by layer name."""

Params = Mapping[str, Any]
"""VGG19's parameters: `mean` `[3]` and, per convolution, `kernel` (HWIO, or one that
`convolution.transform` has prepared for Winograd's algorithm) and `bias`."""

Scalar = Float[Array, ""]

Device = Any
"""A `jax.Device`, which is no type to type checkers."""
