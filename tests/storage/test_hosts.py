"""Several devices and several processes: real ones, on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxstyle import save_image
from jaxstyle.network.arrays import Params
from tests.conftest import picture

ROOT = Path(__file__).parents[2]

# A grid of ten cells on the small random network; names of the cells done go to stdout.
CHILD = """
import json, sys
from pathlib import Path
from jaxstyle.storage import hosts
from jaxstyle.storage.cells import product
from jaxstyle.storage.grid import Grid
from tests.conftest import SHALLOW, random_params

folder, output, distributed, size = sys.argv[1:]
shard = hosts.join_cluster() if distributed == "yes" else (0, 1)
config = SHALLOW.replace(size=int(size), evaluations=6, style_weight=1.0, tv_weight=1e-5)
configs = [config.replace(init="noise", seed=seed) for seed in range(5)]
inputs = [str(Path(folder) / f"{name}.png") for name in ("one", "two", "three")]
make = lambda: Grid(product(inputs[:2], inputs[2:], configs), output, weights_sha256="small")
grid = hosts.agree(make, lambda grid: grid.identity) if distributed == "yes" else make()
if distributed == "yes":
    hosts.leave_cluster()
done = []
grid.run(random_params(), shard=shard, lanes=1, on_cell=lambda entry, _: done.append(entry.name))
print(json.dumps(done))
"""

# The command line, which a third cell is too many for.
KILLED_AFTER_TWO_CELLS = """
import os, signal
from jaxstyle.cli import main
from jaxstyle.storage.grid import Grid

write, written = Grid._write_row, []

def deadly(*arguments):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments)
    written.append(arguments)

Grid._write_row = deadly
main()
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("one", "two", "three")):
        save_image(folder / f"{name}.png", picture(48, 64, seed))
    return folder


def start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def cluster(*commands: list[str]) -> list[subprocess.Popen[str]]:
    """A process for each command, told of the others."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    return [
        start(
            command,
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES=str(len(commands)),
            JAX_PROCESS_ID=str(index),
        )
        for index, command in enumerate(commands)
    ]


def finished(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out, err


def last_line(process: subprocess.Popen[str]) -> list[str]:
    return json.loads(finished(process)[0].splitlines()[-1])


def images_in(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "cells").glob("*.png")}


@pytest.mark.slow
def test_eight_devices_make_the_images_that_one_makes(files: Path, tmp_path: Path) -> None:
    for count in ("1", "8"):
        command = ["-c", CHILD, str(files), str(tmp_path / count), "no", "32"]
        assert len(last_line(start(command, JAX_NUM_CPU_DEVICES=count))) == 10
    assert len(images_in(tmp_path / "1")) == 10
    assert images_in(tmp_path / "1") == images_in(tmp_path / "8")


@pytest.mark.slow
def test_two_processes_do_every_cell_once(files: Path, tmp_path: Path) -> None:
    command = ["-c", CHILD, str(files), str(tmp_path / "both"), "yes", "32"]
    done = [last_line(process) for process in cluster(command, command)]
    assert all(done)
    assert len(done[0]) + len(done[1]) == len({*done[0], *done[1]}) == 10
    last_line(start(["-c", CHILD, str(files), str(tmp_path / "alone"), "no", "32"]))
    assert images_in(tmp_path / "both") == images_in(tmp_path / "alone")


def test_processes_with_different_grids_are_told(files: Path, tmp_path: Path) -> None:
    commands = [["-c", CHILD, str(files), str(tmp_path), "yes", size] for size in ("32", "40")]
    for process in cluster(*commands):
        message = "host 1 differs from host 0 in: the cells or their settings"
        assert message in finished(process, code=1)[1]
    assert not (tmp_path / "cells").exists()


def test_a_process_that_the_system_refuses_something_ends_all() -> None:
    child = """
from jaxstyle.storage import hosts

def prepare():
    if index == 0:
        raise PermissionError(13, "Permission denied", "RUN")

index, _ = hosts.join_cluster()
hosts.agree(prepare, lambda _: {})
"""
    first, second = cluster(["-c", child], ["-c", child])
    assert "PermissionError" in finished(first, code=1)[1]
    assert "host 0: [Errno 13] Permission denied: 'RUN'" in finished(second, code=1)[1]


@pytest.mark.slow
def test_the_same_command_completes_what_a_killed_host_left(
    files: Path, tmp_path: Path, imagenet: Params
) -> None:
    output = tmp_path / "out"
    command = ["grid", "--contents", str(files / "one.png"), str(files / "two.png")]
    command += ["--styles", str(files / "three.png"), "-o", str(output), "--distributed"]
    command += ["--sweep", "seed=0:4", "--init", "noise", "--size", "32", "--evaluations", "2"]
    command += ["--lanes", "1", "--convolution", "direct", "--offline", "--scales", "1"]
    command += ["--style-statistics", "gram", "--content-layers", "relu2_1"]
    command += ["--style-layers", "relu1_1", "relu2_1"]
    # Each has four cells to do.
    survivor, killed = cluster(
        ["-m", "jaxstyle", *command], ["-c", KILLED_AFTER_TWO_CELLS, *command]
    )
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert "not there yet" in finished(survivor)[0]
    kept = {path: path.stat().st_mtime_ns for path in (output / "cells").glob("*.json")}
    assert len(kept) == 4 + 2
    assert not (output / "grid.jsonl").exists()
    for process in cluster(*[["-m", "jaxstyle", *command]] * 2):
        finished(process)
    assert all(path.stat().st_mtime_ns == time_of for path, time_of in kept.items())
    rows = [json.loads(row) for row in (output / "grid.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["done"] * 8
    assert len({row["cell"] for row in rows}) == len(images_in(output)) == 8
    assert (output / "sheet-001.jpg").exists()


def test_a_cluster_that_is_not_there_is_told(files: Path, tmp_path: Path) -> None:
    command = ["-m", "jaxstyle", "grid", "--contents", str(files), "--styles", str(files)]
    _, err = finished(start([*command, "-o", str(tmp_path / "out"), "--distributed"]), code=2)
    assert "--shard" in err
    assert len(err.strip().splitlines()) == 1
