"""Scales: how many fit, and that every way to make a picture goes through the same ones."""

from pathlib import Path

import numpy as np
import pytest

from jaxstyle import Config, Result, save_image, stylize, stylize_batch
from jaxstyle.engine.optimizers import state_at
from jaxstyle.engine.pyramid import image_shape, levels
from jaxstyle.engine.records import Progress
from jaxstyle.network.arrays import Params
from jaxstyle.storage.cells import GridCell
from jaxstyle.storage.checkpoints import Checkpoints
from jaxstyle.storage.grid import Grid
from tests.conftest import SHALLOW, picture

CONTENT, STYLE = picture(48, 64, 0), picture(40, 36, 1)
# 48×64 and, above the 32 pixels that its short side has to have, 34×45.
AUTO = SHALLOW.replace(
    evaluations=5,
    coarse_evaluations=4,
    style_weight=1.0,
    tv_weight=1e-5,
    scales="auto",
    scale_factor=2**0.5,
    start_size=40,
)


@pytest.mark.parametrize(
    ("shape", "long_sides"),
    [
        ((384, 512), [128, 256, 512]),
        ((512, 384), [128, 256, 512]),
        ((192, 192), [96, 192]),
        ((190, 190), [190]),
        ((95, 95), [95]),
        ((20, 30), [30]),
        ((100, 1000), [500, 1000]),  # of 50 rows; 25 would be too few
        ((40, 400), [400]),
        ((1, 1), [1]),
    ],
)
def test_automatic_scales_are_as_many_as_fit(shape: tuple[int, int], long_sides: list[int]) -> None:
    config = Config(scales="auto", evaluations=7)
    found = levels(config, shape)
    assert [max(level.shape) for level in found] == long_sides
    assert [level.evaluations for level in found] == [7] * len(long_sides)
    assert found[-1].ratio == 1


@pytest.mark.parametrize(
    ("changes", "long_sides"),
    [
        ({"start_size": 64}, [64, 128, 256]),
        ({"start_size": 65}, [128, 256]),
        ({"start_size": 200}, [256]),
        ({"start_size": 1000}, [256]),
        ({"start_size": 1}, [64, 128, 256]),  # short sides from 32 on
        ({"scale_factor": 2**0.5, "start_size": 128}, [128, 181, 256]),
        ({"scale_factor": 1.25, "start_size": 160}, [164, 205, 256]),
    ],
)
def test_where_automatic_scales_start(changes: dict, long_sides: list[int]) -> None:
    shape = (182, 256)
    config = Config(scales="auto").replace(**changes)
    found = levels(config, shape)
    assert [max(level.shape) for level in found] == long_sides


@pytest.mark.parametrize(
    ("shape", "coarse"),
    [
        ((384, 512), (192, 256)),  # 4:3
        ((410, 512), (192, 256)),  # 5:4
        ((512, 366), (256, 192)),  # 5:7
        ((341, 512), (192, 256)),  # 3:2
        ((320, 512), (144, 256)),  # 8:5
        ((288, 512), (144, 256)),  # 16:9
        ((512, 512), (256, 256)),
        ((480, 512), (256, 256)),
        ((256, 512), (128, 256)),
        ((200, 512), (96, 256)),  # narrower
        ((66, 500), (32, 250)),  # no less than 32 pixels by rounding
        ((3, 512), (2, 256)),
    ],
)
def test_coarse_scales_have_few_shapes(shape: tuple[int, int], coarse: tuple[int, int]) -> None:
    config = Config().replace(scales=2)
    assert image_shape(shape, 0.5, config) == coarse
    assert image_shape(shape, 1.0, config) == shape
    own = config.replace(coarse_aspect="own")
    assert image_shape(shape, 0.5, own) == (round(shape[0] / 2), round(shape[1] / 2))


def test_coarse_scales_have_their_own_budget() -> None:
    found = levels(Config().replace(scales="auto", evaluations=7, coarse_evaluations=3), (512, 512))
    assert [level.evaluations for level in found] == [3, 3, 7]
    three = {"scales": 3, "coarse_evaluations": 2, "first_evaluations": 1}
    found = levels(Config(evaluations=7).replace(**three), (256, 256))
    assert [level.evaluations for level in found] == [1, 2, 7]
    assert [level.ratio for level in found] == pytest.approx([0.25, 0.5, 1])
    found = levels(Config(evaluations=7).replace(**three | {"scales": 4}), (256, 256))
    assert [level.evaluations for level in found] == [1, 2, 2, 7]
    # As in one scale, the last budget is `evaluations`.
    automatic = Config(evaluations=7).replace(**three | {"scales": "auto"})
    assert [level.evaluations for level in levels(automatic, (64, 64))] == [7]
    assert [level.evaluations for level in levels(automatic, (512, 512))] == [1, 2, 7]
    first = Config(evaluations=7).replace(scales=3, first_evaluations=1)
    assert [level.evaluations for level in levels(first, (256, 256))] == [1, 7, 7]


def losses(result: Result) -> list[tuple[int, float]]:
    return [(record.scale, record.loss) for record in result.history]


@pytest.fixture(scope="module")
def whole(small_params: Params) -> Result:
    return stylize(CONTENT, STYLE, AUTO, small_params)


def test_automatic_scales_are_those_one_could_have_named(
    whole: Result, small_params: Params
) -> None:
    named = stylize(CONTENT, STYLE, AUTO.replace(scales=2, scale_factor=2**0.5), small_params)
    assert [record.scale for record in whole.history] == [0] * 4 + [1] * 5
    assert losses(whole) == losses(named)
    np.testing.assert_array_equal(whole.image, named.image)


@pytest.mark.slow
def test_a_batch_goes_through_as_many_scales_as_each_shape_has(
    whole: Result, small_params: Params
) -> None:
    contents = [CONTENT, picture(32, 48, 3), CONTENT]
    configs = [AUTO, AUTO, AUTO.replace(size=48)]
    found = stylize_batch(contents, STYLE, configs, small_params)
    assert [[record.scale for record in run.history] for run in found] == [
        [0] * 4 + [1] * 5,
        [0] * 5,
        [0] * 5,
    ]
    np.testing.assert_allclose(
        [loss for _, loss in losses(found[0])], [loss for _, loss in losses(whole)], rtol=1e-4
    )
    np.testing.assert_allclose(found[0].image, whole.image, atol=1e-3)


def test_a_grid_counts_and_goes_through_the_scales(
    whole: Result, small_params: Params, tmp_path: Path
) -> None:
    save_image(tmp_path / "content.png", CONTENT)
    save_image(tmp_path / "style.png", STYLE)
    files = str(tmp_path / "content.png"), (str(tmp_path / "style.png"),)
    cells = [GridCell(*files, AUTO), GridCell(*files, AUTO.replace(size=48))]
    costs = [entry.cost for entry in Grid(cells, tmp_path, weights_sha256="small").entries]
    assert costs == [48 * 64 * (4 / 2 + 5), 36 * 48 * 5]
    grid = Grid(cells[:1], tmp_path / "out", weights_sha256="small")
    grid.run(small_params)
    row = grid.row(grid.entries[0])
    assert row is not None
    assert row["evaluations"] == 9
    np.testing.assert_allclose(row["losses"], [loss for _, loss in losses(whole)], rtol=1e-3)


class Keeps:
    """Puts the progress after every evaluation into a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scales = folder, []

    def wants(self, evaluation: int) -> bool:
        return True

    def keep(self, progress: Progress) -> None:
        checkpoints = Checkpoints(self.folder / f"{len(self.scales):03}")
        checkpoints.save(progress)
        checkpoints.close()
        self.scales.append(progress.scale)

    save = keep


def test_a_run_goes_on_within_and_between_automatic_scales(
    whole: Result, small_params: Params, tmp_path: Path
) -> None:
    keeper = Keeps(tmp_path)
    stylize(CONTENT, STYLE, AUTO, small_params, keeper=keeper)
    assert set(keeper.scales) == {0, 1}
    shape = CONTENT.shape
    assert [level.shape for level in levels(AUTO, shape)] == [(34, 45), (48, 64)]
    for folder in sorted(tmp_path.iterdir()):
        progress = Checkpoints(folder).restore(lambda scale: state_at(AUTO, shape, scale))
        assert progress is not None
        result = stylize(CONTENT, STYLE, AUTO, small_params, progress=progress)
        assert losses(result) == losses(whole)
        np.testing.assert_array_equal(result.image, whole.image)
