"""A grid of many cells by processes that are killed and whose disk is full: each cell once."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jaxstyle import Config, save_image
from jaxstyle.storage.cells import product
from jaxstyle.storage.grid import Entry, Grid
from tests.conftest import picture

ROOT = Path(__file__).parents[2]
CELLS = os.environ.get("JAXSTYLE_CELLS", "60")


@pytest.mark.slow
@pytest.mark.parametrize("lag", ["0", "3"])
def test_every_cell_is_made_once(lag: str) -> None:
    words = ["--cells", CELLS, "--kills", "3", "--lag", lag]
    done = subprocess.run(
        [sys.executable, "-m", "tests.many_cells", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"] == int(CELLS)


def test_rows_that_are_seen_late_are_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", picture(24, 24, 0))
    path = str(tmp_path / "a.png")
    cells = product([path], [path], [Config(size=24, seed=seed) for seed in range(3)])
    grid = Grid(cells, tmp_path / "out", weights_sha256="0")
    (tmp_path / "out" / "cells").mkdir(parents=True)

    def write(entry: Entry) -> None:
        row = json.dumps({"status": "failed", "reason": "it"})
        (tmp_path / "out" / "cells" / f"{entry.name}.json").write_text(row)

    write(grid.entries[0])
    began = time.monotonic()
    assert grid.rows_of_all(0.2)[grid.entries[1].name] is None
    assert 0.2 <= time.monotonic() - began < 30
    timers = [threading.Timer(0.2 * n, write, [grid.entries[n]]) for n in (1, 2)]
    for timer in timers:
        timer.start()
    assert grid.summary(grid.rows_of_all(60)).failed == 3


def test_images_that_wait_to_be_written_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(tmp_path / "a.png", picture(24, 24, 0))
    path = str(tmp_path / "a.png")
    cells = product([path], [path], [Config(size=24, seed=seed) for seed in range(6)])
    grid = Grid(cells, tmp_path / "out", weights_sha256="0")
    made, written = [], []

    def outcomes(cells: list, *_: object, **__: object):
        for index in range(len(cells)):
            assert len(made) - len(written) <= 3
            made.append(index)
            yield index, np.zeros(1)

    def finish(entry: Entry, *_: object) -> None:
        time.sleep(0.02)
        written.append(entry)

    monkeypatch.setattr("jaxstyle.storage.grid.stylize_cells", outcomes)
    monkeypatch.setattr("jaxstyle.storage.grid._MOST_WAITING", 2)
    monkeypatch.setattr(grid, "_finish", finish)
    grid.run({})  # pyright: ignore[reportArgumentType]
    assert [entry.name for entry in written] == [entry.name for entry in grid.share((0, 1))]
