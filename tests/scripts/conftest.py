"""Makes the packages in scripts/ importable, in tests and in the processes that they start."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = Path(__file__).parents[2] / "scripts"
    monkeypatch.syspath_prepend(scripts)
    monkeypatch.setenv("PYTHONPATH", str(scripts))
