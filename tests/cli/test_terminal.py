"""Progress where stderr is a file."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from jaxstyle import Config, Pyramid
from jaxstyle.cli import terminal

SCALES = Config(evaluations=10, scales=Pyramid(2, scale_factor=2.0, coarse_evaluations=20))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by ten seconds whenever it is read."""
    times = itertools.count(0.0, 10.0)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(times))


def show_run(every: float, quiet: bool = False) -> None:
    with terminal.run_progress(SCALES, (100, 100), quiet, every) as show:
        for evaluation in range(1, 31):
            record: Any = SimpleNamespace(evaluation=evaluation, loss=1234.5678)
            show(record)


def test_a_run_has_a_line_now_and_then(capsys: pytest.CaptureFixture) -> None:
    show_run(every=100)
    printed = capsys.readouterr()
    # Evaluations at half size count a quarter: 15 in all.
    assert printed.err == (
        "jaxstyle: compiling\n"
        "jaxstyle: 11/30 evaluations, loss 1235, 0:08:10 left\n"
        "jaxstyle: 21/30 evaluations, loss 1235, 0:05:13 left\n"
    )
    assert printed.out == ""


@pytest.mark.parametrize(("every", "quiet"), [(0.0, False), (30.0, True)])
def test_lines_can_be_switched_off(every: float, quiet: bool, capsys: Any) -> None:
    show_run(every, quiet)
    assert capsys.readouterr().err == ""


def entry(name: str, problem: str | None = None) -> Any:
    cell = SimpleNamespace(config=SCALES)
    return SimpleNamespace(cell=cell, shape=(100, 100), name=name, problem=problem)


def test_cells_of_unusable_files_have_no_evaluations_to_wait_for(
    capsys: pytest.CaptureFixture,
) -> None:
    entries = [entry("a"), entry("b", "b.png: not an image"), entry("c", "b.png: not an image")]
    with terminal.cells_progress(entries, quiet=False, every=1) as (on_cell, on_evaluations):
        on_cell(entries[1], entries[1].problem)
        on_cell(entries[2], entries[2].problem)
        for _ in range(3):
            on_evaluations(10)
    assert capsys.readouterr().err == (
        "jaxstyle: compiling\n"
        "jaxstyle: b.png: not an image (2 cells fail)\n"
        "jaxstyle: 20/30 evaluations, 2/3 cells, 0:00:10 left\n"
        "jaxstyle: 30/30 evaluations, 2/3 cells, 0:00:00 left\n"
    )


def test_a_grid_that_has_nothing_to_do_compiles_nothing(capsys: pytest.CaptureFixture) -> None:
    for entries in ([], [entry("b", "b.png: not an image")]):
        with terminal.cells_progress(entries, quiet=False, every=100):
            pass
    assert capsys.readouterr().err == ""


def test_a_grid_has_a_line_now_and_then(capsys: pytest.CaptureFixture) -> None:
    entries = [entry("a"), entry("b")]
    with terminal.cells_progress(entries, quiet=False, every=100) as (on_cell, on_evaluations):
        for _ in range(15):
            on_evaluations(2)
        on_cell(entries[0], None)
        for _ in range(15):
            on_evaluations(2)
        on_cell(entries[1], "its loss was not finite")
    assert capsys.readouterr().err == (
        "jaxstyle: compiling\n"
        "jaxstyle: 22/60 evaluations, 0/2 cells, 0:03:10 left\n"
        "jaxstyle: 42/60 evaluations, 1/2 cells, 0:01:30 left\n"
        "jaxstyle: b: its loss was not finite\n"
    )
