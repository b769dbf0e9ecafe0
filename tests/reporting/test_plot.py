"""Plots for papers: the best loss so far of every run."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxstyle.config.errors import ConfigError, FileError
from jaxstyle.reporting.plot import draw, plot_runs

LOSSES = [9.0, 12.0, 5.0, None, 4.0, 20.0, 8.0]


def rows(losses: list[float | None]) -> list[dict[str, Any]]:
    return [
        {"evaluation": n + 1, "seconds": n / 2, "loss": loss, "scale": int(n > 4), "terms": {}}
        for n, loss in enumerate(losses)
    ]


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows(LOSSES))
    (folder / "metrics.jsonl").write_text(text + '{"evaluation": 8, "lo')
    return folder


def test_lines_are_the_best_so_far_by_scale() -> None:
    figure = draw({"a": rows(LOSSES), "b": rows([3.0])})
    evaluations, seconds = figure.axes
    assert evaluations.get_yscale() == "log"
    first, second, other = evaluations.get_lines()
    np.testing.assert_array_equal(first.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(first.get_ydata(), [9, 9, 5, 5, 4])
    np.testing.assert_array_equal(second.get_ydata(), [20, 8])
    np.testing.assert_array_equal(other.get_ydata(), [3])
    np.testing.assert_array_equal(seconds.get_lines()[0].get_xdata(), [0, 0.5, 1, 1.5, 2])
    legend = seconds.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_same_plot_is_the_same_file(tmp_path: Path, suffix: str, start: bytes) -> None:
    runs = [make_run(tmp_path / "x" / "run"), make_run(tmp_path / "y" / "run")]
    files = []
    for name in ("one", "two"):
        plot_runs(runs, tmp_path / f"{name}{suffix}")
        files.append((tmp_path / f"{name}{suffix}").read_bytes())
    assert files[0].startswith(start)
    assert files[0] == files[1]


def test_what_cannot_be_plotted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(FileError, match=r"must end in \.png, \.pdf or \.svg"):
        plot_runs([run], tmp_path / "a.txt")
    with pytest.raises(FileError, match="not a run's folder"):
        plot_runs([tmp_path], tmp_path / "a.png")
    (run / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(FileError, match="damaged"):
        plot_runs([run], tmp_path / "a.png")
    with pytest.raises(ConfigError, match="no finite loss"):
        draw({"a": rows([None])})
    (run / "metrics.jsonl").write_text(json.dumps(rows(LOSSES)[0]) + "\n")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="pip install"):
        plot_runs([run], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
