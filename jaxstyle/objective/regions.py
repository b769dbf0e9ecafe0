"""Guides: pictures of flat colours that say where which style goes.

A region is a colour of the content's guide. Its style is what has the same colour in the styles'
guides or, without those, the style whose turn it is, from dark to bright.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pil

from jaxstyle.config import ImageError
from jaxstyle.imaging import Image, crop_middle, to_uint8
from jaxstyle.network import layer_shape

_MOST_REGIONS = 16
_SMALLEST = 0.005
"""Share of a guide below which a colour is an artefact, of smoothed edges or of JPEG."""
_COVERED = 0.9
"""Share of a guide that flat colours have to cover."""
_SAME = 0.08
"""Largest difference, in any channel, of colours that mean the same region."""
_ASPECT = 0.03
_LUMA = np.array([0.2126, 0.7152, 0.0722])


class Guide(NamedTuple):
    """A guide that was looked at: which of its colours each pixel has."""

    labels: UInt8[np.ndarray, "h w"]
    palette: tuple[tuple[float, ...], ...]
    """From dark to bright, sRGB 0–1."""

    @classmethod
    def of(cls, picture: Image, name: str) -> "Guide":
        """The guide that `picture` is, called `name`; pixels between colours go to the nearest.

        Raises:
            ImageError: it has no flat colours, or too many.
        """
        pixels = np.asarray(picture, np.float32)
        palette, several = _palette(pixels)
        labels = np.zeros(pixels.shape[:2], np.uint8)
        nearest = np.full(pixels.shape[:2], np.inf, np.float32)
        for label, color in enumerate(palette):
            apart = np.abs(pixels - np.asarray(color, np.float32)).max(axis=2)
            labels[apart < nearest] = label
            nearest = np.minimum(apart, nearest)
        if not palette or np.mean(nearest <= _SAME) < _COVERED:
            raise ImageError(
                f"the guide {name} has {several} colours; a guide is a picture of at most "
                f"{_MOST_REGIONS} flat ones, one for each region"
            )
        return cls(labels, palette)

    def cropped(self, shape: tuple[int, int]) -> "Guide":
        """The largest part around the middle that has the aspect ratio of `shape`."""
        return self._replace(labels=crop_middle(self.labels, shape))

    def find(self, color: Sequence[float]) -> int | None:
        """The label of the colour that means the same as `color`."""
        return _find(self.palette, color)


class Guides(NamedTuple):
    """Of a content and, if there are any, of each of its styles."""

    content: Guide
    styles: tuple[Guide, ...] = ()

    @classmethod
    def of(cls, content: Image, styles: Sequence[Image] = ()) -> "Guides":
        """The guides that pictures of flat colours are.

        Raises:
            ImageError: see `Guide.of`.
        """
        return cls(
            Guide.of(content, "of the content"),
            tuple(Guide.of(style, "of a style") for style in styles),
        )


class Region(NamedTuple):
    """A part of the content, and the styles that go there."""

    color: tuple[float, ...] | None
    """None: everywhere, in the styles as well."""
    area: float
    """Share of the content."""
    styles: tuple[tuple[int, float], ...]
    """Positions of the styles and what each counts; these sum to 1."""


def assign(guides: Guides | None, shares: Sequence[float]) -> tuple[Region, ...]:
    """The regions that have a style; what of the content is in no region is kept.

    Args:
        guides: any flat pictures; edges may be smooth.
        shares: what each style counts, summing to 1.

    Raises:
        ImageError: a guide is none, or guides and styles do not go together.
    """
    everywhere = (Region(None, 1.0, tuple(enumerate(shares))),)
    if guides is None:
        return everywhere
    colors, labels = guides.content.palette, guides.content.labels
    areas = np.bincount(labels.ravel(), minlength=len(colors)) / labels.size
    if guides.styles:
        if len(guides.styles) != len(shares):
            raise ImageError(
                f"style guides must be as many as styles, {len(shares)}, not {len(guides.styles)}"
            )
        if {len(guide.palette) for guide in (guides.content, *guides.styles)} == {1}:
            return everywhere
        members = [
            [i for i, guide in enumerate(guides.styles) if guide.find(color) is not None]
            for color in colors
        ]
        if not any(members):
            raise ImageError("no colour of the content guide is in a style guide")
    elif len(colors) == 1 and len(shares) == 1:
        return everywhere
    else:
        if len(shares) not in (len(colors), len(colors) - 1):
            raise ImageError(
                f"the content guide has {len(colors)} regions, so give that many styles, or one "
                f"fewer to keep the darkest as it is, not {len(shares)}; or a guide for each style"
            )
        kept = len(colors) - len(shares)
        members = [[i - kept] if i >= kept else [] for i in range(len(colors))]
    regions: list[Region] = []
    for color, area, here in zip(colors, areas, members, strict=True):
        total = sum(shares[i] for i in here)
        if total > 0:
            each = tuple((i, shares[i] / total) for i in here)
            regions.append(Region(color, float(area), each))
    if not regions:
        raise ImageError("no region has a style that counts")
    return tuple(regions)


def check_shape(guide: Guide, picture: tuple[int, ...], name: str) -> None:
    """Raise `ImageError` if `guide` is of another aspect ratio than its picture."""
    (height, width), (want_height, want_width) = guide.labels.shape, picture[:2]
    # A pixel more or less is what rounding does to small ones.
    slack = _ASPECT + 1 / min(want_height, want_width) + 1 / min(height, width)
    if abs(np.log(height / width * want_width / want_height)) > slack:
        raise ImageError(
            f"the {name} guide is {width}×{height} and its picture {want_width}×{want_height}; "
            "they must have the same aspect ratio"
        )


def layer_guides(
    guide: Guide,
    color: tuple[float, ...],
    shape: tuple[int, ...],
    layers: Sequence[str],
    name: str,
) -> tuple[dict[str, Float[np.ndarray, "_h _w"]], dict[str, bool]]:
    """How much each position of each layer belongs to a region, for `StyleStatistic.gather`.

    Args:
        guide: the content's or a style's.
        color: of the region.
        shape: of the picture, as it goes into the network.
        layers: whose guides to make.
        name: whose guide it is, for the warning about a region too small for a layer.

    Returns:
        For each layer the square roots of what positions count, their mean square 1, or zeros
        where the region vanishes; and whether it is there.
    """
    mask = Pil.fromarray((guide.labels == guide.find(color)).astype(np.float32))
    guides: dict[str, Float[np.ndarray, "_h _w"]] = {}
    there: dict[str, bool] = {}
    for layer in layers:
        height, width = layer_shape(shape, layer)
        soft = np.asarray(mask.resize((width, height), Pil.Resampling.BOX))
        there[layer] = bool(soft.max(initial=0) >= 0.5)
        size = np.sqrt(np.mean(np.square(soft, dtype=np.float64)))
        guides[layer] = (soft / size if there[layer] else np.zeros_like(soft)).astype(np.float32)
    gone = [layer for layer in layers if not there[layer]]
    if gone and len(gone) == len(layers):
        raise ImageError(f"the region {_hex(color)} of the {name} guide is too small for any layer")
    if gone:
        warnings.warn(
            f"the region {_hex(color)} of the {name} guide vanishes at {', '.join(gone)} and has "
            "no style there; a larger size or shallower style_layers would keep it",
            stacklevel=2,
        )
    return guides, there


def _palette(pixels: Float[np.ndarray, "h w 3"]) -> tuple[tuple[tuple[float, ...], ...], int]:
    """The flat colours of a guide, from dark to bright, and how many colours it has in all."""
    levels = to_uint8(pixels).astype(np.uint32)
    packed = levels[..., 0] << 16 | levels[..., 1] << 8 | levels[..., 2]
    values, counts = np.unique(packed, return_counts=True)
    several = len(values)
    if len(values) > _MOST_REGIONS:
        values = values[counts >= _SMALLEST * packed.size]
        counts = counts[counts >= _SMALLEST * packed.size]
    colors: list[tuple[float, ...]] = []
    for value in values[np.argsort(-counts, kind="stable")].tolist():
        color = tuple(channel / 255 for channel in value.to_bytes(3, "big"))
        if _find(colors, color) is None:
            colors.append(color)
    if len(colors) > _MOST_REGIONS:
        colors = []
    ordered = sorted(colors, key=lambda color: (float(np.dot(color, _LUMA)), color))
    return tuple(ordered), several


def _find(palette: Sequence[Sequence[float]], color: Sequence[float]) -> int | None:
    """Position of the colour in `palette` that means the same as `color`."""
    apart = [max(abs(a - b) for a, b in zip(here, color, strict=True)) for here in palette]
    if not apart or min(apart) > _SAME:
        return None
    return apart.index(min(apart))


def _hex(color: Sequence[float]) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in color)
