"""Guides: masks that say which region each part of a picture belongs to.

Masks are interpreted the way their authors intend. Each flat colour is a region, whether it is
drawn in bright colours or as a label image of 0, 1, 2. Greys between black and white, or the
colours between two others, are weights between two regions. What is painted on a transparent ground
is apart from it, whatever its colour.
"""

import itertools
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jaxstyle.config import ImageError
from jaxstyle.imaging import Image, PictureLike, crop_middle, load_mask, to_uint8
from jaxstyle.objective.palettes import (
    MOST_COLORS,
    SAME,
    SMALLEST,
    Color,
    apart,
    find_palette,
    is_between,
    is_covered,
    nearest_labels,
    position_between,
)

BLACK: Color = (0.0, 0.0, 0.0)
WHITE: Color = (1.0, 1.0, 1.0)
TRANSPARENT: Color = (-1.0, -1.0, -1.0)
"""The ground of a guide that has black painted on it; elsewhere, the ground is black."""

_EXACT, _EXACTLY_COVERED = 0.016, 0.75
"""A grey guide is flat, not a ramp, if at least the second share of its pixels lies within the
first of a flat colour."""
_GAP = 0.25
"""Largest step between the greys of a ramp."""
_GRAY = 2.5 / 255
"""Largest difference between the channels of grey."""
_SNAPPED = 0.02
"""Weights this near to 0 or 1 are noise."""


class Guide(NamedTuple):
    """A parsed guide: its regions, and where they are."""

    levels: UInt8[np.ndarray, "h w"]
    """With two regions the weight of the second at each pixel, from 0 to 255; else the position of
    the pixel's region in the palette."""
    palette: tuple[Color, ...]
    """The colour of each region, from dark to bright."""

    @classmethod
    def of(cls, source: PictureLike, name: str = "guide") -> "Guide":
        """Parse a guide.

        Args:
            source: a path, a Pillow image, or an array of floats in 0–1, of booleans or of labels,
                `[h, w]` or `[h, w, channels]`.
            name: what to call it in errors.

        Raises:
            FileError, ImageError: it cannot be read, has no flat colours, or too many.
        """
        return parse_guide(*load_mask(source, name), name)

    def cropped(self, shape: tuple[int, int]) -> "Guide":
        """Crop the largest part around the middle that has the aspect ratio of `shape`."""
        return self._replace(levels=crop_middle(self.levels, shape))

    def weights(self, label: int) -> Float[np.ndarray, "h w"]:
        """Return how much of each pixel belongs to a region, given its position in the palette."""
        if len(self.palette) != 2:
            return (self.levels == label).astype(np.float32)
        second = self.levels / np.float32(255)
        return second if label == 1 else 1 - second

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the picture that belongs to each region."""
        counts = np.bincount(self.levels.ravel(), minlength=256) / self.levels.size
        if len(self.palette) != 2:
            return tuple(counts[: len(self.palette)].tolist())
        second = float(counts @ np.linspace(0, 1, 256))
        return 1 - second, second

    @property
    def is_soft(self) -> bool:
        """Whether parts of the picture belong to both of two regions."""
        between = np.mean((self.levels > 0) & (self.levels < 255))
        return len(self.palette) == 2 and bool(between > SMALLEST)

    @property
    def tolerance(self) -> float:
        """Largest difference between a colour of this guide and the same in another one."""
        pairs = itertools.combinations(self.palette, 2)
        return min((SAME, *(apart(*pair) / 2 for pair in pairs)))

    def has(self, color: Color, within: float) -> bool:
        """Return whether a colour of the palette differs from `color` by no more than `within`."""
        return apart(self.palette[self.nearest(color)], color) <= within

    def nearest(self, color: Color) -> int:
        """Return the position, in the palette, of the colour nearest to `color`."""
        return min(range(len(self.palette)), key=lambda i: apart(self.palette[i], color))

    def describe(self, notes: Mapping[Color, str] = MappingProxyType({})) -> str:
        """Return a line that says what was understood, with a note after each region's share."""
        parts = [
            " ".join(filter(None, (color_name(color), f"{share:.1%}", notes.get(color))))
            for color, share in zip(self.palette, self.shares, strict=True)
        ]
        kind = "region" if len(parts) == 1 else "regions"
        soft = " with soft edges" if self.is_soft else ""
        return f"{len(parts)} {kind}{soft}: {', '.join(parts)}"

    def __str__(self) -> str:
        """Return `describe` without notes."""
        return self.describe()


class Guides(NamedTuple):
    """The guide of a content and, optionally, those of its styles."""

    content: Guide
    styles: tuple[Guide, ...] = ()

    @classmethod
    def of(cls, content: PictureLike, styles: Iterable[PictureLike] = ()) -> "Guides":
        """Parse the guides of a content and of its styles.

        Raises:
            FileError, ImageError: see `Guide.of`.
        """
        return cls(
            Guide.of(content, _name(content, "of the content")),
            tuple(Guide.of(style, _name(style, "of a style")) for style in styles),
        )

    def __str__(self) -> str:
        """Return a line for each guide that says what was understood."""
        styles = [f"style {number}: {guide}" for number, guide in enumerate(self.styles, 1)]
        return "\n".join([f"content: {self.content}", *styles])


def _name(source: PictureLike, role: str) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else role


def color_name(color: Color) -> str:
    """Return a colour as in HTML, or `transparent`."""
    if color == TRANSPARENT:
        return "transparent"
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in color)


def parse_guide(pixels: Image, alpha: Float[np.ndarray, "h w"] | None, name: str) -> Guide:
    """Parse a mask, called `name` in errors, given its colour and alpha.

    Raises:
        ImageError: it has no flat colours, or too many.
    """
    pixels = np.asarray(pixels, np.float32)
    if alpha is None or np.mean(alpha < 0.5) < SMALLEST:
        return _parse_opaque(pixels, name)
    painted = alpha >= 0.5
    if not painted.any():
        return Guide(np.zeros(alpha.shape, np.uint8), (BLACK,))
    palette, _ = find_palette(pixels, painted)
    if not palette or not is_covered(pixels[painted][:, None], palette):
        palette = (WHITE,)  # a picture that was cut out
    ground = TRANSPARENT if any(_is_same(BLACK, color) for color in palette) else BLACK
    if len(palette) == 1:
        return Guide(to_uint8(_snapped(alpha)), (ground, *palette))
    labels = np.where(painted, nearest_labels(pixels, palette) + np.uint8(1), np.uint8(0))
    return Guide(labels, (ground, *palette))


def _parse_opaque(pixels: Float[np.ndarray, "h w 3"], name: str) -> Guide:
    others = pixels[..., 1:] - pixels[..., :1]
    gray = bool(max(others.max(), -others.min()) <= _GRAY)
    # Labels of 16 bits become labels of 8.
    if gray and 0 < pixels.max() <= 255.5 / 65535:
        pixels = pixels * np.float32(257)
    palette, values = find_palette(pixels, np.ones(pixels.shape[:2], bool))
    if len(values) > MOST_COLORS and not _fits(pixels, palette, gray):
        grays = np.diff(values & 255, prepend=0, append=255)
        palette = (BLACK, WHITE) if gray and grays.max() <= _GAP * 255 else ()
    if not palette:
        raise ImageError(
            f"the guide {name} has {len(values)} colours; a guide has at most {MOST_COLORS} flat "
            "ones, one for each region, or greys from black to white, or transparent parts"
        )
    if len(palette) != 2:
        return Guide(nearest_labels(pixels, palette), palette)
    if len(values) > MOST_COLORS and all(map(_is_same, palette, (BLACK, WHITE))):
        palette = (BLACK, WHITE)
    weights = _snapped(position_between(pixels, palette))
    if gray and apart(palette[1], BLACK) <= 1 / 255:  # drawn as 0 and 1
        palette = (BLACK, WHITE)
    return Guide(to_uint8(weights), palette)


def _is_same(color: Color, other: Color) -> bool:
    return apart(color, other) <= SAME


def _fits(pixels: Float[np.ndarray, "h w 3"], palette: tuple[Color, ...], gray: bool) -> bool:
    """Return whether pixels of many colours were drawn in those of the palette."""
    if len(palette) == 2:
        return is_between(pixels, palette)
    if gray:
        return is_covered(pixels, palette, _EXACT, _EXACTLY_COVERED)
    return is_covered(pixels, palette)


def _snapped(weights: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return np.where(weights < _SNAPPED, 0, np.where(weights > 1 - _SNAPPED, 1, weights))
