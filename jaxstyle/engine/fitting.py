"""Fitting a device's memory: the choice of how activations are held, before compilation."""

import functools
import math
from typing import NamedTuple

import jax

from jaxstyle.config import LBFGS, Config, ConfigError
from jaxstyle.engine.memory import USABLE, device_memory
from jaxstyle.engine.optimizers import state_like
from jaxstyle.network import Params, network_of, vgg
from jaxstyle.objective import tileable, tiling

_TIMES = {"kept": 3.4, "recomputed": 2.1, "tiled": 2.3}
"""Ratio of a gradient's temporary memory, in compiled programs, to one copy of its activations."""

_FORWARD = 1.5
"""The same ratio without a gradient: 1.0 in compiled programs, 1.4 with sliced distances."""

_BFLOAT16 = 0.75
"""Fraction of that memory needed in bfloat16: losses and half of the rest stay in float32."""

_IMAGES = 12
"""Image-sized arrays that an evaluation in tiles needs besides the optimizer's."""

_SIDES = (2048, 1536, 1024, 768, 512, 384, 256)


class _Need(NamedTuple):
    """Bytes needed, split by how they grow."""

    fixed: int
    """Bytes of the network's parameters and of a tile's temporary memory."""
    growing: int
    """Bytes that grow with the image."""


class _Sizes(NamedTuple):
    """What a network needs for images of one shape."""

    params: int
    """Bytes of the parameters."""
    activations: int
    """Number of activations."""
    content: int
    """Number of features at the content layers."""


def fit(config: Config, shape: tuple[int, ...], params: Params, devices: int = 1) -> Config:
    """Choose `activations` and `tile` so that images of `shape` fit the first device.

    Unless `config` specifies them, use the first of `kept`, `recomputed` and `tiled` that fits,
    with tiles as large as possible.

    Args:
        config: names the optimizer, whose state counts too.
        shape: `(height, width, …)` of the image.
        params: from `prepare_params`, or their shapes.
        devices: number of devices that share the image's rows; only one can use tiles.

    Raises:
        ConfigError: nothing fits; the message says what would.
    """
    memory = device_memory(jax.local_devices()[0])
    return _fit(config, (shape[0], shape[1]), _sizes(config, shape, params), memory, devices)


def fit_targets(config: Config, shape: tuple[int, ...], params: Params) -> Config:
    """Do as `fit` does for the targets of a picture of `shape`, which one device computes.

    Without gradient or optimizer, activations are either kept or computed in the largest tiles
    that fit.
    """
    sizes = _sizes(config, shape, params)
    room = device_memory(jax.local_devices()[0]) * USABLE - sizes.params
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


def estimate(config: Config, shape: tuple[int, ...], params: Params) -> int:
    """Estimate the bytes to optimize an image of `shape` on one device; `activations` not auto."""
    need = _need(config, (shape[0], shape[1]), _sizes(config, shape, params))
    return need.fixed + need.growing


def _sizes(config: Config, shape: tuple[int, ...], params: Params) -> _Sizes:
    network, leaves = network_of(config), jax.tree.leaves(params)
    return _Sizes(
        sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves),
        network.activations(params, shape, config.layers),
        sum(
            math.prod(network.shape(layer, shape)) * network.channels(params, layer)
            for layer in config.content_layers
        ),
    )


def spreadable(config: Config) -> Config:
    """Return `config` adapted to images whose rows several devices share.

    Raises:
        ConfigError: a setting has no meaning for such images.
    """
    if config.activations == "tiled" or config.tile is not None:
        raise ConfigError("tiles have no meaning for an image that devices share")
    if config.convolution == "winograd":
        raise ConfigError("convolution winograd has no meaning for an image that devices share")
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
    room = int(memory * (USABLE if len(choices) > 1 else 1))
    share = -(-shape[0] // devices) / shape[0]
    for choice in choices:
        need = _need(choice, shape, sizes)
        if need.fixed + need.growing * share <= room:
            return choice
    need = _need(choices[-1], shape, sizes)
    gigabytes = (need.fixed + need.growing * share) / 1e9
    pixels = max(room - need.fixed, 0) / share / need.growing
    fitting = int(max(shape) * math.sqrt(pixels)) // 16 * 16
    raise ConfigError(
        f"{shape[1]}×{shape[0]} pixels with activations {choices[-1].activations} need about "
        f"{gigabytes:.1f} GB and the device has {memory / 1e9:.1f} GB; "
        + (f"size {fitting} would fit" if fitting >= 16 else "no size would fit")
        + ("" if len(choices) > 1 else "; or leave activations and tile to auto")
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


def _need(config: Config, shape: tuple[int, int], sizes: _Sizes) -> _Need:
    pixels = shape[0] * shape[1]
    activations = 4 * sizes.activations * _TIMES[config.activations]
    if vgg.chosen_precision(config.precision, config.convolution) == "bfloat16":
        activations *= _BFLOAT16
    state = jax.tree.leaves(state_like((*shape, 3), config))
    growing = sum(leaf.size * leaf.dtype.itemsize for leaf in state)
    growing += 4 * sizes.content
    if config.activations != "tiled":
        return _Need(sizes.params, growing + int(activations))
    assert config.tile is not None
    tiles = tiling.tile(network_of(config), shape, config.tile, config.layers)
    window = math.prod(tiles.window)
    growing += 12 * (window * len(tiles.starts) + _IMAGES * pixels)
    return _Need(sizes.params + int(activations * window / pixels), growing)
