"""Warnings as lines on stderr; those of a damaged compilation cache are acted on."""

import contextlib
import re
import threading
import zlib
from pathlib import Path
from typing import Any

from jaxstyle.cli.terminal import complain
from jaxstyle.config import brief

_OF_CACHE = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)", re.DOTALL
)

_ZSTD = b"\x28\xb5\x2f\xfd"
"""First bytes of entries that JAX compressed with Zstandard, where that is installed."""


class Warnings:
    """A replacement for `warnings.showwarning`."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, message: Any, *_: object, **__: object) -> None:
        """Show a warning."""
        of_cache = _OF_CACHE.match(str(message))
        if of_cache is None:
            complain(str(message))
            return
        with self._lock:
            self._of_cache(*of_cache.groups())

    def _of_cache(self, action: str, program: str, reason: str) -> None:
        import jax

        folder = jax.config.values["jax_compilation_cache_dir"]
        line = f"{folder}: compiled programs cannot be kept there ({brief(reason)})"
        if action == "reading":
            line = f"{folder}: damaged compiled programs are removed and compiled again"
        if folder and "://" not in folder:
            _remove_damaged(Path(folder), program, reading=action == "reading")
        if line not in self._told:
            complain(line)
        self._told.add(line)


def _remove_damaged(folder: Path, program: str, *, reading: bool) -> None:
    """Remove damaged entries of JAX's cache, which would not replace them by itself.

    Args:
        folder: the cache.
        program: the name of a program of which one entry cannot be read.
        reading: whether that is so; else an entry could not be written, as when one lacks the time
            of its last use.
    """

    def damaged(path: Path) -> bool:
        return not (_is_whole(path) if reading else _time_of(path).exists())

    entries = list(folder.glob("*-cache"))
    limited = any(_time_of(path).exists() for path in entries)
    chosen = [path for path in entries if damaged(path)] if reading or limited else []
    if reading and not chosen:
        chosen = list(folder.glob(f"{program}-*-cache"))
    for path in chosen:
        with contextlib.suppress(OSError):  # another process may have removed it
            path.unlink()
            _time_of(path).unlink(missing_ok=True)


def _time_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix("-cache") + "-atime")


def _is_whole(path: Path) -> bool:
    try:
        data = path.read_bytes()
        if not data.startswith(_ZSTD):
            zlib.decompress(data)
    except (OSError, zlib.error):
        return False
    return True
