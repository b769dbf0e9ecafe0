"""`jaxstyle grid` as a user meets it, on the real weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from jaxstyle import cli, extract_features, load_image, save_image
from jaxstyle.cli.commands import RenderGrid
from jaxstyle.cli.grid import grid_cells
from jaxstyle.cli.parsing import parse
from jaxstyle.config import to_toml
from jaxstyle.imaging.resampling import resize_image
from jaxstyle.network.arrays import Params
from jaxstyle.objective.losses import gram_matrix
from tests.conftest import SHALLOW, pattern, picture

IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two contents and two styles in folders of the current one."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("photos/a", "photos/b", "paintings/s", "paintings/t")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Pil.fromarray(pattern(48, 64, seed)).save(path)
    return tmp_path


def grid(*arguments: str) -> int:
    return cli.run(["grid", *arguments])


INPUTS = ("--contents", "photos", "--styles", "paintings", "-o", "out")
# Direct and shallow, because that compiles in a fraction of the time.
QUICK = (*INPUTS, "--size", "32", "--evaluations", "2", "--convolution=direct")
QUICK += ("--style-statistics=gram", "--content-layers=relu2_1")
QUICK += ("--style-layers", "relu1_1", "relu2_1")


def rows() -> list[dict]:
    return [json.loads(row) for row in Path("out/grid.jsonl").read_text().splitlines()]


def grams(params: Params, image: np.ndarray) -> list[np.ndarray]:
    features = extract_features(params, image, ["relu1_1", "relu3_1"], padding="replicate")
    return [np.asarray(gram_matrix(f)) / (f.shape[0] * f.shape[1]) for f in features.values()]


def relative_distance(found: np.ndarray, target: np.ndarray) -> float:
    return float(np.linalg.norm(found - target) / np.linalg.norm(target))


@pytest.mark.slow
def test_every_cell_is_nearest_to_its_own_style(tmp_path: Path, imagenet: Params) -> None:
    """The whole way, with contents of two shapes."""
    chelsea, night = (load_image(IMAGES / f"{n}.jpg") for n in ("chelsea", "starry_night"))
    contents = {"chelsea": chelsea, "upright": np.rot90(chelsea)}
    styles = {
        "night": night,
        "stripes": picture(96, 96, 4),
        "grey": np.repeat(night.mean(2, keepdims=True), 3, 2),
    }
    for name, image in (contents | styles).items():
        side = 96 / max(image.shape)
        shape = round(image.shape[0] * side), round(image.shape[1] * side)
        save_image(tmp_path / f"{name}.png", resize_image(image, shape))
    paths = {name: str(tmp_path / f"{name}.png") for name in contents | styles}
    output = tmp_path / "out"
    # Plain settings, whose loss falls far because style counts for nearly all of it.
    plain = SHALLOW.replace(size=48, evaluations=15, convolution="direct")
    (tmp_path / "plain.toml").write_text(to_toml(plain))
    arguments = ["--contents", *(paths[name] for name in contents)]
    arguments += ["--styles", *(paths[name] for name in styles)]
    arguments += ["-o", str(output), "--config", str(tmp_path / "plain.toml"), "--quiet"]
    assert grid(*arguments) == 0
    found = [json.loads(row) for row in (output / "grid.jsonl").read_text().splitlines()]
    assert len(found) == 6
    targets = {name: grams(imagenet, load_image(paths[name], 48)) for name in styles}
    for row in found:
        assert row["losses"][-1] < 0.5 * row["losses"][0]
        image = load_image(output / row["image"])
        assert max(image.shape) == 48
        mine = grams(imagenet, image)
        distances = {
            name: sum(map(relative_distance, mine, target)) for name, target in targets.items()
        }
        assert min(distances, key=lambda name: distances[name]) == Path(row["styles"][0]).stem
    sheet = load_image(output / "sheet.jpg")
    assert sheet.shape[1] == 4 * 264 + 8
    # Looked at as well: this is what the test leaves where it is told to.
    if "JAXSTYLE_KEEP_SHEET" in os.environ:
        save_image(os.environ["JAXSTYLE_KEEP_SHEET"], sheet)


def test_a_sweep_makes_a_sheet_for_each_setting(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    assert (
        grid(*QUICK, "--sweep", "style_weight=1,100", "--sweep", "seed=0:2", "--progress=3600") == 0
    )
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "cells",
        "grid.jsonl",
        *(f"sheet-{number:03}.jpg" for number in range(1, 5)),
    ]
    assert len(rows()) == 16
    printed = capsys.readouterr()
    assert "16 cells done, 0 failed" in printed.out
    assert printed.err == "jaxstyle: compiling\n"


def test_a_table_and_shards_and_collect(
    folder: Path,
    imagenet: Params,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jaxstyle.cli.grid._LATE", 0)
    Path("cells.csv").write_text(
        "content,style,style_weight\n"
        "photos/a.png,paintings/s.png,10\nphotos/b.png,paintings/t.png,\n"
        "photos/a.png,paintings/t.png,\n",
    )
    base = ("--cells", "cells.csv", "-o", "out", *QUICK[6:])
    assert grid(*base, "--shard", "1/2") == 0
    assert "not there yet" in capsys.readouterr().out
    assert not Path("out/grid.jsonl").exists()
    assert grid(*base, "--collect") == 0
    some = len(rows())
    assert 0 < some < 3
    assert grid(*base, "--shard", "0/2") == 0
    assert len(rows()) == 3


def test_a_folder_is_no_setting() -> None:
    words = ["--contents", "tv", "--styles", "init", "-o", "scales", "--style_layers", "relu2_1"]
    command = parse(["grid", *words])
    assert isinstance(command, RenderGrid)
    assert command.flags == {"style_layers": ("relu2_1",)}


def test_what_was_asked_for_holds_for_every_preset(folder: Path, imagenet: Params) -> None:
    # 200 is what the default preset has, and gatys has not.
    asked = (*INPUTS, "--size", "24", "--evaluations", "200", "--tv-weight=5")
    command = parse(["grid", *asked, "--sweep", "preset=default,gatys"])
    assert isinstance(command, RenderGrid)
    configs = {cell.config for cell in grid_cells(command)}
    assert len(configs) == 2
    assert {config.evaluations for config in configs} == {200}
    assert {config.tv_weight for config in configs} == {5.0}
    assert {config.size for config in configs} == {24}


def test_failed_cells_are_counted_and_code_3(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    Path("photos/a.png").write_text("no picture")
    assert grid(*QUICK) == 3
    printed = capsys.readouterr()
    assert "2 cells done, 2 failed" in printed.out
    line = "jaxstyle: photos/a.png: not an image that can be read (2 cells fail)\n"
    assert printed.err == f"jaxstyle: compiling\n{line}"
    assert [row["status"] for row in rows()] == ["failed", "failed", "done", "done"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--contents", "photos", "-o", "out"), "--contents and --styles"),
        (("--contents", "photos", "--styles", "paintings"), "-o OUTDIR"),
        ((*INPUTS, "--sweep", "style_weigth=1"), "did you mean style_weight"),
        ((*INPUTS, "--cells", "cells.csv"), "--cells replaces"),
        (("--cells", "missing.csv", "-o", "out"), "no such file"),
        (("--contents", ".", "--styles", "paintings", "-o", "out"), "no pictures"),
        (
            ("--contents", "none", "--styles", "paintings", "-o", "out"),
            "none: no such file or folder",
        ),
        (("--contents", "photos", "--styles", "paintings/u.png", "-o", "out"), "u.png: no such"),
        ((*INPUTS, "--content-guides", "none"), "none: no such file or folder"),
        ((*INPUTS, "--shard", "2/2"), "from 0 to N-1"),
        ((*INPUTS, "--shard", "half"), "--shard must be I/N"),
        ((*INPUTS, "--shard", "0/2", "--distributed"), "exclude each other"),
        ((*INPUTS, "--shard", "0/2", "--collect"), "exclude each other"),
        ((*INPUTS, "--collect"), "nothing to collect"),
        (("--contents", "photos", "--styles", "paintings", "-o", "photos/"), "also an input"),
        (("--contents", "photos", "--styles", "paintings", "-o", "x/../photos"), "also an input"),
        ((*INPUTS, "--content-guides", "out"), "also an input"),
        ((*INPUTS, "--snapshots", "often"), "--snapshots must be N or N,N"),
        (("--contents", "photos", "--styles", "paintings", "-o", "s3://bucket"), "nor gs://"),
        ((*INPUTS, "--lanes", "0"), "--lanes must be at least 1"),
        ((*INPUTS, "--space", "99"), "an image cannot be shared by 99 devices"),
        ((*INPUTS, "--style-layers", "relu9_9"), "unknown layer"),
        ((*INPUTS, "--style-weights", "1", "2"), "2 style_weights for 1 style;"),
        ((*INPUTS, "--sweep", "style_layers=relu1_1+relu2_1=nan"), "must be a finite"),
        (("--contents", "photos", "--styles", "paintings", "-o", "photos/a.png"), "photos/a.png"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    folder: Path,
    imagenet: Params,
    capsys: pytest.CaptureFixture,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    before = sorted(folder.rglob("*"))
    assert grid(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_ctrl_c_keeps_the_cells_that_are_done(folder: Path, imagenet: Params) -> None:
    command = [sys.executable, "-m", "jaxstyle", "grid", *QUICK, "--sweep", "seed=0:50"]
    command += ["--init", "noise", "--lanes", "1"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    waited = time.monotonic() + 120
    while len(list(Path("out/cells").glob("*.json"))) < 3:
        assert time.monotonic() < waited
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    told = "jaxstyle: interrupted; run the same command again to continue\n"
    assert err == f"jaxstyle: compiling\n{told}"
    names = {path.stem for path in Path("out/cells").glob("*.json")}
    assert names == {path.stem for path in Path("out/cells").glob("*.png")}
    assert not list(Path("out/cells").glob(".*"))
