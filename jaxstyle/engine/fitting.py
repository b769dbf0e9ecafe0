"""Fitting a device's memory: the choice of how activations are held, before compilation."""

import functools
import math
from typing import NamedTuple

import jax

from jaxstyle.config import LBFGS, Config, ConfigError
from jaxstyle.engine.memory import USABLE
from jaxstyle.engine.optimizers import state_like
from jaxstyle.network import Params, network_of, vgg
from jaxstyle.objective import tileable, tiling

_TIMES = {
    "cpu": {"kept": (3.4, 3.4), "recomputed": (2.1, 2.1), "tiled": (2.3, 2.3)},
    "gpu": {"kept": (1.1, 1.55), "recomputed": (1.1, 1.35), "tiled": (1.0, 1.0)},
    "tpu": {"kept": (2.0, 2.4), "recomputed": (2.0, 2.4), "tiled": (1.6, 1.9)},
}
"""Ratio of a gradient's temporary memory, in compiled programs, to one copy of its activations.

The first number is for statistics of the features themselves, the second for those of deviations
from a mean; see docs/accelerators.md.
"""

_PLAIN = ("gram", "moments")
"""Statistics that need no copy of the features."""

_FORWARD = 1.5
"""The same ratio without a gradient: 1.0 in compiled programs, 1.4 with sliced distances."""

_BFLOAT16 = {"cpu": 0.75, "gpu": 0.56, "tpu": 0.56}
"""Fraction of that memory needed in bfloat16: losses and a part of the rest stay in float32."""

_IMAGES = 12
"""Image-sized arrays that an evaluation in tiles needs besides the optimizer's."""

_SIDES = (2048, 1536, 1024, 768, 512, 384, 256)


class _Need(NamedTuple):
    """Bytes needed, split by how they grow."""

    fixed: int
    """Bytes of the network's parameters, of a tile's temporary memory, and of what every device
    has in full."""
    growing: int
    """Bytes that grow with the image, and that devices share."""


class _Sizes(NamedTuple):
    """What a network needs for images of one shape."""

    params: int
    """Bytes of the parameters."""
    activations: int
    """Number of activations."""
    content: int
    """Number of features at the content layers, where devices share them."""
    replicated: int
    """Number of those that every device has, since the layer's rows are not shared evenly."""


def fit(
    config: Config,
    shape: tuple[int, ...],
    params: Params,
    memory: int,
    devices: int = 1,
) -> Config:
    """Choose `activations` and `tile` so that images of `shape` fit a device.

    Unless `config` specifies them, use the first of `kept`, `recomputed` and `tiled` that fits,
    with tiles as large as possible.

    Args:
        config: names the optimizer, whose state counts too.
        shape: `(height, width, …)` of the image.
        params: from `prepare_params`, or their shapes.
        memory: bytes that a program may use on each device.
        devices: number of devices that share the image's rows; only one can use tiles.

    Raises:
        ConfigError: nothing fits; the message says what would.
    """
    sizes = _sizes(config, shape, params, devices)
    return _fit(config, (shape[0], shape[1]), sizes, memory, devices)


def fit_targets(config: Config, shape: tuple[int, ...], params: Params, memory: int) -> Config:
    """Like `fit`, for computing the targets of a picture of `shape` on one device.

    Without gradient or optimizer, activations are either kept or computed in the largest tiles
    that fit.
    """
    sizes = _sizes(config, shape, params)
    room = memory * USABLE - sizes.params
    needed = 4 * _FORWARD * sizes.activations
    choices = _choices(config.replace(activations="tiled")) if tileable(config) else []
    if config.tile is None and config.activations != "tiled":
        choices = [config.replace(activations="kept"), *choices]
    for choice in choices:
        share = 1.0
        if choice.tile is not None:
            window = tiling.tile(network_of(config), shape, choice.tile, config.layers).window
            share = math.prod(window) / (shape[0] * shape[1])
        if needed * share <= room:
            return choice
    return choices[-1]


def estimate(
    config: Config, shape: tuple[int, ...], params: Params, platform: str | None = None
) -> int:
    """Estimate the bytes to optimize an image of `shape` on one device.

    Args:
        config: the settings; `activations` is not auto.
        shape: `(height, width, …)` of the image.
        params: from `prepare_params`, or their shapes.
        platform: the device's; JAX's default if not given.
    """
    sizes = _sizes(config, shape, params)
    need = _need(config, (shape[0], shape[1]), sizes, platform or jax.default_backend())
    return need.fixed + need.growing


def _sizes(config: Config, shape: tuple[int, ...], params: Params, devices: int = 1) -> _Sizes:
    network, leaves = network_of(config), jax.tree.leaves(params)
    content = {True: 0, False: 0}
    for layer in config.content_layers:
        rows, columns = network.shape(layer, shape)
        content[rows % devices == 0] += rows * columns * network.channels(params, layer)
    return _Sizes(
        sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves),
        network.activations(params, shape, config.layers),
        content[True],
        content[False],
    )


def for_space(config: Config, space: int) -> Config:
    """Return `config` adapted to images whose rows `space` devices share.

    Raises:
        ConfigError: a setting cannot be used if there are several.
    """
    if space == 1:
        return config
    if config.activations == "tiled" or config.tile is not None:
        raise ConfigError("tiles cannot be used for an image that several devices share")
    if config.convolution == "winograd":
        raise ConfigError("winograd cannot be used for an image that several devices share")
    # Winograd's strided tiles would be exchanged between devices in full.
    return config.replace(convolution="direct")


@functools.lru_cache
def _fit(
    config: Config,
    shape: tuple[int, int],
    sizes: _Sizes,
    memory: int,
    devices: int,
) -> Config:
    choices = _choices(config) if devices == 1 else _untiled(config)
    # An explicit choice is refused only if it cannot possibly fit.
    chosen = config.activations in ("kept", "recomputed") or config.tile is not None
    room = int(memory * (1 if chosen else USABLE))
    share = -(-shape[0] // devices) / shape[0]
    platform = jax.default_backend()
    for choice in choices:
        need = _need(choice, shape, sizes, platform)
        if need.fixed + need.growing * share <= room:
            return choice
    need = _need(choices[-1], shape, sizes, platform)
    gigabytes = (need.fixed + need.growing * share) / 1e9
    pixels = max(room - need.fixed, 0) / share / need.growing
    fitting = int(max(shape) * math.sqrt(pixels)) // 16 * 16
    raise ConfigError(
        f"{shape[1]}×{shape[0]} pixels with activations {choices[-1].activations} need about "
        f"{gigabytes:.1f} GB and the device has {memory / 1e9:.1f} GB; "
        + (f"size {fitting} would fit" if fitting >= 16 else "no size would fit")
        + ("; or leave activations and tile to auto" if chosen else "")
        + ("; or take a smaller history_size" if isinstance(config.optimizer, LBFGS) else "")
    )


def _choices(config: Config) -> list[Config]:
    if config.tile is not None:
        return [config.replace(activations="tiled")]
    untiled = [] if config.activations == "tiled" else _untiled(config)
    if config.activations in ("kept", "recomputed") or not tileable(config):
        return untiled
    return [*untiled, *(config.replace(activations="tiled", tile=side) for side in _SIDES)]


def _untiled(config: Config) -> list[Config]:
    if config.activations != "auto":
        return [config]
    recomputed = config.replace(activations="recomputed")
    kept = config.replace(activations="kept")
    return [kept, recomputed] if network_of(recomputed).recompute else [kept]


def _need(config: Config, shape: tuple[int, int], sizes: _Sizes, platform: str) -> _Need:
    pixels = shape[0] * shape[1]
    platform = platform if platform in _TIMES else "cpu"
    plain, centred = _TIMES[platform][config.activations]
    copied = any(str(each) not in _PLAIN for each in config.style_statistics)
    activations = 4 * sizes.activations * (centred if copied else plain)
    if vgg.chosen_precision(config.precision, config.convolution) == "bfloat16":
        activations *= _BFLOAT16[platform]
    state = jax.tree.leaves(state_like((*shape, 3), config))
    growing = sum(leaf.size * leaf.dtype.itemsize for leaf in state)
    growing += 4 * sizes.content
    fixed = sizes.params + 4 * sizes.replicated
    if config.activations != "tiled":
        return _Need(fixed, growing + int(activations))
    assert config.tile is not None
    tiles = tiling.tile(network_of(config), shape, config.tile, config.layers)
    window = math.prod(tiles.window)
    growing += 12 * (window * len(tiles.starts) + _IMAGES * pixels)
    return _Need(fixed + int(activations * window / pixels), growing)
