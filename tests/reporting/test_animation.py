"""Animations: the snapshots in order, at one size, and the result at the end."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from jaxstyle.config.errors import ConfigError, FileError
from jaxstyle.reporting.animation import write_animation
from tests.conftest import pattern


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "snapshots").mkdir()
    for evaluation, shape in ((5, (24, 32)), (10, (24, 32)), (100, (49, 65)), (20, (49, 65))):
        Pil.fromarray(pattern(*shape, evaluation % 3)).save(
            tmp_path / "snapshots" / f"{evaluation:06}.png"
        )
    Pil.fromarray(pattern(49, 65, 3)).save(tmp_path / "image.png")
    return tmp_path


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_frames_are_the_snapshots_and_the_result(run: Path, suffix: str) -> None:
    output = run / f"a{suffix}"
    assert write_animation(run, output, seconds=2.0) == 5
    with Pil.open(output) as opened:
        assert opened.n_frames == 5
        assert opened.size == (65, 49)
        assert opened.info.get("loop") == 0
        durations, frames = [], []
        for index in range(5):
            opened.seek(index)
            opened.load()
            durations.append(opened.info["duration"])
            frames.append(np.asarray(opened.convert("RGB"), np.float64))
    assert durations == [500, 500, 500, 500, 1500]
    assert np.abs(frames[-1] - pattern(49, 65, 3)).mean() < 16
    assert np.abs(frames[-2] - pattern(49, 65, 1)).mean() < 16
    first = output.read_bytes()
    write_animation(run, output, seconds=2.0)
    assert output.read_bytes() == first


def test_as_many_frames_as_there_is_time_for(run: Path) -> None:
    for number in range(200, 220):
        Pil.fromarray(pattern(49, 65, number % 7)).save(run / "snapshots" / f"{number:06}.png")
    output = run / "a.gif"
    assert write_animation(run, output, seconds=0.2) == 11
    with Pil.open(output) as opened:
        durations = []
        for index in range(opened.n_frames):
            opened.seek(index)
            durations.append(opened.info["duration"])
    assert sum(durations[:-1]) == 200
    assert durations[-1] == 1500
    # 24 snapshots in 30 frames: some are shown for two of them.
    assert write_animation(run, run / "b.mp4", seconds=1.0) == 25
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(run / "b.mp4"))
    assert next(reader)["duration"] == pytest.approx(2.5, abs=0.05)
    reader.close()


# The package does not close the pipes of the process that it reads from.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_video_plays_back(run: Path) -> None:
    import imageio_ffmpeg

    assert write_animation(run, run / "a.mp4", seconds=2.0) == 5
    reader = imageio_ffmpeg.read_frames(str(run / "a.mp4"))
    about = next(reader)
    assert about["size"] == (64, 48)
    assert about["duration"] == pytest.approx(3.5, abs=0.1)
    frames = [np.frombuffer(frame, np.uint8).reshape(48, 64, 3) for frame in reader]
    assert np.abs(frames[-1].astype(float) - pattern(49, 65, 3)[:48, :64]).mean() < 16


def test_what_cannot_be_animated_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileError, match=r"must end in \.webp, \.gif or \.mp4"):
        write_animation(run, run / "a.avi")
    with pytest.raises(FileError, match="not a run's folder"):
        write_animation(run / "none", run / "a.gif")
    (run / "grid" / "cells").mkdir(parents=True)
    with pytest.raises(FileError, match="is a grid's folder; name one of a cell"):
        write_animation(run / "grid", run / "a.gif")
    (run / "bare").mkdir()
    (run / "bare" / "config.toml").write_text("size = 9\n")
    with pytest.raises(FileError, match="no snapshots; make some"):
        write_animation(run / "bare", run / "a.gif")
    with pytest.raises(ConfigError, match="--seconds must be above 0"):
        write_animation(run, run / "a.gif", seconds=0)
    with pytest.raises(FileError, match="does not exist"):
        write_animation(run, run / "none" / "a.gif")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match="pip install"):
        write_animation(run, run / "a.mp4")
    assert not list(run.glob("a.*"))
