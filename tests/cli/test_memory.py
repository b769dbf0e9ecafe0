"""Memory that runs out at any place is one line, and the same command goes on."""

import collections
import functools
import itertools
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from PIL import Image as Pil

from jaxstyle.cli import app
from jaxstyle.cli.terminal import complain
from jaxstyle.engine import layout, targets
from jaxstyle.network import weights
from tests.conftest import pattern
from tests.small_weights import REPLACED

QUICK = ("--size=32", "--convolution=direct", "--scales=2", "--scale-factor=1.2", "--quiet")
QUICK += ("--style-statistics=gram", "--evaluations=4", "--coarse-evaluations=2")
QUICK += ("--content-layers=relu2_1", "--style-layers=relu1_1", "--progress=0")

COMMANDS = {
    "run": ("stylize", "photos/0.png", "style.png", "--workdir=out", "--checkpoints=2", *QUICK),
    "grid": ("grid", "--contents=photos", "--styles=style.png", "-o=out", *QUICK),
}

TRANSFERS = {"device_put": (jax, "device_put"), "device_get": (jax, "device_get")}
PLACES = TRANSFERS | {
    "dispatch": (jax.stages.Compiled, "__call__"),
    "compile": (jax._src.compiler, "compile_or_get_cached"),  # pyright: ignore[reportAttributeAccessIssue]
}
"""Functions in which XLA may report it."""


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, function in REPLACED.items():
        monkeypatch.setattr(weights, name, function)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: complain(str(message)))
    warnings.simplefilter("always")
    Path("photos").mkdir()
    for seed in range(2):
        Pil.fromarray(pattern(32, 48, seed)).save(f"photos/{seed}.png")
    Pil.fromarray(pattern(40, 36, 1)).save("style.png")
    return tmp_path


def scarce(function: Callable[..., Any], number: int, calls: collections.Counter[str]) -> Any:
    """Return `function`, whose call of that number runs out of memory."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls["all"] += 1
        if calls["all"] == number:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        return function(*arguments, **options)

    return wrapped


def images_in(folder: Path) -> dict[str, bytes]:
    """The pixels, without the losses in the metadata, which fewer lanes round otherwise."""
    pictures = {str(path): Pil.open(path) for path in sorted(folder.rglob("*.png"))}
    return {path: picture.tobytes() for path, picture in pictures.items()}


def forget() -> None:
    """Have everything compiled again."""
    jax.clear_caches()
    for cached in (layout._starting, layout._compiled, targets._lowered, targets._compiled):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("kind", "place", "every"),
    [
        ("run", "device_get", 9),
        ("grid", "device_put", 40),
        *(
            pytest.param(kind, place, 7 if place == "device_put" else 3, marks=pytest.mark.slow)
            for kind in COMMANDS
            for place in PLACES
        ),
    ],
)
def test_memory_may_run_out_anywhere(
    kind: str,
    place: str,
    every: int,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    assert app.run(COMMANDS[kind]) == 0
    expected = images_in(Path("out"))
    codes: collections.Counter[int] = collections.Counter()
    for number in itertools.count(1, every):
        shutil.rmtree("out")
        if place == "compile":
            forget()
        capfd.readouterr()
        calls: collections.Counter[str] = collections.Counter()
        with monkeypatch.context() as patched:
            owner, name = PLACES[place]
            patched.setattr(owner, name, scarce(getattr(owner, name), number, calls))
            code = app.run(COMMANDS[kind])
        told = capfd.readouterr().err.splitlines()
        if calls["all"] < number:
            break
        codes[code] += 1
        assert all("out of memory" in line and line.startswith("jaxstyle: ") for line in told)
        if code:
            assert code == {"run": 1, "grid": 3}[kind] or (code == 1 and len(told) == 1), told
            assert 1 <= len(told) <= 2
        assert app.run(COMMANDS[kind]) == 0
        assert images_in(Path("out")) == expected, (number, told)
    assert sum(codes.values()) >= 1
