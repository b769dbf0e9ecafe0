"""JSON as this project's files have it: an object a line, and null for what is no number."""

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxstyle.config import JaxstyleError
from jaxstyle.imaging.files import read_bytes


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: null for a number that a double cannot, text for a date."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, int):
        return value if abs(value) < 2**1023 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None else str(value)


def to_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """The text of an object that `parse` gives back, what is no number as None."""
    return json.dumps(plain(dict(value)), indent=indent, allow_nan=False)


def parse(text: bytes, where: object, error: type[JaxstyleError]) -> dict[str, Any]:
    """The object that `text` is, `plain`.

    Raises:
        error: it is none; the message names `where` it is from.
    """
    try:
        value = plain(json.loads(text))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise error(f"{where}: damaged; not a JSON object")
    return value


def read_rows(
    path: epath.PathLike,
    error: type[JaxstyleError],
    fields: Mapping[str, type | tuple[type, ...]],
    *,
    growing: bool = False,
) -> list[dict[str, Any]]:
    """The objects in a JSONL file, a line each.

    Args:
        path: of the file.
        error: what to raise.
        fields: what every object has to have, of which type.
        growing: whether a line at the end without its newline is one that is being written,
            and left out.

    Raises:
        error: the file cannot be read, or a line, which the message names, is damaged.
    """
    lines = read_bytes(path, error).split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1] if growing else lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = parse(line, where, error)
        for name, kind in fields.items():
            if not isinstance(row.get(name), kind):
                raise error(f"{where}: damaged; it has no {name} as jaxstyle writes it")
        rows.append(row)
    return rows
