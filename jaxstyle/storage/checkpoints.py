"""Checkpoints of a run through Orbax: atomic, written in the background, the newest kept."""

import contextlib
import dataclasses
import errno
import itertools
import json
import logging
import os
import re
import shutil
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import Float

from jaxstyle.config import FileError, brief
from jaxstyle.engine import Progress, Record, Result, State, usable_cores
from jaxstyle.imaging import files

_FORMAT = 4
"""Checkpoint format version; any other is refused."""

_CHECKSUM = "crc32"

_NUMBERS = tuple(name for name in Record._fields if name != "terms")


# Failures are raised as exceptions. Orbax also logs them, asyncio those of the other arrays, and
# the other writes of a failed checkpoint report a closed event loop; all would mix tracebacks into
# our one-line message.
def _is_not_orbax(record: logging.LogRecord) -> bool:
    trace = record.exc_info[2] if record.exc_info else None
    places = [record.pathname, *(frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))]
    words = [record.getMessage(), *places]
    return not any(name in text for text in words for name in ("orbax", "tensorstore"))


logging.getLogger("absl").addFilter(_is_not_orbax)
logging.getLogger("asyncio").addFilter(_is_not_orbax)


def _leave_out_closed_loops(
    unraisable: Any, otherwise: Callable[[Any], None] = sys.unraisablehook
) -> None:
    if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
        otherwise(unraisable)


sys.unraisablehook = _leave_out_closed_loops


_ACCESS = (errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Errors that say nothing of a file's content."""


_ERRORS = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)
"""What Orbax and TensorStore raise, the last two if the metadata are not what they wrote."""


class AccessError(FileError):
    """A checkpoint that cannot be read now, but may be whole."""


class _DamageError(FileError):
    """A checkpoint that cannot be read."""


class UnusableError(FileError):
    """Checkpoints that nothing can resume from, and what a user can do about it."""

    def __init__(self, problem: object, hint: str) -> None:
        super().__init__(f"{problem}; {hint}")
        self.problem = str(problem)


class Checkpoints:
    """The checkpoints of one run; must be closed, or the last one may be missing.

    Methods raise `FileError` if a checkpoint cannot be read or written; earlier ones remain.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        kept: int = 2,
        read_only: bool = False,
        on_written: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Open `folder`.

        Args:
            folder: local or `gs://`.
            kept: number of checkpoints kept: the newest may be damaged by a crash of the machine.
            read_only: unless true, the folder is created if missing, and files left half-written by
                a killed process are removed.
            on_written: called from another thread with the seconds that a checkpoint took of the
                whole machine, of which writing in the background takes a core.
        """
        self._folder, self._read_only = epath.Path(folder), read_only
        self._on_written = on_written
        # Of a cluster, this process alone uses the folder; Orbax must not wait for the others.
        here = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(here, {here}, f"host {here}")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else kept,
            cleanup_tmp_directories=not read_only,
            create=False,
            read_only=read_only,
            enable_async_checkpointing=False,
            multiprocessing_options=alone,
        )
        # Instead of Orbax's own threads, which print every traceback on stderr when they fail.
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        if not read_only:
            files.make_folder(self._folder)
        with self._explained("opened"):
            self._manager = ocp.CheckpointManager(
                self._folder.resolve(), options=options, item_handlers=_handlers(alone)
            )
            self.newest = self._manager.latest_step()
            """Number of the newest checkpoint, or None."""
        self._written = self.newest

    def save(self, progress: Progress) -> None:
        """Save `progress`, unless it is saved already.

        The arrays are copied before this returns and written in the background.
        """
        step = progress.evaluations + progress.scale  # a new scale has had no evaluation yet
        if self.newest is not None and step <= self.newest:
            return
        began = time.monotonic()
        arrays, meta = to_arrays(progress)
        copying = time.monotonic() - began
        size = sum(array.nbytes for array in arrays.values())
        if files.is_local(self._folder) and shutil.disk_usage(self._folder).free < size:
            raise FileError(
                f"{self._folder}: the disk is full, a checkpoint takes {size / 1e6:.0f} MB"
                f"{self._consolation()}"
            )
        self.wait()
        self._writing = self._writer.submit(self._write, step, arrays, meta, copying)
        self.newest = step

    def _write(
        self, step: int, arrays: dict[str, np.ndarray], meta: dict[str, Any], copying: float
    ) -> None:
        began = time.monotonic()
        meta = meta | {_CHECKSUM: _checksum(arrays, meta)}
        items = ocp.args.Composite(arrays=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=items, force=True)
        self._on_written(copying + (time.monotonic() - began) / usable_cores())

    def restore(self, like: Callable[[int], State]) -> Progress | None:
        """Return the newest progress that can be read, or None.

        A checkpoint that is damaged, as by a power cut, is warned of, and the one before it used.

        Args:
            like: gives the expected structure and shapes of a scale's state.

        Raises:
            FileError: every checkpoint is damaged, or one is of another version or shape.
            AccessError: the newest one cannot be read now.
        """
        read = self._read_newest()
        if read is None:
            return None
        arrays, meta = read
        try:
            return from_arrays(arrays, meta, like)
        except (KeyError, ValueError) as error:
            raise UnusableError(
                f"{self._folder}: the checkpoint does not fit this run ({error})",
                "name another folder",
            ) from None

    def image(self) -> Float[np.ndarray, "h w 3"] | None:
        """Return the resulting image of the newest progress, of any shape, or None."""
        read = self._read_newest()
        if read is None:
            return None
        arrays, _ = read
        means = [array for name, array in arrays.items() if name.split(".")[-1] == "average"]
        return means[0] if means else arrays["best_image"]

    def _read_newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step, older in itertools.zip_longest(steps, steps[1:]):
            try:
                return self._read(step)
            except _DamageError as error:
                if older is None:
                    hint = f"delete {self._folder} to start over"
                    hint = "name another run to start from" if self._read_only else hint
                    raise UnusableError(error, hint) from None
                warnings.warn(f"{error}; continuing from the one before", stacklevel=2)
            if not self._read_only:  # another of the same number will take its place
                with self._explained("removed"):
                    self._manager.delete(step)
            self.newest = older
        return None

    def _read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        with self._explained("read"):
            wanted = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=wanted)["meta"]
            if not isinstance(meta, dict):
                raise ValueError("its metadata is not a JSON object")
        if meta.get("format") != _FORMAT:
            raise UnusableError(
                f"{self._folder}: its checkpoints are of format {meta.get('format')}, this "
                f"jaxstyle reads {_FORMAT}",
                "continue with the one that wrote them, or start over",
            )
        with self._explained("read"):
            as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
            restore = ocp.args.PyTreeRestore(restore_args=dict.fromkeys(meta["arrays"], as_numpy))
            wanted = ocp.args.Composite(arrays=restore)
            arrays = self._manager.restore(step, args=wanted)["arrays"]
            # TensorStore checks only its own structures.
            if meta.pop(_CHECKSUM, None) != _checksum(arrays, meta):
                raise ValueError("checksum mismatch")
            return arrays, meta

    def wait(self) -> None:
        """Wait until everything is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with self._explained("written"):
                writing.result()
                self._written = self.newest

    def close(self) -> None:
        """Wait until everything is written, then release the folder."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Raise any error of Orbax or its storage as a `FileError` of one line."""
        try:
            yield
        except _ERRORS as error:
            kept, reason, kind = "", _reason(error), FileError
            if done == "written":
                kept = self._consolation()
            elif reason in map(os.strerror, _ACCESS):
                kind = AccessError
            elif done == "read":
                kind = _DamageError
            raise kind(
                f"{self._folder}: the checkpoint cannot be {done} ({reason}){kept}"
            ) from None

    def _consolation(self) -> str:
        return "" if self._written is None else "; the last good one is still there"


def _handlers(alone: ocp.options.MultiprocessingOptions) -> dict[str, Any]:
    # Compressing random digits would take most of the time and save a tenth of the space.
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    return {
        "arrays": arrays,
        "meta": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    }


def _reason(error: Exception) -> str:
    """Extract the operating system's message from TensorStore's `error`, or else all of it."""
    text = getattr(error, "strerror", None) or str(error)
    code = re.search(r"OS error code: (\d+)|os_error_code='(\d+)'", text)
    if code:
        return os.strerror(int(code[1] or code[2]))
    return brief(text) if text.strip() else repr(error)


def _checksum(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> int:
    """Return the CRC-32 of everything in a checkpoint."""
    checksum = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
    for name in meta["arrays"]:
        data = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data
        checksum = zlib.crc32(data, checksum)
    return checksum


def _named(state: State) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def to_arrays(progress: Progress) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Split `progress` into named arrays and metadata of built-in types that any version reads."""
    # Copied, since on a CPU the next update would overwrite a view.
    arrays = {name: np.array(leaf) for name, leaf in _named(progress.state).items()}
    records, earlier = progress.records, progress.earlier
    terms = list(records[0].terms) if records else []
    rows = [
        [*(getattr(record, name) for name in _NUMBERS), *(record.terms[term] for term in terms)]
        for record in records
    ]
    if rows:  # Orbax does not accept empty arrays
        arrays["records"] = np.array(rows, np.float64)
    meta: dict[str, Any] = {
        "format": _FORMAT,
        "scale": progress.scale,
        "status": progress.status,
        "compile_seconds": progress.compile_seconds,
        "terms": terms,
        "earlier": None,
    }
    if earlier is not None:
        arrays["earlier"] = np.array(earlier.image)
        joint = {field.name: getattr(earlier, field.name) for field in dataclasses.fields(earlier)}
        meta["earlier"] = {k: v for k, v in joint.items() if k not in ("image", "history")}
    return arrays, meta | {"arrays": list(arrays)}


def from_arrays(
    arrays: dict[str, np.ndarray], meta: dict[str, Any], like: Callable[[int], State]
) -> Progress:
    """Undo `to_arrays`.

    Raises:
        KeyError, ValueError: they do not have the structure that `like` gives.
    """
    state = like(meta["scale"])
    for name, leaf in _named(state).items():
        saved = arrays.get(name)
        if saved is None:
            raise ValueError(f"it has no {name}")
        if (saved.shape, saved.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{name} is {saved.shape}, not {leaf.shape}")
    rows = arrays["records"].tolist() if "records" in arrays else []
    exact = {"evaluation": int, "scale": int, "accepted": bool}
    records = [
        Record(
            **{
                name: exact.get(name, float)(value)
                for name, value in zip(_NUMBERS, row, strict=False)
            },
            terms=dict(zip(meta["terms"], row[len(_NUMBERS) :], strict=True)),
        )
        for row in rows
    ]
    earlier = None
    if meta["earlier"] is not None:
        before = tuple(record for record in records if record.scale < meta["scale"])
        earlier = Result(**meta["earlier"] | {"image": arrays["earlier"], "history": before})
    # The structure comes from `like`, since none is stored.
    restored = [arrays[name] for name in _named(state)]
    return Progress(
        jax.tree.unflatten(jax.tree.structure(state), restored),
        tuple(record for record in records if record.scale == meta["scale"]),
        earlier,
        meta["status"],
        meta["compile_seconds"],
    )
