"""Contact sheets: a row per content, a column per style, a picture for each pair."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image as Pil, ImageDraw, ImageFont

from jaxstyle.config import JaxstyleError
from jaxstyle.imaging.resampling import to_uint8
from jaxstyle.imaging.sources import load_image

_SIDE = 256
"""Long side of a thumbnail, in pixels."""
_GAP, _TEXT = 8, 14
_PAPER, _EMPTY, _INK = (255, 255, 255), (228, 228, 228), (60, 60, 60)

Levels = UInt8[np.ndarray, "h w 3"]


def contact_sheet(
    rows: Sequence[str],
    columns: Sequence[tuple[str, ...]],
    cells: Mapping[tuple[str, tuple[str, ...]], epath.Path | str],
    caption: str,
) -> Levels:
    """Draw a page with the picture of every pair; pairs missing from `cells` stay empty.

    Args:
        rows: paths of contents, shown on the left.
        columns: paths of styles; the first of each column is shown on top.
        cells: by pair, the path of a picture or a remark to show in its place.
        caption: a line above the table.

    Returns:
        Grey levels of sRGB.
    """
    header = [None, *((epath.Path(s[0]), " + ".join(map(_stem, s))) for s in columns)]
    table: list[list[Labelled | None]] = [header]
    for content in rows:
        entries = [
            (cells[content, styles], "") if (content, styles) in cells else None
            for styles in columns
        ]
        table.append([(epath.Path(content), _stem(content)), *entries])
    return draw_sheet(table, caption)


Labelled = tuple[PurePath | epath.Path | str, str]
"""The path of a picture, or a remark to show in its place, and the label below it."""


def draw_sheet(entries: Sequence[Sequence[Labelled | None]], caption: str) -> Levels:
    """Draw a page of rows of labelled pictures, None where there is none, below a caption."""
    table = [[_item(entry) for entry in line] for line in entries]
    heights = [max(item.picture.height for item in line if item) for line in table]
    across, below = _SIDE + _GAP, 2 * _TEXT
    columns = max(map(len, table))
    size = across * columns + _GAP, below + sum(heights) + below * len(heights)
    page = Pil.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_TEXT)
    draw.text((_GAP, _TEXT // 2), caption, _INK, font)
    top = below
    for line, height in zip(table, heights, strict=True):
        for column, item in enumerate(line):
            if item is None:
                continue
            left = _GAP + column * across
            centred = left + (_SIDE - item.picture.width) // 2, top + height - item.picture.height
            page.paste(item.picture, centred)
            draw.text((left, top + height + 2), item.label[: _SIDE * 2 // _TEXT], _INK, font)
        top += height + below
    return np.asarray(page)


class _Item(NamedTuple):
    picture: Pil.Image
    label: str


def _item(entry: Labelled | None) -> _Item | None:
    if entry is None:
        return None
    shown, label = entry
    try:
        if isinstance(shown, str):
            picture = _remark(shown)
        else:
            picture = Pil.fromarray(to_uint8(load_image(shown, _SIDE)))
    except JaxstyleError as error:  # not a picture, or deleted since
        picture = _remark(str(error))
    return _Item(picture, label)


def _remark(text: str) -> Pil.Image:
    picture = Pil.new("RGB", (_SIDE, _SIDE * 2 // 3), _EMPTY)
    lines = textwrap.fill(text, _SIDE * 2 // _TEXT - 4)
    ImageDraw.Draw(picture).multiline_text((_GAP, _GAP), lines, _INK, ImageFont.load_default(_TEXT))
    return picture


def _stem(path: str) -> str:
    return PurePath(path).stem
