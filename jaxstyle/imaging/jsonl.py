"""JSON as in this project's files: one object per line, null for numbers JSON cannot hold."""

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxstyle.config import FileError
from jaxstyle.imaging.files import read_bytes


def plain(value: Any) -> Any:
    """Convert `value` to JSON types: null for a number no double can hold, text for a date."""
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
    """Serialize an object for `parse`, which returns None for numbers that JSON cannot hold."""
    return json.dumps(plain(dict(value)), indent=indent, allow_nan=False)


def parse(text: bytes, where: object) -> dict[str, Any]:
    """Parse `text` as a JSON object and make it `plain`.

    Raises:
        FileError: `text` is not a JSON object; the message names its origin, `where`.
    """
    try:
        value = plain(json.loads(text))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FileError(f"{where}: damaged; not a JSON object")
    return value


def read_rows(
    path: epath.PathLike,
    fields: Mapping[str, type | tuple[type, ...]],
    *,
    growing: bool = False,
) -> list[dict[str, Any]]:
    """Read the objects in a JSONL file, one per line.

    Args:
        path: the file.
        fields: the required fields of every object and their types.
        growing: whether a last line without a newline is still being written, and thus left out.

    Raises:
        FileError: the file cannot be read, or a line is damaged; the message names the line.
    """
    lines = read_bytes(path).split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1] if growing else lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = parse(line, where)
        for name, kind in fields.items():
            if not isinstance(row.get(name), kind):
                raise FileError(f"{where}: damaged; it has no valid {name}")
        rows.append(row)
    return rows
