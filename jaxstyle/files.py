"""Writing files so that a reader sees the old content or the new, never a part."""

import os
import uuid

from etils import epath

from jaxstyle.errors import JaxstyleError


def write_atomically(path: epath.PathLike, data: bytes) -> None:
    """Write `data` beside `path` under a temporary name, then rename it into place.

    Works on local paths and on those `etils.epath` knows, such as `gs://`.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; nothing is
            left behind.
    """
    target = epath.Path(path)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: epath.PathLike, error: type[JaxstyleError]) -> None:
    """Raise `error` if a file could not be written at `path`; called before any compute."""
    target = epath.Path(path)
    if "://" in os.fspath(target):
        return
    if target.is_dir():
        raise error(f"{target} is a folder; name a file to write")
    if not target.parent.is_dir():
        raise error(f"cannot write {target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise error(f"cannot write {target}: the folder {target.parent} is not writable")
