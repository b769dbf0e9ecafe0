"""What is built works without a checkout: the sdist makes the wheel, which needs no other file."""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image as Pil

import jaxstyle
from jaxstyle.network import weights
from jaxstyle.network.arrays import Params
from tests.conftest import pattern

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, kind: str, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the sdist, not from the checkout."""
    folder = tmp_path_factory.mktemp("package")
    with tarfile.open(build(ROOT, "sdist", folder / "sdist")) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    return build(source, "wheel", folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that has the wheel; what it needs is this one's."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    run(programs / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(programs / "python", "-c", code).strip())
    # Only added to the path: links to checkouts in these folders are not followed.
    borrowed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "borrowed.pth").write_text("\n".join(sorted(borrowed)))
    return programs


def test_the_wheel_has_all_files_of_the_package_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.rpartition("/")[2] for name in archive.namelist()} - packed
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "jaxstyle").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == here
    assert {"jaxstyle/py.typed", "jaxstyle/reporting/report.js"} <= packed
    assert {"LICENSE", "METADATA", "entry_points.txt"} <= metadata


def test_the_wheel_works_elsewhere(
    installed: Path, imagenet: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("JAXSTYLE_WEIGHTS", str(weights.chosen_path()))
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "paintings"):
        Path(name).mkdir()
    Pil.fromarray(pattern(48, 64, 0)).save("photos/a.png")
    Pil.fromarray(pattern(56, 40, 1)).save("paintings/s.png")
    quick = ["--size=32", "--scales=1", "--evaluations=2", "--convolution=direct"]
    quick += ["--content-layers=relu2_1", "--style-layers", "relu1_1", "relu2_1"]

    where = run(installed / "python", "-c", "import jaxstyle; print(jaxstyle.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    program = installed / "jaxstyle"
    assert run(program, "--version") == f"jaxstyle {jaxstyle.__version__}\n"
    assert f"jaxstyle {jaxstyle.__version__}, Python 3" in run(program, "info")
    run(program, "stylize", "photos/a.png", "paintings/s.png", "--workdir=RUN", "-o=o.png", *quick)
    run(program, "grid", "--contents=photos", "--styles=paintings", "-o=out", *quick)
    for source, page in (("RUN", "run.html"), ("out", "grid.html")):
        run(program, "report", source, "-o", page)
        assert "<script>" in Path(page).read_text(encoding="utf-8")
    with Pil.open("o.png") as opened:
        assert opened.size == (32, 24)


def test_the_version_is_the_packages() -> None:
    assert importlib.metadata.version("jaxstyle") == jaxstyle.__version__
