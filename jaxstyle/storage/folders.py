"""Readers of the files in a run's folder; missing or damaged ones raise `FileError`."""

import tomllib
from typing import Any

from etils import epath

from jaxstyle.config import ConfigError, FileError, brief, parse_toml
from jaxstyle.imaging import files, parse, plain, read_rows

_LOGS = (".err", ".log", ".out", ".txt")
"""Suffixes of files that shells and batch systems make in a folder before its run begins."""

_METRICS = {"evaluation": int, "terms": dict, "scale": int, "seconds": (int, float)}


def read_metrics(run: epath.PathLike) -> list[dict[str, Any]]:
    """Read the lines of RUN/metrics.jsonl; values that are not numbers become None.

    An incomplete last line, still being written, is omitted.
    """
    return read_rows(_file_in(run, "metrics.jsonl"), _METRICS, growing=True)


def read_config(run: epath.PathLike) -> dict[str, Any]:
    """Read the settings in RUN/config.toml by flat name; `run` has the inputs and their digests."""
    path = _file_in(run, "config.toml")
    data = files.read_bytes(path)
    try:
        text = data.decode()
        settings = {name: value for name, value in parse_toml(text).items() if value is not None}
        return plain(settings | {"run": tomllib.loads(text).get("run")})
    except (ConfigError, ValueError, RecursionError) as error:
        raise damaged_config(run, f" ({brief(error)})") from None


def damaged_config(run: epath.PathLike, reason: str = "") -> FileError:
    """Return the error of a run whose config.toml is damaged."""
    return FileError(
        f"{epath.Path(run) / 'config.toml'}: damaged{reason}; delete it and rerun the run's "
        "original command, which writes it again"
    )


def read_result(run: epath.PathLike) -> dict[str, Any] | None:
    """Read the object in RUN/result.json, or return None if the run is not finished."""
    path = epath.Path(run) / "result.json"
    return parse(files.read_bytes(path), path) if path.exists() else None


def check_unused(folder: epath.PathLike) -> None:
    """Raise `FileError` if `folder`, which need not exist, has files but is no run's.

    A run would mix its files with them, or overwrite them.
    """
    path = epath.Path(folder)
    # Users may delete damaged settings; metrics are there from the start.
    if not path.is_dir() or any(
        (path / name).exists() for name in ("config.toml", "metrics.jsonl")
    ):
        return
    others = [entry for entry in _visible(path) if entry.suffix not in _LOGS]
    killed_at_start = [entry.name for entry in others] == ["checkpoint"] and not _visible(others[0])
    if others and not killed_at_start:
        raise FileError(
            f"{folder} contains files that do not belong to a run; name a new or empty folder"
        )


def _visible(folder: epath.Path) -> list[epath.Path]:
    return [entry for entry in folder.iterdir() if entry.name[0] != "."]


def has_checkpoint(run: epath.PathLike) -> bool:
    """Return whether the run in the folder `run` has a checkpoint, which may be damaged."""
    folder = epath.Path(run) / "checkpoint"
    return folder.is_dir() and any(entry.name.isdecimal() for entry in folder.iterdir())


def has_begun(run: epath.PathLike) -> bool:
    """Return whether the run in the folder `run` has evaluations that another must not replace."""
    metrics = epath.Path(run) / "metrics.jsonl"
    return has_checkpoint(run) or (metrics.exists() and metrics.stat().length > 0)


def is_recorded(run: epath.PathLike) -> bool:
    """Return whether the folder `run` is of a run that has begun, and its settings are there."""
    return (epath.Path(run) / "config.toml").exists() and has_begun(run)


def check_parent(run: epath.PathLike) -> None:
    """Raise `FileError` if no other run can start from the state of the one in the folder `run`."""
    read_config(run)
    if not has_checkpoint(run):
        raise nothing_to_start_from(run)


def nothing_to_start_from(run: epath.PathLike) -> FileError:
    """Return the error of a run that another cannot start from."""
    return FileError(f"{run}: has no checkpoint yet; there is nothing to start from")


def _file_in(run: epath.PathLike, name: str) -> epath.Path:
    path = files.open_path(epath.Path(run) / name)
    if not path.exists():
        if (epath.Path(run) / "cells").is_dir():
            raise FileError(f"{run} is a grid's folder; name one of a cell, {run}/cells/NAME")
        raise FileError(f"{run}: not a run's folder; it has no {name}")
    return path
