"""The files of versions say what pyproject.toml and the published figures say."""

import json
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def pinned(path: Path) -> dict[str, Version]:
    """The version of each package in a file of constraints."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(n): Version(v) for n, v in (line.split("==") for line in lines)}


def test_the_lowest_versions_are_those_admitted() -> None:
    lowest = pinned(ROOT / "tests" / "constraints-lowest.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        (bound,) = requirement.specifier
        chosen = lowest[canonicalize_name(requirement.name)]
        assert bound.operator == ">="
        # 24.3 admits no 24.3.0 if there is none.
        assert chosen.release[: len(Version(bound.version).release)] == (
            Version(bound.version).release
        )
    assert lowest["jaxlib"] == lowest["jax"]


def test_the_measured_versions_are_those_of_the_figures() -> None:
    measured = pinned(ROOT / "scripts" / "constraints.txt")
    report = json.loads((ROOT / "docs" / "benchmark" / "benchmark.json").read_text())
    versions = report["machine"]["versions"]
    for name in measured.keys() & versions.keys():
        assert measured[name] == Version(versions[name])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(measured[canonicalize_name(requirement.name)])
