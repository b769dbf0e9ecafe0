"""The options of control from the command line, on the real weights and small pictures."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image as Pil

import jaxstyle
from jaxstyle import Config, cli, load_image, save_image
from jaxstyle.cli.process import EXIT_CELLS_FAILED
from jaxstyle.config import parse_toml, to_toml
from jaxstyle.config.presets import PRESETS
from jaxstyle.imaging.color import to_oklab
from jaxstyle.network.arrays import Params
from tests.conftest import pattern

PAIR = ("content.png", "style.png")
# Direct and shallow, because it compiles in a fraction of the time.
QUICK = ("--size=32", "--convolution=direct", "--content-layers=relu2_1", "--quiet", "--scales=1")
QUICK += ("--style-layers", "relu1_1", "relu2_1", "--evaluations", "2")
QUICK += ("--style-statistics=gram", "--tv=l2")


def stylize(*arguments: str) -> int:
    return cli.run(["stylize", *arguments])


def save_guide(name: str, *greys: int, height: int = 48, width: int = 64) -> None:
    """A guide of vertical bands."""
    columns = np.array(greys, np.uint8)[np.arange(width) * len(greys) // width]
    Pil.fromarray(np.broadcast_to(columns, (height, width)).copy()).save(name)


@pytest.fixture
def guides(folder: Path) -> Path:
    save_guide("halves.png", 0, 255)
    save_guide("thirds.png", 0, 128, 255)
    save_guide("part.png", 255, 0, height=56, width=40)
    save_guide("other.png", 100, 70, height=56, width=40)
    save_guide("one.png", 90)
    save_guide("wide.png", 0, 255, width=68)
    Pil.fromarray(pattern(48, 64, 2)).save("photo.png")
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ("--content-guide", "halves.png"),
        ("--preserve-color", "luminance"),
        ("--preserve-color", "match"),
        ("--preserve-color", "histogram"),
        ("--style-scale", "0.8"),
        ("--style-size", "64"),
        ("--style-size", "original"),
        ("--optimizer", "adam", "--learning-rate-schedule", "cosine", "--ema", "0.9"),
        ("--tv", "nine-point", "--padding", "replicate-first"),
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                ("--content-guide", "halves.png", "--style-guide", "part.png"),
                ("--style-statistics", "covariance"),
                ("--style-statistics", "sliced", "moments=0.5"),
                ("--style-statistics", "wasserstein"),
                ("--scales", "3", "--coarse-evaluations", "2", "--first-evaluations", "1"),
            )
        ),
    ],
    ids=" ".join,
)
def test_an_option_changes_the_picture(
    options: tuple[str, ...], guides: Path, imagenet: Params
) -> None:
    assert stylize(*PAIR, "-o", "plain.png", *QUICK) == 0
    assert stylize(*PAIR, "-o", "changed.png", *QUICK, *options) == 0
    plain, changed = load_image("plain.png"), load_image("changed.png")
    assert plain.shape == changed.shape
    assert not np.array_equal(plain, changed)


@pytest.mark.parametrize("sizes", [("--size=original",), ("--size=48", "--style-size=original")])
def test_a_style_is_scaled_once(guides: Path, imagenet: Params, sizes: tuple[str, ...]) -> None:
    flags = (*QUICK, "--style-scale=0.6", *sizes)
    assert stylize(*PAIR, "-o", "scaled.png", *flags) == 0
    with Pil.open("scaled.png") as opened:
        settings = json.loads(opened.info["jaxstyle"])["config"]
    config = Config().replace(**settings)
    pictures = (load_image(name) for name in PAIR)
    result = jaxstyle.stylize(*pictures, config, imagenet)
    save_image("again.png", result.image)
    assert_array_equal(load_image("again.png"), load_image("scaled.png"))


def test_luminance_keeps_the_contents_chroma_in_every_file(guides: Path, imagenet: Params) -> None:
    options = ("--preserve-color=luminance", "--workdir=RUN", "--snapshots=1")
    assert stylize(*PAIR, "-o", "out.png", *QUICK, *options) == 0
    content = to_oklab(load_image("content.png", 32))
    for path in ("out.png", "RUN/image.png", "RUN/snapshots/000001.png"):
        lab = to_oklab(load_image(path))
        hues = [np.arctan2(each[..., 2], each[..., 1]) for each in (lab, content)]
        colored = np.hypot(lab[..., 1], lab[..., 2]) > 0.05
        assert colored.mean() > 0.2
        turned = np.abs(np.angle(np.exp(1j * (hues[0] - hues[1])))[colored])
        assert np.median(turned) < 0.05, path


def test_a_run_knows_its_guides(
    guides: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    options = (*PAIR, *QUICK, "--workdir", "RUN", "--content-guide", "halves.png")
    assert stylize(*options) == 0
    with Path("RUN/config.toml").open("rb") as file:
        run = tomllib.load(file)["run"]
    assert run["content_guide"] == "halves.png"
    assert len(run["sha256"]["content_guide"]) == 1
    save_guide("halves.png", 255, 0)
    assert stylize(*options) == 2
    assert "content_guide was another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--content-guide", "none.png"), "none.png: no such file"),
        (("--content-guide", "photo.png"), "the guide photo.png has"),
        (("--content-guide", "part.png"), "guide is 40×56 and its picture"),
        (("--content-guide", "wide.png"), "guide is 68×48 and its picture 64×48; any size will"),
        (("--content-guide", "one.png"), "the content guide is #5a5a5a everywhere; a guide needs"),
        (("--content-guide", "thirds.png"), "has 3 regions, so give that many styles"),
        (("--style-guide", "part.png"), "--style-guide needs --content-guide FILE"),
        (
            ("--content-guide", "halves.png", "--style-guide", "part.png", "part.png"),
            "2 style guides for 1 style; give one for each",
        ),
        (
            ("--content-guide", "halves.png", "--style-guide", "other.png"),
            "no colour of the content guide is in a style guide",
        ),
        (("--style-statistics", "gram", "gram"), "gram is named twice"),
        (("--style-statistics", "gram=1=2"), "the weight of gram must be a number"),
        (("--style-statistics", "gram=nan"), "style_statistics must be a finite number"),
        (("--style-scale", "0"), "style_scale must be greater than 0, not 0.0"),
        (("--style-scale", "inf"), "style_scale must be a finite number"),
        (("--style-scale", "0.01", "--scales=1"), "style of 4×5 pixels is too small"),
        (("--style-scale", "2", "--preset", "seed"), "no meaning with style_shape content"),
        (("--ema", "0.9"), "ema has no meaning with optimizer lbfgs"),
        (("--ema", "1", "--optimizer", "adam"), "ema must be less than 1"),
        (("--first-evaluations", "5", "--scales", "1"), "first_evaluations has no meaning"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    guides: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    before = sorted(Path().rglob("*"))
    assert stylize(*PAIR, "-o", "o.png", *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("jaxstyle: ")
    assert printed.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_what_was_understood_is_said(
    guides: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    alpha = np.zeros((48, 64, 4), np.uint8)
    alpha[:12] = 255
    Pil.fromarray(alpha).save("alpha.png")
    loud = [word for word in (*PAIR, "-o", "o.png", *QUICK) if word != "--quiet"]
    assert stylize(*loud, "--content-guide", "alpha.png", "--style-guide", "part.png") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "alpha.png: 2 regions: #000000 75.0% in the style of style.png, "
        "#ffffff 25.0% in the style of style.png",
        "part.png: 2 regions: #000000 50.0%, #ffffff 50.0%",
    ]
    assert stylize(*PAIR, "-o", "o.png", *QUICK, "--content-guide", "halves.png") == 0
    assert not capsys.readouterr().out


def test_a_region_that_vanishes_is_said(guides: Path, imagenet: Params) -> None:
    small = np.zeros((48, 64), np.uint8)
    small[:6, :6] = 255
    Pil.fromarray(small).save("corner.png")
    deep = ("--style-layers", "relu1_1", "relu4_1", "--content-guide", "corner.png")
    with pytest.warns(UserWarning, match="region #ffffff of the content guide vanishes at relu4_1"):
        assert stylize(*PAIR, "-o", "o.png", *QUICK, *deep) == 0


GRID = ("grid", "--contents", "photos", "--styles", "paintings", "-o", "out", *QUICK)


@pytest.fixture
def folders(guides: Path) -> Path:
    for name in ("photos", "paintings", "guides", "style_guides"):
        Path(name).mkdir()
    for seed, name in enumerate(("photos/a", "photos/b", "paintings/s", "paintings/t")):
        Pil.fromarray(pattern(48, 64, seed)).save(f"{name}.png")
    save_guide("guides/a.png", 0, 255)
    save_guide("style_guides/s.png", 0, 255)
    save_guide("style_guides/t.png", 255, 0)
    return guides


def rows() -> list[dict]:
    return [json.loads(row) for row in Path("out/grid.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_grid_has_guides_by_name(
    folders: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    arguments = ("--content-guides", "guides", "--style-guides", "style_guides")
    assert cli.run([word for word in (*GRID, *arguments) if word != "--quiet"]) == 0
    guides = [(Path(row["content"]).stem, row.get("content_guide")) for row in rows()]
    assert guides == [("a", "guides/a.png")] * 2 + [("b", None)] * 2
    said = capsys.readouterr().out
    assert said.count(".png: 2 regions: #000000 50.0%, #ffffff 50.0%\n") == 3
    single = ("--content-guide", "guides/a.png", "--style-guide", "style_guides/s.png")
    assert stylize("photos/a.png", "paintings/s.png", "-o", "single.png", *QUICK, *single) == 0
    cell = load_image(Path("out") / rows()[0]["image"])
    np.testing.assert_allclose(cell, load_image("single.png"), atol=2 / 255)


def test_a_bad_guide_fails_its_own_cells(
    folders: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    shutil.copy("photos/b.png", "guides/b.png")
    assert cli.run([*GRID, "--content-guides", "guides"]) == EXIT_CELLS_FAILED
    states = [(Path(row["content"]).stem, row["status"]) for row in rows()]
    assert states == [("a", "done")] * 2 + [("b", "failed")] * 2
    assert "the guide b.png has" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_and_a_sweep_have_every_option(folders: Path, imagenet: Params) -> None:
    Path("cells.csv").write_text(
        "content,style,content_guide,style_statistics,preserve_color\n"
        "photos/a.png,paintings/s.png,guides/a.png,gram+moments,\n"
        "photos/b.png,paintings/s.png;paintings/t.png,guides/a.png,,luminance\n"
    )
    assert cli.run(["grid", "--cells", "cells.csv", "-o", "table", *QUICK]) == 0
    swept = ("--sweep", "style_statistics=gram,sliced", "--sweep", "preserve_color=none,match")
    assert cli.run([*GRID, *swept]) == 0
    assert len(rows()) == 16
    assert len({row["loss"] for row in rows()}) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--style-guides", "style_guides"), "style guides need content guides"),
        (("--content-guides", "halves.png"), "halves.png: no content has the same name"),
        (
            ("--content-guides", "guides", "--style-guides", "style_guides/s.png"),
            "paintings/t.png has no style guide",
        ),
    ],
)
def test_guides_of_a_grid_that_belong_nowhere(
    folders: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    assert cli.run([*GRID, *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_presets_are_listed_and_shown(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(["presets"]) == 0
    printed = capsys.readouterr().out
    for name in PRESETS:
        assert f"\n{name}: " in f"\n{printed}"
    assert "    style_layers = relu1_1=0.75" in printed
    assert "    style_statistics = gram\n" in printed
    assert cli.run(["presets", "--print-config", "crowson"]) == 0
    settings = parse_toml(capsys.readouterr().out)
    assert PRESETS["default"].replace(**settings) == PRESETS["crowson"]
    assert cli.run(["presets", "--print-config", "cowson"]) == 2
    assert "unknown preset 'cowson'" in capsys.readouterr().err


COARSE = {"coarse_evaluations": 500, "first_evaluations": 1000}


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("--style-layers", "relu2_1", "relu3_1"), {"style_layers": {"relu2_1": 1, "relu3_1": 1}}),
        (("--style-layers=relu2_1=3",), {"style_layers": {"relu2_1": 3.0}}),
        (("--style-layers", "relu2_1", "--preset=crowson"), COARSE),
        (("--preset=crowson", "--scales=auto"), {"scales": "auto", "evaluations": 500, **COARSE}),
        (("--preset=crowson", "--scales=1"), {"scales": 1, "evaluations": 500}),
        (("--preset=crowson", "--scales", "3", "--start-size=9"), None),
        (("--scales=auto", "--start-size", "200"), {"scales": "auto", "start_size": 200}),
        (("--scales", "2"), {"scales": 2}),
        (("--config=auto.toml",), {"scales": "auto", "start_size": 96}),
        (("--config=auto.toml", "--scales=3"), {"scales": 3}),
        (
            ("--config=whole.toml", "--style_layers", "relu1_1=2"),
            {"style_layers": {"relu1_1": 2.0}, **COARSE},
        ),
        (("--config=layers.toml",), {"style_layers": {"relu1_1": 2.0, "relu2_1": 1.0}}),
        (
            ("--config=layers.toml", "--style-layers", "relu1_1"),
            {"style_layers": {"relu1_1": 1.0}},
        ),
        (
            ("--config=whole.toml", "--scales=3", "--coarse-evaluations", "10"),
            {"coarse_evaluations": 10, "first_evaluations": 1000, "ema": 0.99},
        ),
        (("--config=whole.toml", "--optimizer=lbfgs"), {"optimizer": "lbfgs", **COARSE}),
    ],
    ids=str,
)
def test_what_a_preset_says_of_other_layers_and_scales_is_dropped(
    folder: Path, capsys: pytest.CaptureFixture, words: tuple[str, ...], kept: dict | None
) -> None:
    Path("auto.toml").write_text('scales = "auto"\nstart_size = 96\n')
    Path("layers.toml").write_text("style_layers = {relu1_1 = 2, relu2_1 = 1}\n")
    Path("whole.toml").write_text(to_toml(PRESETS["crowson"]))
    code = stylize(*PAIR, *words, "--print-config")
    printed = capsys.readouterr()
    if kept is None:
        assert code == 2
        assert "start_size has no meaning with scales 3\n" in printed.err
        return
    assert code == 0
    settings = parse_toml(printed.out)
    assert {name: settings[name] for name in kept} == kept
    for name in COARSE.keys() - kept.keys():
        assert settings.get(name) is None
    assert ("start_size" in settings) == (settings["scales"] == "auto")


def test_another_optimizer_drops_what_a_preset_says_of_its_own(
    capsys: pytest.CaptureFixture,
) -> None:
    words = ("--preset", "crowson", "--optimizer", "lbfgs", "--print-config")
    assert stylize(*PAIR, *words) == 0
    settings = parse_toml(capsys.readouterr().out)
    assert settings["optimizer"] == "lbfgs"
    assert not {"ema", "learning_rate", "adam_beta2"} & set(settings)
