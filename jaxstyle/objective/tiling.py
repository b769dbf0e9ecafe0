"""Exact evaluation of a network tile by tile, in the memory of one tile.

A layer's value at a position depends on the pixels within its receptive field. Each tile is
therefore evaluated in a larger window that includes the receptive fields of all its positions.
The features inside the tile equal those of the whole picture, including the network's padding
where the window ends at the picture's border. Sums over positions become sums over tiles, and a
gradient that recomputes one tile after the other needs the memory of one.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxstyle.network import FeatureExtractor, Features, Params, extract

T = TypeVar("T")

SIDE = 512
"""Default side of a tile in pixels; about two fifths of the computation is overlap."""


class Tiling(NamedTuple):
    """The tiles of pictures of one shape. Hashable, as a static part of the program."""

    window: tuple[int, int]
    """Height and width of the window in which each tile is evaluated."""
    starts: tuple[tuple[int, int], ...]
    """First row and column of each tile's window."""
    tiles: tuple[tuple[int, int, int, int], ...]
    """`(top, bottom, left, right)` of each tile; bottom and right are exclusive."""


def tile(
    network: FeatureExtractor, shape: tuple[int, ...], side: int, layers: Iterable[str]
) -> Tiling:
    """Cover pictures of `shape` with even tiles of at most about `side` pixels.

    Args:
        network: the network, which knows the reach of its layers.
        shape: `(height, width, …)`.
        side: side of a tile without its overlap, in pixels; rounded up to a multiple of the
            layers' strides.
        layers: the layers whose features are used; the one that reaches farthest decides the
            overlap.
    """
    names = [network.canonical(layer) for layer in layers]
    reaches = [network.reach(layer) for layer in names]
    # Windows start where the strides of all layers do that these are computed from.
    depth = max(map(network.layers.index, names)) + 1
    align = math.lcm(*map(network.stride, network.layers[:depth]))
    halo = _rounded_up(max(reach for reach in reaches if reach is not None), align)
    rows, columns = (_along(size, side, halo, align) for size in shape[:2])
    return Tiling(
        (rows.window, columns.window),
        tuple((top, left) for top in rows.starts for left in columns.starts),
        tuple((*down, *across) for down in rows.tiles for across in columns.tiles),
    )


class _Axis(NamedTuple):
    window: int
    starts: tuple[int, ...]
    tiles: tuple[tuple[int, int], ...]


def _along(size: int, side: int, halo: int, align: int) -> _Axis:
    count = math.ceil(size / max(side, align))
    step = _rounded_up(math.ceil(size / count), align)
    count = math.ceil(size / step)
    # Windows start where pooling does, the last one too, which ends with the picture.
    window = min(step + 2 * halo + size % align, size)
    starts = tuple(min(max(i * step - halo, 0), size - window) for i in range(count))
    return _Axis(window, starts, tuple((i * step, min((i + 1) * step, size)) for i in range(count)))


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class Place(NamedTuple):
    """The position of a tile and its window in a picture."""

    network: FeatureExtractor
    start: Int[Array, " 2"]
    tile: Int[Array, " 4"]

    def own(self, layer: str, features: Float[Array, "h w c"]) -> Float[Array, "h w"]:
        """Return a mask of the window's features: 1 inside the tile, 0 in the overlap."""
        stride = self.network.stride(layer)
        inside = []
        for axis in range(2):
            first = self.tile[2 * axis] // stride
            end = (self.tile[2 * axis + 1] + stride - 1) // stride
            position = self.start[axis] // stride + jnp.arange(features.shape[axis])
            inside.append((position >= first) & (position < end))
        return (inside[0][:, None] & inside[1]).astype(jnp.float32)

    def cut(self, layer: str, whole: Array, features: Float[Array, "h w c"]) -> Array:
        """Slice the window out of an array `[h', w', …]` of the whole layer."""
        sizes = (*features.shape[:2], *whole.shape[2:])
        return jax.lax.dynamic_slice(whole, self._corner(layer, whole), sizes)

    def put(self, layer: str, whole: Array, features: Float[Array, "h w c"]) -> Array:
        """Return `whole` with the features inside the tile written to their positions."""
        own = self.own(layer, features)[:, :, None]
        written = jnp.where(own > 0, features, self.cut(layer, whole, features))
        return jax.lax.dynamic_update_slice(whole, written, self._corner(layer, whole))

    def _corner(self, layer: str, whole: Array) -> list[Array]:
        corner = self.start // self.network.stride(layer)
        return [*corner, *[jnp.int32(0)] * (whole.ndim - 2)]


def fold(
    network: FeatureExtractor,
    layers: tuple[str, ...],
    params: Params,
    picture: Float[Array, "h w 3"],
    tiling: Tiling,
    visit: Callable[[T, Features, Place], T],
    start: T,
) -> T:
    """Reduce the features of all tiles: `carry = visit(carry, features, place)`, from `start`.

    The gradient recomputes each tile's features, so that only one tile's are in memory.
    """

    @jax.checkpoint
    def step(carry: T, tile: tuple[Array, Array, Array]) -> tuple[T, None]:
        window, corner, bounds = tile
        features = extract(network, layers, params, window)
        return visit(carry, features, Place(network, corner, bounds)), None

    places = (jnp.asarray(np.asarray(each), jnp.int32) for each in (tiling.starts, tiling.tiles))
    return jax.lax.scan(step, start, (_windows(picture, tiling), *places))[0]


def _windows(picture: Float[Array, "h w 3"], tiling: Tiling) -> Float[Array, "t h2 w2 3"]:
    """Cut out all windows with slices, whose gradients need no scatter."""
    height, width = tiling.window
    # By the tiles' rows and columns: windows at the end may be the same.
    pairs = list(zip(tiling.tiles, tiling.starts, strict=True))
    tops, lefts = ({tile[2 * axis]: start[axis] for tile, start in pairs} for axis in range(2))
    strips = jnp.stack([picture[top : top + height] for top in tops.values()])
    windows = jnp.stack([strips[:, :, left : left + width] for left in lefts.values()], axis=1)
    return windows.reshape(-1, height, width, 3)
