"""The measuring programs of docs/resolution.md measure, on tiny pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxstyle import Config, load_image, save_image
from jaxstyle.images import resize_image
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


def test_features_twice_as_large_are_found(
    imagenet: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resolution import sizes

    painting = load_image(SCRIPTS.parent / "docs" / "images" / "starry_night.jpg", 128)
    height, width = painting.shape[:2]
    middle = painting[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]
    enlarged = resize_image(middle, (height, width))
    monkeypatch.setattr(sizes, "MAGNIFICATIONS", (0.35, 0.5, 0.71, 1.0))
    assert np.argmin(sizes.texture_distances(imagenet, enlarged, painting)) == 1

    content, style = tmp_path / "content.png", tmp_path / "style.png"
    save_image(content, picture(48, 64, 0))
    save_image(style, picture(48, 48, 1))
    config = Config(evaluations=1, convolution="direct")
    table = sizes.sizes_table(imagenet, content, style, config, [64, 96], tmp_path / "out")
    assert table.splitlines()[-1].startswith("| 96 | ")
    assert load_image(tmp_path / "out" / "content_style_96.png").shape == (72, 96, 3)


def test_peaks_are_measured_where_they_fit(imagenet: Params) -> None:
    from resolution.memory import memory_table

    rows = memory_table([(64, 48), (65536, 49152)], ["tiled 32"]).splitlines()[2:]
    small, large = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert small[:2] == ["64×48", "tiled 32"]
    assert 0.3 < float(small[2]) < 10
    assert large[2] == "more than there is"
    assert float(large[4]) > 1000
