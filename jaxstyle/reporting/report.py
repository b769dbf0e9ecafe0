"""Self-contained HTML reports of a run's or a grid's folder.

The page is assembled from `report.html`, `report.css` and `report.js`, with the contents of the
folder's files as JSON. The files are untrusted: their content reaches the page as data only, and
only pictures inside the folder are embedded.
"""

import base64
import importlib.resources
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from etils import epath
from PIL import Image as Pil

from jaxstyle.config import FileError, JaxstyleError
from jaxstyle.imaging import files, images, read_rows, to_uint8
from jaxstyle.reporting.animation import spread
from jaxstyle.storage import read_config, read_metrics, read_result

_LARGE, _SMALL = (1600, 90), (384, 80)
"""Maximum long side in pixels and quality, for main pictures and for overview pictures."""
_TINY = (256, 75)
"""The same for pages with many pictures: 500 cells stay below 15 MB."""
_FEW_CELLS = 60
_MOST_SNAPSHOTS = 48
_MOST_LOSSES = 400

_GUIDES = ("content_guide", "style_guides")
_ROW = {"cell": str, "content": str, "styles": list, "config": dict, "status": str}


def write_report(source: epath.PathLike, output: epath.PathLike) -> None:
    """Write an HTML report of the folder `source`.

    Args:
        source: the folder of a run, under way or finished, or of a grid; local or `gs://`.
        output: the HTML file; links to full-size pictures are relative to its location.

    Raises:
        FileError: `source` is neither, a file in it is damaged, or `output` cannot be written.
    """
    files.check_writable(output, (".html", ".htm"))
    folder = files.open_path(source)
    if not folder.is_dir():
        raise FileError(f"{source}: {'not a' if folder.exists() else 'no such'} folder")
    if (folder / "grid.jsonl").exists():
        data = _grid(folder, output)
    elif (folder / "metrics.jsonl").exists() and (folder / "config.toml").exists():
        data = _run(folder, output)
    else:
        raise FileError(
            f"{source}: neither a run's folder (metrics.jsonl and config.toml) nor a grid's "
            "(grid.jsonl, which grid --collect writes)"
        )
    # Nothing in the data may close the element that contains it.
    text = json.dumps(data, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    parts = importlib.resources.files("jaxstyle.reporting")
    page = (parts / "report.html").read_text("utf-8")
    for placeholder, name in (("__STYLE__", "report.css"), ("__SCRIPT__", "report.js")):
        page = page.replace(placeholder, (parts / name).read_text("utf-8"))
    # Inserted last, so that the data is never searched for placeholders.
    files.write_atomically(output, page.replace("__DATA__", text).encode())


def _run(folder: epath.Path, output: epath.PathLike) -> dict[str, Any]:
    settings = read_config(folder)
    snapshots = _numbered(folder, "snapshots", "*.png")
    name = "image.png"
    if not (folder / name).exists() and snapshots:
        name = snapshots[-1]
    shown = _picture(folder, name, output, _LARGE)
    return {
        "kind": "run",
        "name": _name(folder),
        "inputs": settings.pop("run", {}),
        "settings": settings,
        "records": read_metrics(folder),
        "result": read_result(folder),
        "content": _picture(folder, "inputs/content.jpg", output, _LARGE)["picture"],
        "styles": [
            _picture(folder, style, output, _SMALL)["picture"]
            for style in _numbered(folder, "inputs", "style-*.jpg")
        ],
        "image_file": name,
        "image": shown["picture"],
        "link": shown["link"],
        "snapshots": [
            {"name": PurePosixPath(each).stem, **_picture(folder, each, output, _TINY)}
            for each in spread(snapshots, _MOST_SNAPSHOTS)
        ],
        "snapshots_taken": len(snapshots),
    }


def _grid(folder: epath.Path, output: epath.PathLike) -> dict[str, Any]:
    rows = read_rows(folder / "grid.jsonl", _ROW)
    names = list(dict.fromkeys(name for row in rows for name in _settings(row)))
    differing = [
        name for name in names if len({json.dumps(_settings(row).get(name)) for row in rows}) > 1
    ]
    form = _SMALL if len(rows) <= _FEW_CELLS else _TINY
    return {
        "kind": "grid",
        "name": _name(folder),
        "differing": differing,
        "settings": {name: _settings(rows[0]).get(name) for name in names if name not in differing},
        "cells": [_cell(row, differing, form, folder, output) for row in rows],
    }


def _cell(
    row: Mapping[str, Any],
    differing: Iterable[str],
    form: tuple[int, int],
    folder: epath.Path,
    output: epath.PathLike,
) -> dict[str, Any]:
    losses = row.get("losses")
    losses = losses if isinstance(losses, list) else []
    kept = ("cell", "content", "styles", "status", "reason", "loss", "terms", "evaluations")
    kept += ("ended_by", "seconds", "compile_seconds", "convolution", "device", "jaxstyle")
    return {
        **{name: row[name] for name in kept if name in row},
        "settings": {name: _settings(row).get(name) for name in differing},
        "losses": [
            float(f"{loss:.6g}") if isinstance(loss, float) else loss
            for loss in spread(losses, _MOST_LOSSES)
        ],
        "losses_taken": len(losses),
        **_picture(folder, row.get("image"), output, form),
    }


def _settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's settings and guides: its possible differences besides content and styles."""
    return row["config"] | {name: row[name] for name in _GUIDES if name in row}


def _picture(
    folder: epath.Path, name: Any, output: epath.PathLike, form: tuple[int, int]
) -> dict[str, Any]:
    """Return the embedded picture `name` of `folder`, if it exists, and its link from `output`."""
    path = _inside(folder, name)
    return {
        "picture": path and _embed(path, form),
        "link": path and _link(path, output),
    }


def _inside(folder: epath.Path, name: Any) -> epath.Path | None:
    """Return the file `name` in `folder`, or None if `name` is invalid or leads outside it."""
    if not isinstance(name, str) or "\\" in name or ":" in name or "\0" in name:
        return None
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return None
    path = folder / name
    if "://" not in os.fspath(folder):
        root, target = map(os.path.realpath, (folder, path))  # where symbolic links lead
        if not Path(target).is_relative_to(root):
            return None
    return path


def _numbered(folder: epath.Path, inner: str, pattern: str) -> list[str]:
    """List files of the subfolder `inner`, relative to `folder`, by number: 10 after 9."""
    matches = (folder / inner).glob(pattern) if (folder / inner).is_dir() else ()
    ordered = sorted(matches, key=lambda path: (len(path.name), path.name))
    return [f"{inner}/{path.name}" for path in ordered]


def _embed(path: epath.Path, form: tuple[int, int]) -> dict[str, Any] | None:
    """Encode the picture at `path` as a WebP data URI with its size; None if unreadable."""
    side, quality = form
    try:
        long_side = max(images.glance(path).shape)
        color, alpha, _ = images.read_picture(path, min(side, long_side))
    except JaxstyleError:
        return None
    if alpha is not None:
        color = color * alpha[..., None] + 1 - alpha[..., None]
    picture = Pil.fromarray(to_uint8(color))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {
        "src": f"data:image/webp;base64,{encoded}",
        "width": picture.width,
        "height": picture.height,
    }


def _link(path: epath.Path, output: epath.PathLike) -> str | None:
    """Return the relative link from `output` to `path`; None if a browser cannot follow it."""
    if "://" in os.fspath(path) or "://" in os.fspath(output):
        return None
    try:
        relative = os.path.relpath(Path(path).absolute(), Path(output).absolute().parent)
    except ValueError:  # on another drive
        return None
    return quote(Path(relative).as_posix())


def _name(folder: epath.Path) -> str:
    return folder.name or Path(folder).resolve().name
