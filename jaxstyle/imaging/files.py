"""Reading and writing whole files, local or `gs://`, with errors a user can act on."""

import contextlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath

from etils import epath

from jaxstyle.config import FileError, brief

MAX_BYTES = 2**31
"""Size above which inputs are refused: neither a picture nor VGG19 is that large."""

_TEMPORARY = re.compile(r"\.jaxstyle-[0-9a-f]{32}\.tmp")


def user_cache() -> Path | None:
    """Return the user's folder for what can be made again; None without a home."""
    import platformdirs

    # Without a home, platformdirs raises a RuntimeError, and older ones return a relative path.
    with contextlib.suppress(RuntimeError):
        folder = platformdirs.user_cache_path("jaxstyle")
        if folder.is_absolute():
            return folder
    return None


def open_path(path: epath.PathLike) -> epath.Path:
    """Return the path, after checking that its storage can be reached if it is a URL.

    Raises:
        FileError: it cannot, or the URL is not `gs://`.
    """
    if is_local(path):
        return epath.Path(path)
    if not os.fspath(path).startswith("gs://"):
        raise FileError(f"{path}: neither a local file nor gs://")
    try:
        opened = epath.Path(path)
        opened.exists()
    except ImportError:
        raise FileError(f"{path}: gs:// needs pip install 'jaxstyle[gcs]'") from None
    except Exception as error:  # whatever the storage client raises
        raise FileError(f"{path}: cannot be reached ({brief(error)})") from None
    return opened


def read_bytes(path: epath.PathLike) -> bytes:
    """Read the file at `path`.

    Raises:
        FileError: it is missing, unreadable, not a file, above `MAX_BYTES`, or of an unknown
            scheme.
    """
    with _explained(f"{path}: cannot be read"):
        if not is_local(path):
            return open_path(path).read_bytes()
        source = Path(path)
        if not source.is_file():  # a device or a pipe would block
            reason = "not a file" if source.exists() else "no such file"
            raise FileError(f"{path}: {reason}")
        if source.stat().st_size > MAX_BYTES:
            raise FileError(f"{path}: larger than {MAX_BYTES >> 30} GiB")
        return source.read_bytes()


def write_atomically(path: epath.PathLike, data: bytes) -> None:
    """Write `data` beside `path` under a temporary name, then rename it into place.

    Data and name are on disk when this returns, so that a power cut leaves the old file or the new
    one. An object store does that by itself. A symbolic link is followed, so that its target
    changes.

    Raises:
        FileError: the folder is missing or not writable, or the disk is full; nothing is
            left behind.
    """
    if not is_local(path):
        with _explained(f"cannot write {path}"):
            open_path(path).write_bytes(data)
        return
    target = Path(path).resolve()
    temporary = target.parent / f".jaxstyle-{uuid.uuid4().hex}.tmp"
    with _explained(f"cannot write {path}"):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise


def remove_leftovers(folder: epath.PathLike, seconds: float = 0.0) -> None:
    """Remove the temporary files in `folder` of processes killed inside `write_atomically`.

    Args:
        folder: need not exist.
        seconds: minimum age; newer files may still be in use by another process.
    """
    if not is_local(folder):
        return
    with contextlib.suppress(OSError):  # they do no harm
        for path in Path(folder).iterdir():
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime >= seconds:
                path.unlink(missing_ok=True)


def remove_folder(path: epath.PathLike) -> None:
    """Remove the folder at `path`, if it is there, with everything in it.

    Raises:
        FileError: it cannot be removed.
    """
    folder = open_path(path)
    with _explained(f"{path}: cannot be removed"):
        if folder.exists():
            folder.rmtree()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system has folders that can be synchronized
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def same(path: epath.PathLike, other: epath.PathLike) -> bool:
    """Return whether two paths lead to the same place, however they are spelled."""
    if is_local(path) and is_local(other) and Path(path).exists() and Path(other).exists():
        return Path(path).samefile(other)
    return epath.Path(path).resolve() == epath.Path(other).resolve()


def make_folder(path: epath.PathLike) -> epath.Path:
    """Return the folder at `path`, creating it if needed.

    Raises:
        FileError: it cannot be created or written to, or `path` is not a folder.
    """
    check_folder(path)
    folder = epath.Path(path)
    with _explained(f"cannot make the folder {path}"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_folder(path: epath.PathLike) -> None:
    """Raise the errors of `make_folder` that can be detected without making anything."""
    open_path(path)
    if not is_local(path):
        return
    with _explained(f"cannot make the folder {path}"):
        there = next(each for each in (Path(path), *Path(path).absolute().parents) if each.exists())
        if not there.is_dir():
            raise FileError(f"{there} is a file; name a folder")
    with _explained(f"cannot write into {there}"):
        _try_to_write(there)


def check_writable(path: epath.PathLike, suffixes: Collection[str]) -> str:
    """Return the suffix of `path`; called before any computation whose result goes there.

    Raises:
        FileError: no file can be written there, or its name does not end in one of `suffixes`, in
            either case.
    """
    suffix = PurePath(path).suffix.lower()
    if suffix not in suffixes:
        *others, last = suffixes
        known = f"{', '.join(others)} or {last}" if others else last
        raise FileError(f"cannot write {path}: the name must end in {known}")
    if not is_local(path):
        open_path(path)
        return suffix
    target = Path(path)
    with _explained(f"cannot write {path}"):
        parent = target.resolve().parent
        if target.is_dir():
            raise FileError(f"{path} is a folder; name a file to write")
        if not parent.is_dir():
            raise FileError(f"cannot write {path}: the folder {parent} does not exist")
        _try_to_write(parent)
        target.exists()  # raises for a name the file system cannot hold
    return suffix


def _try_to_write(folder: Path) -> None:
    # Permissions alone do not tell.
    tempfile.TemporaryFile(dir=folder).close()


def is_local(path: epath.PathLike) -> bool:
    """Return whether `path` is not a URL."""
    return "://" not in os.fspath(path)


@contextlib.contextmanager
def _explained(failure: str) -> Iterator[None]:
    """Raise errors of the operating system or a bucket as `FileError`, as reasons of `failure`."""
    try:
        yield
    except (FileError, MemoryError):
        raise
    except Exception as error:  # whatever a storage client raises
        raise FileError(f"{failure} ({brief(error)})") from None
