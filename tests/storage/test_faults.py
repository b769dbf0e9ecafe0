"""Runs and grids whose files fail: told in a line, and completed by the same command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def campaign(*arguments: str) -> dict[str, int]:
    """Run the campaign and return the number of operations tried, by series, and in all."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.campaign", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["run", "grid"])
def test_some_operations_that_fail(kind: str) -> None:
    counts = campaign(kind, "--every", "97")
    assert counts["kill"] >= 1
    assert counts["distinct"] > 200


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [[], ["--resumed"]], ids=["new", "resumed"])
@pytest.mark.parametrize("kind", ["run", "grid", "cells"])
def test_operations_that_fail(kind: str, resumed: list[str]) -> None:
    every = 151 if kind == "cells" else 41
    counts = campaign(kind, *resumed, "--every", str(every))
    # Fewer are left for a command that was cut off, at a place that depends on threads.
    assert counts["kill"] > (0 if resumed else 50 // every)
