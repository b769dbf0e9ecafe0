"""Signals at every stage of a run, also twice: told, and the same command goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as Pil

from jaxstyle.cli import app
from jaxstyle.network import weights
from tests.conftest import pattern
from tests.small_weights import REPLACED

# The command line on a small random network, which sends itself signals at a stage.
SIGNALLED = """
import functools, os, pathlib, signal, sys, time
from tests import small_weights
small_weights.use()
from jax._src import compiler
from jaxstyle.cli import app
from jaxstyle.imaging import files
from jaxstyle.network import weights
from jaxstyle.storage import cell_progress, checkpoints, runs

stage, signum, times = sys.argv[1], *map(int, sys.argv[2:4])
owner, name, number = {
    "weights": (weights, "read", 1),
    "compile": (compiler, "compile_or_get_cached", 3),
    "evaluation": (runs.Run, "record", 4),
    "cell": (cell_progress.CellProgress, "record", 3),
    "checkpoint": (checkpoints.Checkpoints, "save", 3),  # the thread that writes may be late
    "image": (files, "write_atomically", 1),
}[stage]
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup, and inherited
function, calls = getattr(owner, name), []

@functools.wraps(function)
def signalled(*arguments, **options):
    here = stage != "image" or pathlib.Path(arguments[0]).name == "image.png"
    calls.extend([name] * here)
    if here and len(calls) == number:
        for _ in range(times):
            os.kill(os.getpid(), signum)
            time.sleep(0.05)
    return function(*arguments, **options)

setattr(owner, name, signalled)
app.main(sys.argv[4:])
"""

SETTINGS = ("--size=32", "--convolution=direct", "--scales=2", "--scale-factor=1.2")
SETTINGS += ("--evaluations=4", "--coarse-evaluations=2", "--content-layers=relu2_1")
SETTINGS += ("--style-statistics=gram", "--style-layers=relu1_1", "--progress=0", "--quiet")
QUICK = ("stylize", "content.png", "style.png", "--workdir=RUN", "--checkpoints=2", *SETTINGS)
GRID = ("grid", "--contents=content.png", "--styles=style.png", "-o=out", *SETTINGS)

ROOT = Path(__file__).parents[2]

STAGES = ("weights", "compile", "evaluation", "checkpoint", "image")
CASES = [
    (stage, signum, times)
    for stage in STAGES
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for times in (1, 2)
]
FEW = [("checkpoint", signal.SIGTERM, 1), ("evaluation", signal.SIGHUP, 2)]


def start(*words: object, command: tuple[str, ...] = QUICK) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SIGNALLED, *map(str, words), *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The image of a run without a signal."""
    folder = tmp_path_factory.mktemp("whole")
    return finished(folder)


def finished(folder: Path) -> bytes:
    """Run the command in `folder` to its end and return the image."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for name, function in REPLACED.items():
            patched.setattr(weights, name, function)
        if not Path("content.png").exists():
            Pil.fromarray(pattern(32, 48, 0)).save("content.png")
            Pil.fromarray(pattern(40, 36, 1)).save("style.png")
        assert app.run(QUICK) == 0
    return (folder / "RUN" / "image.png").read_bytes()


@pytest.mark.parametrize(
    ("stage", "signum", "times"),
    [case if case in FEW else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_a_signal_at_any_stage_loses_nothing(
    stage: str, signum: signal.Signals, times: int, whole: bytes, folder: Path
) -> None:
    Pil.fromarray(pattern(32, 48, 0)).save("content.png")
    Pil.fromarray(pattern(40, 36, 1)).save("style.png")
    done = start(stage, int(signum), times)
    # Before there is anything to keep, signals but Ctrl-C have their default action.
    early = stage in ("weights", "compile") and signum != signal.SIGINT
    late = stage == "image" and times == 1  # what a signal would save is being written
    assert done.returncode == (0 if late else -signum if early else 128 + signum), done.stderr
    assert done.stderr.count("\n") == (0 if late or early else 1)
    assert done.stderr.startswith("" if late or early else "jaxstyle: ")
    assert finished(folder) == whole
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_cells_of_a_grid(signum: signal.Signals, folder: Path) -> None:
    Pil.fromarray(pattern(32, 48, 0)).save("content.png")
    Pil.fromarray(pattern(40, 36, 1)).save("style.png")
    done = start("cell", int(signum), 1, command=GRID)
    assert done.returncode == 128 + signum, done.stderr
    assert done.stderr.count("\n") == 1
    (saved,) = folder.glob("out/cells/*/checkpoint/*")
    assert int(saved.name) in (5, 6)  # evaluations and a scale; one more may have been under way


def test_an_interrupt_during_imports_ends_the_process_at_once() -> None:
    """An exception in the middle of an extension module's start could crash it."""
    code = (
        "import os, signal\n"
        "from jaxstyle.cli.imports import quick_imports\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a parent may ignore it
        "with quick_imports():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
