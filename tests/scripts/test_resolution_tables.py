"""The measuring programs of docs/resolution.md measure, on tiny pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxstyle import Config, load_image, save_image
from jaxstyle.imaging.arrays import Image
from jaxstyle.network.arrays import Params
from tests.conftest import picture

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))


@pytest.mark.slow
def test_scales_are_counted_by_what_they_cost(small_params: Params, tmp_path: Path) -> None:
    from resolution.scales import scales_table

    content, style = tmp_path / "content.png", tmp_path / "style.png"
    save_image(content, picture(48, 64, 0))
    save_image(style, picture(48, 48, 1))
    config = Config().replace(
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


def test_features_of_another_size_are_in_another_octave(
    small_params: Params, tmp_path: Path
) -> None:
    from resolution import sizes

    def strokes(side: int, cycles: int) -> Image:
        """Waves around a few frequencies, along both axes."""
        x = np.arange(side) / side
        waves = [np.sin(2 * np.pi * (k * x + 0.1 * k * k)) for k in range(cycles, cycles + 4)]
        wave = np.sum(waves, axis=0)
        return np.repeat(0.5 + 0.03 * (wave[:, None] + wave)[..., None], 3, axis=2)

    content = np.full((128, 128, 3), 0.5, np.float32)
    reference = strokes(128, 10)
    same = sizes.compare_bands(strokes(512, 10), reference, content)
    assert [(band.low, band.high) for band in same] == [(1, 8), (8, 16), (16, 32), (32, 64)]
    assert same[1].correlation > 0.97  # but for where pixels of two grids lie
    assert same[1].power == pytest.approx(1, abs=0.1)
    finer = sizes.compare_bands(strokes(512, 20), reference, content)
    assert finer[1].power < 0.01
    assert finer[2].power > 100

    content_file, style = tmp_path / "content.png", tmp_path / "style.png"
    save_image(content_file, picture(48, 64, 0))
    save_image(style, picture(48, 48, 1))
    config = Config(evaluations=1, style_layers=("relu1_1",), content_layers=("relu1_2",))
    given = small_params, content_file, style, config, [64, 96], tmp_path / "out"
    table = sizes.sizes_table(*given).splitlines()
    assert [row.split(" | ")[:2] for row in table[2:]] == [
        ["| 96", "correlation"],
        ["| 96", "power"],
    ]
    assert load_image(tmp_path / "out" / "content_style_96.png").shape == (72, 96, 3)


@pytest.mark.slow
def test_peaks_are_measured_where_they_fit(imagenet: Params) -> None:
    from resolution.memory import memory_table

    rows = memory_table([(64, 48), (65536, 49152)], ["kept"]).splitlines()[2:]
    small, large = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert small[:2] == ["64×48", "kept"]
    assert 0.3 < float(small[2]) < 10
    assert large[2] == "exceeds memory"
    assert float(large[4]) > 1000
