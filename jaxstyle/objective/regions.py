"""Guides: pictures of flat colours that assign styles to regions.

Each colour of the content's guide is a region. Its style is the region of the same colour in the
styles' guides; without those, the styles are assigned in order, from dark to bright colours.
"""

import warnings
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pil

from jaxstyle.config import ImageError
from jaxstyle.imaging import Image, crop_middle, to_uint8
from jaxstyle.network import layer_shape

_MOST_REGIONS = 16
_SMALLEST = 0.005
"""Share of a guide below which a colour is an artefact of smoothed edges or of JPEG."""
_COVERED = 0.9
"""Share of a guide that its flat colours must cover."""
_SAME = 0.08
"""Largest difference, in any channel, between colours that mean the same region."""
_ASPECT = 0.03
_LUMA = np.array([0.2126, 0.7152, 0.0722])


class Guide(NamedTuple):
    """A parsed guide: its palette, and the colour of each pixel as a label."""

    labels: UInt8[np.ndarray, "h w"]
    palette: tuple[tuple[float, ...], ...]
    """The colour of each label, from dark to bright, sRGB 0–1."""

    @classmethod
    def of(cls, picture: Image, name: str) -> "Guide":
        """Parse `picture`, called `name` in errors, giving each pixel the nearest flat colour.

        Raises:
            ImageError: the picture has no flat colours, or too many.
        """
        pixels = np.asarray(picture, np.float32)
        palette, color_count = _palette(pixels)
        labels = np.zeros(pixels.shape[:2], np.uint8)
        nearest = np.full(pixels.shape[:2], np.inf, np.float32)
        for label, color in enumerate(palette):
            difference = np.abs(pixels - np.asarray(color, np.float32)).max(axis=2)
            labels[difference < nearest] = label
            nearest = np.minimum(difference, nearest)
        if not palette or np.mean(nearest <= _SAME) < _COVERED:
            raise ImageError(
                f"the guide {name} has {color_count} colours; a guide is a picture of at most "
                f"{_MOST_REGIONS} flat ones, one for each region"
            )
        return cls(labels, palette)

    def cropped(self, shape: tuple[int, int]) -> "Guide":
        """Crop the largest part around the middle that has the aspect ratio of `shape`."""
        return self._replace(labels=crop_middle(self.labels, shape))

    def find(self, color: Sequence[float]) -> int | None:
        """Return the label of the colour that means the same region as `color`, if any."""
        return _find(self.palette, color)


class Guides(NamedTuple):
    """The guide of a content and, optionally, those of its styles."""

    content: Guide
    styles: tuple[Guide, ...] = ()

    @classmethod
    def of(cls, content: Image, styles: Sequence[Image] = ()) -> "Guides":
        """Parse the guides of a content and of its styles.

        Raises:
            ImageError: see `Guide.of`.
        """
        return cls(
            Guide.of(content, "of the content"),
            tuple(Guide.of(style, "of a style") for style in styles),
        )


class Region(NamedTuple):
    """A region of the content and the styles assigned to it."""

    color: tuple[float, ...] | None
    """Colour in the guides; None for the whole content and whole styles."""
    area: float
    """Fraction of the content's area."""
    styles: tuple[tuple[int, float], ...]
    """Index and share of each style; the shares sum to 1."""


def assign(guides: Guides | None, shares: Sequence[float]) -> tuple[Region, ...]:
    """Return the regions that have a style; the rest of the content has none.

    Args:
        guides: the parsed guides; by default, one region covers everything.
        shares: share of each style; they sum to 1.

    Raises:
        ImageError: guides and styles do not match, or no region has a style that counts.
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
    for color, area, indices in zip(colors, areas, members, strict=True):
        total = sum(shares[i] for i in indices)
        if total > 0:
            each = tuple((i, shares[i] / total) for i in indices)
            regions.append(Region(color, float(area), each))
    if not regions:
        raise ImageError("no region has a style that counts")
    return tuple(regions)


def check_shape(guide: Guide, picture: tuple[int, ...], name: str) -> None:
    """Raise `ImageError` if the aspect ratios of `guide` and its picture differ."""
    (height, width), (want_height, want_width) = guide.labels.shape, picture[:2]
    # Rounding may change the sides by a pixel, which matters in small pictures.
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
    layers: Collection[str],
    name: str,
) -> tuple[dict[str, Float[np.ndarray, "_h _w"]], dict[str, bool]]:
    """Compute a region's guide at each layer, for `StyleStatistic.gather`.

    Args:
        guide: the content's or a style's guide.
        color: colour of the region.
        shape: shape of the picture that the network gets.
        layers: layers to compute guides for.
        name: `content` or `style`, for the message about a region too small for a layer.

    Returns:
        For each layer, the square roots of the positions' weights, with mean square 1, or zeros
        if the region vanishes there; and, for each layer, whether the region is present.
    """
    mask = Pil.fromarray((guide.labels == guide.find(color)).astype(np.float32))
    guides: dict[str, Float[np.ndarray, "_h _w"]] = {}
    present: dict[str, bool] = {}
    for layer in layers:
        height, width = layer_shape(shape, layer)
        soft = np.asarray(mask.resize((width, height), Pil.Resampling.BOX))
        present[layer] = bool(soft.max(initial=0) >= 0.5)
        size = np.sqrt(np.mean(np.square(soft, dtype=np.float64)))
        guides[layer] = (soft / size if present[layer] else np.zeros_like(soft)).astype(np.float32)
    gone = [layer for layer in layers if not present[layer]]
    if gone and len(gone) == len(layers):
        raise ImageError(f"the region {_hex(color)} of the {name} guide is too small for any layer")
    if gone:
        warnings.warn(
            f"the region {_hex(color)} of the {name} guide vanishes at {', '.join(gone)} and has "
            "no style there; a larger size or shallower style_layers would keep it",
            stacklevel=2,
        )
    return guides, present


def _palette(pixels: Float[np.ndarray, "h w 3"]) -> tuple[tuple[tuple[float, ...], ...], int]:
    """Return a guide's flat colours, from dark to bright, and its total number of colours."""
    levels = to_uint8(pixels).astype(np.uint32)
    packed = levels[..., 0] << 16 | levels[..., 1] << 8 | levels[..., 2]
    values, counts = np.unique(packed, return_counts=True)
    color_count = len(values)
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
    return tuple(ordered), color_count


def _find(palette: Sequence[Sequence[float]], color: Sequence[float]) -> int | None:
    """Return the index of the colour in `palette` that means the same region as `color`, if any."""
    differences = [max(abs(a - b) for a, b in zip(known, color, strict=True)) for known in palette]
    if not differences or min(differences) > _SAME:
        return None
    return differences.index(min(differences))


def _hex(color: Sequence[float]) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in color)
