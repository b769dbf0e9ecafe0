"""What fits a device's memory: how activations are held, chosen before anything is compiled."""

import functools
import math
from typing import NamedTuple

import jax

from jaxstyle.config import Config, ConfigError
from jaxstyle.engine.loop import state_like
from jaxstyle.engine.memory import USABLE, device_memory
from jaxstyle.network import Params, vgg
from jaxstyle.objective import tiling

_TIMES = {"kept": 3.4, "recomputed": 2.1, "tiled": 2.3}
"""What a gradient's temporary memory is, in compiled programs, over its activations once."""

_FORWARD = 1.5
"""The same without a gradient: 1.0 in compiled programs, 1.4 with sliced distances."""

_BFLOAT16 = 0.75
"""What of that is left in bfloat16: losses and half of the rest stay in float32."""

_IMAGES = 12
"""Arrays of the image's own size that an evaluation in tiles has beside the optimizer's."""

_SIDES = (2048, 1536, 1024, 768, 512, 384, 256)


class _Need(NamedTuple):
    """Bytes, in parts that grow differently."""

    fixed: int
    """The network's parameters, and the temporary memory of a tile."""
    growing: int
    """What grows with the image."""


def fit(config: Config, shape: tuple[int, ...], params: Params, devices: int = 1) -> Config:
    """`config` with `activations` and `tile` so that images of `shape` fit the first device.

    The first of `kept`, `recomputed` and `tiled`, with tiles as large as possible, that fits, if
    `config` does not say which.

    Args:
        config: names the optimizer, whose state counts as well.
        shape: `(height, width, …)` of the image.
        params: from `prepare_params`.
        devices: how many share the image's rows evenly; several have no tiles.

    Raises:
        ConfigError: nothing would fit; the message says what does.
    """
    channels = vgg.network(params, config.layers).channels
    memory = device_memory(jax.local_devices()[0])
    return _fit(config, (shape[0], shape[1]), channels, _size(params), memory, devices)


def fit_targets(config: Config, shape: tuple[int, ...], params: Params) -> Config:
    """The same for the targets of a picture of `shape`, which one device computes.

    There is no gradient and no optimizer: it all is kept, or had in the largest tiles that fit.
    """
    channels = vgg.network(params, config.layers).channels
    room = device_memory(jax.local_devices()[0]) * USABLE - _size(params)
    needed = 4 * _FORWARD * _activations(config, shape, channels)
    choices = _choices(config.replace(activations="tiled")) if _tileable(config) else []
    if config.tile is None and config.activations != "tiled":
        choices = [config.replace(activations="kept"), *choices]
    for choice in choices:
        share = 1.0
        if choice.tile is not None:
            window = tiling.tile(shape, choice.tile, config.layers).window
            share = math.prod(window) / (shape[0] * shape[1])
        if needed * share <= room:
            return choice
    return choices[-1]


def estimate(config: Config, shape: tuple[int, ...], params: Params) -> int:
    """Bytes that optimizing an image of `shape` takes on one device; `activations` not auto."""
    channels = vgg.network(params, config.layers).channels
    need = _need(config, (shape[0], shape[1]), channels, _size(params))
    return need.fixed + need.growing


def _size(params: Params) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def spreadable(config: Config) -> Config:
    """`config` for images whose rows several devices share.

    Raises:
        ConfigError: something in it has no meaning there.
    """
    if config.activations == "tiled" or config.tile is not None:
        raise ConfigError("tiles have no meaning for an image that devices share")
    if config.convolution == "winograd":
        raise ConfigError("convolution winograd has no meaning for an image that devices share")
    # Winograd's strided tiles would be exchanged whole.
    return config.replace(convolution="direct")


def _tileable(config: Config) -> bool:
    return "sliced" not in config.style_statistics


@functools.lru_cache
def _fit(
    config: Config,
    shape: tuple[int, int],
    channels: tuple[int, ...],
    params: int,
    memory: int,
    devices: int,
) -> Config:
    choices = _choices(config) if devices == 1 else _untiled(config)
    # What was asked for in so many words is only refused where there is no way that it fits.
    room = int(memory * (USABLE if len(choices) > 1 else 1))
    for choice in choices:
        need = _need(choice, shape, channels, params)
        if need.fixed + need.growing / devices <= room:
            return choice
    need = _need(choices[-1], shape, channels, params)
    gigabytes = (need.fixed + need.growing / devices) / 1e9
    pixels = max(room - need.fixed, 0) * devices / need.growing
    fitting = int(max(shape) * math.sqrt(pixels)) // 16 * 16
    raise ConfigError(
        f"{shape[1]}×{shape[0]} pixels with activations {choices[-1].activations} need about "
        f"{gigabytes:.1f} GB and the device has {memory / 1e9:.1f} GB; "
        + (f"size {fitting} would fit" if fitting >= 16 else "no size would fit")
        + ("" if len(choices) > 1 else "; or leave activations and tile to auto")
        + ("; or take a smaller history_size" if config.optimizer == "lbfgs" else "")
    )


def _choices(config: Config) -> list[Config]:
    if config.tile is not None:
        return [config.replace(activations="tiled")]
    untiled = [] if config.activations == "tiled" else _untiled(config)
    if config.activations in ("kept", "recomputed") or not _tileable(config):
        return untiled
    return [*untiled, *(config.replace(activations="tiled", tile=side) for side in _SIDES)]


def _untiled(config: Config) -> list[Config]:
    if config.activations != "auto":
        return [config]
    return [config.replace(activations=each) for each in ("kept", "recomputed")]


def _activations(config: Config, shape: tuple[int, ...], channels: tuple[int, ...]) -> int:
    reached = vgg.CONVOLUTIONS[: vgg.depth(config.layers)]
    return sum(_floats(layer, shape, channels) for layer in reached)


def _floats(layer: str, shape: tuple[int, ...], channels: tuple[int, ...]) -> int:
    width = channels[vgg.block(layer) - 1]
    return width * math.prod(vgg.layer_shape(shape, layer))


def _need(config: Config, shape: tuple[int, int], channels: tuple[int, ...], params: int) -> _Need:
    pixels = shape[0] * shape[1]
    activations = 4 * _activations(config, shape, channels) * _TIMES[config.activations]
    if config.precision == "bfloat16":
        activations *= _BFLOAT16
    state = jax.tree.leaves(state_like((*shape, 3), config))
    growing = sum(leaf.size * leaf.dtype.itemsize for leaf in state)
    growing += 4 * sum(_floats(layer, shape, channels) for layer in config.content_layers)
    if config.activations != "tiled":
        return _Need(params, growing + int(activations))
    assert config.tile is not None
    tiles = tiling.tile(shape, config.tile, config.layers)
    window = math.prod(tiles.window)
    growing += 12 * (window * len(tiles.starts) + _IMAGES * pixels)
    return _Need(params + int(activations * window / pixels), growing)
