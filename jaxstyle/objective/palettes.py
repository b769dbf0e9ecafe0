"""The flat colours of pictures that were drawn, whatever smoothing and compression added."""

import functools
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxstyle.imaging import to_uint8

Color = tuple[float, ...]
"""Red, green and blue: sRGB in 0–1."""

MOST_COLORS = 16
SMALLEST = 0.005
"""Share of a picture below which one of its many colours is an artefact, such as of JPEG."""
SAME = 0.08
"""Largest difference, in any channel, between colours that mean the same."""
_COVERED = 0.8
"""Share of a picture that its flat colours must cover; the rest are edges."""
_BETWEEN = 0.95
"""Share of a picture that must lie between two colours."""
_FEW = 0.02
"""Share of a picture that a number has beside a bright colour."""
_SOLID = 0.25
"""Share of a colour's pixels that lie inside of it; edges and ramps have hardly any."""
_LUMA = np.array([0.2126, 0.7152, 0.0722])


def apart(color: Color, other: Color) -> float:
    """Return the largest difference of two colours in any channel."""
    return max(abs(a - b) for a, b in zip(color, other, strict=True))


def _distances(
    pixels: Float[np.ndarray, "h w 3"], color: Sequence[float]
) -> Float[np.ndarray, "h w"]:
    return _largest(np.abs(pixels - np.asarray(color, np.float32)))


def _largest(values: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    # Several times as fast as a reduction of the last axis.
    return functools.reduce(np.maximum, np.moveaxis(values, 2, 0))


def nearest_labels(
    pixels: Float[np.ndarray, "h w 3"], palette: Sequence[Color]
) -> UInt8[np.ndarray, "h w"]:
    """Return the position of the nearest colour for each pixel."""
    labels = np.zeros(pixels.shape[:2], np.uint8)
    nearest = np.full(pixels.shape[:2], np.inf, np.float32)
    for label, color in enumerate(palette):
        distance = _distances(pixels, color)
        labels[distance < nearest] = label
        nearest = np.minimum(distance, nearest)
    return labels


def is_covered(
    pixels: Float[np.ndarray, "h w 3"],
    palette: Sequence[Color],
    within: float = SAME,
    share: float = _COVERED,
) -> bool:
    """Return whether most pixels have nearly a colour of the palette."""
    near = np.zeros(pixels.shape[:2], bool)
    for color in palette:
        near |= _distances(pixels, color) <= within
    return bool(near.mean() >= share)


def position_between(
    pixels: Float[np.ndarray, "h w 3"], ends: Sequence[Color]
) -> Float[np.ndarray, "h w"]:
    """Return where on the way from one colour to another each pixel is, from 0 to 1."""
    start, way = _way(ends)
    return np.clip((pixels - start) @ (way / (way @ way)), 0, 1)


def is_between(pixels: Float[np.ndarray, "h w 3"], ends: Sequence[Color]) -> bool:
    """Return whether nearly all pixels are on the way from one colour to another."""
    start, way = _way(ends)
    there = start + position_between(pixels, ends)[..., None] * way
    return bool(np.mean(_largest(np.abs(pixels - there)) <= SAME) >= _BETWEEN)


def _way(ends: Sequence[Color]) -> tuple[np.ndarray, np.ndarray]:
    start, end = (np.asarray(color, np.float32) for color in ends)
    return start, end - start


def find_palette(
    pixels: Float[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"]
) -> tuple[tuple[Color, ...], Int[np.ndarray, " n"]]:
    """Find the colours that some pixels were drawn in.

    Returns:
        The flat colours, from dark to bright, or nothing if they are too many; and all colours, in
        order, packed into 24 bits.
    """
    red, green, blue = np.moveaxis(to_uint8(pixels).astype(np.int32), 2, 0)
    packed = np.where(where, red << 16 | green << 8 | blue, 1 << 24)
    values, counts, inner = _counted(packed)
    values, counts, inner = (each[values < 1 << 24] for each in (values, counts, inner))
    solid = inner >= _SOLID * counts
    exact = len(values) <= MOST_COLORS or bool(solid.all())
    chosen = np.full(len(values), True) if exact else _frequent(values, counts)
    candidates = {
        tuple(channel / 255 for channel in int(value).to_bytes(3, "big")): flat
        for value, flat in zip(values[chosen], solid[chosen], strict=True)
    }
    colors = [list(candidates)[i] for i in np.argsort(-counts[chosen], kind="stable")]
    numbers = _numbers(values, counts) if exact else set()
    palette: list[Color] = []
    for color in colors:
        near = any(apart(color, known) <= SAME for known in palette)
        if candidates[color] and (not near or color in numbers):
            palette.append(color)
    palette = palette or colors[:1]
    # Edges are between other colours, thin lines are not.
    rest = [color for color in colors if color not in palette]
    while rest and len(palette) <= MOST_COLORS:
        color = max(rest, key=lambda color: min(apart(color, known) for known in palette))
        rest.remove(color)
        near = min(apart(color, known) for known in palette) <= SAME
        pixel = np.asarray([[color]], np.float32)
        if not near and not any(is_between(pixel, ends) for ends in combinations(palette, 2)):
            palette.append(color)
    if len(palette) > MOST_COLORS:
        palette = []
    ordered = sorted(palette, key=lambda color: (float(np.dot(color, _LUMA)), color))
    return tuple(ordered), values


def _frequent(
    values: Int[np.ndarray, " n"], counts: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return which values are the most frequent of those that are nearly the same, if many are."""
    _, groups = np.unique(values >> 3 & 0x1F1F1F, return_inverse=True)
    shares = np.bincount(groups, counts) / counts.sum()
    most = np.zeros(len(shares), int)
    order = np.argsort(counts, kind="stable")
    most[groups[order]] = order  # the last assignment of each group stays
    return (most[groups] == np.arange(len(values))) & (shares[groups] >= SMALLEST)


def _numbers(values: Int[np.ndarray, " n"], counts: Int[np.ndarray, " n"]) -> set[Color]:
    """Return the colours that number regions 0, 1, 2 …, if a picture looks like that.

    One of them may be bright: 255 often marks what has no label. If compression made dark greys
    beside it, they are few.
    """
    levels = values & 255
    bright = levels > 2 * MOST_COLORS
    if (values != levels * 0x010101).any() or bright.sum() > 1:
        return set()
    counted = counts >= (_FEW * counts.sum() if bright.any() else 0)
    return {(level / 255,) * 3 for level in levels[counted & ~bright].tolist()}


def _counted(
    packed: Int[np.ndarray, "h w"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return the values, how many pixels have each, and how many of those lie inside of it."""
    inside = np.ones(packed.shape, bool)
    rows, columns = packed[1:] == packed[:-1], packed[:, 1:] == packed[:, :-1]
    inside[1:] &= rows
    inside[:-1] &= rows
    inside[:, 1:] &= columns
    inside[:, :-1] &= columns
    counts = np.bincount(packed.ravel())
    values = np.flatnonzero(counts)
    return values, counts[values], np.bincount(packed[inside], minlength=len(counts))[values]
