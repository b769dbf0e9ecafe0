"""Animation of a run: its snapshots in order, with the result held at the end."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image as Pil

from jaxstyle.config import ConfigError, FileError
from jaxstyle.imaging import files, images, load_image, resize_image, to_uint8
from jaxstyle.storage import read_config

_HELD = 1.5
"""Duration of the last frame in seconds."""
_FPS = 30
_MOST_PER_SECOND = 50
"""Maximum frame rate of browsers for WebP and GIF; excess snapshots are left out."""

Frames = list[UInt8[np.ndarray, "h w 3"]]


def write_animation(run: epath.PathLike, output: epath.PathLike, *, seconds: float = 6.0) -> int:
    """Animate the snapshots in `run` and write the animation to `output`: .webp, .gif or .mp4.

    Coarse scales are enlarged to the last frame's size.

    Args:
        run: a run's folder.
        output: the file to write.
        seconds: the duration, not counting the 1.5 s of the last frame.

    Returns:
        The number of frames: the result and the snapshots, evenly thinned if too many for the
        duration.

    Raises:
        FileError: the run has no snapshots, or the file cannot be written or has another suffix.
        ConfigError: `seconds` is not allowed, or the encoder is missing.
    """
    suffix = files.check_writable(output, (".webp", ".gif", ".mp4"))
    if not 0 < seconds < 3600:
        raise ConfigError(f"--seconds must be above 0 and below an hour, not {seconds}")
    folder = files.open_path(epath.Path(run) / "snapshots")
    candidates = folder.glob("*.png") if folder.is_dir() else ()
    snapshots = [path for path in candidates if path.stem.isdecimal()]
    paths = sorted(snapshots, key=lambda path: int(path.stem))
    if not paths:
        read_config(run)  # raises if it is no run's folder
        raise FileError(f"{run}: no snapshots; make some with stylize --workdir --snapshots N")
    most = int(seconds * (_FPS if suffix == ".mp4" else _MOST_PER_SECOND))
    paths = spread(paths, max(1, most))
    last = epath.Path(run) / "image.png"
    if last.exists():
        paths.append(last)
    shape = images.glance(paths[-1]).shape
    frames = [to_uint8(resize_image(load_image(path), shape)) for path in paths]
    each = seconds / max(1, len(frames) - 1)
    data = _mp4(frames, each) if suffix == ".mp4" else _pillow(frames, each, suffix)
    files.write_atomically(output, data)
    return len(frames)


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Pick at most `most` of `items`, evenly, with the last and, if there is room, the first."""
    # Counted from the end, so that a single one is the last.
    places = np.linspace(len(items) - 1, 0, min(len(items), most)).round().astype(int)
    return [items[place] for place in reversed(places)]


def _whole(each: float, count: int) -> list[int]:
    """Return `count` integers of about `each`, whose sum is off by less than 1."""
    return np.diff(np.round(each * np.arange(count + 1))).astype(int).tolist()


def _pillow(frames: Frames, each: float, suffix: str) -> bytes:
    pictures = [Pil.fromarray(frame) for frame in frames]
    durations = [*_whole(1000 * each, len(frames) - 1), round(1000 * _HELD)]
    options = {"quality": 85, "method": 4} if suffix == ".webp" else {"optimize": False}
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        suffix[1:],
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        **options,
    )
    return buffer.getvalue()


def _mp4(frames: Frames, each: float) -> bytes:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ConfigError("an .mp4 needs pip install 'jaxstyle[video]'") from None
    height, width = frames[0].shape[:2]
    # H.264 at 4:2:0 requires even sides.
    even = ["-vf", "crop=trunc(iw/2)*2:trunc(ih/2)*2"]
    counts = [*_whole(_FPS * each, len(frames) - 1), round(_HELD * _FPS)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            writer = imageio_ffmpeg.write_frames(
                str(path),
                (width, height),
                fps=_FPS,
                codec="libx264",
                macro_block_size=1,
                output_params=[*even, "-crf", "18", "-movflags", "+faststart"],
            )
            writer.send(None)
            for frame, count in zip(frames, counts, strict=True):
                for _ in range(count):
                    writer.send(np.ascontiguousarray(frame))
            writer.close()
            return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the video cannot be encoded ({error})") from None
