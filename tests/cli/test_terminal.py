"""Progress where there is no terminal: lines in a log."""

import itertools
import re
import time

import pytest

from jaxstyle.cli.terminal import run_progress
from jaxstyle.config import Config
from jaxstyle.engine import Record


def record(evaluation: int) -> Record:
    return Record(evaluation, 250.0, {}, 1.0, 1.0, True, 1.0, 0.0, 0)


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with run_progress(Config(evaluations=200), (32, 48), quiet=False, every=30.0) as show:
        for evaluation in range(1, 101):
            show(record(evaluation))
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert 2 <= len(lines) <= 7
    line = r"jaxstyle: \d+/200 evaluations, loss 250(, \d+:\d\d:\d\d left)?"
    assert all(re.fullmatch(line, each) for each in lines)
    assert "left" in lines[-1]
    assert printed.out == ""


def test_quiet_writes_no_lines(capsys: pytest.CaptureFixture) -> None:
    with run_progress(Config(evaluations=200), (32, 48), quiet=True, every=0.0) as show:
        show(record(1))
    assert capsys.readouterr().err == ""
