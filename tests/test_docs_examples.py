"""What the README and the pages of the documentation show is what there is."""

import contextlib
import io
import itertools
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

from jaxstyle import cli, save_image
from jaxstyle.cli import parsing
from jaxstyle.config import preset
from jaxstyle.network import weights
from jaxstyle.network.arrays import Params
from jaxstyle.storage import cells

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def lines(page: str) -> list[str]:
    """The commands of a page's blocks, each as one line without its comment."""
    shown = "\n".join(blocks(page, "sh") + blocks(page, "bash")).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in shown.splitlines()]


def of_jaxstyle(page: str) -> list[str]:
    return [
        line.removeprefix("srun ")
        for line in lines(page)
        if line.removeprefix("srun ").startswith("jaxstyle ")
    ]


SHELL = [page for page in PAGES if lines(page)]
PYTHON = [(page, number) for page in PAGES for number in range(len(blocks(page, "python")))]

# Direct and shallow, because that compiles in a fraction of the time.
SHALLOW = ["--convolution", "direct", "--content-layers", "relu2_1"]
SHALLOW += ["--style-layers", "relu1_1", "relu2_1"]
SMALL = {
    "CONTENT": "docs/images/chelsea.jpg",
    "STYLE": "docs/images/starry_night.jpg",
    "STYLE2": "docs/images/chelsea.jpg",
    "GUIDE": "guide.png",
    "PHOTOS": "photos",
    "PAINTINGS": "paintings",
    "768": "32",
    "2048": "32",
    "500": "3",
    "1000": "5",
    "10": "1",
}


@pytest.fixture
def folder(small_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures that commands name, where a small network is loaded."""
    monkeypatch.setattr(weights, "to_params", lambda _: small_params)
    monkeypatch.chdir(tmp_path)
    Path("docs").symlink_to(ROOT / "docs")
    for name in ("photos/cat", "paintings/night", "paintings/scream"):
        Path(name).parent.mkdir(exist_ok=True)
        picture = "chelsea" if "cat" in name else "starry_night"
        Path(f"{name}.jpg").symlink_to(ROOT / "docs" / "images" / f"{picture}.jpg")
    guide = np.zeros((300, 451, 3), np.float32)
    guide[:150] = 1
    save_image("guide.png", guide)
    (table,) = blocks("docs/grids.md", "csv")
    Path("cells.csv").write_text(table, encoding="utf-8")
    return tmp_path


def small(words: list[str]) -> list[str]:
    """Return the words of a command with the pictures of `folder`, made quick."""
    words = [SMALL.get(word, word) for word in words]
    if words[0] not in ("stylize", "grid"):
        return words
    words += [] if "--size" in words else ["--size", "32"]
    words += [] if "--evaluations" in words else ["--evaluations", "2"]
    quiet = [] if "--print-config" in words else ["--quiet"]
    return [*words, *SHALLOW, *quiet]


def run_commands(page: str) -> None:
    for line in of_jaxstyle(page):
        words, _, target = line.partition(" > ")
        words = shlex.split(words)[1:]
        parsing.parse(words)
        # What needs a bucket, a cluster, several devices, a network or another folder's pictures.
        elsewhere = {"--distributed", "--space", "warm", "fetch"} & {*words}
        if elsewhere or "gs://" in line or page == "docs/slurm.md":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert cli.run(small(words)) == 0, line
        if target:
            Path(target).write_text(printed.getvalue(), encoding="utf-8")
        for flag, output in itertools.pairwise(words):
            assert flag != "-o" or Path(output).exists(), line


@pytest.mark.parametrize("page", [page for page in SHELL if of_jaxstyle(page)])
def test_commands_run_in_their_order(page: str, imagenet: Params, folder: Path) -> None:
    run_commands(page)
    if page == "docs/runs.md":
        numbers = [
            len(Path(run, "metrics.jsonl").read_text(encoding="utf-8").splitlines())
            for run in ("RUN", "LONGER")
        ]
        assert numbers == [3, 5]


def test_completions_are_written(tmp_path: Path) -> None:
    assert "jaxstyle --tyro-write-completion bash FILE" in PAGES["docs/index.md"]
    with pytest.raises(SystemExit) as ended:
        cli.run(["--tyro-write-completion", "bash", str(tmp_path / "file")])
    assert not ended.value.code
    assert "--style-weight" in (tmp_path / "file").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", SHELL)
def test_blocks_are_shell_and_name_what_there_is(page: str) -> None:
    for language in ("sh", "bash"):
        for block in blocks(page, language):
            subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for line in lines(page):
        program = line.split(" ")[0]
        if program.startswith("scripts/"):
            assert (ROOT / program).is_file(), line
    for names in re.findall(r"pip install [^`\n]*?'(?:\.|jaxstyle)\[([a-z,]+)\]'", PAGES[page]):
        assert {*names.split(",")} <= {*extras}, names


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number"), PYTHON)
def test_python_examples_run(page: str, number: int, imagenet: Params, folder: Path) -> None:
    code = re.sub(r"\bsize=\d+", "size=64", blocks(page, "python")[number])
    code = re.sub(r"\bevaluations=\d+", "evaluations=3", code)
    exec(compile(code, f"{page}, block {number + 1}", "exec"), {"__name__": "example"})


def test_every_file_that_pages_outside_the_site_link_to_exists() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "weights/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / page).parent.joinpath(target).is_file(), target


def test_a_table_of_cells_is_one(folder: Path) -> None:
    read = cells.read_cells("cells.csv", cells.Base("default"))
    assert [cell.config.preserve_color for cell in read] == ["none", "luminance"]
    assert read[0].config == preset("default")


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 10
    assert sum(len(of_jaxstyle(page)) for page in PAGES) >= 40


def test_git_ignores_what_the_readme_writes() -> None:
    written = re.findall(r"(?:-o |save_image\(\")([\w.]+)(?=[\s\"])", PAGES["README.md"])
    assert {"out", "out.png"} <= set(written)
    ignored = (ROOT / ".gitignore").read_text().split()
    assert all({f"/{name}", f"/{Path(name).stem}.*"} & set(ignored) for name in written)
