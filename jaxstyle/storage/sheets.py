"""The contact sheets of a grid: which cells are on which page, and where."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from jaxstyle.config import Config, flat, words
from jaxstyle.storage.entries import Entry, Rows

_ON_A_SHEET = 24
"""Maximum number of contents, and of styles, on one contact sheet."""


def sheet_pages(
    entries: Sequence[Entry], rows: Rows, output: epath.Path
) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `contact_sheet` for each sheet of a grid.

    There is one per setting, or several if it has many pictures. Cells that differ only in their
    guides go on different sheets.

    Args:
        entries: the cells of the grid.
        rows: their rows.
        output: the grid's folder.
    """
    settings = list(dict.fromkeys(entry.cell.config for entry in entries))
    places: dict[tuple[Config, int], dict[tuple[str, tuple[str, ...]], Any]] = {}
    for entry in entries:
        key, number = (entry.cell.content, entry.cell.styles), 1
        while key in places.setdefault((entry.cell.config, number), {}):
            number += 1
        places[entry.cell.config, number][key] = _shown(rows[entry.name], output)
    guided = {config for config, number in places if number > 1}
    for (config, number), cells in places.items():
        caption = [_differences(config, settings)]
        if config in guided:
            caption.append(f"guides {number}")
        contents, styles = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
        for top in range(0, len(contents), _ON_A_SHEET):
            for left in range(0, len(styles), _ON_A_SHEET):
                yield {
                    "rows": contents[top : top + _ON_A_SHEET],
                    "columns": styles[left : left + _ON_A_SHEET],
                    "cells": cells,
                    "caption": ", ".join(filter(None, caption)),
                }


def _shown(row: dict[str, Any] | None, output: epath.Path) -> epath.Path | str:
    """Return the path of a row's image, or the reason why it is missing."""
    if row is None:
        return "not done yet"
    if row["status"] == "failed":
        return f"failed: {row['reason']}"
    return output / row["image"]


def _differences(config: Config, others: Sequence[Config]) -> str:
    """Describe the settings of `config` that vary among `others`."""
    settings, *rest = map(flat, (config, *others))
    return ", ".join(
        f"{name} = {' '.join(words(settings.get(name, 'not set')))}"
        for name in dict.fromkeys(itertools.chain(settings, *rest))
        if any(settings.get(name) != other.get(name) for other in rest)
    )
