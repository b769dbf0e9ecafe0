"""Terminal output: results on stdout, errors, warnings and progress bars on stderr."""

import contextlib
import os
import sys
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
def run_progress(config: Config, shape: tuple[int, int], quiet: bool) -> Iterator["Callback"]:
    """Show a progress bar on stderr with loss and time left, if stderr is a terminal."""
    from jaxstyle.engine import pyramid

    total = sum(level.evaluations for level in pyramid.levels(config, shape))
    bar = _bar(quiet, "loss {task.fields[loss]}")
    with bar:
        task = bar.add_task("", total=total, loss="…")

        def show(record: "Record") -> None:
            bar.update(task, completed=record.evaluation, loss=f"{record.loss:.4g}")

        yield show


@contextlib.contextmanager
def cells_progress(
    todo: Sequence["grid.Entry"], quiet: bool
) -> Iterator[tuple["grid.OnCell", Callable[[int], None]]]:
    """Show a progress bar on stderr for the evaluations of cells, and a line per failed cell."""
    from jaxstyle.engine import pyramid

    levels = [level for e in todo for level in pyramid.levels(e.cell.config, e.shape)]
    bar = _bar(quiet, "{task.fields[cells]} cells")
    with bar:
        task = bar.add_task(
            "", total=sum(level.evaluations for level in levels), cells=f"0/{len(todo)}"
        )
        done = 0

        def on_cell(entry: "grid.Entry", problem: str | None) -> None:
            nonlocal done
            done += 1
            bar.update(task, cells=f"{done}/{len(todo)}")
            if problem is not None:
                complain(f"{entry.name}: {problem}")

        yield on_cell, lambda count: bar.advance(task, count)


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
