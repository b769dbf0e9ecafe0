"""Nine packages; data flows one way, through public names."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxstyle

ORDER = (
    "config",
    "imaging",
    "network",
    "optim",
    "objective",
    "engine",
    "storage",
    "reporting",
    "cli",
)
ROOT = Path(jaxstyle.__file__).parent


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Modules of jaxstyle and the names that the file imports of them, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxstyle":
            for alias in node.names:
                yield str(node.module), alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] != "jaxstyle", f"{path}: import names of packages"


def test_there_are_nine_packages() -> None:
    assert {path.name for path in ROOT.iterdir() if path.name != "__pycache__"} == {
        "__init__.py",
        "__init__.pyi",
        "__main__.py",
        "py.typed",
        *ORDER,
    }


def test_packages_import_public_names_from_above_only() -> None:
    for position, package in enumerate(ORDER):
        for path in (ROOT / package).glob("*.py"):
            for module, name in imported(path):
                top, _, rest = module.partition(".")
                home, _, inner = rest.partition(".")
                assert home, f"{path} imports {name} from {top}: name its package"
                if home == package:
                    continue
                assert home in ORDER[:position], f"{path} imports from {module}"
                assert not inner, f"{path} imports from {module}, not from the package"
                assert name in importlib.import_module(module).__all__, f"{path}: {module}.{name}"


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    names = {path.stem for path in ROOT.glob("*/*.py")} - {"__init__", "__main__"}
    assert not names & sys.stdlib_module_names


def test_packages_say_what_they_are_for() -> None:
    for package in ORDER:
        assert len(importlib.import_module(f"jaxstyle.{package}").__doc__ or "") > 60


def test_public_names_are_there() -> None:
    for package in ("", *(f".{name}" for name in ORDER)):
        module = importlib.import_module(f"jaxstyle{package}")
        for name in module.__all__:
            assert getattr(module, name) is not None
