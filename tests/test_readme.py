"""What the README shows is what there is."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from jaxstyle import cli, save_image
from jaxstyle.network.arrays import Params

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(
    code: str, imagenet: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


LINES = [
    line for block in blocks("sh") for line in block.splitlines() if line.startswith("jaxstyle ")
]
ON_RUNS = [line for line in LINES if "RUN" in line.split()]
# Direct and shallow, because that compiles in a fraction of the time.
SHALLOW = ["--convolution", "direct", "--content-layers", "relu2_1"]
SHALLOW += ["--style-layers", "relu1_1", "relu2_1"]
COMMANDS = [line for line in LINES if line not in ON_RUNS]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run_on_small_pictures(
    line: str, imagenet: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gatys.toml").write_text('pooling = "average"\n')
    guide = np.zeros((300, 451, 3), np.float32)
    guide[:150] = 1
    save_image("guide.png", guide)
    words = shlex.split(line.split(" > ")[0], comments=True)[1:]
    replaced = {
        "CONTENT": "docs/images/chelsea.jpg",
        "STYLE": "docs/images/starry_night.jpg",
        "STYLE2": "docs/images/chelsea.jpg",
        "GUIDE": "guide.png",
        "768": "32",
        "500": "2",
        "PHOTOS": "docs/images/chelsea.jpg",
        "PAINTINGS": "docs/images/starry_night.jpg",
    }
    words = [replaced.get(word, word) for word in words]
    (tmp_path / "cells.csv").write_text(
        "content,style\ndocs/images/chelsea.jpg,docs/images/starry_night.jpg\n"
    )
    if "--collect" in words:
        (tmp_path / "out").mkdir()
    small = [] if "--size" in words else ["--size", "32"]
    small += [] if "--evaluations" in words else ["--evaluations", "2"]
    assert cli.run([*words, *small, *SHALLOW, "--quiet"]) == 0
    assert "--print-config" in words or list(tmp_path.glob("out.*")) or list(tmp_path.glob("out/*"))


def test_commands_on_runs_go_together(
    imagenet: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    replaced = {
        "CONTENT": "docs/images/chelsea.jpg",
        "STYLE": "docs/images/starry_night.jpg",
        "500": "3",
        "10": "1",
        "1000": "5",
    }
    for line in ON_RUNS:
        words = [replaced.get(word, word) for word in shlex.split(line, comments=True)[1:]]
        small = ["--size", "32", *SHALLOW] if "stylize" in words else []
        assert cli.run([*words, *small]) == 0
    for name in ("out.png", "report.html", "film.webp", "loss.pdf", "LONGER/image.png"):
        assert (tmp_path / name).stat().st_size > 0
    lines = [
        len((tmp_path / run / "metrics.jsonl").read_text().splitlines())
        for run in ("RUN", "LONGER")
    ]
    assert lines == [3, 5]


def test_every_file_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_there_are_examples() -> None:
    assert len(blocks("python")) == 4
    assert len(COMMANDS) >= 18
    assert len(ON_RUNS) == 5
