"""The folder of a run: its settings and inputs, progress and result.

RUN/config.toml      settings, the paths of the inputs, and the SHA-256 of every file
RUN/inputs/….jpg     content and styles as used, for viewing
RUN/metrics.jsonl    one line per evaluation
RUN/snapshots/….png  best images so far, if requested
RUN/checkpoint/      the newest progress
RUN/image.png        the result
RUN/result.json      written last: a run that has one is finished
"""

import contextlib
import errno
import functools
import importlib.metadata
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import filelock
import jax
import numpy as np
from etils import epath

from jaxstyle.config import Config, FileError, flat
from jaxstyle.engine import Progress, Record, Result, State, begin, outcome
from jaxstyle.imaging import Image, files, images, resize_image, to_json
from jaxstyle.storage.folders import (
    check_parent,
    has_begun,
    is_recorded,
    nothing_to_start_from,
    read_metrics,
)
from jaxstyle.storage.identity import Identity, check_same, differences
from jaxstyle.storage.pace import Pace, Schedule

if TYPE_CHECKING:
    from jaxstyle.storage.checkpoints import Checkpoints

_BUDGETS = ("evaluations", "coarse_evaluations", "first_evaluations")

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of file systems without locks, as some network mounts are."""

CHECKPOINTS = Schedule(every=50)
"""When runs save their progress, if nothing else is asked for."""


class Run:
    """The folder of a run, locked by this process until closed; a `Keeper`.

    Methods that write raise `FileError` if the disk is full; the last checkpoint remains.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        checkpoints: Schedule = CHECKPOINTS,
        checkpoint_seconds: float = math.inf,
        snapshots: Schedule = Schedule(),
        on_scale: Callable[[], None] = lambda: None,
        as_result: Callable[[Image], Image] = lambda image: image,
    ) -> None:
        """Lock the folder, local or `gs://`, and create it if missing.

        Args:
            folder: the folder, used by this run alone.
            checkpoints: when to save progress; it is also saved when a scale begins and when
                the run is stopped or ends.
            checkpoint_seconds: longest time between checkpoints, unless saving takes more than a
                small part of it. The first ones follow sooner, after a second, two, four ….
            snapshots: when to save the best image so far.
            on_scale: called once the start of a new scale is safely on disk.
            as_result: converts an image of the loop to what a result shows; used for snapshots.

        Raises:
            FileError: the folder cannot be written to, or another process has locked it. Buckets
                have no locks.
        """
        self.on_image: Callable[[int, Image], None] = lambda *_: None
        """Called with the evaluation and the image of each snapshot and of the result."""
        self._checkpoint_schedule, self._snapshot_schedule = checkpoints, snapshots
        self._on_scale, self._as_result = on_scale, as_result
        first = checkpoint_seconds if math.isinf(checkpoint_seconds) else 1.0
        self._pace = Pace(min(first, checkpoint_seconds), checkpoint_seconds)
        self._lines: list[str] = []
        self._metrics: io.RawIOBase | None = None
        self._last: Record | None = None
        self._kept = 0
        self.folder = files.make_folder(folder)
        with contextlib.ExitStack() as stack:
            _lock(self.folder, stack)
            for name in ("", "inputs", "snapshots"):
                files.remove_leftovers(self.folder / name)
            self._checkpoints = _checkpoints(self.folder, on_written=self._pace.took)
            stack.callback(self._checkpoints.close)
            self._closing = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait until everything is written, then release the folder."""
        self._closing.close()

    def identify(self, identity: Identity) -> None:
        """Record the identity of the run or, if it has begun, check that it is the same.

        Raises:
            FileError: the folder is of another run; the message shows the difference.
        """
        if is_recorded(self.folder):
            check_same(self.folder, identity)
            return
        self.record_identity(identity)
        if not has_begun(self.folder):  # what there is may be another run's, which was cut off
            files.remove_folder(self.folder / "inputs")

    def record_identity(self, identity: Identity) -> None:
        """Record the identity of the run, in place of what is recorded."""
        files.write_atomically(self.folder / "config.toml", identity.to_toml().encode())

    def show_inputs(self, content: Image, styles: Sequence[Image]) -> None:
        """Save the inputs as used, for viewing later."""
        folder = files.make_folder(self.folder / "inputs")
        names = ["content", *(f"style-{number}" for number in range(1, len(styles) + 1))]
        for name, picture in zip(names, [content, *styles], strict=True):
            if not (folder / f"{name}.jpg").exists():
                images.save_image(folder / f"{name}.jpg", picture)

    def resume(
        self, like: Callable[[int], State], start: Progress | None = None
    ) -> Progress | None:
        """Return the progress of the run, and continue its metrics from it.

        Args:
            like: gives the expected structure and shapes of a scale's state.
            start: from `fork`, the progress of a run that has none of its own; it is saved.

        Raises:
            FileError: see `Checkpoints.restore`.
        """
        progress = self._checkpoints.restore(like) or start
        path = self.folder / "metrics.jsonl"
        # Measurements that are not part of the records are only in this file.
        rows = read_metrics(self.folder) if path.exists() else []
        old_lines = {row["evaluation"]: to_json(row) + "\n" for row in rows}
        for record in progress.records if progress else ():
            line = old_lines.get(record.evaluation) or _line(record, self._last, None)
            self._lines.append(line)
            self._last = record
            self._kept = record.evaluation
        self._write_metrics()
        if files.is_local(path):
            # Unbuffered, so that it can be followed and no line is lost if the process dies.
            self._metrics = open(path, "ab", buffering=0)  # noqa: PTH123, SIM115
            self._closing.enter_context(self._metrics)
        if progress is not None:
            self._save(progress)
            self._checkpoints.wait()
        return progress

    def _write_metrics(self) -> None:
        files.write_atomically(self.folder / "metrics.jsonl", "".join(self._lines).encode())

    def record(self, record: Record) -> None:
        """Append one evaluation to the metrics; an earlier one takes the place of those since."""
        if self._last is not None and record.evaluation <= self._last.evaluation:
            self._rewind(record.evaluation)
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_in_use")
        line = _line(record, self._last, memory)
        self._last = record
        if self._metrics is None:  # bucket objects cannot grow; written with the checkpoints
            self._lines.append(line)
            return
        try:
            if self._metrics.write(line.encode()) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise FileError(
                f"{self.folder}: metrics.jsonl cannot be written ({error.strerror}); "
                "the last checkpoint is still there"
            ) from None

    def _rewind(self, evaluation: int) -> None:
        """Forget the metrics from an evaluation on: memory ran out, and the run started over."""
        self._last, self._kept = None, evaluation - 1
        if self._metrics is None:
            del self._lines[evaluation - 1 :]
            return
        lines = files.read_bytes(self.folder / "metrics.jsonl").splitlines(keepends=True)
        self._metrics.truncate(sum(map(len, lines[: evaluation - 1])))

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._pace.due()

    def wants(self, evaluation: int) -> bool:
        """Return whether a checkpoint or snapshot is due at `evaluation`; see `Keeper`."""
        schedules = self._checkpoint_schedule, self._snapshot_schedule
        return self.is_due or any(each.has(evaluation) for each in schedules)

    def keep(self, progress: Progress) -> None:
        """Save the snapshot and checkpoint that are due; see `Keeper`."""
        evaluation = progress.evaluations
        # An update of several evaluations may have passed a scheduled one.
        passed = range(self._kept + 1, evaluation + 1)
        self._kept = evaluation
        if any(map(self._snapshot_schedule.has, passed)):
            image = self._as_result(np.asarray(outcome(progress.state)))
            folder = files.make_folder(self.folder / "snapshots")
            images.save_image(folder / f"{evaluation:06}.png", image)
            self.on_image(evaluation, image)
        if self.is_due or any(map(self._checkpoint_schedule.has, passed)):
            self._save(progress)

    def save(self, progress: Progress) -> None:
        """Save a checkpoint, which is on disk when this returns; see `Keeper`."""
        self._kept = progress.evaluations
        self._save(progress)
        self._checkpoints.wait()
        if not progress.history:
            self._on_scale()

    def _save(self, progress: Progress) -> None:
        if self._metrics is None and self._lines:
            self._write_metrics()
        self._checkpoints.save(progress)
        self._pace.saved()

    def finish(
        self,
        result: Result,
        summary: Mapping[str, Any],
        *,
        alpha: np.ndarray | None = None,
        bits: Literal[8, 16] = 8,
    ) -> None:
        """Write the result and mark the run as finished.

        Args:
            result: the result.
            summary: from `summarize`.
            alpha: the alpha channel of the image, if it has one.
            bits: bits per channel of the image.
        """
        self._checkpoints.wait()
        if self._metrics is None:
            self._write_metrics()
        path = self.folder / "image.png"
        metadata = json.dumps(summary)
        images.save_image(path, result.image, alpha=alpha, bits=bits, metadata=metadata)
        self.on_image(result.evaluations, result.image)
        times = {"seconds": result.seconds, "compile_seconds": result.compile_seconds}
        text = to_json({**summary, "rejected": result.rejected, **times}, indent=2)
        files.write_atomically(self.folder / "result.json", text.encode())


def fork(
    folder: epath.PathLike,
    identity: Identity,
    like: Callable[[int], State],
    shape: tuple[int, ...],
) -> tuple[Progress, Mapping[str, str]]:
    """Return the starting point of a new run that continues the one in `folder`.

    Args:
        folder: the folder of the run to start from; it may be under way.
        identity: the identity of the new run. If it differs only in budgets, and no schedule
            depends on them, the new run continues the whole state, its history included, however
            much of the budgets is spent. Otherwise it starts from the resulting image alone, and
            the optimizer knows nothing of the new objective's curvature.
        like: gives the expected structure and shapes of a scale's state.
        shape: `(height, width)` of the new run's image at its first scale.

    Returns:
        The progress, and what differs, by setting or role, if it is of the image alone.

    Raises:
        FileError: `folder` is not a run's, or has no checkpoint yet.
    """
    check_parent(folder)
    changed = differences(folder, identity)
    harmless = () if identity.config.scheduled else _BUDGETS
    checkpoints = _checkpoints(epath.Path(folder), read_only=True)
    try:
        if set(changed) <= set(harmless):
            progress = checkpoints.restore(like)
            if progress is not None:
                return progress, {}
        image = checkpoints.image()
    finally:
        checkpoints.close()
    if image is None:  # the first is being written
        raise nothing_to_start_from(folder)
    return begin(resize_image(image, shape), identity.config), changed


def summarize(
    config: Config, sha256: Mapping[str, Sequence[str]], result: Result
) -> dict[str, Any]:
    """Summarize how to repeat a run; without times, so that a repeat writes the same file."""
    device = jax.devices()[0]
    return {
        "config": flat(config),
        "sha256": dict(sha256),
        "versions": dict(versions()),
        "device": f"{device.platform} {device.device_kind}",
        "convolution": result.convolution,
        "activations": result.activations,
        "evaluations": result.evaluations,
        "reason": result.reason,
        "loss": result.loss,
        "terms": result.terms,
    }


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of the packages that a result depends on, by name."""
    packages = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy")
    return {name: importlib.metadata.version(name) for name in packages}


def _lock(folder: epath.Path, stack: contextlib.ExitStack) -> None:
    """Lock the folder until the stack is closed, by whatever thread."""
    if not files.is_local(folder):
        return
    lock = filelock.FileLock(folder / ".lock", thread_local=False)
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
            stacklevel=3,
        )


def _checkpoints(folder: epath.Path, **options: Any) -> "Checkpoints":
    # Orbax takes a quarter of a second to import; most runs have no folder.
    from jaxstyle.storage.checkpoints import Checkpoints

    return Checkpoints(folder / "checkpoint", **options)


def _line(record: Record, last: Record | None, memory: int | None) -> str:
    evaluations = record.evaluation - (last.evaluation if last else 0)
    seconds = record.seconds - (last.seconds if last else 0)
    row = record._asdict() | {
        "evaluations_per_second": evaluations / seconds if seconds > 0 else None,
        "memory_bytes": memory,
    }
    return to_json(row) + "\n"
