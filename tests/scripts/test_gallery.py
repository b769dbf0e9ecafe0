"""The documentation's pictures: made in small, and judged by numbers that mean something."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxstyle import Config, ConfigError, FileError, load_image, preset, save_image
from jaxstyle.config.presets import PRESETS
from jaxstyle.engine.pyramid import levels
from jaxstyle.imaging.arrays import Image
from jaxstyle.network.arrays import Params
from tests.conftest import SHALLOW, picture

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")


def texture(height: int, width: int, seed: int) -> Image:
    """Coloured blots of about 4 pixels, alike everywhere."""
    noise = np.random.default_rng(seed).uniform(size=(height + 4, width + 4, 3))
    blots = sum(noise[i : i + height, j : j + width] for i in range(4) for j in range(4))
    return np.clip(0.5 + (blots / 16 - 0.5) * 4, 0, 1).astype(np.float32)


def framed(inner: Image, side: int) -> Image:
    """`inner` with a frame of `side` pixels of stripes."""
    result = picture(*inner.shape[:2], 5)
    result[side:-side, side:-side] = inner[side:-side, side:-side]
    return result


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
    from gallery.options import make_option_pictures

    # Because it compiles in a fraction of the time.
    shallow = preset("default").replace(
        convolution="direct",
        content_layers=SHALLOW.content_layers,
        style_layers=SHALLOW.style_layers,
        style_layer_weights=(1.0, 0.25, 0.06),
    )
    monkeypatch.setattr(options, "preset", lambda name: shallow)
    # Of one program, apart from the last.
    only = ["default", "style-weight-quarter", "match", "adam"]
    make_option_pictures(imagenet, tmp_path, 32, 10, only)
    assert {path.stem for path in tmp_path.iterdir()} == {*only, "glass", "guide"}
    images = [load_image(tmp_path / f"{name}.jpg") for name in only]
    assert {image.shape for image in images} == {(21, 32, 3)}
    for i, image in enumerate(images):
        assert all(np.abs(image - other).mean() > 2 / 255 for other in images[:i])
    guide = load_image(tmp_path / "guide.png")
    assert set(np.unique(guide)) == {0, 1}
    assert len(capsys.readouterr().out.splitlines()) == len(only)
    with pytest.raises(ConfigError, match="no option 'gramm'; there are default,"):
        make_option_pictures(imagenet, tmp_path, 32, 3, ["gramm"])


@pytest.mark.slow
def test_presets_are_judged_on_a_sheet_and_in_a_table(
    imagenet: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gallery import presets

    monkeypatch.setattr(presets, "PATTERNS", {"texture": lambda: texture(64, 64, 1)})
    direct = {
        name: PRESETS[name].replace(
            convolution="direct",
            content_layers=SHALLOW.content_layers,
            style_layers=SHALLOW.style_layers,
        )
        for name in ("seed", "neural-style")
    }
    monkeypatch.setattr(presets, "PRESETS", direct)
    save_image(tmp_path / "photo.png", picture(48, 48, 0))
    output = tmp_path / "out"
    arguments = ([tmp_path / "photo.png"], [], output, 48, 2, ["seed", "neural-style"])
    presets.compare_presets(imagenet, *arguments)
    made = sorted(path.name for path in output.iterdir())
    names = [f"photo_texture_{name}" for name in ("neural-style", "seed")]
    assert made == sorted(
        ["photo.jpg", "table.md", *(f"{n}{s}" for n in names for s in (".png", ".json"))]
    )
    table = (output / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| seed", "| neural-style"]
    assert all(re.fullmatch(r"\|[^|]+(\| \d+\.\d\d ){4}\|", line) for line in table[2:])
    # What is there is not made again, but counts.
    judged = output / f"{names[0]}.json"
    judged.write_text(json.dumps(json.loads(judged.read_text()) | {"style": 9.0}))
    kept = (output / f"{names[1]}.png").stat().st_mtime_ns
    presets.compare_presets(imagenet, *arguments)
    assert (output / f"{names[1]}.png").stat().st_mtime_ns == kept
    assert "| neural-style | 9.00 |" in (output / "table.md").read_text()


@pytest.mark.parametrize(
    "config",
    [
        Config(evaluations=300),
        Config().replace(evaluations=300, coarse_evaluations=500, scales=2, scale_factor=2.0),
        preset("crowson").replace(scales=3),
        Config(evaluations=150, scales="auto"),
    ],
)
def test_presets_are_compared_at_equal_cost(config: Config) -> None:
    from gallery.presets import at_cost

    shape = (200, 256)
    scaled = at_cost(config, shape, 100)
    cost = sum(level.ratio**2 * level.evaluations for level in levels(scaled, shape))
    assert cost == pytest.approx(100, rel=0.02)
    assert at_cost(config, shape, 1).evaluations >= 1


@pytest.mark.slow
def test_a_frame_is_seen_in_the_border(imagenet: Params) -> None:
    from gallery.judge import BAND, border_ratio

    style, even = texture(96, 96, 0), texture(96, 128, 1)
    assert border_ratio(imagenet, even, style) == pytest.approx(1, abs=0.25)
    assert border_ratio(imagenet, framed(even, BAND), style) > 1.3
    # The other way round, what is wrong is inside.
    inside_out = even.copy()
    inside_out[BAND:-BAND, BAND:-BAND] = picture(96, 128, 5)[BAND:-BAND, BAND:-BAND]
    assert border_ratio(imagenet, inside_out, style) < 0.8


@pytest.mark.slow
def test_distances_are_0_for_the_same_and_grow_with_the_difference(imagenet: Params) -> None:
    from gallery.judge import judge

    content, style = picture(64, 64, 0), texture(64, 64, 1)
    judged = [
        judge(imagenet, (1 - share) * content + share * style, content, style)
        for share in (0.0, 0.3, 0.6, 1.0)
    ]
    first, last = judged[0], judged[-1]
    assert (first.style, first.content) == (1, 0)
    assert first.color > 0.5
    assert last.style == pytest.approx(0, abs=1e-6)
    assert last.color == 0
    assert last.content > 0.3
    for name in ("style", "content", "color"):
        values = [getattr(each, name) for each in judged]
        assert values == sorted(values, reverse=name != "content"), name
    # Another piece of the texture is as good as the style itself, but not as content.
    other = judge(imagenet, texture(64, 64, 2), content, style)
    assert other.style < 0.2
    assert other.color < 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gallery options --only gramm", "no option 'gramm'"),
        ("gallery presets none.jpg -o out --presets sede", "unknown preset 'sede'"),
        ("gallery presets none.jpg -o out", "none.jpg: no such file"),
        ("resolution scales none.jpg:none.jpg -o out", "none.jpg: no such file"),
        ("resolution sizes none.jpg none.jpg -o out --preset sede", "unknown preset 'sede'"),
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
    assert importlib.import_module(f"{module}.__main__").main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_names_are_under_the_pictures_whatever_their_shapes() -> None:
    from gallery.presets import picture_sheet

    dark = [np.zeros(shape, np.float32) for shape in ((20, 60, 3), (50, 30, 3))]
    sheet = picture_sheet([[dark[0], dark[1]]], ["s"], ["a", "b"])
    assert np.all(sheet[4:24, 4:64] == 0)
    assert np.all(sheet[4:54, 68:98] == 0)
    assert np.all(sheet[54 - 30 : 54, 4:64] == 1)
    assert np.any(sheet[54:, 4:64] < 1)


def test_results_of_other_settings_are_made_again(tmp_path: Path) -> None:
    from gallery.kept import settings_of

    file = tmp_path / "a.png"
    save_image(file, picture(8, 8, 0))
    first = settings_of(Config(), [file], 200)
    assert settings_of(Config(), [file], 200) == first
    assert settings_of(Config(tv_weight=0.5), [file], 200) != first
    assert settings_of(Config(), [file], 100) != first
    save_image(file, picture(8, 8, 1))
    assert settings_of(Config(), [file], 200) != first
    with pytest.raises(FileError, match="no such file"):
        settings_of(Config(), [tmp_path / "b.png"])


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
