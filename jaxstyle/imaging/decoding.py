"""Decoding: any mode, depth, orientation and colour profile to sRGB floats."""

import contextlib
import io
import math
import re
import sys
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float
from PIL import ExifTags, Image as Pil, ImageCms, ImageFile, ImageOps, TiffImagePlugin

from jaxstyle.config import ImageError
from jaxstyle.imaging.floats import check_values, read_floats
from jaxstyle.imaging.formats import check_decoded, is_jpeg, opened
from jaxstyle.imaging.resampling import to_uint8

_SPARE = 4
"""Pixels a side that are decoded, at least, for one of the picture asked for.

With fewer, what Pillow and libjpeg average coarsely would show beside the resampling.
"""
_MOST_MISSING = 0.05
"""Share of a JPEG's rows that may be missing at its end."""
_END_OF_JPEG = b"\xff\xd9"
_FIRST = {
    2: ("right", ""),
    3: ("right", "bottom"),
    4: ("", "bottom"),
    6: ("bottom", ""),
    7: ("bottom", "right"),
    8: ("", "right"),
}
"""By orientation, the sides of the stored picture that its first column and first row are from."""
_SIXTEEN_BITS = re.compile(r"RGBA?;16[BLN]")
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class Decoded(NamedTuple):
    """A decoded picture."""

    pixels: Float[np.ndarray, "h w c"]
    """Three channels in 0–1, or four with alpha; not multiplied by alpha."""
    scale: float = 1
    """Pixels of the file, along a side, in one of these."""
    corner: tuple[float, float] = (0, 0)
    """Where the picture starts, in these from the left and the top.

    The last pixels of one that was decoded at a fraction of its size lie partly beyond it, and may
    have been turned to the front.
    """
    notes: tuple[str, ...] = ()
    """What a user should know about the file."""


def shape_of(path: epath.PathLike, data: bytes) -> tuple[int, int]:
    """Return the `(height, width)`, after orientation, of the picture in `data`."""
    floats = read_floats(path, data)
    if floats is not None:
        return floats.pixels.shape[0], floats.pixels.shape[1]
    with opened(path, data) as source:
        width, height = source.size
        # For TIFFs, Pillow gives the size after orientation.
        tiff = isinstance(source, TiffImagePlugin.TiffImageFile)
        sideways = not tiff and _orientation(source) in range(5, 9)
    return (width, height) if sideways else (height, width)


def decode(path: epath.PathLike, data: bytes, shrink: float = 1) -> Decoded:
    """Decode the picture in `data`, the file at `path`.

    Args:
        path: for messages.
        data: the file.
        shrink: how many times smaller the picture may become, a side. It is decoded at fewer pixels
            only where `_SPARE` times as many as needed are left.

    Raises:
        ImageError: it is not a picture, is damaged or too large, or would decode to wrong values.
    """
    floats = read_floats(path, data)
    if floats is not None:
        pixels = floats.pixels
        if floats.profile and _changes(floats.profile):
            picture = Pil.fromarray(to_uint8(pixels[..., :3]))
            pixels = np.concatenate(
                [_values(_to_srgb(picture, floats.profile)), pixels[..., 3:]], 2
            )
        return Decoded(pixels)
    try:
        return _decode(path, data, shrink)
    except ImageError:
        if not data.startswith(b"\xff\xd8\xff"):
            raise
        with contextlib.suppress(ImageError):
            return _decode(path, data + _END_OF_JPEG, shrink, cut=True)
        raise


def _decode(path: epath.PathLike, data: bytes, shrink: float, *, cut: bool = False) -> Decoded:
    with opened(path, data) as source:
        notes = _frames(path, source)
        scale, corner = _draft(source, shrink)
        check_decoded(path, source.size, math.prod(source.size))
        levels, inverted = 65535, False
        if isinstance(source, TiffImagePlugin.TiffImageFile):
            bits = _check_tiff(path, source)
            levels = 2**bits - 1 if bits > 8 else levels
            inverted = source.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        wide = _sixteen_bits(path, source, data)
        if wide is not None:
            return Decoded(wide, notes=notes)
        source.load()
        if cut:
            notes = (*notes, _missing_rows(path, source))
        picture = _upright(source)
        if _is_deep_gray(picture):
            return Decoded(_deep_gray(path, picture, levels, inverted), notes=notes)
        picture = _colored(picture)
        factor = int(shrink / scale / _SPARE)
        if factor > 1:
            picture, scale = picture.reduce(factor), scale * factor
            corner = corner[0] / factor, corner[1] / factor
        return Decoded(_values(picture), scale, corner, notes)


def convert(name: str, picture: Pil.Image) -> Float[np.ndarray, "h w c"]:
    """Return the pixels of a Pillow image, called `name` in errors, as `Decoded` has them."""
    with contextlib.suppress(Exception):  # the picture is usable without its metadata
        picture = ImageOps.exif_transpose(picture)
    if _is_deep_gray(picture):
        return _deep_gray(name, picture)
    return _values(_colored(picture))


def _is_deep_gray(picture: Pil.Image) -> bool:
    """Return whether a picture is grey of 16 bits or of floats."""
    return picture.mode.startswith("I") or picture.mode == "F"


def _deep_gray(
    name: epath.PathLike, picture: Pil.Image, levels: int = 65535, inverted: bool = False
) -> Float[np.ndarray, "h w 3"]:
    gray = np.asarray(picture, np.float32)
    if picture.mode == "F":
        check_values(name, gray)
    else:
        gray = (levels - gray if inverted else gray) / np.float32(levels)
    return np.repeat(np.clip(gray, 0, 1)[..., None], 3, axis=2)


def _frames(path: epath.PathLike, source: ImageFile.ImageFile) -> tuple[str, ...]:
    """Return a note if only the first of several frames or pages is used."""
    if source.format in ("MPO", "HEIF"):  # others are gain maps, depths or previews
        return ()
    with contextlib.suppress(Exception):  # what follows the first frame may be damaged
        if getattr(source, "is_animated", False):
            what = "page" if source.format == "TIFF" else "frame"
            return (f"{path}: only the first {what} is used",)
    return ()


def _draft(source: ImageFile.ImageFile, shrink: float) -> tuple[float, tuple[float, float]]:
    """Let a JPEG be decoded at a fraction of its size; return `Decoded`'s scale and corner."""
    factor = shrink / _SPARE
    width, height = source.size
    if not is_jpeg(source) or factor < 2:
        return 1, (0, 0)
    drafted = source.draft(None, (math.ceil(width / factor), math.ceil(height / factor)))
    if drafted is None:
        return 1, (0, 0)
    right, bottom = drafted[1][2:]
    beyond = {"right": source.width - right, "bottom": source.height - bottom}
    first_column, first_row = _FIRST.get(_orientation(source), ("", ""))
    return width / right, (beyond.get(first_column, 0), beyond.get(first_row, 0))


def _orientation(source: ImageFile.ImageFile) -> int:
    with contextlib.suppress(Exception):  # the picture is usable without its metadata
        return source.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def _check_tiff(path: epath.PathLike, source: TiffImagePlugin.TiffImageFile) -> int:
    """Return a TIFF's bits per channel, refusing one that Pillow would read wrongly."""
    tags = source.tag_v2
    raw = TiffImagePlugin.SUBIFD in tags and tags.get(254, 0) & 1
    if 50706 in tags or raw:
        raise ImageError(f"{path}: a camera's raw file; develop it, and save it as 16-bit PNG")
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    signed = 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    if (bits > 8 and planar) or (bits > 16 and source.mode != "F") or signed:
        kind = "signed" if signed else "planar" if planar else "integer"
        raise ImageError(f"{path}: {bits}-bit {kind} TIFF is not supported; save it as 16-bit PNG")
    return bits


def _sixteen_bits(
    path: epath.PathLike, source: ImageFile.ImageFile, data: bytes
) -> Float[np.ndarray, "h w c"] | None:
    """Return colour of 16 bits, which Pillow reads at 8, or None if it is not, or is converted.

    Pillow keeps the first byte of each value; asked to read them in the other order, the second.
    """
    raw_modes = [
        tile.args if isinstance(tile.args, str) else str(next(iter(tile.args or ()), ""))
        for tile in source.tile
    ]
    if not raw_modes or not all(map(_SIXTEEN_BITS.fullmatch, raw_modes)):
        return None
    profile = source.info.get("icc_profile")
    if "transparency" in source.info or (profile and _changes(profile)):
        return None
    with opened(path, data) as other:
        other.tile = [tile._replace(args=_other_byte(tile.args or "")) for tile in other.tile]
        low = np.asarray(_upright(other))
    values = np.asarray(_upright(source)).astype(np.uint16)
    values <<= 8
    values |= low
    return np.divide(values, np.float32(65535), dtype=np.float32)


def _other_byte(arguments: str | tuple) -> str | tuple:
    if isinstance(arguments, str):
        return arguments[:-1] + _OTHER_BYTE[arguments[-1]]
    return (_other_byte(arguments[0]), *arguments[1:])


def _missing_rows(path: epath.PathLike, source: ImageFile.ImageFile) -> str:
    """Return a note about rows that were not in the file, refusing a picture that lacks many.

    The decoder makes them grey.
    """
    rows = np.asarray(source).reshape(source.height, -1)
    there = np.flatnonzero(((rows < 127) | (rows > 129)).any(axis=1))
    missing = 1 - (int(there.max(initial=-1)) + 1) / source.height
    if missing > _MOST_MISSING:
        raise ImageError(f"{path}: truncated image")
    gray = f"the last {missing:.1%} of its rows are grey" if missing else "what is there is used"
    return f"{path}: the file ends early; {gray}"


def _upright(source: ImageFile.ImageFile) -> Pil.Image:
    source.load()
    with contextlib.suppress(Exception):  # the picture is usable without its metadata
        ImageOps.exif_transpose(source, in_place=True)
    return source


def _colored(picture: Pil.Image) -> Pil.Image:
    """Convert a picture of any mode to RGB or RGBA, in sRGB."""
    has_alpha = picture.has_transparency_data
    profile = picture.info.get("icc_profile")
    alpha = picture.convert("RGBA").getchannel("A") if has_alpha else None
    if picture.mode in ("LA", "La"):
        picture = picture.convert("LA").getchannel("L")
    elif picture.mode in ("P", "PA", "RGBA", "RGBa", "1"):
        picture = picture.convert("RGBA").convert("RGB") if has_alpha else picture.convert("RGB")
    if profile and picture.mode in ("RGB", "L", "CMYK", "LAB"):
        picture = _to_srgb(picture, profile)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    if alpha is not None:
        picture.putalpha(alpha)
    return picture


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


def _changes(profile: bytes) -> bool:
    """Return whether colours of `profile` are other colours than in sRGB, by more than rounding."""
    levels = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 51)]), axis=-1).reshape(6, 36, 3)
    cube = Pil.fromarray(levels.astype(np.uint8))
    return bool(np.abs(np.asarray(_to_srgb(cube, profile), np.int16) - levels).max() > 2)


def _values(picture: Pil.Image) -> Float[np.ndarray, "h w c"]:
    return np.divide(np.asarray(picture), np.float32(255), dtype=np.float32)
