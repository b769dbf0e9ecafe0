"""Reading and writing whole files, local or `gs://`, with errors a user can act on."""

import os
import uuid
from pathlib import Path

from etils import epath

from jaxstyle.config import JaxstyleError

MAX_BYTES = 2**31
"""Size above which inputs are refused: neither a picture nor VGG19 is that large."""


def read_bytes(path: epath.PathLike, error: type[JaxstyleError]) -> bytes:
    """Read the file at `path`.

    Raises:
        error: it is missing, unreadable, not a file, above `MAX_BYTES`, or of an unknown scheme.
    """
    try:
        if not _is_local(path):
            return _open_url(path, error).read_bytes()
        source = Path(path)
        if not source.is_file():  # a device or a pipe would block
            reason = "not a file" if source.exists() else "no such file"
            raise error(f"{path}: {reason}")
        if source.stat().st_size > MAX_BYTES:
            raise error(f"{path}: larger than {MAX_BYTES >> 30} GiB")
        return source.read_bytes()
    except JaxstyleError:
        raise
    except (OSError, ValueError) as failure:
        raise error(f"{path}: cannot be read ({_reason(failure)})") from None


def write_atomically(path: epath.PathLike, data: bytes, error: type[JaxstyleError]) -> None:
    """Write `data` beside `path` under a temporary name, then rename it into place.

    A symbolic link is followed, so that its target changes.

    Raises:
        error: the folder is missing or not writable, or the disk is full; nothing is
            left behind.
    """
    target = epath.Path(Path(path).resolve() if _is_local(path) else path)
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except BaseException as failure:
        temporary.unlink(missing_ok=True)
        if isinstance(failure, OSError):
            raise error(f"cannot write {path}: {_reason(failure)}") from None
        raise


def exists(path: epath.PathLike, error: type[JaxstyleError]) -> bool:
    """Return whether anything exists at `path`.

    Raises:
        error: the storage of a URL cannot be reached.
    """
    return (Path(path) if _is_local(path) else _open_url(path, error)).exists()


def is_folder(path: epath.PathLike, error: type[JaxstyleError]) -> bool:
    """Return whether `path` is a folder.

    Raises:
        error: the storage of a URL cannot be reached.
    """
    return (Path(path) if _is_local(path) else _open_url(path, error)).is_dir()


def same(path: epath.PathLike, other: epath.PathLike) -> bool:
    """Return whether two paths lead to the same place, however they are spelled."""
    if _is_local(path) and _is_local(other):
        return Path(path).resolve() == Path(other).resolve()
    return epath.Path(path) == epath.Path(other)


def make_folder(path: epath.PathLike, error: type[JaxstyleError]) -> epath.Path:
    """Return the folder at `path`, creating it if needed.

    Raises:
        error: it cannot be created or written to, or `path` is not a folder.
    """
    folder = epath.Path(path) if _is_local(path) else _open_url(path, error)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise error(f"cannot make the folder {path}: {_reason(failure)}") from None
    if _is_local(path) and not os.access(path, os.W_OK):
        raise error(f"cannot write into {path}: the folder is not writable")
    return folder


def check_writable(path: epath.PathLike, error: type[JaxstyleError]) -> None:
    """Raise `error` if a file could not be written at `path`; called before any computation."""
    if not _is_local(path):
        _open_url(path, error)
        return
    target = Path(path)
    try:
        parent = target.resolve().parent
        if target.is_dir():
            raise error(f"{path} is a folder; name a file to write")
        if not parent.is_dir():
            raise error(f"cannot write {path}: the folder {parent} does not exist")
        if not os.access(parent, os.W_OK):
            raise error(f"cannot write {path}: the folder {parent} is not writable")
        target.exists()  # raises for a name the file system cannot hold
    except JaxstyleError:
        raise
    except (OSError, ValueError) as failure:
        raise error(f"cannot write {path}: {_reason(failure)}") from None


def _reason(failure: Exception) -> str:
    return getattr(failure, "strerror", None) or str(failure)


def _is_local(path: epath.PathLike) -> bool:
    return "://" not in os.fspath(path)


def _open_url(path: epath.PathLike, error: type[JaxstyleError]) -> epath.Path:
    """Return the path at a URL after checking that its storage can be reached."""
    if not os.fspath(path).startswith("gs://"):
        raise error(f"{path}: neither a local file nor gs://")
    try:
        opened = epath.Path(path)
        opened.exists()
    except ImportError:
        raise error(f"{path}: gs:// needs pip install 'jaxstyle[gcs]'") from None
    except Exception as failure:  # whatever the storage client raises
        raise error(f"{path}: cannot be reached ({failure})") from None
    return opened
