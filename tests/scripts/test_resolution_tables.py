"""The measuring programs of docs/resolution.md measure, on tiny pictures."""

from pathlib import Path

import numpy as np
import pytest

from jaxstyle import AutoPyramid, Config, load_image, save_image
from jaxstyle.imaging.arrays import Image
from jaxstyle.network.arrays import Params
from tests.conftest import picture


@pytest.mark.slow
def test_scales_are_counted_by_what_they_cost(small_params: Params) -> None:
    from resolution.scales import cost_of_scales

    config = Config(
        size=96,
        scales=AutoPyramid(start_size=48, scale_factor=2.0),
        content_weight=0.0,
        style_layers=("relu1_1",),
        convolution="direct",
    )
    found = cost_of_scales(small_params, picture(48, 64, 0), picture(48, 48, 1), config, 4, 8)
    cost = found["cost to the loss of 4"]
    # Half the size costs a quarter: eight evaluations there are two of the full size.
    assert cost == 2 + found["evaluations at the last scale"]
    assert found["share"] == cost / 4


def test_features_of_another_size_are_in_another_octave(imagenet: Params, tmp_path: Path) -> None:
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
    configs = [config.replace(size=size) for size in (64, 96)]
    rows = sizes.sizes_rows(str(content_file), str(style), configs, tmp_path / "out")
    assert [(row["size"], row["cycles an image"]) for row in rows] == [
        (96, "correlation"),
        (96, "power"),
    ]
    made = [load_image(path) for path in (tmp_path / "out" / "cells").glob("*.png")]
    assert {image.shape for image in made} == {(48, 64, 3), (72, 96, 3)}


@pytest.mark.slow
def test_peaks_are_measured_where_they_fit(imagenet: Params, capsys: pytest.CaptureFixture) -> None:
    from resolution.memory import memory

    memory(("64x48", "65536x49152"), ("kept",))
    rows = capsys.readouterr().out.splitlines()[2:]
    small, large = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert small[:2] == ["64×48", "kept"]
    assert 0.3 < float(small[2]) < 10
    assert large[2] == "exceeds memory"
    assert float(large[4]) > 1000
