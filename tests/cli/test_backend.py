"""Environment variables and machines on which JAX cannot start as usual."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import filelock
import platformdirs
import pytest
from PIL import Image as Pil

from jaxstyle import WeightsError
from jaxstyle.cli import backend
from jaxstyle.network import weights
from jaxstyle.storage.runs import Run
from tests.conftest import pattern


def info(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jaxstyle", "info"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("XLA_FLAGS", "--foo_bar", "Unknown flag in XLA_FLAGS: --foo_bar"),
        (
            "XLA_FLAGS",
            "--xla_force_host_platform_device_count=abc",
            "Couldn't interpret value abc for flag xla_force_host_platform_device_count",
        ),
        ("JAX_NUM_CPU_DEVICES", "abc", "jax_num_cpu_devices"),
        ("JAX_NUM_CPU_DEVICES", "0", "JAX finds no devices"),
        ("JAX_ENABLE_X64", "maybe", "JAX_ENABLE_X64"),
        ("JAX_PLATFORMS", "tpu", "JAX_PLATFORMS=tpu: no such devices here"),
        ("JAX_PLATFORMS", "cuda", "JAX_PLATFORMS=cuda: no such devices here"),
    ],
)
def test_a_mistake_in_the_environment_is_one_line(name: str, value: str, message: str) -> None:
    done = info(**{name: value})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("jaxstyle: ")
    assert message in done.stderr


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = info(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "compiled programs cannot be kept there (Not a directory)" in done.stderr
    assert "compiled programs: not kept\n" in done.stdout


@pytest.mark.parametrize("relative", [True, False], ids=["older", "newer"])
def test_without_a_home_nothing_is_kept(
    relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cache(name: str) -> Path:
        if not relative:
            raise RuntimeError("could not determine the home directory for '~/.cache'")
        return Path("~/.cache", name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_cache_path", cache)
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "site" / "jaxstyle" / "weights.py"))
    assert backend._default_cache() is None
    with pytest.raises(WeightsError, match="set JAXSTYLE_WEIGHTS"):
        weights.default_path()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError()]
)
def test_a_file_system_without_locks_is_used(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(self: object, **_: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.warns(UserWarning, match="has no locks"), Run(tmp_path / "RUN"):
        pass


@pytest.mark.parametrize(
    "words",
    [
        ["stylize", "content.png", "content.png", "-o", "out.png", "--size", "32"],
        ["grid", "--contents", "content.png", "--styles", "content.png", "-o", "out"],
        ["warm", "--sizes", "32", "--aspects", "1:1"],
    ],
    ids=lambda words: words[0],
)
def test_deterministic_operations_are_asked_of_xla(words: list[str], tmp_path: Path) -> None:
    Pil.fromarray(pattern(32, 32, 0)).save(tmp_path / "content.png")
    quick = ["--scales=1", "--evaluations=1", "--content-layers=relu1_1", "--style-layers=relu1_1"]
    code = f"""
import os
from tests import small_weights
small_weights.use()
from jaxstyle.cli import app
assert app.run({[*words, *quick, "--deterministic", "--quiet"]}) == 0
print(os.environ["XLA_FLAGS"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "--xla_gpu_deterministic_ops=true"
