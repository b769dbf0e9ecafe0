"""Winograd's convolution against XLA's direct one, and against NumPy through test_vgg."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numpy.testing import assert_allclose

from jaxstyle.network.convolution import WinogradKernel, convolve, winograd_kernel

OUTPUTS = [(1, 1), (4, 4), (5, 3), (8, 13), (2, 30)]
CASES = [
    *((shape, "SAME") for shape in OUTPUTS),
    *(((height + 2, width + 2), "VALID") for height, width in OUTPUTS),
]


def material(shape: tuple[int, ...], channels: int = 5, outputs: int = 6) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*shape, channels)))
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels, outputs)))
    return x, kernel


@pytest.mark.parametrize(("shape", "padding"), CASES)
def test_equals_the_direct_convolution(
    shape: tuple[int, int], padding: Literal["SAME", "VALID"], x64: None
) -> None:
    x, kernel = material(shape)
    expected = convolve(x, kernel, padding)
    found = convolve(x, winograd_kernel(kernel), padding)
    assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("shape", "padding"), CASES)
def test_gradients_equal_those_of_the_direct_convolution(
    shape: tuple[int, int], padding: Literal["SAME", "VALID"], x64: None
) -> None:
    x, kernel = material(shape)

    def direct(x: Array, kernel: Array) -> Array:
        return jnp.sum(jnp.sin(convolve(x, kernel, padding)))

    def winograd(x: Array, kernel: Array) -> Array:
        return jnp.sum(jnp.sin(convolve(x, winograd_kernel(kernel), padding)))

    expected = jax.grad(direct, (0, 1))(x, kernel)
    found = jax.grad(winograd, (0, 1))(x, kernel)
    for ours, theirs in zip(found, expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_float32_is_about_as_exact_as_the_direct_convolution() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 24, 256))
    kernel = rng.normal(size=(3, 3, 256, 16)) / 48
    exact = np.einsum(
        "hwcij,ijck->hwk", np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1)), kernel
    )
    transformed = winograd_kernel(jnp.asarray(kernel, jnp.float32))
    found = convolve(jnp.asarray(x, jnp.float32), transformed, "VALID")
    assert np.linalg.norm(found - exact) < 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_equals_a_loop(in_axes: tuple[int | None, int | None], x64: None) -> None:
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(3, 6, 9, 4)))
    kernel = winograd_kernel(jnp.asarray(rng.normal(size=(3, 3, 4, 5))))
    kernels = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), kernel)

    def value(x: Array, kernel: WinogradKernel) -> Array:
        return jnp.sum(jnp.square(convolve(x, kernel, "SAME")))

    def arguments(lane: int) -> tuple[Array, WinogradKernel]:
        one = jax.tree.map(lambda leaf: leaf[lane], kernels)
        return x[lane if in_axes[0] == 0 else 0], one if in_axes[1] == 0 else kernel

    mapped = (x if in_axes[0] == 0 else x[0], kernels if in_axes[1] == 0 else kernel)
    found = jax.vmap(jax.grad(value), in_axes)(*mapped)
    for lane in range(3):
        assert_allclose(found[lane], jax.grad(value)(*arguments(lane)), rtol=1e-9, atol=1e-9)


def test_lanes_sharing_a_kernel_are_one_product() -> None:
    """Lanes become tiles of one matrix product; as a batch of products each packs the kernel."""
    kernel = winograd_kernel(jnp.ones((3, 3, 8, 8)))
    mapped = jax.vmap(jax.vmap(lambda x: convolve(x, kernel, "SAME")))
    text = jax.jit(mapped).lower(jnp.ones((2, 3, 8, 8, 8))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 1
    assert "tensor<36x24x8xf32>" in products[0]


def test_the_gradient_of_the_image_computes_no_gradient_of_the_kernel() -> None:
    kernel = winograd_kernel(jnp.ones((3, 3, 8, 8)))
    grad = jax.jit(jax.grad(lambda x: jnp.sum(jnp.square(convolve(x, kernel, "SAME")))))
    compiled = grad.lower(jnp.ones((12, 12, 8))).compile().as_text()
    assert compiled is not None
    products = [line for line in compiled.splitlines() if " dot(" in line]
    assert len(products) == 2
