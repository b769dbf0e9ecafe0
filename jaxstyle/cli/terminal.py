"""Terminal output: results on stdout, errors, warnings and progress on stderr."""

import collections
import contextlib
import ctypes
import datetime
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxstyle.config import Config

# Heavy modules are imported where used, so that --help and user errors need not wait for JAX.
if TYPE_CHECKING:
    from jaxstyle.engine import Callback, Record, pyramid
    from jaxstyle.storage import grid


@contextlib.contextmanager
def reader_may_leave(stream: Literal["stdout", "stderr"]) -> Iterator[None]:
    """Flush `stream` at the end; if its reader is gone or its disk full, discard its output."""
    try:
        try:
            yield
        finally:
            getattr(sys, stream).flush()
    except OSError:  # the work itself is done, or the exit code tells
        setattr(sys, stream, open(os.devnull, "w"))  # noqa: PTH123, SIM115


def say(text: str, quiet: bool = False) -> None:
    """Print the result of a command."""
    if not quiet:
        with reader_may_leave("stdout"):
            print(text)  # noqa: T201


def complain(text: str) -> None:
    """Print an error or a warning."""
    with reader_may_leave("stderr"):
        print(f"jaxstyle: {text}", file=sys.stderr)  # noqa: T201


def silence_libtiff() -> None:
    """Keep libtiff from writing to stderr of damaged files, which Pillow raises errors for."""
    from PIL import _imaging  # noqa: F401 - which loads it

    with contextlib.suppress(OSError, AttributeError):  # only Linux tells which library it is
        maps = Path("/proc/self/maps").read_text()
        for library in set(re.findall(r"/.*/libtiff\b.*", maps)):
            ctypes.CDLL(library).TIFFSetErrorHandler(None)


@contextlib.contextmanager
def run_progress(
    config: Config, shape: tuple[int, ...], quiet: bool, every: float
) -> Iterator["Callback"]:
    """Show evaluations, loss and time left on stderr: as a bar, or in a log as lines."""
    from jaxstyle.engine import pyramid

    levels = pyramid.levels(config, shape)
    total = sum(level.evaluations for level in levels)
    log = _Log(quiet, every, _work(levels, total))
    bar = _bar(quiet, "{task.fields[state]}")
    log.start()
    with bar:
        task = bar.add_task("", total=total, state="compiling")

        def show(record: "Record") -> None:
            count, loss = record.evaluation, f"{record.loss:.4g}"
            bar.update(task, completed=count, state=f"loss {loss}")
            log.show(_work(levels, count), f"{count}/{total} evaluations, loss {loss}")

        yield show


@contextlib.contextmanager
def cells_progress(
    todo: Sequence["grid.Entry"], quiet: bool, every: float
) -> Iterator[tuple["grid.OnCell", Callable[[int], None]]]:
    """Show evaluations of cells and time left like `run_progress`, and a line per failed cell."""
    from jaxstyle.engine import pyramid

    usable = [entry for entry in todo if entry.problem is None]
    levels = [level for e in usable for level in pyramid.levels(e.cell.config, e.shape)]
    total = sum(level.evaluations for level in levels)
    log = _Log(quiet, every, total)
    bar = _bar(quiet, "{task.fields[cells]} cells")
    if usable:
        log.start()
    with bar:
        task = bar.add_task("", total=total, cells=f"0/{len(todo)}")
        done = count = 0

        unusable = collections.Counter(entry.problem for entry in todo)
        told: set[str] = set()

        def on_cell(entry: "grid.Entry", problem: str | None) -> None:
            nonlocal done
            done += 1
            bar.update(task, cells=f"{done}/{len(todo)}")
            if problem is not None and entry.problem is None:
                complain(f"{entry.name}: {problem}")
            elif problem is not None and problem not in told:  # of a file that many cells may have
                told.add(problem)
                cells = unusable[problem]
                complain(problem if cells == 1 else f"{problem} ({cells} cells fail)")

        def on_evaluations(more: int) -> None:
            nonlocal count
            count += more
            bar.update(task, completed=count)
            log.show(count, f"{count}/{total} evaluations, {done}/{len(todo)} cells")

        yield on_cell, on_evaluations


def _work(levels: Sequence["pyramid.Level"], evaluations: int) -> float:
    """Return the cost of a run's first `evaluations`, in evaluations of the last scale."""
    work = 0.0
    for level in levels:
        here = min(evaluations, level.evaluations)
        work += here * level.ratio**2
        evaluations -= here
    return work


class _Log:
    """Lines of progress on stderr, one every so many seconds, if that is no terminal."""

    def __init__(self, quiet: bool, every: float, total: float) -> None:
        self._shown = every > 0 and not quiet and not sys.stderr.isatty()
        self._every, self._total = every, total
        self._begin: tuple[float, float] | None = None
        self._last = 0.0

    def start(self) -> None:
        """Say what happens before the first evaluation, which may be a minute away."""
        if self._shown:
            complain("compiling")

    def show(self, done: float, text: str) -> None:
        """Show `text` if it is time, and the time that the rest of the work takes."""
        now = time.monotonic()
        if self._begin is None:  # the work before may have been done by another process
            self._begin, self._last = (now, done), now
        start, before = self._begin
        if not self._shown or now - self._last < self._every or done <= before:
            return
        self._last = now
        left = (now - start) / (done - before) * max(self._total - done, 0)
        complain(f"{text}, {datetime.timedelta(seconds=round(left))} left")


def _bar(quiet: bool, field: str) -> Progress:
    """Create a progress bar on stderr, disabled if that is not a terminal."""
    return Progress(
        TextColumn("{task.completed}/{task.total} evaluations"),
        BarColumn(),
        TextColumn(field),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )
