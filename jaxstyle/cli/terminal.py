"""Terminal output: results on stdout, errors, warnings and progress bars on stderr."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxstyle.config import Config

# Heavy modules are imported where used, so that --help and user errors need not wait for JAX.
if TYPE_CHECKING:
    from jaxstyle.engine import Callback, Record
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


@contextlib.contextmanager
def run_progress(
    config: Config, shape: tuple[int, int], quiet: bool, every: float
) -> Iterator["Callback"]:
    """Show loss and time left on stderr: a bar on a terminal, else a line `every` few seconds."""
    from jaxstyle.engine import pyramid

    total = sum(level.evaluations for level in pyramid.levels(config, shape))
    with _bar(quiet) as bar:
        task = bar.add_task("", total=total, state="loss …")
        write = _lines(bar, quiet, every)

        def show(record: "Record") -> None:
            bar.update(task, completed=record.evaluation, state=f"loss {record.loss:.4g}")
            write()

        yield show


@contextlib.contextmanager
def cells_progress(
    todo: Sequence["grid.Entry"], quiet: bool, every: float
) -> Iterator[tuple["grid.OnCell", Callable[[int], None]]]:
    """Show the progress of cells on stderr, as of runs, and a line per failed cell."""
    from jaxstyle.engine import pyramid

    levels = [level for e in todo for level in pyramid.levels(e.cell.config, e.shape)]
    with _bar(quiet) as bar:
        total = sum(level.evaluations for level in levels)
        task = bar.add_task("", total=total, state=f"0/{len(todo)} cells")
        write = _lines(bar, quiet, every)
        done = 0

        def on_cell(entry: "grid.Entry", problem: str | None) -> None:
            nonlocal done
            done += 1
            bar.update(task, state=f"{done}/{len(todo)} cells")
            if problem is not None:
                complain(f"{entry.name}: {problem}")

        def on_evaluations(count: int) -> None:
            bar.advance(task, count)
            write()

        yield on_cell, on_evaluations


def _lines(bar: Progress, quiet: bool, every: float) -> Callable[[], None]:
    """Return a function that writes the state of `bar` as a line, if it is due, to a log."""
    last = time.monotonic()

    def write() -> None:
        nonlocal last
        if quiet or sys.stderr.isatty() or time.monotonic() < last + every:
            return
        last = time.monotonic()
        (task,) = bar.tasks
        left = "" if task.time_remaining is None else f", {_duration(task.time_remaining)} left"
        state = task.fields["state"]
        complain(f"{task.completed:.0f}/{task.total:.0f} evaluations, {state}{left}")

    return write


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _bar(quiet: bool) -> Progress:
    """Create a progress bar on stderr, disabled if that is not a terminal."""
    return Progress(
        TextColumn("{task.completed}/{task.total} evaluations"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )
