"""VGG19's convolutional part in Flax: an sRGB image to named activations."""

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from jaxstyle.config import ConfigError, ImageError, Padding, Precision
from jaxstyle.imaging import Image
from jaxstyle.network.arrays import Features, Params
from jaxstyle.network.convolution import Kernel, WinogradKernel, convolve, winograd_kernel

BLOCKS = (2, 2, 4, 4, 4)
"""Convolutions per block; a pooling that halves the size separates blocks."""

COLORS = 3

CHANNELS = (64, 128, 256, 512, 512)

CONVOLUTIONS = tuple(
    f"conv{block}_{index}" for block, count in enumerate(BLOCKS, 1) for index in range(1, count + 1)
)

LAYERS = tuple(name for conv in CONVOLUTIONS for name in (conv, conv.replace("conv", "relu")))
"""All activations in order: before (`conv4_2`) and after (`relu4_2`) the ReLU."""

PRECISIONS = {
    "float32": jax.lax.Precision.HIGHEST,
    "tf32": jax.lax.Precision.HIGH,
    "bfloat16": jax.lax.Precision.DEFAULT,
}
"""Precision requested from the platform. HIGH is TF32 on GPUs, three bfloat16 passes on TPUs, and
the same as HIGHEST on CPUs. bfloat16 is also the type of the operands."""

_AUTO: dict[str, Precision] = {"cpu": "float32", "gpu": "tf32", "tpu": "bfloat16"}
"""Precision by JAX's name of the platform: what it multiplies fast, and well enough."""

_WINOGRAD_CHANNELS = 64
"""Input channels from which Winograd's convolution is faster on a CPU; see docs/performance.md."""

_PAD_MODES = {"replicate": "edge", "reflect": "reflect", "replicate-first": "edge"}


def _pad_mode(padding: Padding, conv: str) -> str | None:
    """Return the `jnp.pad` mode of `conv`'s input; None if the convolution pads with zeros."""
    only_first = padding == "replicate-first" and conv != CONVOLUTIONS[0]
    return None if only_first else _PAD_MODES.get(padding)


def canonical_layer(name: str) -> str:
    """Return `name` as in `LAYERS`; Keras' `block4_conv2` is `relu4_2`.

    Raises:
        ConfigError: the layer is unknown; the message lists close names.
    """
    keras = re.fullmatch(r"block(\d)_conv(\d)", name)
    layer = f"relu{keras[1]}_{keras[2]}" if keras else name
    if layer in LAYERS:
        return layer
    aliases = [f"block{conv[4]}_conv{conv[6]}" for conv in CONVOLUTIONS]
    close = difflib.get_close_matches(name, [*LAYERS, *aliases], n=4, cutoff=0.5)
    raise ConfigError(f"unknown layer {name!r}; close ones are {', '.join(close or LAYERS[:4])}")


def chosen_precision(
    precision: Precision, convolution: Literal["auto", "direct", "winograd"] = "auto"
) -> Precision:
    """Return the precision that `auto` stands for on this platform, or another as it is.

    Winograd's convolutions need float32.
    """
    if precision != "auto":
        return precision
    return "float32" if convolution == "winograd" else _AUTO.get(jax.default_backend(), "float32")


def depth(layers: Iterable[str]) -> int:
    """Return the number of convolutions up to the deepest of `layers`."""
    return max(LAYERS.index(canonical_layer(layer)) for layer in layers) // 2 + 1


def block(layer: str) -> int:
    """Return the number of the block of `layer`, from 1 to 5."""
    return int(canonical_layer(layer)[4])


def check_size(
    shape: tuple[int, ...], layers: Iterable[str], padding: str = "zero", name: str = "image"
) -> None:
    """Raise `ImageError` if an image of `shape` = `(h, w, …)` is too small for a layer."""
    for layer in layers:
        halvings = block(layer) - 1
        smallest = 2**halvings * (2 if padding == "reflect" else 1)
        if min(shape[:2]) < smallest:
            raise ImageError(
                f"{name} of {shape[1]}×{shape[0]} pixels is too small: "
                f"{layer} needs at least {smallest}×{smallest}"
            )


def layer_shape(shape: tuple[int, ...], layer: str) -> tuple[int, int]:
    """Return `(height, width)` of the activations at `layer` for an image of `shape`."""
    halvings = block(layer) - 1
    return shape[0] >> halvings, shape[1] >> halvings


def _pool(x: Float[Array, "h w c"], pooling: Literal["max", "average"]) -> Float[Array, "h2 w2 c"]:
    """Pool 2×2 with stride 2; an odd last row or column is dropped.

    Written with elementwise operations: the gradient of a windowed maximum is a scatter, which
    is slow on CPUs. As in that gradient, the first of equal values gets it.
    """
    height, width, channels = x.shape
    even = x[: height // 2 * 2, : width // 2 * 2]
    windows = even.reshape(height // 2, 2, width // 2, 2, channels)
    if pooling == "average":
        return jnp.mean(windows, axis=(1, 3))
    rows = _first_maximum(windows[:, :, :, 0], windows[:, :, :, 1])
    return _first_maximum(rows[:, 0], rows[:, 1])


def _first_maximum(a: Array, b: Array) -> Array:
    return jnp.where(a >= b, a, b)


@jax.custom_jvp
def _rectify(x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Compute max(x, 0), with a gradient from the result alone.

    `jax.nn.relu` keeps x for its gradient, which must then be stored beside the result; GPUs
    rectify within the convolution if nothing else needs it.
    """
    return jnp.maximum(x, 0)


@_rectify.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = _rectify(*primals)
    # XLA would replace y > 0 by x > 0.
    return y, jnp.where(y == 0, 0, tangents[0])


class _Convolution(nn.Module):
    """A 3×3 convolution with bias, whose kernel is stored in the form its algorithm needs."""

    features: int
    padding: Literal["SAME", "VALID"]
    winograd: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 k"]:
        shape = (3, 3, x.shape[-1], self.features)

        def kernel_init(key: Array) -> Kernel:
            kernel = nn.initializers.he_normal()(key, shape)
            return winograd_kernel(kernel) if self.winograd else kernel

        kernel = self.param("kernel", kernel_init)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.precision == "bfloat16":
            x, kernel, bias = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, kernel, bias))
        return convolve(x, kernel, self.padding, PRECISIONS[self.precision]) + bias


class VGG19(nn.Module):
    """VGG19 up to the deepest of `layers` (Simonyan and Zisserman 2015, configuration E).

    Takes one unbatched sRGB image in 0–1. The range, channel order and mean with which the
    weights were trained are folded into `mean` and the first kernel on loading, so all networks
    take the same input.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...] = CHANNELS
    pooling: Literal["max", "average"] = "max"
    padding: Padding = "zero"
    precision: Precision = "float32"
    winograd: tuple[str, ...] = ()
    recompute: bool = False
    """Whether a gradient recomputes each block's activations instead of keeping them all (Chen et
    al. 2016)."""

    @property
    def convolution(self) -> Literal["direct", "winograd"]:
        """The convolution algorithm: winograd if any layer uses it, else direct."""
        return "winograd" if self.winograd else "direct"

    @nn.compact
    def __call__(self, image: Float[Array, "h w 3"]) -> Features:
        mean = self.param("mean", nn.initializers.constant(0.5), (3,))
        convolutions = CONVOLUTIONS[: depth(self.layers)]
        x, activations = image - mean, {}
        through = nn.remat(_through, static_argnums=(2,)) if self.recompute else _through
        for number in range(1, len(BLOCKS) + 1):
            x, block_activations = through(
                self, x, tuple(c for c in convolutions if block(c) == number)
            )
            activations |= block_activations
        return {layer: activations[canonical_layer(layer)] for layer in self.layers}


def _through(
    module: VGG19, x: Float[Array, "h w c"], convolutions: tuple[str, ...]
) -> tuple[Float[Array, "h2 w2 k"], Features]:
    """Apply consecutive convolutions; return the output and the activations at wanted layers."""
    wanted = {canonical_layer(layer) for layer in module.layers}
    activations: Features = {}
    for conv in convolutions:
        number, index = block(conv), int(conv[6])
        if number > 1 and index == 1:
            x = _pool(x, module.pooling)
        mode = _pad_mode(module.padding, conv)
        if mode is not None:
            x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode=mode)
        x = _Convolution(
            module.channels[number - 1],
            "SAME" if mode is None else "VALID",
            conv in module.winograd,
            module.precision,
            name=conv,
        )(x)
        activations[conv] = x
        x = _rectify(x)
        activations[conv.replace("conv", "relu")] = x
    return x, {layer: value for layer, value in activations.items() if layer in wanted}


def network(
    params: Params,
    layers: Iterable[str],
    pooling: Literal["max", "average"] = "max",
    padding: Padding = "zero",
    precision: Precision = "float32",
    recompute: bool = False,
) -> VGG19:
    """Return the module that reaches `layers` with `params`, whatever their widths.

    Raises:
        ConfigError: a layer is unknown, or `params` do not reach it.
    """
    layers = tuple(dict.fromkeys(layers))
    for layer in layers:
        if canonical_layer(layer).replace("relu", "conv") not in params:
            raise ConfigError(f"the weights end before layer {layer!r}")
    firsts = (params.get(f"conv{block}_1") for block in range(1, len(BLOCKS) + 1))
    channels = tuple(first["bias"].shape[0] for first in firsts if first is not None)
    winograd = tuple(
        conv
        for conv in CONVOLUTIONS
        if conv in params and isinstance(params[conv]["kernel"], WinogradKernel)
    )
    chosen = chosen_precision(precision, "winograd" if winograd else "auto")
    return VGG19(layers, channels, pooling, padding, chosen, winograd, recompute)


def transform_kernels(
    params: Params,
    layers: Iterable[str],
    convolution: Literal["auto", "direct", "winograd"] = "auto",
    precision: Precision = "float32",
) -> Params:
    """Return `params` with kernels up to `layers` in the form they are used in, sharing the rest.

    In bfloat16, they and the biases are of that type. `winograd` transforms every convolution
    except the one on the three colours; `auto`, on a CPU and in float32, those of at least 64 input
    channels. Kernels already transformed stay so.
    """
    precision = chosen_precision(precision, convolution)
    reached = CONVOLUTIONS[: depth(layers)]
    if precision == "bfloat16":
        return {**params, **_rounded({conv: params[conv] for conv in reached if conv in params})}
    auto = jax.default_backend() == "cpu" and precision == "float32"
    if convolution == "direct" or (convolution == "auto" and not auto):
        return params
    narrowest = _WINOGRAD_CHANNELS if convolution == "auto" else COLORS + 1
    kernels = {conv: params[conv]["kernel"] for conv in reached if conv in params}
    chosen = {
        conv: kernel
        for conv, kernel in kernels.items()
        if not isinstance(kernel, WinogradKernel) and kernel.shape[2] >= narrowest
    }
    if not chosen:
        return params
    transformed = _transform(chosen)
    changes = {conv: {**params[conv], "kernel": kernel} for conv, kernel in transformed.items()}
    return {**params, **changes}


@jax.jit
def _rounded(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)


@jax.jit
def _transform(kernels: dict[str, Array]) -> dict[str, WinogradKernel]:
    return {conv: winograd_kernel(kernel) for conv, kernel in kernels.items()}


@functools.partial(jax.jit, static_argnums=0)
def apply(module: VGG19, params: Params, image: Float[Array, "h w 3"]) -> Features:
    """Compute the activations of `image` at `module.layers`."""
    features = module.apply({"params": params}, image)
    assert isinstance(features, dict)
    return features


def extract_features(
    params: Params,
    image: Image,
    layers: Sequence[str],
    *,
    pooling: Literal["max", "average"] = "max",
    padding: Padding = "zero",
    precision: Precision = "float32",
) -> Features:
    """Compute activations of an sRGB 0–1 image by requested name, each `[h', w', channels]`.

    Raises:
        ConfigError: a layer is unknown; the message lists close names.
        ImageError: the image is too small for the deepest layer.
    """
    check_size(image.shape, layers, padding)
    return apply(network(params, layers, pooling, padding, precision), params, jnp.asarray(image))
