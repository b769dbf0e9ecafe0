"""Feature extractors: what the other packages know of a network."""

import abc
import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from immutabledict import immutabledict
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Float

from jaxstyle.config import ConfigError, ImageError
from jaxstyle.network.arrays import Features, Params

_PRODUCTS = ("conv_general_dilated", "dot_general", "winograd")
"""Primitives whose results are a network's activations; what follows them is mostly fused."""


class FeatureExtractor(abc.ABC):
    """A network: an image to features by the names of layers.

    An instance of your own subclass can be given as `Config.network`, with its parameters as
    `params`; they may be any pytree of arrays. It must be hashable; make it a frozen dataclass, so
    that equal instances share compiled programs.
    """

    layers: tuple[str, ...]
    """All layers, each after those that it is computed from."""
    recompute: bool = False
    """Whether a gradient recomputes activations instead of keeping them all."""

    @abc.abstractmethod
    def __call__(
        self, params: Params, image: Float[jax.Array, "h w 3"], layers: tuple[str, ...]
    ) -> Features:
        """Compute the features of one sRGB 0–1 image, each `[h', w', channels]`.

        Pure. Layers other than `layers` may be among them; the compiler leaves out what they need.
        """

    @abc.abstractmethod
    def stride(self, layer: str) -> int:
        """Return the distance of two adjacent positions of a layer, in pixels."""

    def reach(self, layer: str) -> int | None:
        """Return how far a position depends on the image.

        A number of pixels to each side, beyond the square of `stride` pixels that is the
        position's own. By default None, and the network has no tiles: the reach is not known, or
        is the whole image, as with a mean over it.
        """
        del layer
        return None

    def shape(self, layer: str, image: tuple[int, ...]) -> tuple[int, int]:
        """Return `(height, width)` of a layer; by default those of the image over the stride."""
        stride = self.stride(layer)
        return image[0] // stride, image[1] // stride

    def smallest(self, layer: str) -> int:
        """Return the shortest side that an image must have; by default the stride."""
        return self.stride(layer)

    def channels(self, params: Params, layer: str) -> int:
        """Return the number of channels of a layer."""
        side = self.smallest(layer)
        image = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
        return jax.eval_shape(functools.partial(extract, self, (layer,)), params, image)[
            layer
        ].shape[2]

    def activations(self, params: Params, shape: tuple[int, ...], layers: Iterable[str]) -> int:
        """Count the activations up to `layers`, from which memory is estimated.

        By default, the results of all convolutions and matrix products that the call consists of.
        """
        leaves, structure = jax.tree.flatten(params)
        kinds = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        return _activations(self, structure, kinds, (shape[0], shape[1]), tuple(layers))

    def canonical(self, layer: str) -> str:
        """Return the name under which `layers` lists `layer`, which may be an alias.

        Raises:
            ConfigError: the layer is unknown; the message lists close names.
        """
        if layer not in self.layers:
            raise unknown_layer(layer, self.layers)
        return layer

    def prepare(self, params: Params, layers: Iterable[str]) -> Params:
        """Return `params` in the form that evaluations up to `layers` use; as they are by default.

        Raises:
            ConfigError: they are not parameters of this network.
        """
        del layers
        return params


@dataclasses.dataclass(frozen=True)
class FunctionExtractor(FeatureExtractor):
    """A function of parameters and an image that returns features by layer.

    >>> model = Model()  # a flax.linen.Module that returns a dictionary
    >>> network = FunctionExtractor(model.apply, {"early": 1, "late": 4}, {"early": 2, "late": 14})
    """

    function: Callable[[Any, Float[jax.Array, "h w 3"]], Mapping[str, Any]]
    """Pure; see `FeatureExtractor.__call__`."""
    strides: Mapping[str, int]
    """By layer, in the order of `FeatureExtractor.layers`."""
    reaches: Mapping[str, int] | None = None
    """By layer; see `FeatureExtractor.reach`."""
    rounds_up: bool = False
    """Whether a layer has a position for the last pixels that do not fill a stride: strided
    convolutions padded with SAME have one, pooling has none."""
    layers: tuple[str, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.strides))
        object.__setattr__(self, "strides", immutabledict(self.strides))
        if wrong := [layer for layer in self.layers if self.strides[layer] < 1]:
            raise ConfigError(f"{self}: the stride of {wrong[0]} must be at least 1")
        if self.reaches is not None:
            if missing := [layer for layer in self.layers if layer not in self.reaches]:
                raise ConfigError(f"{self}: the reach of {missing[0]} is missing")
            object.__setattr__(self, "reaches", immutabledict(self.reaches))

    def __call__(
        self, params: Params, image: Float[jax.Array, "h w 3"], layers: tuple[str, ...]
    ) -> Features:
        del layers
        return dict(self.function(params, image))

    def stride(self, layer: str) -> int:
        return self.strides[layer]

    def reach(self, layer: str) -> int | None:
        return None if self.reaches is None else self.reaches[layer]

    def shape(self, layer: str, image: tuple[int, ...]) -> tuple[int, int]:
        more = self.strides[layer] - 1 if self.rounds_up else 0
        return super().shape(layer, (image[0] + more, image[1] + more))

    def smallest(self, layer: str) -> int:
        del layer  # the function computes all
        return max(self.strides.values())

    def __str__(self) -> str:
        """Return the function's name, without an address that is another in each process."""
        owner = getattr(self.function, "__self__", None)
        named = self.function if owner is None else type(owner)
        return getattr(named, "__qualname__", type(named).__qualname__)


def unknown_layer(layer: str, known: Iterable[str]) -> ConfigError:
    """Return the error about a layer that is none of those known."""
    known = list(known)
    close = difflib.get_close_matches(layer, known, n=4, cutoff=0.5)
    return ConfigError(f"unknown layer {layer!r}; close ones are {', '.join(close or known[:4])}")


def check_size(
    network: FeatureExtractor, shape: tuple[int, ...], layers: Iterable[str], name: str = "image"
) -> None:
    """Raise `ImageError` if an image of `shape` = `(h, w, …)` is too small for a layer."""
    for layer in layers:
        smallest = network.smallest(layer)
        if min(shape[:2]) < smallest:
            raise ImageError(
                f"{name} of {shape[1]}×{shape[0]} pixels is too small: "
                f"{layer} needs at least {smallest}×{smallest}"
            )


@functools.partial(jax.jit, static_argnums=(0, 1))
def extract(
    network: FeatureExtractor,
    layers: tuple[str, ...],
    params: Params,
    image: Float[jax.Array, "h w 3"],
) -> Features:
    """Compute the features of an image.

    Raises:
        ConfigError: a layer is missing, or has not the shape that the network says.
    """
    features = network(params, image, layers)
    for layer in layers:
        if layer not in features:
            raise ConfigError(f"{network} returns no {layer}; it has {', '.join(features)}")
        found, said = features[layer].shape, network.shape(layer, image.shape)
        if found[:2] != said or len(found) != 3:
            raise ConfigError(
                f"{network}: {layer} has the shape {found} for an image of "
                f"{image.shape[0]}×{image.shape[1]}; its stride of {network.stride(layer)} "
                f"says {(*said, 'channels')}"
            )
    return {layer: features[layer] for layer in layers}


@functools.lru_cache
def _activations(
    network: FeatureExtractor,
    structure: Any,
    kinds: tuple[Any, ...],
    shape: tuple[int, int],
    layers: tuple[str, ...],
) -> int:
    params = structure.unflatten(jax.ShapeDtypeStruct(*kind) for kind in kinds)
    image = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
    traced = jax.make_jaxpr(functools.partial(extract, network, layers))(params, image)
    return _products(traced.jaxpr)


def _products(jaxpr: Any) -> int:
    """Count the results of convolutions and products, of inner functions too."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in _PRODUCTS:
            total += sum(result.aval.size for result in equation.outvars)
            continue
        inner = [
            each.jaxpr if isinstance(each, ClosedJaxpr) else each
            for value in equation.params.values()
            for each in (value if isinstance(value, (tuple, list)) else (value,))
            if isinstance(each, (ClosedJaxpr, Jaxpr))
        ]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(map(_products, inner))
    return total
