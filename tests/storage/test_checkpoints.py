"""Progress goes to disk and comes back bit for bit."""

import errno
import functools
import logging
import os
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxstyle import Config, stylize
from jaxstyle.config.errors import FileError
from jaxstyle.engine.optimizers import state_at
from jaxstyle.engine.records import Progress
from jaxstyle.engine.update import State
from jaxstyle.network.arrays import Params
from jaxstyle.storage.cell_progress import CellProgress
from jaxstyle.storage.checkpoints import Checkpoints
from tests.conftest import SHALLOW, picture

CONTENT, STYLE = picture(32, 48, 0), picture(40, 36, 1)
CONFIG = SHALLOW.replace(
    evaluations=6,
    coarse_evaluations=5,
    scales=2,
    scale_factor=1.3,
    style_weight=1.0,
    tv_weight=1e-5,
)


class Every:
    """Keeps the progress after every evaluation in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def wants(self, evaluation: int) -> bool:
        return True

    def keep(self, progress: Progress) -> None:
        checkpoints = Checkpoints(self.folder / f"{self.count:03}")
        checkpoints.save(progress)
        checkpoints.close()
        self.count += 1

    save = keep


def like(config: Config, scale: int) -> State:
    return state_at(config, CONTENT.shape, scale)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_run_goes_on_from_any_of_its_checkpoints(
    small_params: Params, tmp_path: Path, optimizer: str
) -> None:
    config = CONFIG.replace(optimizer=optimizer)
    whole = stylize(CONTENT, STYLE, config, small_params)
    keeper = Every(tmp_path)
    kept = stylize(CONTENT, STYLE, config, small_params, keeper=keeper)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) >= 4
    results = [kept]
    for folder in folders:
        progress = Checkpoints(folder).restore(lambda scale: like(config, scale))
        assert progress is not None
        results.append(stylize(CONTENT, STYLE, config, small_params, progress=progress))
    for result in results:
        np.testing.assert_array_equal(result.image, whole.image)
        found, expected = (
            [record._replace(seconds=0, compile_seconds=0) for record in run.history]
            for run in (result, whole)
        )
        np.testing.assert_equal(found, expected)
        assert (result.loss, result.terms) == (whole.loss, whole.terms)
        assert (result.reason, result.evaluations) == (whole.reason, whole.evaluations)


def progress_of(config: Config, params: Params) -> Progress:
    kept: list[Progress] = []

    class Last:
        def wants(self, evaluation: int) -> bool:
            return False

        def keep(self, progress: Progress) -> None:
            raise AssertionError("not wanted")

        def save(self, progress: Progress) -> None:
            kept.append(progress)

    stylize(CONTENT, STYLE, config, params, keeper=Last())
    return kept[-1]


def test_the_newest_are_kept(small_params: Params, tmp_path: Path) -> None:
    config = CONFIG.replace(scales=1)
    seconds: list[float] = []
    checkpoints = Checkpoints(tmp_path / "run", on_written=seconds.append)
    assert checkpoints.restore(lambda scale: like(config, scale)) is None
    for evaluations in (2, 3, 4):
        checkpoints.save(progress_of(config.replace(evaluations=evaluations), small_params))
    checkpoints.close()
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["3", "4"]
    restored = Checkpoints(tmp_path / "run").restore(lambda scale: like(config, scale))
    assert restored is not None
    assert restored.evaluations == 4


def test_another_shape_or_format_is_refused(
    small_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.replace(scales=1, evaluations=1)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(progress_of(config, small_params))
    checkpoints.close()
    again = Checkpoints(tmp_path)
    other = config.replace(history_size=3)
    with pytest.raises(FileError, match="does not fit this run"):
        again.restore(lambda scale: like(other, scale))
    with pytest.raises(FileError, match="does not fit this run"):
        again.restore(lambda scale: like(config.replace(optimizer="adam", size=64), scale))
    monkeypatch.setattr("jaxstyle.storage.checkpoints._FORMAT", 5)
    with pytest.raises(FileError, match="of format 4, this jaxstyle reads 5"):
        again.restore(lambda scale: like(config, scale))


def damage(path: Path, way: str) -> None:
    data = bytearray(path.read_bytes())
    match way:
        case "deleted":
            path.unlink()
            return
        case "emptied":
            data.clear()
        case "cut":
            del data[len(data) // 2 :]
        case "altered" if len(data) > 10_000:  # of arrays, for which TensorStore has no checksums
            data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("way", ["emptied", "cut", "deleted", "altered"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    small_params: Params, tmp_path: Path, way: str
) -> None:
    config = CONFIG.replace(scales=1)
    before, newest = (progress_of(config.replace(evaluations=n), small_params) for n in (2, 3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(before)
    checkpoints.save(newest)
    checkpoints.close()
    for file in [path for path in (tmp_path / "3").rglob("*") if path.is_file()]:
        damage(file, way)
    for read_only in (True, False):
        again = Checkpoints(tmp_path, read_only=read_only)
        with pytest.warns(UserWarning, match="cannot be read .*; continuing from the one before"):
            restored = again.restore(lambda scale: like(config, scale))
        assert restored is not None
        assert restored.evaluations == 2
        again.close()
    # It is made once more.
    again = Checkpoints(tmp_path)
    again.save(newest)
    again.close()
    restored = Checkpoints(tmp_path).restore(lambda scale: like(config, scale))
    assert restored is not None
    assert restored.evaluations == 3


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("meta/metadata", '"status"', '"stat"'),
        ("meta/metadata", '"scale"', '"scaly"'),
        ("meta/metadata", '"terms"', '"germs"'),
        ("meta/metadata", '"arrays": [', '"arrays": 1, "other": ['),
        ("meta/metadata", "{", "[{"),
        ("arrays/_METADATA", '"tree_metadata": {', '"tree_metadata": [], "other": {'),
    ],
)
def test_altered_metadata_are_damage(
    small_params: Params, tmp_path: Path, name: str, old: str, new: str
) -> None:
    config = CONFIG.replace(scales=1)
    checkpoints = Checkpoints(tmp_path)
    for evaluations in (2, 3):
        checkpoints.save(progress_of(config.replace(evaluations=evaluations), small_params))
    checkpoints.close()
    path = tmp_path / "3" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) + "]" * (new == "[{"))
    with pytest.warns(UserWarning, match="cannot be read .*; continuing from the one before"):
        restored = Checkpoints(tmp_path).restore(lambda scale: like(config, scale))
    assert restored is not None
    assert restored.evaluations == 2


def test_a_checkpoint_that_cannot_be_reached_is_kept(
    small_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.replace(scales=1, evaluations=2)
    folder = tmp_path / "cell" / "checkpoint"
    checkpoints = Checkpoints(folder)
    checkpoints.save(progress_of(config, small_params))
    checkpoints.close()

    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(ocp.CheckpointManager, "restore", stale)
    expected = functools.partial(like, config)
    with pytest.raises(FileError, match="cannot be read"):
        Checkpoints(folder).restore(expected)
    with pytest.raises(FileError, match="cannot be read"):
        CellProgress(folder.parent, expected, 1.0).restore()
    assert (folder / "2").is_dir()


def test_orbax_is_silent_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    error = None
    try:
        ocp.CheckpointManager(5)  # pyright: ignore[reportArgumentType]
    except Exception as raised:
        error = raised
    assert error is not None
    trace = (type(error), error, error.__traceback__)
    logging.getLogger("asyncio").error("Future exception was never retrieved", exc_info=trace)
    logging.getLogger("asyncio").error("Task exception was never retrieved [tensorstore_spec=0]")
    logging.getLogger("asyncio").error("of something else")
    assert caplog.messages == ["of something else"]
