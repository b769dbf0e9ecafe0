"""A picture's features tile by tile, exactly: each tile is seen with all that its layers look at.

What a layer computes at a position depends on pixels within a radius of it. A window that
reaches that far beyond a tile gives the tile's own features as the whole picture would, the
network's padding included where the window ends at the picture's border. Sums over positions are
then sums over tiles, and a gradient that recomputes each tile in turn needs the memory of one.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxstyle.network import Features, Params, vgg

T = TypeVar("T")

SIDE = 512
"""Of a tile where neither settings nor what fits say: two fifths of what is computed are
surroundings then."""


class Tiling(NamedTuple):
    """Tiles of pictures of one shape; static, as it shapes the program."""

    shape: tuple[int, int]
    """Of the picture, `(height, width)`."""
    window: tuple[int, int]
    """What each tile is seen in, `(height, width)`."""
    starts: tuple[tuple[int, int], ...]
    """Row and column where each tile's window starts."""
    tiles: tuple[tuple[int, int, int, int], ...]
    """First row, end of rows, first column, end of columns of each tile."""


def tile(shape: tuple[int, ...], side: int, layers: Iterable[str]) -> Tiling:
    """Cover pictures of `shape` with even tiles of at most about `side` pixels.

    Args:
        shape: `(height, width, …)`.
        side: of a tile, its surroundings not counted; rounded up to what pooling halves.
        layers: what is read of the network.
    """
    align, reach = 1, 0
    for conv in vgg.CONVOLUTIONS[: vgg.depth(layers)]:
        align = 2 ** (vgg.block(conv) - 1)
        reach += align
    halo = _rounded_up(reach, align)
    rows, columns = (_along(size, side, halo, align) for size in shape[:2])
    return Tiling(
        (shape[0], shape[1]),
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
    """Where in a picture the features of a window are."""

    shape: tuple[int, int]
    start: Int[Array, " 2"]
    tile: Int[Array, " 4"]

    def own(self, layer: str, features: Float[Array, "h w c"]) -> Float[Array, "h w"]:
        """1 at the positions of the window that are the tile's own, 0 in its surroundings."""
        halvings = vgg.block(layer) - 1
        inside = []
        for axis in range(2):
            first, end = self.tile[2 * axis] >> halvings, self.tile[2 * axis + 1] >> halvings
            here = (self.start[axis] >> halvings) + jnp.arange(features.shape[axis])
            inside.append((here >= first) & (here < end))
        return (inside[0][:, None] & inside[1]).astype(jnp.float32)

    def cut(self, layer: str, whole: Array, features: Float[Array, "h w c"]) -> Array:
        """The window's part of an array `[h', w', …]` of the whole layer."""
        sizes = (*features.shape[:2], *whole.shape[2:])
        return jax.lax.dynamic_slice(whole, self._corner(layer, whole), sizes)

    def put(self, layer: str, whole: Array, features: Float[Array, "h w c"]) -> Array:
        """`whole` with the tile's own features written where they belong."""
        own = self.own(layer, features)[:, :, None]
        there = self.cut(layer, whole, features)
        written = jnp.where(own > 0, features, there)
        return jax.lax.dynamic_update_slice(whole, written, self._corner(layer, whole))

    def _corner(self, layer: str, whole: Array) -> list[Array]:
        return [*(self.start >> (vgg.block(layer) - 1)), *[jnp.int32(0)] * (whole.ndim - 2)]


def fold(
    network: vgg.VGG19,
    params: Params,
    picture: Float[Array, "h w 3"],
    tiling: Tiling,
    visit: Callable[[T, Features, Place], T],
    start: T,
) -> T:
    """`visit` each tile's window of features in turn, carrying what it returns from `start` on.

    Differentiated, each tile's features are computed again, so that only one tile's are there.
    """
    starts = jnp.asarray(tiling.starts, jnp.int32)
    cut = functools.partial(jax.lax.dynamic_slice, slice_sizes=(*tiling.window, 3))
    windows = jax.vmap(lambda corner: cut(picture, (*corner, jnp.int32(0))))(starts)

    @jax.checkpoint
    def step(carry: T, tile: tuple[Array, Array, Array]) -> tuple[T, None]:
        window, corner, bounds = tile
        features = vgg.apply(network, params, window)
        return visit(carry, features, Place(tiling.shape, corner, bounds)), None

    tiles = windows, starts, jnp.asarray(np.asarray(tiling.tiles), jnp.int32)
    return jax.lax.scan(step, start, tiles)[0]
