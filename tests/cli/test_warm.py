"""`jaxstyle warm`: what it compiles is what `stylize` then finds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from PIL import Image as Pil

from jaxstyle.cli import app
from jaxstyle.engine import scales
from tests.conftest import pattern

QUICK = ("--style-layers", "relu1_1", "--content-layers", "relu2_1", "--evaluations", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--aspects", "4x3"), "--aspects must be W:H, such as 4:3, not '4x3'"),
        (("--aspects", "0:3"), "--aspects must be W:H, such as 4:3, not '0:3'"),
        (("--sizes", "64", "0"), "--sizes must be at least 1, not 0"),
        (("--size", "64"), "unknown flag --size; did you mean --sizes?"),
        (("--preset", "sede"), "unknown preset 'sede'"),
    ],
)
def test_mistakes_are_one_line(words: Any, message: str, capsys: pytest.CaptureFixture) -> None:
    assert app.run(["warm", *words]) == 2
    assert capsys.readouterr().err.startswith(f"jaxstyle: {message}")


def test_memory_that_runs_out_is_one_line(
    imagenet: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(*arguments: Any, **options: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(scales, "compile_update", fails)
    assert app.run(["warm", "--sizes", "64", "--aspects", "4:3", *QUICK]) == 1
    assert capsys.readouterr().err == (
        "jaxstyle: out of memory; try a smaller --size or --history-size\n"
    )


@pytest.mark.slow
def test_stylize_finds_all_programs(tmp_path: Path, imagenet: Any) -> None:
    """In a copy of the folder, too, as of a machine image."""
    Pil.fromarray(pattern(48, 64, 0)).save(tmp_path / "content.png")
    Pil.fromarray(pattern(48, 64, 1)).save(tmp_path / "style.png")
    environment = {**os.environ}
    environment.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)

    def run(cache: str, *words: str) -> str:
        command = [sys.executable, "-m", "jaxstyle", *words, *QUICK]
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / cache)
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=True
        )
        return done.stdout.decode()

    def programs(cache: str) -> set[str]:
        return {path.name for path in (tmp_path / cache).rglob("*") if "atime" not in path.name}

    said = run("warm", "warm", "--sizes", "64", "--aspects", "4:3")
    assert said.startswith("64×48: compiled in ")
    assert len(programs("warm")) > 6
    shutil.copytree(tmp_path / "warm", tmp_path / "copy")
    run("copy", "stylize", "content.png", "style.png", "-o", "out.png", "--size", "64")
    assert programs("copy") == programs("warm")
