"""A run on a small random network that tests kill: `python -m tests.interrupted_run`."""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from jaxstyle import Config, stylize
from jaxstyle.config.errors import JaxstyleError
from jaxstyle.engine.optimizers import state_at
from jaxstyle.engine.records import Progress, Record
from jaxstyle.imaging import files
from jaxstyle.storage.checkpoints import Checkpoints
from jaxstyle.storage.folders import read_result
from jaxstyle.storage.pace import Schedule
from jaxstyle.storage.runs import Identity, Run
from tests.conftest import SHALLOW, picture, random_params

CONTENT, STYLE = picture(32, 48, 0), picture(40, 36, 1)
COARSE, BUDGET = 15, 60


def config_of(optimizer: str) -> Config:
    return SHALLOW.replace(
        evaluations=BUDGET,
        coarse_evaluations=COARSE,
        scales=2,
        scale_factor=1.3,
        style_weight=1.0,
        tv_weight=1e-5,
        optimizer=optimizer,
        convolution="direct",
    )


def go_on(folder: Path, optimizer: str, pause: float = 0.0) -> None:
    """Do what is left of the run in `folder`; `pause` seconds are spent on every evaluation."""
    config = config_of(optimizer)
    sha256 = {"content": ["c"], "style": ["s"], "weights": ["w"]}
    snapshots = Schedule(at=(7, 20))
    with Run(folder, checkpoints=Schedule(every=3), snapshots=snapshots) as run:
        if read_result(folder) is not None:
            return
        run.identify(Identity(config, sha256, "content.png", ["style.png"]))
        progress = run.resume(lambda scale: state_at(config, CONTENT.shape, scale))

        def callback(record: Record) -> None:
            run.record(record)
            time.sleep(pause)

        result = stylize(
            CONTENT, STYLE, config, random_params(), callback, keeper=run, progress=progress
        )
        np.save(folder / "exact.npy", result.image)
        run.finish(result, {"loss": result.loss, "evaluations": COARSE + BUDGET})


def kill_in_checkpoint() -> None:
    """Die while the fourth checkpoint is written in the background."""
    save, calls = Checkpoints.save, []

    def deadly(self: Checkpoints, progress: Progress) -> None:
        save(self, progress)
        calls.append(progress)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = deadly


def kill_in_result(name: str) -> None:
    """Die with the file called `name` half-written."""
    write = files.write_atomically

    def deadly(path: files.epath.PathLike, data: bytes) -> None:
        if Path(path).name == name:
            (Path(path).parent / ".half.tmp").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data)

    files.write_atomically = deadly


def kill_after(evaluations: int) -> None:
    """Die once so many evaluations are recorded, whatever is being written at that moment."""
    record, calls = Run.record, []

    def deadly(self: Run, evaluation: Record) -> None:
        record(self, evaluation)
        calls.append(evaluation)
        if len(calls) == evaluations:
            os.kill(os.getpid(), signal.SIGKILL)

    Run.record = deadly


def fill_disk() -> None:
    """Let no file grow any more once four checkpoints are there: as far as Linux lets a test."""
    save, calls = Checkpoints.save, []

    def limited(self: Checkpoints, progress: Progress) -> None:
        calls.append(progress)
        if len(calls) == 4:
            self.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        save(self, progress)

    Checkpoints.save = limited


def main() -> None:
    folder, optimizer, pause, trouble = sys.argv[1:]
    if trouble == "checkpoint":
        kill_in_checkpoint()
    elif trouble == "full":
        fill_disk()
    elif trouble.isdecimal():
        kill_after(int(trouble))
    elif trouble != "none":
        kill_in_result(trouble)
    try:
        go_on(Path(folder), optimizer, float(pause))
    except JaxstyleError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
