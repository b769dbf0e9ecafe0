"""The documentation's pictures: made in small, and judged by numbers that mean something."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxstyle import load_image, preset
from jaxstyle.network.arrays import Params
from tests.conftest import SHALLOW

ROOT = Path(__file__).parents[2]


def test_every_option_can_be_had() -> None:
    from gallery.options import _BALANCED, OPTIONS

    default = preset("default")
    for name, settings in OPTIONS.items():
        changes = {k: v for k, v in settings.items() if k not in ("styles", "guide")}
        config = default.replace(**changes)
        assert set(config.style_statistics) <= set(_BALANCED), name
        assert settings or name == "default"
        if set(settings) - {"styles", "guide"}:
            assert config != default, name


@pytest.mark.slow
def test_options_are_pictures_of_their_own(
    imagenet: Params,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gallery import options

    # Because it compiles in a fraction of the time.
    shallow = preset("default").replace(
        convolution="direct",
        content_layers=SHALLOW.content_layers,
        style_layers={"relu1_1": 1.0, "relu2_1": 0.25, "relu3_1": 0.06},
    )
    monkeypatch.setattr(options, "preset", lambda name: shallow)
    # Of one program, apart from the last.
    only = ("default", "style-weight-quarter", "match", "style-layers")
    options.options(tmp_path, 32, 10, only)
    assert {path.stem for path in tmp_path.iterdir()} == {*only, "glass", "guide"}
    images = [load_image(tmp_path / f"{name}.jpg") for name in only]
    assert {image.shape for image in images} == {(21, 32, 3)}
    for i, image in enumerate(images):
        assert all(np.abs(image - other).mean() > 2 / 255 for other in images[:i])
    guide = load_image(tmp_path / "guide.png")
    assert set(np.unique(guide)) == {0, 1}
    assert len(capsys.readouterr().out.splitlines()) == len(only)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gallery.options options --only gramm", "no option 'gramm'"),
        ("resolution scales none.jpg:none.jpg", "none.jpg: no such file"),
        ("resolution scales none.jpg:none.jpg --preset sede", "unknown preset 'sede'"),
        ("resolution scales none.jpg", "'none.jpg' is not CONTENT:STYLE"),
        ("resolution sizes none.jpg none.jpg -o out", "none.jpg: no such file"),
        ("resolution memory --sizes 5", "'5' is not WIDTHxHEIGHT"),
        ("benchmarks -o out --sections memry", "no section 'memry'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    imagenet: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    module, *arguments = words.split()
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    # What other tests imported is not what is run.
    name = module if "." in module else f"{module}.__main__"
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_patterns_are_pictures_that_are_the_same_every_time() -> None:
    from gallery.patterns import PATTERNS

    for make in PATTERNS.values():
        small = make(64)
        assert small.shape == (64, 64, 3)
        assert small.dtype == np.float32
        assert 0 <= small.min() < small.max() <= 1
        np.testing.assert_array_equal(make(64), small)


def test_the_page_shows_what_is_made() -> None:
    from gallery.options import OPTIONS

    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    shown = re.findall(r"\(images/options/([\w-]+)\.(?:jpg|png)\)", page)
    assert set(shown) == {*OPTIONS, "glass", "guide"}
