"""Data flows one way: a module imports only from those above it."""

import ast
from pathlib import Path

import jaxstyle

ORDER = [
    "types",
    "errors",
    "waiting",
    "memory",
    "space",
    "files",
    "jsonl",
    "config",
    "presets",
    "cells",
    "resampling",
    "images",
    "color",
    "convolution",
    "vgg",
    "conversion",
    "weights",
    "losses",
    "wasserstein",
    "statistics",
    "regions",
    "tiling",
    "objective",
    "targets",
    "lbfgs",
    "preconditioner",
    "optimizers",
    "records",
    "loop",
    "fitting",
    "pyramid",
    "transfer",
    "checkpoints",
    "metrics",
    "runs",
    "tensorboard",
    "lane_program",
    "lanes",
    "batch",
    "sheet",
    "pictures",
    "grid",
    "hosts",
    "animation",
    "plot",
    "report",
    "commands",
    "process",
    "terminal",
    "cli_stylize",
    "cli_grid",
    "cli",
]
PACKAGE = Path(jaxstyle.__file__).parent


def imported(path: Path) -> set[str]:
    """Names of jaxstyle's modules that the module at `path` imports, wherever it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxstyle":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxstyle."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("jaxstyle.")}
    return names


def test_every_module_is_in_the_order() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(ORDER)


def test_modules_import_only_from_above() -> None:
    for position, name in enumerate(ORDER):
        below = imported(PACKAGE / f"{name}.py") - set(ORDER[:position])
        assert not below, f"{name} imports {below}"


def test_public_names_are_there() -> None:
    for name in jaxstyle.__all__:
        assert getattr(jaxstyle, name) is not None
