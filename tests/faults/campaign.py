"""Every file operation of a run or a grid fails, or is the last one before a kill.

    python -m tests.faults.campaign run|grid|cells [--resumed] [--times N] [--every N]

`cells` is a grid whose cells keep folders like runs.

The command line runs in this process on a small random network, again and again, each time with
trouble at another operation, and afterwards without. After the trouble there must be one line and
the right exit code; the same command must then end with the same bytes, and go on from every
checkpoint that was complete.

Operations are distinct by the call, the path but for its numbers, and the place in the program. The
first and the last of each are tried; `--times` says how many of them.
"""

import argparse
import collections
import contextlib
import ctypes
import errno
import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from PIL import Image as Pil

from tests import small_weights
from tests.conftest import pattern

SOURCE = Path(__file__).with_name("faults.c")

ONCE, SHORT, FREEZE, TORN = range(4)
"""Modes of `faults.c`."""

SERIES = {
    "ENOSPC": ONCE,
    "EIO": ONCE,
    "EACCES": ONCE,
    "ESTALE": ONCE,
    "short": SHORT,
    "kill": FREEZE,
    "torn": TORN,
}
"""What happens at an operation: an error, half a write before a full disk, a kill behind it, or a
kill in the middle of a write."""


class Operation(NamedTuple):
    """One that is distinct from others."""

    call: str
    path: str
    """Below the folder, without numbers."""
    place: tuple[tuple[str, int], ...]
    """Lines of Python that led to it, the innermost first; none in a thread of TensorStore."""
    changes: bool
    """Whether it may change anything on disk."""

    def meets(self, series: str) -> bool:
        """Return whether such trouble is possible here, and not that of another operation."""
        if series in ("short", "torn"):
            return self.call == "write"
        if series == "EACCES":
            return self.call not in ("read", "write", "fsync", "truncate")
        return self.changes or series not in ("ENOSPC", "kill")

    def __str__(self) -> str:
        names = [f"{Path(name).name}:{line}" for name, line in self.place if "jaxstyle" in name]
        return " < ".join([f"{self.call} {self.path}", *names[:3]])


Choice = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)


class Watch:
    """Count the operations, and choose one of them, by default the one of a number of all."""

    def __init__(self, root: Path, chosen: Operation | None = None, time: int = 0) -> None:
        self.root, self.chosen, self.time = str(root), chosen, time
        self.counts: collections.Counter[Operation] = collections.Counter()
        self.chose = False
        self.called = Choice(self.choose)

    def choose(self, call: bytes, path: bytes, changes: int) -> int:
        place: list[tuple[str, int]] = []
        frame = sys._getframe().f_back
        while frame is not None:
            if frame.f_code.co_filename != __file__:
                place.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        pattern = re.sub("[0-9a-f]{8,}|[0-9]+", "#", os.fsdecode(path).removeprefix(self.root))
        operation = Operation(call.decode(), pattern, tuple(place), bool(changes))
        self.counts[operation] += 1
        counted = self.counts.total() if self.chosen is None else self.counts[operation]
        self.chose |= self.chosen in (None, operation) and counted == self.time
        return self.chose


QUICK = ("--size=32", "--convolution=direct", "--scales=2", "--scale-factor=1.2", "--quiet")
QUICK += ("--progress=0",)
QUICK += ("--style-statistics=gram", "--tv-weight=0.001", "--evaluations=4")
QUICK += ("--coarse-evaluations=2", "--content-layers=relu2_1", "--style-layers=relu1_1")

COMMANDS = {
    "run": "stylize content.png style.png --workdir=RUN -o=out.png --checkpoints=2 --snapshots=3"
    " --checkpoint-seconds=inf",
    "grid": "grid --contents=photos --styles=style.png -o=out --checkpoint-seconds=6 --lanes=1",
    "cells": "grid --contents=photos --styles=style.png -o=out --checkpoint-seconds=6 --lanes=1"
    " --runs --snapshots=3",
}

CLOCK = ("seconds", "compile_seconds", "evaluations_per_second", "memory_bytes")


class Trial(NamedTuple):
    """What came of a command."""

    code: int | None
    """The exit code; None if an exception escaped."""
    lines: list[str]
    """On stderr."""
    saved: int
    """Evaluations in the newest checkpoint that was written."""
    resumed: int
    """Evaluations in the checkpoint that it went on from."""


def build(folder: Path) -> Path:
    """Compile the library that is preloaded."""
    library = folder / "faults.so"
    words = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return library


def prepare(folder: Path, kind: str) -> None:
    """Make the pictures; a grid has one content that is none."""
    folder.mkdir()
    (folder / "photos").mkdir()
    Pil.fromarray(pattern(40, 36, 1)).save(folder / "style.png")
    if kind == "run":
        Pil.fromarray(pattern(32, 48, 0)).save(folder / "content.png")
        return
    for seed in range(2):
        Pil.fromarray(pattern(32, 48, seed)).save(folder / "photos" / f"{seed}.png")
    (folder / "photos" / "bad.png").write_bytes(b"no picture")


def results(folder: Path) -> dict[str, Any]:
    """Everything there, without what the clock says."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "/checkpoint" in name and (folder / name.partition("/checkpoint")[0] / ".lock").exists():
            continue  # of a run, which keeps it
        if path.is_dir():
            if name.startswith("out/cells/"):  # a checkpoint
                found[name] = None
            continue
        if path.name == ".lock":
            continue
        found[name] = path.read_bytes()
        if path.suffix in (".json", ".jsonl"):
            rows = (
                [json.loads(line) for line in found[name].decode().splitlines()]
                if path.suffix == ".jsonl"
                else [json.loads(found[name])]
            )
            found[name] = [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]
    return found


def failed(rows: Any) -> bool:
    """Return whether these are the row of a failed cell."""
    return isinstance(rows, list) and rows[0].get("status") == "failed"


class Campaign:
    """Trials of one command."""

    def __init__(self, kind: str, root: Path, library: ctypes.CDLL) -> None:
        self.kind, self.root, self.library = kind, root, library
        self.work = root / "work"
        self.counts: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []

    def command(self, watch: Watch | None = None, mode: int = ONCE, code: int = 0) -> Trial:
        """Run the command, with trouble in the operation that `watch` chooses."""
        from jaxstyle.cli import app
        from jaxstyle.storage.checkpoints import Checkpoints

        saved = resumed = 0
        wait, restore = Checkpoints.wait, Checkpoints.restore

        def noted(self: Checkpoints) -> None:
            nonlocal saved
            wait(self)
            saved = max(saved, self._written or 0)

        def restored(self: Checkpoints, like: Any) -> Any:
            nonlocal resumed
            progress = restore(self, like)
            resumed = max(resumed, 0 if progress is None else progress.evaluations + progress.scale)
            return progress

        exit_code: int | None = None
        with (
            mock.patch.object(Checkpoints, "wait", noted),
            mock.patch.object(Checkpoints, "restore", restored),
            captured(self.root / "stderr") as lines,
        ):
            called = None if watch is None else watch.called
            self.library.faults_arm(os.fsencode(self.work), mode, code, called)
            signal.alarm(120)
            try:
                exit_code = app.run([*COMMANDS[self.kind].split(), *QUICK])
            except BaseException as error:
                traceback.print_exception(error)
            finally:
                signal.alarm(0)
                self.library.faults_arm(b"", ONCE, 0, None)
        return Trial(exit_code, lines, saved, resumed)

    def fresh(self) -> None:
        """Make the folder anew."""
        os.chdir(self.root)
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.root / "start", self.work)
        os.chdir(self.work)

    def reference(self, resumed: bool) -> None:
        """Run without trouble; let trials start with nothing, or where one was cut off."""
        self.expected_code = 0 if self.kind == "run" else 3
        prepare(self.root / "start", self.kind)
        self.fresh()
        self.command()  # compiles
        self.fresh()
        trial = self.command()
        assert trial.code == self.expected_code, trial
        self.expected, self.usual = results(self.work), trial.lines
        if resumed:
            number = self.operations().total() * 2 // 5
            self.fresh()
            self.command(Watch(self.work, time=number), FREEZE, errno.EIO)
            shutil.rmtree(self.root / "start")
            shutil.copytree(self.work, self.root / "start")

    def operations(self) -> collections.Counter[Operation]:
        """Return how often each operation takes place."""
        self.fresh()
        watch = Watch(self.work)
        self.command(watch)
        return watch.counts

    def trial(self, series: str, operation: Operation, time: int) -> None:
        """Try one operation, if it takes place so many times, which may depend on threads."""
        self.fresh()
        watch = Watch(self.work, operation, time)
        first = self.command(watch, SERIES[series], getattr(errno, series, errno.EIO))
        if not watch.chose:
            self.counts["missed"] += 1
            return
        self.counts[series] += 1
        where = f"{series} at {operation}, time {time}"
        again = self.command()
        wrong: list[str] = []
        if first.code is None:
            wrong.append("an exception")
        elif series not in ("kill", "torn") and first.code not in (2, 3, self.expected_code):
            wrong.append(f"exit code {first.code}")
        told = [line for line in first.lines if line not in self.usual]
        # Nobody sees what a killed process would have said about its frozen disk, cell by cell.
        allowed = len(told) if series in ("kill", "torn") else 1
        if any(not line.startswith("jaxstyle: ") for line in told) or len(told) > allowed:
            wrong.append(f"{len(told)} lines")
        if first.code == 2 and not told:
            wrong.append("nothing said")
        if again.code != self.expected_code or again.lines != self.usual:
            wrong.append(f"again {again.code}")
        else:
            found = results(self.work)
            names = [n for n in {*found, *self.expected} if found.get(n) != self.expected.get(n)]
            # Beside a user's file nothing is removed; rows of cells that failed are of other names.
            names = [n for n in names if "/" in n or not n.endswith(".tmp")]
            names = [n for n in names if n in self.expected or not failed(found[n])]
            if names:
                wrong.append(f"another result: {sorted(names)}")
        if (
            self.kind == "run"
            and first.code not in (0, self.expected_code)
            and (again.resumed < first.saved and not (self.work / "RUN" / "result.json").exists())
        ):
            wrong.append(f"went on from {again.resumed}, not {first.saved}")
        if wrong:
            text = "\n    ".join([f"{where}: {', '.join(wrong)}", *told, "-- again", *again.lines])
            self.problems.append(text)
            sys.stderr.write(f"{text}\n")


@contextlib.contextmanager
def captured(path: Path) -> Iterator[list[str]]:
    """Collect the lines written to stderr, also by what is not Python."""
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    try:
        yield lines
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(file)
        lines += path.read_text().splitlines()


def start(kind: str, root: Path, library: Path) -> Campaign:
    """Prepare this process: a small random network in place of VGG19's weights."""
    from jaxstyle.cli import app
    from jaxstyle.cli.terminal import complain
    from jaxstyle.storage import grid, pace

    small_weights.use()
    grid._ABANDONED = -1.0
    # The same checkpoints on every machine, however slow it is.
    pace._SHARE = math.inf
    pace.Pace.__init__.__defaults__ = (functools.partial(next, itertools.count()),)
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_, **__: complain(str(message))
    # Half of a trial's time, and the same each time.
    parsed = app.parse([*COMMANDS[kind].split(), *QUICK])
    app.parse = lambda _: parsed
    return Campaign(kind, root, ctypes.CDLL(str(library)))


def spread(count: int, times: int) -> list[int]:
    """Return so many numbers from 1 to `count`: the first, the last, those between."""
    return sorted({1 + (count - 1) * step // max(times - 1, 1) for step in range(times)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=COMMANDS)
    parser.add_argument("--resumed", action="store_true", help="of a command that was cut off")
    parser.add_argument(
        "--times", type=int, default=2, help="repetitions tried, the first at least"
    )
    parser.add_argument("--every", type=int, default=1, help="try every Nth trial only")
    arguments = parser.parse_args()
    # A folder in memory: a disk would only be waited for.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        if "LD_PRELOAD" not in os.environ:
            environment = os.environ | {"LD_PRELOAD": str(build(Path(folder)))}
            command = [sys.executable, "-m", "tests.faults.campaign", *sys.argv[1:]]
            sys.exit(subprocess.run(command, env=environment).returncode)
        campaign = start(arguments.kind, Path(folder), Path(os.environ["LD_PRELOAD"]))
        campaign.reference(arguments.resumed)
        counts = campaign.operations() & campaign.operations()  # threads may repeat some
        trials = [
            (series, operation, time)
            for series in SERIES
            for operation, count in counts.items()
            if operation.meets(series)
            for time in spread(count, arguments.times)
        ]
        for trial in trials[:: arguments.every]:
            campaign.trial(*trial)
        os.chdir("/")
    totals = {"operations": counts.total(), "distinct": len(counts)}
    totals["problems"] = len(campaign.problems)
    sys.stdout.write(json.dumps(campaign.counts | totals) + "\n")
    sys.exit(bool(campaign.problems))


if __name__ == "__main__":
    main()
