"""3×3 convolution at stride 1: the platform's own, or Winograd's with a quarter of the products.

Winograd's F(4×4, 3×3) computes 16 outputs from 6×6 inputs with 36 products per channel pair; the
direct form takes 144 (Lavin and Gray 2016). Each stage is written for XLA's CPU compiler:
additions of whole slices, one batched matrix product, and barriers between the stages, without
which XLA fuses them and computes them many times over.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.lax import optimization_barrier
from jaxtyping import Float

_OUTPUTS = 4
_INPUTS = 6

# Toom-Cook at the points 0, 1, -1, 2, -2 and infinity.
_INPUT_TRANSFORM = (
    (4.0, 0.0, -5.0, 0.0, 1.0, 0.0),
    (0.0, -4.0, -4.0, 1.0, 1.0, 0.0),
    (0.0, 4.0, -4.0, -1.0, 1.0, 0.0),
    (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
    (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
    (0.0, 4.0, 0.0, -5.0, 0.0, 1.0),
)
_KERNEL_TRANSFORM = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
_OUTPUT_TRANSFORM = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, -1.0, 2.0, -2.0, 0.0),
    (0.0, 1.0, 1.0, 4.0, 4.0, 0.0),
    (0.0, 1.0, -1.0, 8.0, -8.0, 1.0),
)


class WinogradKernel(NamedTuple):
    """A transformed 3×3 kernel: as it is, and flipped for the gradient of the input."""

    forward: Float[Array, "36 c k"]
    backward: Float[Array, "36 k c"]


Kernel = Float[Array, "3 3 c k"] | WinogradKernel


def winograd_kernel(kernel: Float[Array, "3 3 c k"]) -> WinogradKernel:
    """Transform a kernel once for all convolutions that use it."""
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    return WinogradKernel(_transform_kernel(kernel), _transform_kernel(flipped))


def _transform_kernel(kernel: Float[Array, "3 3 c k"]) -> Float[Array, "36 c k"]:
    g = np.asarray(_KERNEL_TRANSFORM)
    transform = jnp.asarray(np.kron(g, g), kernel.dtype)
    flat = jnp.matmul(transform, kernel.reshape(9, -1), precision="highest")
    return flat.reshape(-1, *kernel.shape[2:])


def convolve(
    x: Float[Array, "h w c"],
    kernel: Kernel,
    padding: Literal["SAME", "VALID"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "h2 w2 k"]:
    """Cross-correlate `x` with a 3×3 kernel; `SAME` pads with zeros.

    Differentiable in both, and batched by `jax.vmap` without transposes.
    """
    if isinstance(kernel, WinogradKernel):
        pad = 1 if padding == "SAME" else 0
        return _winograd.bind(x[None], *kernel, pad=pad, precision=precision)[0]
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (1, 1),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )[0]


_winograd = Primitive("winograd")
"""Map from `[b, h, w, c]`, a transformed kernel and its flipped form to `[b, h2, w2, k]`.

A primitive because it is bilinear: derivatives in either mode, to any order, and transposes are
Winograd convolutions too, and lanes that share a kernel are folded into the batch.
"""


def _winograd_shape(
    x: ShapedArray, forward: ShapedArray, backward: ShapedArray, **params: Any
) -> ShapedArray:
    y = jax.eval_shape(functools.partial(_tiled, **params), x, forward, backward)
    return ShapedArray(y.shape, y.dtype)


def _winograd_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], **params: Any
) -> tuple[Array, Array]:
    x, forward, backward = primals
    x_tangent, *kernel_tangents = tangents
    terms: list[Array] = []
    if not isinstance(x_tangent, ad.Zero):
        terms.append(_winograd.bind(x_tangent, forward, backward, **params))
    if not all(isinstance(tangent, ad.Zero) for tangent in kernel_tangents):
        terms.append(_winograd.bind(x, *map(ad.instantiate_zeros, kernel_tangents), **params))
    return _winograd.bind(x, forward, backward, **params), functools.reduce(jnp.add, terms)


def _winograd_transpose(
    cotangent: Any,
    x: Any,
    forward: Any,
    backward: Any,
    *,
    pad: int,
    precision: jax.lax.Precision | None,
) -> tuple[Any, Any, Any]:
    if isinstance(cotangent, ad.Zero):
        return None, None, None
    if ad.is_undefined_primal(x):
        x_cotangent = _winograd.bind(cotangent, backward, forward, pad=2 - pad, precision=precision)
        return x_cotangent, None, None
    convolved = functools.partial(_tiled, x, backward=None, pad=pad, precision=precision)
    (kernel_cotangent,) = jax.linear_transpose(convolved, forward.aval)(cotangent)
    return None, kernel_cotangent, None


def _winograd_batch(
    arguments: Sequence[Array], axes: Sequence[int | None], **params: Any
) -> tuple[Array, int]:
    x_axis, *kernel_axes = axes
    if any(axis is not None for axis in kernel_axes):
        function = functools.partial(_tiled, **params)
        return jax.vmap(function, in_axes=tuple(axes))(*arguments), 0
    x, forward, backward = arguments
    assert x_axis is not None
    x = jnp.moveaxis(x, x_axis, 0)
    y = _winograd.bind(x.reshape(-1, *x.shape[2:]), forward, backward, **params)
    return y.reshape(x.shape[0], -1, *y.shape[1:]), 0


@functools.partial(jax.jit, static_argnames=("pad", "precision"))
def _tiled(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "36 c k"],
    backward: Float[Array, "36 k c"] | None,
    *,
    pad: int,
    precision: jax.lax.Precision | None,
) -> Float[Array, "b h2 w2 k"]:
    del backward
    batch, *sizes, channels = x.shape
    height, width = (size + 2 * pad - 2 for size in sizes)
    down, across = (-(-size // _OUTPUTS) for size in (height, width))
    below = down * _OUTPUTS + 2 - pad - sizes[0]
    right = across * _OUTPUTS + 2 - pad - sizes[1]
    x = jnp.pad(x, ((0, 0), (pad, below), (pad, right), (0, 0)))

    def windows(array: Array, axis: int, tiles: int) -> list[Array]:
        end = (tiles - 1) * _OUTPUTS + 1
        return [jax.lax.slice_in_dim(array, i, i + end, _OUTPUTS, axis) for i in range(_INPUTS)]

    rows = _stacked(_INPUT_TRANSFORM, windows(x, 1, down), 0)
    tiles = _stacked(_INPUT_TRANSFORM, windows(rows, 3, across), 1)
    products = optimization_barrier(
        jnp.matmul(tiles.reshape(_INPUTS**2, -1, channels), kernel, precision=precision)
    ).reshape(_INPUTS, _INPUTS, batch, down, across, -1)
    columns = _stacked(_OUTPUT_TRANSFORM, list(jnp.moveaxis(products, 1, 0)), 4)
    y = jnp.stack(_combine(_OUTPUT_TRANSFORM, list(columns)), 2)
    return y.reshape(batch, down * _OUTPUTS, across * _OUTPUTS, -1)[:, :height, :width]


def _stacked(matrix: tuple[tuple[float, ...], ...], terms: list[Array], axis: int) -> Array:
    return optimization_barrier(jnp.stack(_combine(matrix, terms), axis))


def _combine(matrix: tuple[tuple[float, ...], ...], terms: list[Array]) -> list[Array]:
    """Multiply a small matrix by a list of arrays, with additions that skip its zeros."""
    return [
        functools.reduce(
            jnp.add,
            (weight * term for weight, term in zip(row, terms, strict=True) if weight),
        )
        for row in matrix
    ]


_winograd.def_impl(_tiled)
_winograd.def_abstract_eval(_winograd_shape)
ad.primitive_jvps[_winograd] = _winograd_jvp
ad.primitive_transposes[_winograd] = _winograd_transpose
batching.primitive_batchers[_winograd] = _winograd_batch
mlir.register_lowering(_winograd, mlir.lower_fun(_tiled, multiple_results=False))
