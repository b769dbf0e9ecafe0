"""A damaged compilation cache heals by itself, and says so once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxstyle.cli.warning import Warnings

ROOT = Path(__file__).parents[2]

CODE = """
import os, sys
given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
from tests import small_weights
small_weights.use()
import jax
jax.config.update("jax_compilation_cache_dir", given)
from jaxstyle.cli import main
main(sys.argv[1:])
"""

QUICK = ("stylize", "content.png", "style.png", "-o=out.png", "--size=32", "--scales=1", "--quiet")
QUICK += ("--style-statistics=gram", "--evaluations=2", "--content-layers=relu2_1")
QUICK += ("--style-layers=relu1_1", "--convolution=direct")


def told(**variables: str) -> list[str]:
    """Run the command and return its lines on stderr."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | variables
    done = subprocess.run(
        [sys.executable, "-c", CODE, *QUICK],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def entries(folder: Path, ending: str = "-cache") -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(f"*{ending}")}


@pytest.mark.parametrize("limited", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_damaged_cache_heals_and_says_so_once(limited: bool, folder: Path) -> None:
    variables = (
        {"XDG_CACHE_HOME": str(folder)}
        if limited
        else {"JAX_COMPILATION_CACHE_DIR": str(folder / "jaxstyle" / "xla")}
    )
    cache = folder / "jaxstyle" / "xla"
    assert told(**variables) == []
    before, image = entries(cache), Path("out.png").read_bytes()
    assert len(before) > 4
    for number, path in enumerate(sorted([*cache.glob("*-cache"), *cache.glob("exported/*")])):
        data = path.read_bytes()
        path.write_bytes((data[: len(data) // 2], b"garbage", b"")[number % 3])
    line = "damaged compiled programs are removed and compiled again"
    assert told(**variables) == [f"jaxstyle: {cache}: {line}"]
    healed = entries(cache)
    assert healed.keys() == before.keys()
    assert not set(healed.values()) & set(before.values())
    assert told(**variables) == []
    assert entries(cache) == healed
    assert Path("out.png").read_bytes() == image
    if limited:  # killed between the two files of an entry
        time = next(cache.glob("*-atime"))
        time.unlink()
        lost = next(path for path in cache.glob("*-cache") if path.name not in time.name)
        lost.unlink()
        assert len(told(**variables)) <= 1
        assert told(**variables) == []
        assert len(entries(cache, "-atime")) == len(entries(cache))


def test_a_full_disk_is_told_once(capsys: pytest.CaptureFixture) -> None:
    show = Warnings()
    for name in ("jit_a", "jit_b"):
        show(
            f"Error writing persistent compilation cache entry for '{name}': OSError: "
            "[Errno 28] No space left on device"
        )
    show("something else")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "cannot be kept there (OSError: [Errno 28] No space left on device)" in lines[0]
    assert lines[1] == "jaxstyle: something else"
