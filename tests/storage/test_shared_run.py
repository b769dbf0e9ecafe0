"""One image spread over two processes, real ones on this machine."""

import json
import signal
from pathlib import Path

import pytest

from jaxstyle import save_image
from jaxstyle.network import Params
from tests.conftest import picture
from tests.storage.test_hosts import cluster, finished

# The command line of a process that gets a signal at an evaluation.
SIGNALLED = """
import os, sys
from jaxstyle.cli import main
from jaxstyle.storage import SharedRun

number, at = int(sys.argv.pop(1)), int(sys.argv.pop(1))
decide, calls = SharedRun.decide, []

def signalled(self, signal):
    calls.append(signal)
    if len(calls) == at:
        os.kill(os.getpid(), number)
    return decide(self, signal)

SharedRun.decide = signalled
main()
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    save_image(tmp_path / "content.png", picture(96, 80, 0))
    save_image(tmp_path / "style.png", picture(64, 72, 1))
    words = (
        f"stylize {tmp_path}/content.png {tmp_path}/style.png --distributed --size 96 "
        "--scales 2 --evaluations 8 --style-statistics gram --style-layers relu1_1 relu2_1 "
        "--content-layers relu2_1"
    )
    return words.split()


def plain(command: list[str]) -> list[str]:
    return ["-m", "jaxstyle", *command]


def signalled(number: int, at: int, command: list[str]) -> list[str]:
    return ["-c", SIGNALLED, str(number), str(at), *command]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_ends_of_hosts_change_nothing(command: list[str], tmp_path: Path, imagenet: Params) -> None:
    whole, often = tmp_path / "whole", tmp_path / "often"
    command = [*command, "--checkpoint-seconds", "0.001"]
    for process in cluster(*[plain([*command, "--workdir", str(whole)])] * 2):
        finished(process)
    command = [*command, "--workdir", str(often)]

    survivor, killed = cluster(plain(command), signalled(signal.SIGKILL, 5, command))
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    # It is ended by the error of a collective, or by the coordination service.
    survivor.communicate(timeout=200)
    assert survivor.returncode in (1, -signal.SIGABRT)
    reached = len(losses(often))
    assert 0 < reached < 16

    for process in cluster(plain(command), signalled(signal.SIGTERM, 6, command)):
        assert "terminated at evaluation" in finished(process, code=128 + signal.SIGTERM)[1]
    assert reached < len(losses(often)) < 16

    output = tmp_path / "out.png"
    for process in cluster(*[plain(command)] * 2):
        finished(process)
    assert losses(often) == losses(whole)
    assert (often / "image.png").read_bytes() == (whole / "image.png").read_bytes()
    for process in cluster(*[plain([*command, "-o", str(output)])] * 2):
        finished(process)  # told of the end of the run
    assert output.read_bytes() == (whole / "image.png").read_bytes()


@pytest.mark.slow
def test_a_signal_writes_the_image_once(
    command: list[str], tmp_path: Path, imagenet: Params
) -> None:
    command = [*command, "-o", str(tmp_path / "out.png")]
    for process in cluster(plain(command), signalled(signal.SIGINT, 3, command)):
        message = finished(process, code=128 + signal.SIGINT)[1]
        assert f"the best image so far is in {tmp_path}/out.png" in message
    assert (tmp_path / "out.png").exists()


@pytest.mark.slow
def test_a_host_with_other_files_is_named(
    command: list[str], tmp_path: Path, imagenet: Params
) -> None:
    command = [*command, "-o", str(tmp_path / "out.png")]
    save_image(tmp_path / "other.png", picture(64, 72, 2))
    (other := command.copy())[2] = str(tmp_path / "other.png")
    (missing := command.copy())[2] = str(tmp_path / "missing.png")
    own = {0: "host 1: ", 1: ""}
    for process in cluster(plain(command), plain([*other, "--space", "2"])):
        message = finished(process, code=2)[1].splitlines()[-1]
        assert message == "jaxstyle: host 1 differs from host 0 in: --space, style"
    for host, process in enumerate(cluster(plain(command), plain(missing))):
        message = finished(process, code=2)[1].splitlines()[-1]
        assert message.startswith(f"jaxstyle: {own[host]}{tmp_path}/missing.png: ")
    assert not (tmp_path / "out.png").exists()
