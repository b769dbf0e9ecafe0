"""3×3 convolution at stride 1: the platform's own, or Winograd's with a quarter of the products.

Winograd's F(4×4, 3×3) makes 16 outputs of 6×6 inputs with 36 products a channel pair where the
direct form takes 144 (Lavin and Gray 2016). Each stage is written for XLA's CPU compiler:
additions of whole slices, one batched matrix product, and barriers between the stages, without
which they are fused into each other and computed many times over.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
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
    """A 3×3 kernel, transformed: as it is, and turned around for the gradient of the input."""

    forward: Float[Array, "36 c k"]
    backward: Float[Array, "36 k c"]


Kernel = Float[Array, "3 3 c k"] | WinogradKernel


def winograd_kernel(kernel: Float[Array, "3 3 c k"]) -> WinogradKernel:
    """Transform a kernel once for all the convolutions with it."""
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    return WinogradKernel(_transform_kernel(kernel), _transform_kernel(turned))


def _transform_kernel(kernel: Float[Array, "3 3 c k"]) -> Float[Array, "36 c k"]:
    g = np.asarray(_KERNEL_TRANSFORM)
    both = jnp.asarray(np.kron(g, g), kernel.dtype)
    flat = jnp.matmul(both, kernel.reshape(9, -1), precision="highest")
    return flat.reshape(-1, *kernel.shape[2:])


def convolve(
    x: Float[Array, "h w c"],
    kernel: Kernel,
    padding: Literal["SAME", "VALID"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "h2 w2 k"]:
    """Cross-correlate `x` with a 3×3 kernel; `SAME` sees zeros beyond the border.

    Differentiable in both, and batched by `jax.vmap` without transposing anything.
    """
    if isinstance(kernel, WinogradKernel):
        y = _winograd(x[None], kernel, 1 if padding == "SAME" else 0, precision)
        assert isinstance(y, Array)
        return y[0]
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (1, 1),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _winograd(
    x: Float[Array, "b h w c"],
    kernel: WinogradKernel,
    pad: int,
    precision: jax.lax.Precision | None,
) -> Float[Array, "b h2 w2 k"]:
    return _laned(pad, precision)(x, kernel.forward)


def _winograd_forward(
    x: CustomVJPPrimal,
    kernel: Any,
    pad: int,
    precision: jax.lax.Precision | None,
) -> tuple[Float[Array, "b h2 w2 k"], tuple[WinogradKernel, Array | None]]:
    values = jax.tree.map(lambda leaf: leaf.value, kernel)
    # What the gradient of the weights needs is kept, and traced, only if someone asks for it.
    kept = x.value if kernel.forward.perturbed else None
    return _winograd(x.value, values, pad, precision), (values, kept)


def _winograd_backward(
    pad: int,
    precision: jax.lax.Precision | None,
    residuals: tuple[WinogradKernel, Array | None],
    cotangent: Float[Array, "b h2 w2 k"] | SymbolicZero,
) -> tuple[Float[Array, "b h w c"], WinogradKernel | None]:
    kernel, x = residuals
    if isinstance(cotangent, SymbolicZero):
        cotangent = jnp.zeros(cotangent.shape, kernel.backward.dtype)
    x_cotangent = _laned(2 - pad, precision)(cotangent, kernel.backward)
    if x is None:
        return x_cotangent, None
    _, pull = jax.vjp(lambda forward: _tiled(x, forward, pad, precision), kernel.forward)
    (forward,) = pull(cotangent)
    return x_cotangent, WinogradKernel(forward, jnp.zeros_like(kernel.backward))


_winograd.defvjp(_winograd_forward, _winograd_backward, symbolic_zeros=True)


@functools.cache
def _laned(pad: int, precision: jax.lax.Precision | None) -> Callable[[Array, Array], Array]:
    """`_tiled` with lanes that share a kernel folded into its batch."""

    @jax.custom_batching.custom_vmap
    def tiled(x: Array, kernel: Array) -> Array:
        return _tiled(x, kernel, pad, precision)

    @tiled.def_vmap
    def _(size: int, batched: Sequence[bool], x: Array, kernel: Array) -> tuple[Array, bool]:
        x_batched, kernel_batched = batched
        if kernel_batched:
            each = jax.vmap(
                lambda a, b: _tiled(a, b, pad, precision), (0 if x_batched else None, 0)
            )
            return each(x, kernel), True
        y = tiled(x.reshape(-1, *x.shape[2:]), kernel)
        return y.reshape(size, -1, *y.shape[1:]), True

    return tiled


@functools.partial(jax.jit, static_argnums=(2, 3))
def _tiled(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "36 c k"],
    pad: int,
    precision: jax.lax.Precision | None,
) -> Float[Array, "b h2 w2 k"]:
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
    """A small matrix times a list of arrays, by additions that skip its zeros."""
    return [
        functools.reduce(
            jnp.add,
            (weight * term for weight, term in zip(row, terms, strict=True) if weight),
        )
        for row in matrix
    ]
