"""The convolutional parts of VGG19 and VGG16 in Flax: an sRGB image to named activations."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from jaxstyle.config import Config, ConfigError, NetworkName, Padding, Precision
from jaxstyle.imaging import Image
from jaxstyle.network.arrays import Features, Params
from jaxstyle.network.convolution import Kernel, WinogradKernel, convolve, winograd_kernel
from jaxstyle.network.extractors import FeatureExtractor, check_size, extract, unknown_layer

COLORS = 3

CHANNELS = (64, 128, 256, 512, 512)
"""Channels of the convolutions in each block."""

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
    only_first = padding == "replicate-first" and conv != "conv1_1"
    return None if only_first else _PAD_MODES.get(padding)


def chosen_precision(
    precision: Precision, convolution: Literal["auto", "direct", "winograd"] = "auto"
) -> Precision:
    """Return the precision that `auto` stands for on this platform, or another as it is.

    Winograd's convolutions need float32.
    """
    if precision != "auto":
        return precision
    return "float32" if convolution == "winograd" else _AUTO.get(jax.default_backend(), "float32")


def convolution_of(params: Params) -> Literal["direct", "winograd"]:
    """Return the algorithm of the convolutions: winograd if any kernel is transformed for it."""
    leaves = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, WinogradKernel))
    return "winograd" if any(isinstance(leaf, WinogradKernel) for leaf in leaves) else "direct"


def precision_of(params: Params, precision: Precision) -> Precision:
    """Return the precision of evaluations with `params`; see `chosen_precision`."""
    winograd = convolution_of(params) == "winograd"
    return chosen_precision(precision, "winograd" if winograd else "auto")


def _pool(x: Float[Array, "h w c"], pooling: Literal["max", "average"]) -> Float[Array, "h2 w2 c"]:
    """Pool 2×2 with stride 2; an odd last row or column is dropped.

    Written with elementwise operations: the gradient of a windowed maximum is a scatter, which
    is slow on CPUs. Rows are paired by slices, since XLA would gather rows that devices share to
    reshape them.
    """
    height, width, channels = x.shape
    even = x[: height // 2 * 2, : width // 2 * 2]
    pairs = even.reshape(-1, width // 2, 2, channels)
    join = _maximum if pooling == "max" else _mean
    columns = join(pairs[:, :, 0], pairs[:, :, 1])
    return join(columns[::2], columns[1::2])


def _mean(a: Array, b: Array) -> Array:
    return (a + b) / 2


@jax.custom_jvp
def _maximum(a: Array, b: Array) -> Array:
    """Compute the maximum; of equal values, the first gets the gradient.

    JAX's own derivative shares the comparison with the value, so a GPU would store it in a separate
    kernel.
    """
    return jnp.maximum(a, b)


@_maximum.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    a, b = primals
    return _maximum(a, b), jnp.where(b > a, tangents[1], tangents[0])


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


class VGG(nn.Module):
    """A VGG network up to the deepest of `layers` (Simonyan and Zisserman 2015).

    Takes one unbatched sRGB image in 0–1. The range, channel order and mean with which the
    weights were trained are folded into `mean` and the first kernel on loading, so all networks
    take the same input.
    """

    blocks: tuple[tuple[str, ...], ...]
    """The convolutions of each block; a pooling that halves the size separates blocks."""
    layers: tuple[str, ...]
    channels: tuple[int, ...] = CHANNELS
    pooling: Literal["max", "average"] = "max"
    padding: Padding = "zero"
    precision: Precision = "float32"
    winograd: tuple[str, ...] = ()
    recompute: bool = False

    @nn.compact
    def __call__(self, image: Float[Array, "h w 3"]) -> Features:
        mean = self.param("mean", nn.initializers.constant(0.5), (3,))
        x, activations = image - mean, {}
        through = nn.remat(_through, static_argnums=(2, 3)) if self.recompute else _through
        for number, convolutions in enumerate(self.blocks):
            x, block_activations = through(self, x, number, convolutions)
            activations |= block_activations
        return {layer: activations[layer] for layer in self.layers}


def _through(
    module: VGG, x: Float[Array, "h w c"], number: int, convolutions: tuple[str, ...]
) -> tuple[Float[Array, "h2 w2 k"], Features]:
    """Apply a block's convolutions; return the output and the activations at wanted layers."""
    activations: Features = {}
    if number > 0:
        x = _pool(x, module.pooling)
    for conv in convolutions:
        mode = _pad_mode(module.padding, conv)
        if mode is not None:
            x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode=mode)
        x = _Convolution(
            module.channels[number],
            "SAME" if mode is None else "VALID",
            conv in module.winograd,
            module.precision,
            name=conv,
        )(x)
        activations[conv] = x
        x = _rectify(x)
        activations[_rectified(conv)] = x
    return x, {layer: value for layer, value in activations.items() if layer in module.layers}


def _rectified(conv: str) -> str:
    return conv.replace("conv", "relu")


def _block(layer: str) -> int:
    """Return the number of a layer's block, from 1."""
    return int(layer[4])


@dataclasses.dataclass(frozen=True)
class VGGExtractor(FeatureExtractor):
    """One of the VGG networks, of any widths, and how it is evaluated; see `Config`."""

    name: str
    blocks: tuple[int, ...]
    """Number of convolutions in each block."""
    pooling: Literal["max", "average"] = "max"
    padding: Padding = "zero"
    precision: Precision = "float32"
    convolution: Literal["auto", "direct", "winograd"] = dataclasses.field(
        default="auto", compare=False, repr=False
    )
    """Algorithm for `prepare`; afterwards the form of the kernels determines it."""
    recompute: bool = False
    """Whether a gradient recomputes each block's activations instead of keeping them all (Chen et
    al. 2016)."""
    convolutions: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    layers: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    """All activations: before (`conv4_2`) and after (`relu4_2`) the ReLU."""

    def __post_init__(self) -> None:
        convolutions = tuple(
            f"conv{block}_{index}"
            for block, count in enumerate(self.blocks, 1)
            for index in range(1, count + 1)
        )
        layers = tuple(name for conv in convolutions for name in (conv, _rectified(conv)))
        object.__setattr__(self, "convolutions", convolutions)
        object.__setattr__(self, "layers", layers)

    def __str__(self) -> str:
        """Return the name that settings have for it."""
        return self.name

    def canonical(self, layer: str) -> str:
        """Return `layer` as in `layers`; Keras' `block4_conv2` is `relu4_2`."""
        keras = re.fullmatch(r"block(\d)_conv(\d)", layer)
        name = f"relu{keras[1]}_{keras[2]}" if keras else layer
        if name not in self.layers:
            aliases = [f"block{conv[4]}_conv{conv[6]}" for conv in self.convolutions]
            raise unknown_layer(layer, [*self.layers, *aliases])
        return name

    def stride(self, layer: str) -> int:
        return 2 ** (_block(self.canonical(layer)) - 1)

    def reach(self, layer: str) -> int:
        return sum(map(self.stride, self._up_to([layer])))

    def smallest(self, layer: str) -> int:
        return self.stride(layer) * (2 if self.padding == "reflect" else 1)

    def channels(self, params: Params, layer: str) -> int:
        conv = self.canonical(layer).replace("relu", "conv")
        return params[conv]["bias"].shape[0]

    def activations(self, params: Params, shape: tuple[int, ...], layers: Iterable[str]) -> int:
        return sum(
            self.channels(params, conv) * math.prod(self.shape(conv, shape))
            for conv in self._up_to(layers)
        )

    def _up_to(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Return the convolutions up to the deepest of `layers`."""
        deepest = max(self.layers.index(self.canonical(layer)) for layer in layers)
        return self.convolutions[: deepest // 2 + 1]

    def prepare(self, params: Params, layers: Iterable[str]) -> Params:
        """Return `params` with kernels up to `layers` in the form they are used in.

        In bfloat16, they and the biases are of that type. `winograd` transforms every convolution
        except the one on the three colours; `auto`, on a CPU and in float32, those of at least 64
        input channels. Kernels already transformed stay so.
        """
        layers = tuple(layers)
        self._check(params, layers)
        reached = {conv: params[conv] for conv in self._up_to(layers)}
        precision = chosen_precision(self.precision, self.convolution)
        if precision == "bfloat16":
            return {**params, **_rounded(reached)}
        auto = jax.default_backend() == "cpu" and precision == "float32"
        if self.convolution == "direct" or (self.convolution == "auto" and not auto):
            return params
        narrowest = _WINOGRAD_CHANNELS if self.convolution == "auto" else COLORS + 1
        kernels = {conv: values["kernel"] for conv, values in reached.items()}
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

    def module(self, params: Params, layers: Iterable[str]) -> VGG:
        """Return the Flax module that reaches `layers` with `params`, whatever their widths.

        Raises:
            ConfigError: a layer is unknown, or `params` are of another network or do not reach it.
        """
        layers = tuple(layers)
        self._check(params, layers)
        names = tuple(dict.fromkeys(map(self.canonical, layers)))
        reached = self._up_to(layers)
        numbers = range(1, _block(reached[-1]) + 1)
        blocks = tuple(tuple(c for c in reached if _block(c) == number) for number in numbers)
        winograd = tuple(
            conv for conv in reached if isinstance(params[conv]["kernel"], WinogradKernel)
        )
        return VGG(
            blocks,
            names,
            tuple(self.channels(params, block[0]) for block in blocks),
            self.pooling,
            self.padding,
            precision_of(params, self.precision),
            winograd,
            self.recompute,
        )

    def _check(self, params: Params, layers: tuple[str, ...]) -> None:
        there = tuple(conv for conv in self.convolutions if conv in params)
        others = [name for name in params if name not in ("mean", *there)]
        gaps = [conv for conv in self.convolutions[: len(there)] if conv not in there]
        if others or gaps:
            what = f"have {others[0]}" if others else f"lack {gaps[0]}"
            raise ConfigError(
                f"these weights {what}, so they are not those of {self.name}: give others, or name "
                "their network"
            )
        for layer in layers:
            if self._up_to([layer])[-1] not in there:
                raise ConfigError(f"the weights end before layer {layer!r}")

    def __call__(
        self, params: Params, image: Float[Array, "h w 3"], layers: tuple[str, ...]
    ) -> Features:
        features = self.module(params, layers).apply({"params": params}, image)
        assert isinstance(features, dict)
        return {layer: features[self.canonical(layer)] for layer in layers}


VGG19 = VGGExtractor("vgg19", (2, 2, 4, 4, 4))
"""Configuration E."""

VGG16 = VGGExtractor("vgg16", (2, 2, 3, 3, 3))
"""Configuration D."""

NETWORKS = {network.name: network for network in (VGG16, VGG19)}
"""The networks that settings can name."""


def network_of(config: Config) -> FeatureExtractor:
    """Return the network of `config`, to be evaluated as it says."""
    if not isinstance(config.network, str):
        return config.network
    return dataclasses.replace(
        NETWORKS[config.network],
        pooling=config.pooling,
        padding=config.padding,
        precision=config.precision,
        convolution=config.convolution,
        recompute=config.activations == "recomputed",
    )


def common_network(configs: Iterable[Config]) -> NetworkName:
    """Return the name of the network whose weights all of `configs` need.

    Raises:
        ConfigError: they need those of several networks, or of one without a file of weights.
    """
    networks: list[Any] = list(dict.fromkeys(config.network for config in configs))
    for network in networks:
        if not isinstance(network, str):
            raise ConfigError(f"network {network} has no file of weights: give stylize its params")
    if len(networks) > 1:
        names = " and ".join(networks)
        raise ConfigError(f"{names} have different weights: stylize with one network at a time")
    return networks[0] if networks else "vgg19"


@jax.jit
def _rounded(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)


@jax.jit
def _transform(kernels: dict[str, Array]) -> dict[str, WinogradKernel]:
    return {conv: winograd_kernel(kernel) for conv, kernel in kernels.items()}


def extract_features(
    params: Params,
    image: Image,
    layers: Sequence[str],
    *,
    network: NetworkName | FeatureExtractor = "vgg19",
    pooling: Literal["max", "average"] = "max",
    padding: Padding = "zero",
    precision: Precision = "float32",
) -> Features:
    """Compute activations of an sRGB 0–1 image by requested name, each `[h', w', channels]`.

    Pooling, padding and precision are those of the named networks.

    Raises:
        ConfigError: a layer is unknown; the message lists close names.
        ImageError: the image is too small for the deepest layer.
    """
    config = Config(network=network, pooling=pooling, padding=padding, precision=precision)
    extractor = network_of(config)
    if isinstance(layers, str):
        raise ConfigError(f"layers must be a list of names, not {layers!r}")
    for layer in layers:
        extractor.canonical(layer)
    check_size(extractor, image.shape, layers)
    return extract(extractor, tuple(layers), params, jnp.asarray(image))
