"""What fits a device's memory: how activations are held, chosen before anything is compiled."""

import functools
import math
from typing import NamedTuple

import jax

from jaxstyle import tiling, vgg
from jaxstyle.config import Config
from jaxstyle.errors import ConfigError
from jaxstyle.loop import state_like
from jaxstyle.memory import USABLE, device_memory
from jaxstyle.space import sharing
from jaxstyle.types import Params

_TIMES = {"kept": 3.4, "recomputed": 2.1, "tiled": 2.3}
"""What a gradient's temporary memory is, in compiled programs, over its activations once."""

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


class Fit(NamedTuple):
    """Settings with `activations` and `tile` as they are going to be."""

    targets: Config
    """Where targets are computed: on one device, whatever shares the rows later."""
    run: Config
    """Where images are optimized."""


def fit(config: Config, shape: tuple[int, ...], params: Params, devices: int = 1) -> Fit:
    """How images of `shape` are going to fit the memory of the first device.

    The first of `kept`, `recomputed` and `tiled`, with tiles as large as possible, that fits, if
    `config` does not say which.

    Args:
        config: names the optimizer, whose state counts as well.
        shape: `(height, width, …)` of the image.
        params: from `prepare_params`.
        devices: that share the image's rows; they have no tiles.

    Raises:
        ConfigError: nothing would fit; the message says what does.
    """
    network = vgg.network(params, config.layers)
    memory = device_memory(jax.local_devices()[0])
    run = _fit(config, (shape[0], shape[1]), network.channels, _size(params), memory, devices)
    tiled = devices > 1 and _tileable(config)
    return Fit(config.replace(activations="tiled") if tiled else run, run)


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
    choices = _choices(config, devices)
    devices = sharing(shape[0], devices)
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
        + ("" if len(choices) > 1 else ", or try activations auto")
        + (", or less history_size" if config.optimizer == "lbfgs" else "")
    )


def _choices(config: Config, devices: int) -> list[Config]:
    if config.activations in ("kept", "recomputed"):
        return [config]
    if config.tile is not None:
        return [config.replace(activations="tiled")]
    tiled: list[Config] = []
    if _tileable(config) and devices == 1:
        tiled = [config.replace(activations="tiled", tile=side) for side in _SIDES]
    if config.activations == "tiled":
        return tiled
    return [*(config.replace(activations=each) for each in ("kept", "recomputed")), *tiled]


def _need(config: Config, shape: tuple[int, int], channels: tuple[int, ...], params: int) -> _Need:
    def floats(layer: str) -> int:
        width = channels[int(vgg.canonical_layer(layer)[4]) - 1]
        return width * math.prod(vgg.layer_shape(shape, layer))

    pixels = shape[0] * shape[1]
    once = sum(map(floats, vgg.CONVOLUTIONS[: vgg.depth(config.layers)]))
    activations = 4 * once * _TIMES[config.activations]
    if config.precision == "bfloat16":
        activations *= _BFLOAT16
    state = jax.tree.leaves(state_like((*shape, 3), config))
    growing = sum(leaf.size * leaf.dtype.itemsize for leaf in state)
    growing += 4 * sum(map(floats, config.content_layers))
    if config.activations != "tiled":
        return _Need(params, growing + int(activations))
    assert config.tile is not None
    tiles = tiling.tile(shape, config.tile, config.layers)
    window = math.prod(tiles.window)
    growing += 12 * (window * len(tiles.starts) + _IMAGES * pixels)
    return _Need(params + int(activations * window / pixels), growing)
