"""Tables in Markdown."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
"""A line of a table: values by column."""


def table(rows: Sequence[Row]) -> str:
    """Return a table with the columns of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def medians(rows: Sequence[Row], by: Sequence[str], columns: Sequence[str]) -> list[Row]:
    """Return a row for each group of `rows` that agree in `by`, with the medians of `columns`."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    return [
        dict(zip(by, group, strict=True))
        | {column: statistics.median(row[column] for row in members) for column in columns}
        for group, members in groups.items()
    ]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
