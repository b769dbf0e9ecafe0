"""The measuring programs of docs/resolution.md measure, on tiny pictures."""

import json
from pathlib import Path

import pytest

from jaxstyle import Config, save_image
from jaxstyle.types import Params
from tests.conftest import picture

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))


def test_scales_are_counted_by_what_they_cost(small_params: Params, tmp_path: Path) -> None:
    from resolution.scales import scales_table

    content, style = tmp_path / "content.png", tmp_path / "style.png"
    save_image(content, picture(48, 64, 0))
    save_image(style, picture(48, 48, 1))
    config = Config(
        size=96,
        scales="auto",
        start_size=48,
        scale_factor=2.0,
        content_weight=0.0,
        style_layers=("relu1_1",),
        convolution="direct",
    )
    table = scales_table(small_params, [(content, style)], config, 4, 8, tmp_path / "out")
    (stored,) = (tmp_path / "out").glob("*.json")
    found = json.loads(stored.read_text())
    # Half the size costs a quarter: eight evaluations there are two of the full size.
    assert found["cost"] == 2 + found["last"]
    assert f"| content, style | {found['cost']:.0f} | {found['cost'] / 4:.2f} |" in table
    again = scales_table(small_params, [(content, style)], config, 4, 8, tmp_path / "out")
    assert again == table


def test_peaks_are_measured_where_they_fit(imagenet: Params) -> None:
    from resolution.memory import memory_table

    rows = memory_table([(64, 48), (65536, 49152)], ["tiled 32"]).splitlines()[2:]
    small, large = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert small[:2] == ["64×48", "tiled 32"]
    assert 0.3 < float(small[2]) < 10
    assert large[2] == "more than there is"
    assert float(large[4]) > 1000
