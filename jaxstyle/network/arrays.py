"""Types of a network's parameters and activations, as pytrees of arrays."""

from typing import Any

from jax import Array
from jaxtyping import Float

Features = dict[str, Float[Array, "_h _w _c"]]
"""Activations `[height, width, channels]` by layer name."""

Params = Any
"""A network's parameters, a pytree of arrays. For VGG networks: `mean` `[3]` and, per convolution,
`kernel` (HWIO, or transformed by `convolution.winograd_kernel`) and `bias`."""
