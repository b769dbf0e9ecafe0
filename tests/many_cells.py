"""A grid of many tiny cells by processes that share nothing but its folder.

    python -m tests.many_cells [--cells 1000] [--processes 4] [--kills 8] [--lag SECONDS]

One content in twenty is no picture. Two of the processes are killed at random moments and started
again, the disk is full for a while, and with `--lag` what other processes write is seen so much
later. In the end every good cell must be there, computed once, every bad one told once by the
process whose it is, and the sheet written. The network is a small random one.
"""

import argparse
import collections
import errno
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image as Pil

from tests.conftest import pattern

STYLES = 5
BAD = 20
"""One of so many contents is no picture."""

SETTINGS = ("--size=32", "--convolution=direct", "--scales=1", "--style-statistics=gram")
SETTINGS += ("--evaluations=2", "--content-layers=relu2_1", "--style-layers=relu1_1")


def work(folder: Path, index: int, count: int, lag: float) -> None:
    """Do one part of the grid."""
    from jaxstyle.cli import app, grid as command
    from jaxstyle.storage.grid import Entry, Grid
    from tests import small_weights

    small_weights.use()
    log = (folder / "done.log").open("a", buffering=1)
    fsync, write_row, read_row = os.fsync, Grid._write_row, Grid.row
    mine: set[str] = set()

    def full(descriptor: int) -> None:
        if (folder / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    def logged(self: Grid, entry: Entry, outcome: dict[str, Any]) -> None:
        write_row(self, entry, outcome)
        mine.add(entry.name)
        if outcome["status"] == "done":
            log.write(f"{entry.name}\n")

    def late(self: Grid, entry: Entry) -> dict[str, Any] | None:
        path = Path(self.output, "cells", f"{entry.name}.json")
        if entry.name not in mine and path.exists() and time.time() - path.stat().st_mtime < lag:
            return None
        return read_row(self, entry)

    os.fsync, Grid._write_row, Grid.row = full, logged, late
    command._LATE = 1.5 * lag
    words = ["grid", "--contents", str(folder / "photos"), "--styles", str(folder / "styles")]
    words += ["-o", str(folder / "out"), "--shard", f"{index}/{count}", "--progress=0"]
    code = app.run([*words, *SETTINGS])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (folder / f"memory-{index}").write_text(str(most))
    sys.exit(code)


def prepare(folder: Path, cells: int) -> None:
    for name in ("photos", "styles"):
        (folder / name).mkdir()
    for number in range(cells // STYLES):
        path = folder / "photos" / f"{number:03}.png"
        Pil.fromarray(pattern(32, 32, number)).save(path)
        if number % BAD == BAD // 2:
            path.write_bytes(path.read_bytes()[:60])
    for number in range(STYLES):
        Pil.fromarray(pattern(32, 32, 1000 + number)).save(folder / "styles" / f"{number}.png")


class Workers:
    """The processes, by their number."""

    def __init__(self, folder: Path, count: int, lag: float) -> None:
        self.folder, self.count, self.lag = folder, count, lag
        self.running = {index: self.start(index) for index in range(count)}
        self.told: dict[int, list[str]] = {}
        """What those that have finished said on stderr."""
        self.refused = 0
        """Number of times that one ended since the disk was full."""

    def start(self, index: int) -> subprocess.Popen[str]:
        words = ["--worker", str(self.folder), str(index), str(self.count), str(self.lag)]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-m", "tests.many_cells", *words], **pipes)

    def kill(self, index: int) -> bool:
        """Kill one and start it again, if it is still running."""
        process = self.running.get(index)
        if process is None or process.poll() is not None:
            return False
        process.kill()
        process.communicate()
        self.running[index] = self.start(index)
        return True

    def look(self) -> None:
        """Start again those that the full disk has ended."""
        for index, process in list(self.running.items()):
            if process.poll() is None:
                continue
            _, printed = process.communicate()
            if process.returncode in (0, 3):
                self.told[index] = printed.splitlines()
                del self.running[index]
            elif process.returncode == 2 and "No space" in printed.splitlines()[-1]:
                self.refused += 1
                self.running[index] = self.start(index)
            else:
                sys.exit(f"process {index} ended with {process.returncode}: {printed}")


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        folder, index, count, lag = sys.argv[2:]
        work(Path(folder), int(index), int(count), float(lag))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--lag", type=float, default=0)
    arguments = parser.parse_args()
    moments = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder, began, kills = Path(name), time.monotonic(), 0
        prepare(folder, arguments.cells)
        workers = Workers(folder, arguments.processes, arguments.lag)
        cells = folder / "out" / "cells"

        def watch(until: float = float("inf")) -> None:
            """Wait, or until so many rows are there."""
            while workers.running and len(list(cells.glob("*.json"))) < until:
                workers.look()
                time.sleep(0.05)

        steps = sorted(moments.uniform(0, 0.9) for _ in range(arguments.kills + 1))
        for number, share in enumerate(steps):
            watch(share * arguments.cells)
            if number == arguments.kills // 2:
                (folder / "full").touch()
                time.sleep(2)
                (folder / "full").unlink()
            else:
                kills += workers.kill(moments.randrange(2))
        watch()
        seconds = time.monotonic() - began
        problems, rows = check(folder, arguments.cells, workers, kills, arguments.lag)
        counts = {"cells": len(rows), "kills": kills, "disk full": workers.refused}
        memory = [int(path.read_text()) for path in folder.glob("memory-*")]
        print(json.dumps(counts | {"seconds": round(seconds), "MB": memory}))  # noqa: T201
    sys.exit("\n".join(problems) or None)


def check(
    folder: Path, cells: int, workers: Workers, kills: int, lag: float
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return what is wrong, and the rows."""
    problems: list[str] = []
    rows = [json.loads(row) for row in (folder / "out" / "grid.jsonl").read_text().splitlines()]
    bad = [row["cell"] for row in rows if row["status"] == "failed"]
    good = [row for row in rows if row["status"] == "done"]
    wanted = sum(n % BAD == BAD // 2 for n in range(cells // STYLES)) * STYLES
    if (len(rows), len(bad)) != (cells, wanted) or len({row["cell"] for row in rows}) != cells:
        problems.append(f"{len(rows)} rows, {len(bad)} of them bad")
    computed = collections.Counter((folder / "done.log").read_text().splitlines())
    # A kill between a row and the log of it hides a computation. A process that is started again
    # may not see yet what it had done.
    most = 1 + kills if lag else 1
    if len(computed) < len(good) - kills or any(count > most for count in computed.values()):
        problems.append(f"computed {len(computed)} of {len(good)}: {computed.most_common(3)}")
    lines = [line for lines in workers.told.values() for line in lines]
    told = sum(int((re.search(r"\((\d+) cells fail\)", line) or (1, 1))[1]) for line in lines)
    if told != len(bad):
        problems.append(f"told of {told} bad cells, not {len(bad)}")
    if not all((folder / "out" / row["image"]).exists() for row in good):
        problems.append("an image is missing")
    left = [path.name for path in (folder / "out" / "cells").iterdir()]
    if len(left) - sum(name.endswith(".tmp") for name in left) != len(rows) + len(good):
        problems.append(f"{len(left)} files for {len(rows)} rows")
    if not list((folder / "out").glob("sheet*.jpg")):
        problems.append("no sheet")
    return problems, rows


if __name__ == "__main__":
    main()
