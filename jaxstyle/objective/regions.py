"""Regions: which styles go to which parts of the content.

The style of a region of the content's guide is the region of the same colour in the styles' guides;
without those, the styles are assigned in order, from dark to bright colours.
"""

import warnings
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image as Pil

from jaxstyle.config import ImageError, counted
from jaxstyle.network import FeatureExtractor
from jaxstyle.objective.guides import Color, Guide, Guides, color_name


class Region(NamedTuple):
    """A region of the content and the styles assigned to it."""

    color: Color | None
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
        ImageError: guides and styles do not match, or no region has a style with a positive weight.
    """
    if guides is None:
        return (Region(None, 1.0, tuple(enumerate(shares))),)
    colors, areas = guides.content.palette, guides.content.shares
    if {len(guide.palette) for guide in (guides.content, *guides.styles)} == {1}:
        raise ImageError(
            f"the content guide is {color_name(colors[0])} everywhere; a guide needs two regions"
        )
    if guides.styles:
        if len(guides.styles) != len(shares):
            raise ImageError(
                f"{counted(len(guides.styles), 'style guide')} for "
                f"{counted(len(shares), 'style')}; give one for each"
            )
        within = min(guide.tolerance for guide in (guides.content, *guides.styles))
        members = [
            [i for i, guide in enumerate(guides.styles) if guide.has(color, within)]
            for color in colors
        ]
        if not any(members):
            raise ImageError("no colour of the content guide is in a style guide")
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
            regions.append(Region(color, area, each))
    if not regions:
        raise ImageError("no region has a style with a positive weight")
    return tuple(regions)


def explain(guides: Guides, shares: Sequence[float], styles: Sequence[str]) -> str:
    """Return a line that says what happens to each region of the content's guide.

    Args:
        guides: the parsed guides.
        shares: see `assign`.
        styles: what to call the styles.
    """
    notes = dict.fromkeys(guides.content.palette, "as it is")
    for region in assign(guides, shares):
        assert region.color is not None
        names = " and ".join(styles[i] for i, share in region.styles if share > 0)
        notes[region.color] = f"in the style of {names}"
    return guides.content.describe(notes)


def check_aspects(
    guides: Guides, content: tuple[int, ...], styles: Sequence[tuple[int, ...]]
) -> None:
    """Raise `ImageError` if the aspect ratios of guides and their pictures' shapes differ."""
    _check_aspect(guides.content, content, "content")
    for guide, style in zip(guides.styles, styles, strict=False):
        _check_aspect(guide, style, "style")


def _check_aspect(guide: Guide, picture: tuple[int, ...], name: str) -> None:
    (height, width), (want_height, want_width) = guide.levels.shape, picture[:2]
    # Each may have been resized to whole pixels.
    slack = 1 / min(want_height, want_width) + 1 / min(height, width)
    if abs(np.log(height / width * want_width / want_height)) > slack:
        raise ImageError(
            f"the {name} guide is {width}×{height} and its picture {want_width}×{want_height}; "
            "any size will do, but the aspect ratio must be the same: crop the guide, or draw it "
            "on the picture"
        )


def layer_guides(
    guide: Guide,
    color: Color,
    shape: tuple[int, ...],
    network: FeatureExtractor,
    layers: Collection[str],
    name: str,
) -> tuple[dict[str, Float[np.ndarray, "_h _w"]], dict[str, bool]]:
    """Compute a region's guide at each layer, for `StyleStatistic.gather`.

    Args:
        guide: the content's or a style's guide.
        color: colour of the region.
        shape: shape of the picture that the network gets.
        network: the network.
        layers: layers of it to compute guides for.
        name: `content` or `style`, for the message about a region too small for a layer.

    Returns:
        For each layer, the square roots of the positions' weights, with mean square 1, or zeros
        if the region vanishes there; and, for each layer, whether the region is present.
    """
    mask = Pil.fromarray(guide.weights(guide.nearest(color)))
    guides: dict[str, Float[np.ndarray, "_h _w"]] = {}
    present: dict[str, bool] = {}
    for layer in layers:
        height, width = network.shape(layer, shape)
        soft = np.asarray(mask.resize((width, height), Pil.Resampling.BOX))
        present[layer] = bool(soft.max(initial=0) >= 0.5)
        weights = soft / np.mean(soft, dtype=np.float64) if present[layer] else np.zeros_like(soft)
        guides[layer] = np.sqrt(weights).astype(np.float32)
    gone = [layer for layer in layers if not present[layer]]
    if gone and len(gone) == len(layers):
        raise ImageError(
            f"the region {color_name(color)} of the {name} guide is too small for any layer"
        )
    if gone:
        warnings.warn(
            f"the region {color_name(color)} of the {name} guide vanishes at {', '.join(gone)} and "
            "has no style there; a larger size or shallower style_layers would keep it",
            stacklevel=2,
        )
    return guides, present
