"""The measuring programs measure; what needs no peer is run here on a tiny picture."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxstyle.types import Params
from tests.conftest import picture

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_our_worker_answers(
    imagenet: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    from benchmarks.worker import Worker

    pictures = tmp_path / "pictures.npz"
    np.savez(pictures, content=picture(32, 40, 0), style=picture(32, 40, 1))
    worker = Worker("benchmarks.ours")
    try:
        found = worker.call("prepare", pictures=str(pictures))
        assert found["convolution"] == "winograd"
        assert found["loss"] > 0
        assert worker.call("evaluation", count=2) > 0
        assert worker.call("loop", evaluations=2) > 0
        assert worker.call("lanes", count=2, evaluations=2) > 0
        assert worker.call("gradient_error") < 1e-3
        settings = {"evaluations": 6, "scales": 2, "coarse_evaluations": 2}
        reached = worker.call("curve", settings=settings, target=0.9 * found["loss"])
        assert 1 <= reached["evaluations"] <= 6
        assert 0 < reached["seconds"] < float("inf")
    finally:
        worker.close()


def test_help_says_what_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, cwd=SCRIPTS, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for section in ("evaluation", "overhead", "lanes", "time_to_loss", "start"):
        assert section in done.stdout
