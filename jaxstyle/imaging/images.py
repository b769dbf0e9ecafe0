"""Picture input and output: decode, orient, colour-manage, encode with metadata."""

import contextlib
import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Literal, NamedTuple

import numpy as np
import png
import tifffile
from etils import epath
from jaxtyping import Float
from PIL import ExifTags, Image as Pil, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

from jaxstyle.config import ImageError
from jaxstyle.imaging import files
from jaxstyle.imaging.arrays import Image
from jaxstyle.imaging.resampling import MAX_PIXELS, crop_middle, fit_shape, resize_image

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
"""Formats that are read. Pillow's others start programs (EPS) or are hardly pictures."""

_MAX_SIDE = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}

_BIT_DEPTHS = {".png": (8, 16), ".tif": (16,), ".tiff": (16,)} | dict.fromkeys(
    (".jpg", ".jpeg", ".webp"), (8,)
)
_MOST_DESCRIBED = 65000
"""Maximum length, in bytes, of metadata in a JPEG's Exif block."""

_WHITE = 1.0
_ORIENTATION = ExifTags.Base.Orientation


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
    with _opened(path, data) as opened:
        width, height = opened.size
        # For TIFFs, Pillow gives the size after orientation.
        orientation = 1 if opened.format == "TIFF" else opened.getexif().get(_ORIENTATION, 1)
    shape = (width, height) if orientation in range(5, 9) else (height, width)
    return Glance(hashlib.sha256(data).hexdigest(), shape)


@contextlib.contextmanager
def _opened(path: epath.PathLike, data: bytes) -> Iterator[Pil.Image]:
    """Open the image in `data`; any exception of its decoder becomes an `ImageError`."""
    if not data:
        raise ImageError(f"{path}: the file is empty")
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings(action="ignore"), Pil.open(stream, formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise _too_large(path, opened.size)
            yield opened
    except ImageError:
        raise
    except Pil.UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that can be read") from None
    except (Pil.DecompressionBombError, MemoryError):
        raise _too_large(path, None) from None
    except Exception as error:  # decoders raise anything on damaged files
        raise ImageError(f"{path}: damaged or truncated image ({error})") from None


def read_picture(
    path: epath.PathLike, size: int | Literal["original"] | tuple[int, int] | None = None
) -> Picture:
    """Decode the image file at `path` (local or `gs://`).

    Orientation is applied, an embedded colour profile is converted to sRGB (except for 16-bit
    gray), and any mode becomes RGB. Colour under fully transparent pixels becomes white. Only the
    first frame of an animation is read. Gray without alpha is read at up to 16 bits, colour at 8.

    Args:
        path: the file.
        size: the long side in pixels to resize to, or `(height, width)` to fill with the middle
            of the picture; None or "original" keeps the size.

    Raises:
        FileError: the file is missing or unreadable.
        ImageError: it is truncated, not an image, or above `MAX_PIXELS`, or `size` is not a
            positive integer.
    """
    data = files.read_bytes(path)
    with _opened(path, data) as opened:
        rgba = _decode(opened, path)
    color, alpha = rgba[..., :3], rgba[..., 3] if rgba.shape[2] == 4 else None
    if size is not None and size != "original":
        if isinstance(size, tuple):
            shape, color = size, crop_middle(color, size)
            alpha = None if alpha is None else crop_middle(alpha, size)
        else:
            shape = fit_shape(color.shape[:2], size)
        if alpha is None:
            color = resize_image(color, shape)
        else:  # weight colour by alpha, or hidden pixels would bleed over the edges
            color = resize_image(color * alpha[..., None], shape)
            alpha = resize_image(alpha[..., None], shape)[..., 0]
            color = np.clip(color / np.maximum(alpha, 1 / 510)[..., None], 0, 1)
    if alpha is not None:
        color = np.where(alpha[..., None] > 0, color, np.float32(_WHITE))
    return Picture(np.ascontiguousarray(color), alpha, hashlib.sha256(data).hexdigest())


def read_metadata(path: epath.PathLike) -> str | None:
    """Return the text that `save_image` stored in the PNG at `path`, or None."""
    with _opened(path, files.read_bytes(path)) as opened:
        return opened.info.get("jaxstyle")


def png_bits(data: bytes, path: epath.PathLike) -> int:
    """Return the bits per channel of the PNG in `data`, the file at `path`."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ImageError(f"{path}: not a PNG")
    return data[24]


def load_image(path: epath.PathLike, size: int | Literal["original"] | None = None) -> Image:
    """Read the picture at `path` as float32 sRGB `[h, w, 3]` in 0–1; see `read_picture`."""
    return read_picture(path, size).pixels


def _decode(opened: Pil.Image, path: epath.PathLike) -> Float[np.ndarray, "h w c"]:
    inverted = False
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        _check_tiff(opened, path)
        inverted = opened.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    opened.load()
    try:
        picture = ImageOps.exif_transpose(opened)
    except Exception:  # the picture is usable without its metadata
        picture = opened.copy()
    if picture.mode.startswith("I") or picture.mode == "F":  # 16-bit gray, or float gray
        gray = np.asarray(picture, np.float32)
        if picture.mode != "F":
            gray = (65535 - gray if inverted else gray) / 65535
        return np.repeat(np.clip(gray, 0, 1)[..., None], 3, axis=2)
    has_alpha = picture.has_transparency_data
    profile = picture.info.get("icc_profile")
    alpha = picture.convert("RGBA").getchannel("A") if has_alpha else None
    if picture.mode in ("LA", "La"):
        picture = picture.convert("LA").getchannel("L")
    elif picture.mode in ("P", "PA", "RGBA", "RGBa", "1"):
        picture = picture.convert("RGBA").convert("RGB") if has_alpha else picture.convert("RGB")
    if profile and picture.mode in ("RGB", "L", "CMYK", "LAB"):
        picture = _to_srgb(picture, profile)
    channels = [np.asarray(picture.convert("RGB"))]
    if alpha is not None:
        channels.append(np.asarray(alpha)[..., None])
    return np.concatenate(channels, axis=2).astype(np.float32) / 255


def _check_tiff(opened: TiffImagePlugin.TiffImageFile, path: epath.PathLike) -> None:
    """Refuse TIFFs that Pillow would decode to other values than the file means."""
    bits = max(opened.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    planar = opened.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    if (bits > 8 and planar) or (bits > 16 and opened.mode != "F"):
        kind = "planar" if planar else "integer"
        raise ImageError(f"{path}: {bits}-bit {kind} TIFF is not supported; save it as 16-bit PNG")
    if opened.mode == "F":
        values = np.asarray(opened)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ImageError(f"{path}: a float TIFF must hold values in 0–1")


def _to_srgb(picture: Pil.Image, profile: bytes) -> Pil.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        # The profile is broken or for another mode; the pixels are usable without it.
        return picture
    assert converted is not None
    return converted


def _too_large(path: epath.PathLike, size: tuple[int, int] | None) -> ImageError:
    claimed = f"{size[0]}×{size[1]} pixels" if size else "too many pixels"
    return ImageError(f"{path}: {claimed}; more than {MAX_PIXELS // 10**6} megapixels are refused")


def check_output(path: epath.PathLike, bits: int = 8, shape: tuple[int, ...] = (1, 1)) -> None:
    """Raise `save_image`'s errors, before any computation, for an image of `shape` at `path`."""
    suffix = PurePath(path).suffix.lower()
    files.check_writable(path, _BIT_DEPTHS)
    if bits == 16 and 16 not in _BIT_DEPTHS[suffix]:
        raise ImageError(f"cannot write {path}: only .png and .tif hold 16 bits")
    if max(shape[:2]) > _MAX_SIDE.get(suffix, MAX_PIXELS):
        raise ImageError(f"cannot write {path}: {suffix} holds {_MAX_SIDE[suffix]} pixels a side")


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
        image: float `[h, w, 3]`.
        alpha: written as the file's alpha channel; JPEG has none and shows white instead.
        bits: bits per channel.
        metadata: ASCII text stored in the file: PNG's `jaxstyle` text chunk, or the description,
            which JPEG and WebP limit to 65000 characters; longer text is left out.

    Raises:
        FileError: the format is unknown, or the file cannot be written.
        ImageError: the format cannot hold 16 bits or the size, or a value is not finite.
    """
    check_output(path, bits, image.shape)
    suffix = PurePath(path).suffix.lower()
    pixels = np.asarray(image, np.float32)
    if not np.isfinite(pixels).all():
        raise ImageError(f"cannot write {path}: the image has values that are not finite")
    if alpha is not None:
        if suffix in (".jpg", ".jpeg"):
            pixels = pixels * alpha[..., None] + _WHITE * (1 - alpha[..., None])
        else:
            pixels = np.concatenate([pixels, alpha[..., None]], axis=2)
    bits = 16 if 8 not in _BIT_DEPTHS[suffix] else bits
    levels = 2**bits - 1
    values = np.rint(np.clip(pixels, 0, 1) * levels).astype(np.uint16 if bits == 16 else np.uint8)
    if suffix in (".tif", ".tiff"):
        data = _encode_tiff(values, metadata)
    elif bits == 16:
        data = _encode_png16(values, metadata)
    else:
        data = _encode_8bit(values, suffix, metadata)
    files.write_atomically(path, data)


def _encode_8bit(values: np.ndarray, suffix: str, metadata: str | None) -> bytes:
    buffer = io.BytesIO()
    picture = Pil.fromarray(values)
    if suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add(b"sRGB", b"\0")
        if metadata is not None:
            info.add_itxt("jaxstyle", metadata)
        picture.save(buffer, "PNG", pnginfo=info)
    else:
        exif = Pil.Exif()
        # Left out if too long: the image matters, the digests of hundreds of styles do not.
        if metadata is not None and len(metadata) <= _MOST_DESCRIBED:
            exif[ExifTags.Base.ImageDescription] = metadata
        name, options = ("WEBP", {}) if suffix == ".webp" else ("JPEG", {"subsampling": 0})
        picture.save(buffer, name, quality=95, exif=exif, **options)
    return buffer.getvalue()


def _encode_png16(values: np.ndarray, metadata: str | None) -> bytes:
    height, width, channels = values.shape
    header = struct.pack(">2I5B", width, height, 16, 6 if channels == 4 else 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"sRGB", b"\0")]
    if metadata is not None:
        chunks.append((b"iTXt", b"jaxstyle\0\0\0\0\0" + metadata.encode()))
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    unfiltered = np.pad(rows, ((0, 0), (1, 0)))
    chunks += [(b"IDAT", zlib.compress(unfiltered.tobytes())), (b"IEND", b"")]
    buffer = io.BytesIO()
    png.write_chunks(buffer, chunks)
    return buffer.getvalue()


def _encode_tiff(values: np.ndarray, metadata: str | None) -> bytes:
    buffer = io.BytesIO()
    extra = ("unassalpha",) if values.shape[2] == 4 else None
    tifffile.imwrite(
        buffer,
        values,
        photometric="rgb",
        extrasamples=extra,
        compression="zlib",
        description=metadata,
        metadata=None,
        software=False,
    )
    return buffer.getvalue()
