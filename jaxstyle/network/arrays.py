"""Pytrees of arrays that go into a network and come out of it."""

from collections.abc import Mapping
from typing import Any

from jax import Array
from jaxtyping import Float

Features = dict[str, Float[Array, "_h _w _c"]]
"""Activations `[height, width, channels]` by layer name."""

Params = Mapping[str, Any]
"""VGG19's parameters: `mean` `[3]` and, per convolution, `kernel` (HWIO, or one that
`convolution.winograd_kernel` has transformed) and `bias`."""
