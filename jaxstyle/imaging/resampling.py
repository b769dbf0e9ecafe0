"""Resizing and cropping of pictures, and conversion to grey levels."""

from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pil

from jaxstyle.config import ImageError
from jaxstyle.imaging.arrays import AnyArray

MAX_PIXELS = 2**27
"""Size above which pictures are refused before decoding: a small file can claim any size."""


def fit_shape(shape: tuple[int, ...], size: int | Literal["original"] | None) -> tuple[int, int]:
    """Return `(height, width)` with the long side `size` and the aspect ratio kept.

    None or "original" keeps the size too.

    Raises:
        ImageError: `size` is not a whole number of at least 1, or makes more than `MAX_PIXELS`.
    """
    if size is None or size == "original":
        return shape[0], shape[1]
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise ImageError(f"size must be a whole number of at least 1, or 'original', not {size!r}")
    height, width = shape[:2]
    scale = int(size) / max(height, width)
    fitted = max(1, round(height * scale)), max(1, round(width * scale))
    if fitted[0] * fitted[1] > MAX_PIXELS:
        raise ImageError(
            f"size {size} makes {fitted[1]}×{fitted[0]} pixels; "
            f"more than {MAX_PIXELS // 10**6} megapixels are refused"
        )
    return fitted


_ASPECTS = (1, 10 / 9, 5 / 4, 4 / 3, 7 / 5, 3 / 2, 8 / 5, 16 / 9, 2, 9 / 4, 5 / 2)
"""Ratios of long side to short side: those of cameras and screens, and steps between them."""

_MOST_CROPPED = 0.06


def nearest_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return `fit_shape` with the aspect ratio moved to the nearest common one.

    This gives pictures of nearly equal shapes the same shape. A picture that would lose more than
    6 %, such as a panorama, keeps its own.
    """
    fitted = fit_shape(shape, size)
    own = max(shape[:2]) / min(shape[:2])
    nearest = min(_ASPECTS, key=lambda aspect: abs(np.log(aspect / own)))
    if min(nearest / own, own / nearest) < 1 - _MOST_CROPPED:
        return fitted
    short = max(1, round(size / nearest))
    return (short, size) if shape[0] <= shape[1] else (size, short)


def middle_box(own: tuple[int, ...], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest centred part of a picture of shape `own` with the aspect of `shape`.

    As `(left, top, right, bottom)`.
    """
    scale = max(shape[0] / own[0], shape[1] / own[1])
    height, width = min(own[0], round(shape[0] / scale)), min(own[1], round(shape[1] / scale))
    top, left = (own[0] - height) // 2, (own[1] - width) // 2
    return left, top, left + width, top + height


def crop_middle(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the largest centred part of `array` with the aspect ratio of `shape`."""
    left, top, right, bottom = middle_box(array.shape, shape)
    return array[top:bottom, left:right]


def resize_image(
    image: AnyArray, shape: tuple[int, ...], box: tuple[float, float, float, float] | None = None
) -> Float[np.ndarray, "h2 w2 c"]:
    """Resample to `shape` = `(height, width, …)`: bicubic with antialiasing, in sRGB values.

    The result is clipped to the input's range, so that ringing does not exceed it. Only the
    part in `box` = `(left, top, right, bottom)` is resampled, in pixels or fractions, if given.
    """
    image = np.asarray(image, np.float32)
    height, width = shape[:2]
    if box is None and image.shape[:2] == (height, width):
        return image
    channels = [
        np.asarray(Pil.fromarray(channel).resize((width, height), Pil.Resampling.BICUBIC, box))
        for channel in np.ascontiguousarray(np.moveaxis(image, 2, 0))
    ]
    return np.clip(np.stack(channels, axis=2), image.min(), image.max())


def to_uint8(image: AnyArray) -> UInt8[np.ndarray, "..."]:
    """Convert values in 0–1 to grey levels; values outside are clipped."""
    return np.rint(np.clip(np.asarray(image), 0, 1) * 255).astype(np.uint8)
