"""Entering a run's folder: made if missing, locked, and left as it was if the run is refused."""

import contextlib
import errno
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock
from etils import epath

from jaxstyle.config import FileError, JaxstyleError
from jaxstyle.imaging import files

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of file systems without locks, as some network mounts are."""


@contextlib.contextmanager
def entered(
    folder: epath.PathLike, names: Sequence[str], has_begun: Callable[[], bool]
) -> Iterator[epath.Path]:
    """Make and lock the folder at `folder`, local or `gs://`, and yield it.

    A `JaxstyleError` before the run has begun removes what was not there before, so that the next
    command is not taken for a change of this one.

    Args:
        folder: the folder.
        names: what a run makes in it before it begins.
        has_begun: whether there is something to keep.

    Raises:
        FileError: the folder cannot be made or locked. Buckets have no locks.
    """
    path = epath.Path(folder)
    files.check_folder(path)
    parents = (Path(folder), *Path(folder).parents) if files.is_local(folder) else ()
    new_folders = list(itertools.takewhile(lambda parent: not parent.exists(), parents))
    new = [path / name for name in (".lock", *names) if not (path / name).exists()]
    try:
        files.make_folder(path)
        with _locked(path):
            try:
                yield path
            except JaxstyleError:
                if not has_begun():
                    _remove(new)
                raise
    except JaxstyleError:
        with contextlib.suppress(OSError):  # not empty: the run has begun
            for each in new_folders:
                each.rmdir()
        raise


@contextlib.contextmanager
def _locked(folder: epath.Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if files.is_local(folder):
            lock = filelock.FileLock(folder / ".lock")
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except filelock.Timeout:
                raise FileError(f"{folder}: another process is working on this run") from None
            except (OSError, NotImplementedError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                    raise FileError(f"{folder}: cannot be locked ({error.strerror})") from None
                warnings.warn(
                    f"{folder}: this file system has no locks; a second process on the same run "
                    "would not be noticed",
                    stacklevel=2,
                )
        yield


def _remove(paths: Sequence[epath.Path]) -> None:
    for path in paths:
        # Whatever a storage client raises; the error that is under way is the one to tell.
        with contextlib.suppress(Exception):
            if path.is_dir():
                path.rmtree()
            else:
                path.unlink(missing_ok=True)
