"""Large images from the command line: tiles, recomputing, several devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image as Pil

from jaxstyle import cli, load_image
from jaxstyle.network.arrays import Params
from tests.cli.test_control import PAIR, QUICK, stylize


def activations(path: str) -> str:
    """What a PNG says of how its activations were held."""
    with Pil.open(path) as image:
        texts = [text for text in image.text.values() if "activations" in text]  # pyright: ignore
    return json.loads(texts[0])["activations"]


@pytest.mark.slow
def test_how_activations_are_held_changes_nothing(folder: Path, imagenet: Params) -> None:
    assert stylize(*PAIR, "-o", "kept.png", *QUICK) == 0
    kept = load_image("kept.png")
    assert activations("kept.png") == "kept"
    for options, way in (
        (("--tile", "16"), "tiled"),
        (("--activations", "tiled"), "tiled"),
        (("--activations", "recomputed"), "recomputed"),
        (("--history-precision", "bfloat16"), "kept"),
    ):
        assert stylize(*PAIR, "-o", "other.png", *QUICK, *options) == 0
        assert activations("other.png") == way
        assert_allclose(load_image("other.png"), kept, atol=1.5 / 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tile", "0"), "tile must be at least 1"),
        (("--tile", "64", "--activations", "kept"), "tile has no meaning with activations kept"),
        (("--tile", "64", "--style-statistics", "sliced"), "sliced needs whole layers"),
        (("--optimizer", "adam", "--history-precision", "bfloat16"), "history_precision has no"),
        (("--space", "4096"), "an image cannot be shared by"),
        (("--space", "0"), "an image cannot be shared by"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    folder: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    assert stylize(*PAIR, "-o", "out.png", *QUICK, *arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not Path("out.png").exists()


def test_what_cannot_fit_is_told_before_anything_is_computed(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, imagenet: Params
) -> None:
    monkeypatch.setattr("jaxstyle.engine.memory.device_memory", lambda _: 2**30)
    assert stylize(*PAIR, "-o", "out.png", "--size=2048", "--quiet") == 2
    printed = capsys.readouterr().err
    assert "2048×1536 pixels with activations tiled need about" in printed
    assert printed.count("\n") == 1


def command(*arguments: str, devices: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jaxstyle", *arguments],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_devices_share_the_rows(folder: Path, imagenet: Params) -> None:
    command("stylize", *PAIR, "-o", "one.png", *QUICK, devices=1)
    command("stylize", *PAIR, "-o", "four.png", *QUICK, "--space", "4", devices=4)
    assert_allclose(load_image("four.png"), load_image("one.png"), atol=1.5 / 255)
    grid = ("grid", "--contents", "content.png", "--styles", "style.png", "--space", "2")
    command(*grid, "-o", "grid", *QUICK, devices=2)
    (image,) = Path("grid/cells").glob("*.png")
    assert np.abs(load_image(str(image)) - load_image("one.png")).max() < 1.5 / 255


def test_a_grid_refuses_what_has_no_meaning(
    folder: Path, capsys: pytest.CaptureFixture, imagenet: Params
) -> None:
    grid = ["grid", "--contents", "content.png", "--styles", "style.png", "-o", "grid", *QUICK]
    assert cli.run([*grid, "--space", "2", "--tile", "32"]) == 2
    assert "tiles cannot be used for an image that several devices share" in capsys.readouterr().err
    assert cli.run([*grid, "--space", "0"]) == 2
    assert "--space must be at least 1, not 0" in capsys.readouterr().err
