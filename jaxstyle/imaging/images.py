"""Reading and writing of picture files, at the size asked for, with metadata."""

import hashlib
import warnings
from pathlib import PurePath
from typing import Literal, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from jaxstyle.config import ImageError
from jaxstyle.imaging import decoding, encoding, files
from jaxstyle.imaging.arrays import Image
from jaxstyle.imaging.formats import opened
from jaxstyle.imaging.resampling import MAX_PIXELS, fit_shape, middle_box, resize_image

_MAX_SIDE = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}

_BIT_DEPTHS = {".png": (8, 16), ".tif": (16,), ".tiff": (16,)} | dict.fromkeys(
    (".jpg", ".jpeg", ".webp"), (8,)
)
_WHITE = 1.0


class Picture(NamedTuple):
    """A decoded picture: colour and, if the file has it, alpha, both in 0–1."""

    pixels: Image
    alpha: Float[np.ndarray, "h w"] | None
    sha256: str


class Glance(NamedTuple):
    """A picture's digest and shape, known before it is decoded."""

    sha256: str
    shape: tuple[int, int]
    """`(height, width)` after orientation."""


def glance(path: epath.PathLike) -> Glance:
    """Read the digest and shape of the image file at `path`; errors as in `read_picture`."""
    data = files.read_bytes(path)
    return Glance(hashlib.sha256(data).hexdigest(), decoding.shape_of(path, data))


def read_picture(
    path: epath.PathLike, size: int | Literal["original"] | tuple[int, int] | None = None
) -> Picture:
    """Decode the image file at `path` (local or `gs://`).

    Orientation is applied, an embedded colour profile is converted to sRGB (except for grey of
    more than 8 bits), and any mode becomes RGB. Colour under fully transparent pixels becomes
    white. Values are read at up to 16 bits or as floats; grey with alpha, and colour that is
    converted, at 8. A warning tells if only the first frame of an animation is read, or if a JPEG
    ends early.

    Args:
        path: the file.
        size: the long side in pixels to resize to, or `(height, width)` to fill with the middle
            of the picture; None or "original" keeps the size.

    Raises:
        FileError: the file is missing or unreadable.
        ImageError: it is damaged, not an image, or takes too much memory when decoded, or `size` is
            not a whole number of at least 1.
    """
    data = files.read_bytes(path)
    own = decoding.shape_of(path, data)
    shape = size if isinstance(size, tuple) else fit_shape(own, size)
    shrink = min(own[0] / shape[0], own[1] / shape[1])
    rgba, scale, corner, notes = decoding.decode(path, data, shrink)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    box = None
    if shape != own:
        box = middle_box(own, shape) if isinstance(size, tuple) else (0, 0, own[1], own[0])
        left, top, right, bottom = (side / scale for side in box)
        box = left + corner[0], top + corner[1], right + corner[0], bottom + corner[1]
    return Picture(*resampled(rgba, shape, box), hashlib.sha256(data).hexdigest())


def resampled(
    rgba: Float[np.ndarray, "h w c"],
    shape: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> tuple[Image, Float[np.ndarray, "h w"] | None]:
    """Return the colour and the alpha, if any, of decoded pixels, resampled to `shape`.

    Only the part in `box`, if given, is used; see `resize_image`.
    """
    color, alpha = rgba[..., :3], rgba[..., 3] if rgba.shape[2] == 4 else None
    if box is not None or rgba.shape[:2] != shape:
        if alpha is None:
            color = resize_image(color, shape, box)
        else:  # weight colour by alpha, or hidden pixels would bleed over the edges
            color = resize_image(color * alpha[..., None], shape, box)
            alpha = resize_image(alpha[..., None], shape, box)[..., 0]
            color = np.clip(color / np.maximum(alpha, 1 / 510)[..., None], 0, 1)
    if alpha is not None:
        color = np.where(alpha[..., None] > 0, color, np.float32(_WHITE))
    return np.ascontiguousarray(color), alpha


def read_metadata(path: epath.PathLike) -> str | None:
    """Return the text that `save_image` stored in the PNG at `path`, or None."""
    with opened(path, files.read_bytes(path)) as source:
        return source.info.get("jaxstyle")


def png_bits(data: bytes, path: epath.PathLike) -> int:
    """Return the bits per channel of the PNG in `data`, the file at `path`."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ImageError(f"{path}: not a PNG")
    return data[24]


def check_output(path: epath.PathLike, bits: int = 8, shape: tuple[int, ...] = (1, 1)) -> None:
    """Raise `save_image`'s errors, before any computation, for an image of `shape` at `path`."""
    suffix = files.check_writable(path, _BIT_DEPTHS)
    if bits == 16 and 16 not in _BIT_DEPTHS[suffix]:
        raise ImageError(f"cannot write {path}: only .png and .tif hold 16 bits")
    if max(shape[:2]) > _MAX_SIDE.get(suffix, MAX_PIXELS):
        raise ImageError(
            f"cannot write {path}: {suffix} holds at most {_MAX_SIDE[suffix]} pixels a side"
        )


def save_image(
    path: epath.PathLike,
    image: Image,
    *,
    alpha: Float[np.ndarray, "h w"] | None = None,
    bits: Literal[8, 16] = 8,
    metadata: str | None = None,
) -> None:
    """Write an sRGB image atomically, clipped to 0–1 and rounded; the suffix names the format.

    Args:
        path: `.png` (8 or 16 bits), `.jpg` (quality 95, no chroma subsampling), `.webp`
            (quality 95) or `.tif` (always 16 bits).
        image: float or uint8 `[h, w, 3]`.
        alpha: written as the file's alpha channel; JPEG has none and shows white instead.
        bits: bits per channel.
        metadata: ASCII text stored in the file: PNG's `jaxstyle` text chunk, or the description,
            which JPEG and WebP limit to 65000 characters; longer text is left out.

    Raises:
        FileError: the format is unknown, or the file cannot be written.
        ImageError: the format cannot hold 16 bits or the size, the array is no image, or a value
            is not finite.
    """
    given = np.asarray(image)
    if (
        given.ndim != 3
        or given.shape[2] != 3
        or (given.dtype.kind in "biu" and given.dtype != "u1")
    ):
        raise ImageError(
            f"cannot write {path}: an image is float or uint8 [height, width, 3], "
            f"not {given.dtype} {list(given.shape)}"
        )
    check_output(path, bits, given.shape)
    suffix = PurePath(path).suffix.lower()
    bits = 16 if 8 not in _BIT_DEPTHS[suffix] else bits
    if given.dtype == np.uint8 and bits == 8 and alpha is None:
        values = given
    else:
        values = _levels(path, given, alpha, bits)
    if suffix in (".tif", ".tiff"):
        data = encoding.encode_tiff(values, metadata)
    elif bits == 16:
        data = encoding.encode_png16(values, metadata)
    else:
        data = encoding.encode_8bit(values, suffix, metadata)
    files.write_atomically(path, data)


def _levels(
    path: epath.PathLike,
    given: np.ndarray,
    alpha: Float[np.ndarray, "h w"] | None,
    bits: int,
) -> np.ndarray:
    """Return the values to encode of an image to be written at `path`."""
    pixels = given.astype(np.float32)
    if given.dtype == np.uint8:
        pixels /= np.float32(255)
    if not np.isfinite(pixels).all():
        raise ImageError(f"cannot write {path}: the image has values that are not finite")
    if alpha is not None:
        if PurePath(path).suffix.lower() in (".jpg", ".jpeg"):
            pixels = pixels * alpha[..., None] + _WHITE * (1 - alpha[..., None])
        else:
            pixels = np.concatenate([pixels, alpha[..., None]], axis=2)
    levels = 2**bits - 1
    return np.rint(np.clip(pixels, 0, 1) * levels).astype(np.uint16 if bits == 16 else np.uint8)
