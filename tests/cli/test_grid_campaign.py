"""Grids as people run them: the installed command, default preset, real weights, a time limit.

Nothing here is about what comes out; that is tested where it is quick. What is tested is that
every run ends.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from jaxstyle import preset, stylize_batch
from jaxstyle.network.arrays import Params
from tests.conftest import pattern, picture

pytestmark = pytest.mark.slow

LIMIT = 600
"""Seconds, on a machine that may be busy: 20 to 50 are what it takes on two idle cores."""


@pytest.fixture
def folder(tmp_path: Path, imagenet: Params) -> Path:
    """Two photographs and two paintings, with the weights there."""
    for seed, name in enumerate(("photos/a", "photos/b", "paintings/s", "paintings/t")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Pil.fromarray(pattern(72, 96, seed)).save(path)
    return tmp_path


def run_grid(folder: Path, *arguments: str, output: str = "out", **variables: str) -> None:
    """Run the README's command to its end."""
    command = [str(Path(sys.executable).with_name("jaxstyle")), "grid"]
    command += ["--contents", "photos", "--styles", "paintings", "-o", output, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        command, cwd=folder, env=environment | variables, timeout=LIMIT, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"4 cells done, 0 failed" in done.stdout
    assert len(list((folder / output / "cells").glob("*.png"))) == 4


@pytest.mark.parametrize(("devices", "lanes"), [(1, 1), (2, 5), (8, 1)])
def test_a_grid_ends(folder: Path, devices: int, lanes: int) -> None:
    settings = ("--size", "32", "--evaluations", "2", "--lanes", str(lanes))
    run_grid(folder, *settings, JAX_NUM_CPU_DEVICES=str(devices))


def test_grids_end_with_the_devices_that_a_cpu_is_shared_into(folder: Path) -> None:
    """Few starts and many evaluations: each of either may be where a grid stops."""
    for start in range(2):
        run_grid(folder, "--size", "96", "--evaluations", "8", output=f"out{start}")


def test_a_grid_ends_beside_a_busy_process(folder: Path) -> None:
    program = "import numpy as np\na = np.ones((1500, 1500))\nwhile True: a = a @ a % 1"
    busy = subprocess.Popen([sys.executable, "-c", program])
    try:
        run_grid(folder, "--size", "96", "--evaluations", "8")
    finally:
        busy.kill()
        busy.wait()


def test_a_batch_ends_in_a_thread(imagenet: Params) -> None:
    config = preset("default").replace(size=96, evaluations=2)
    contents = [picture(72, 96, seed) for seed in range(4)]
    results: list[Sequence[Any]] = []

    def render() -> None:
        results.append(stylize_batch(contents, picture(72, 96, 7), config, imagenet))

    thread = threading.Thread(target=render, daemon=True)
    thread.start()
    thread.join(LIMIT)
    (batch,) = results
    assert all(np.isfinite(result.loss) for result in batch)
