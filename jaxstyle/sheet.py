"""Contact sheets: contents down, styles across, a picture for each pair."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image as Pil, ImageDraw, ImageFont

from jaxstyle import images
from jaxstyle.errors import ImageError
from jaxstyle.types import Image

_THUMBNAIL = 256
_GAP, _TEXT = 8, 14
_PAPER, _EMPTY, _INK = (255, 255, 255), (228, 228, 228), (60, 60, 60)


def contact_sheet(
    rows: Sequence[str],
    columns: Sequence[tuple[str, ...]],
    cells: Mapping[tuple[str, tuple[str, ...]], epath.Path | str],
    caption: str,
) -> Image:
    """A page with every pair's picture; pairs that are not in `cells` stay empty.

    Args:
        rows: paths of contents, shown on the left.
        columns: paths of styles, of which the first is shown on top.
        cells: the path of a picture, or a remark to show in its place.
        caption: a line over it all.

    Returns:
        sRGB `[h, w, 3]`.
    """
    side = _THUMBNAIL
    label = " + ".join
    header = [None, *((epath.Path(styles[0]), label(map(_stem, styles))) for styles in columns)]
    table: list[list[_Item | None]] = [[_item(entry, side) for entry in header]]
    for content in rows:
        entries = [(epath.Path(content), _stem(content))]
        entries += [
            (cells[content, styles], "") if (content, styles) in cells else None
            for styles in columns
        ]
        table.append([_item(entry, side) for entry in entries])
    heights = [max(item.picture.height for item in line if item) for line in table]
    across, below = side + _GAP, 2 * _TEXT
    size = across * (len(columns) + 1) + _GAP, below + sum(heights) + below * len(heights)
    page = Pil.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_TEXT)
    draw.text((_GAP, _TEXT // 2), caption, _INK, font)
    top = below
    for line, height in zip(table, heights, strict=True):
        for column, item in enumerate(line):
            if item is None:
                continue
            left = _GAP + column * across
            centred = left + (side - item.picture.width) // 2, top + height - item.picture.height
            page.paste(item.picture, centred)
            draw.text((left, top + height + 2), item.label[: side * 2 // _TEXT], _INK, font)
        top += height + below
    return np.asarray(page, np.float32) / 255


class _Item(NamedTuple):
    picture: Pil.Image
    label: str


def _item(entry: tuple[epath.Path | str, str] | None, side: int) -> _Item | None:
    if entry is None:
        return None
    shown, label = entry
    try:
        picture = _remark(shown, side) if isinstance(shown, str) else _thumbnail(shown, side)
    except ImageError as error:  # a file that is no picture, or has gone since
        picture = _remark(str(error), side)
    return _Item(picture, label)


def _remark(text: str, side: int) -> Pil.Image:
    picture = Pil.new("RGB", (side, side * 2 // 3), _EMPTY)
    lines = textwrap.fill(text, max(1, side * 2 // _TEXT - 4))
    ImageDraw.Draw(picture).multiline_text((_GAP, _GAP), lines, _INK, ImageFont.load_default(_TEXT))
    return picture


def _stem(path: str) -> str:
    return PurePath(path).stem


def _thumbnail(path: epath.Path, side: int) -> Pil.Image:
    pixels = images.load_image(path, side)
    return Pil.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
