"""Pictures of floating-point values that Pillow does not read: PFM, and TIFF in colour."""

import io
import logging
import math
import re
import threading
from typing import NamedTuple

import numpy as np
import tifffile
from etils import epath
from jaxtyping import Float
from PIL import Image as Pil

from jaxstyle.config import ImageError, brief
from jaxstyle.imaging.formats import check_decoded, quiet

_PFM = re.compile(rb"P([fF])\s+(\d+)\s+(\d+)\s+([-+.\deE]+)\s")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Tifffile logs each oddity of a damaged file; what matters of it is raised.
_reading = threading.local()
logging.getLogger("tifffile").addFilter(lambda _: not getattr(_reading, "here", False))


class Floats(NamedTuple):
    """A picture of floats."""

    pixels: Float[np.ndarray, "h w c"]
    """Three channels in 0–1, or four with alpha."""
    profile: bytes | None = None


def read_floats(path: epath.PathLike, data: bytes) -> Floats | None:
    """Read the PFM in `data`, or the TIFF of floats that Pillow does not read; else None.

    Values are taken as sRGB's, if no profile says otherwise.

    Raises:
        ImageError: it is damaged, or holds values outside 0–1.
    """
    header = _PFM.match(data)
    if header:
        floats = _read_pfm(path, data, header)
    elif data.startswith(_TIFF):
        floats = _read_tiff(path, data)
    else:
        return None
    if floats is not None:
        check_values(path, floats.pixels)
    return floats


def check_values(path: epath.PathLike, values: np.ndarray) -> None:
    """Raise `ImageError` if floats are outside 0–1, where the value of white is unknown."""
    if not (values.min() >= 0 and values.max() <= 1):
        raise ImageError(f"{path}: a file of floats must hold values in 0–1")


def _read_pfm(path: epath.PathLike, data: bytes, header: re.Match[bytes]) -> Floats:
    width, height, channels = int(header[2]), int(header[3]), 3 if header[1] == b"F" else 1
    kind = "<f4" if float(header[4]) < 0 else ">f4"
    if width * height == 0 or len(data) - header.end() < 4 * channels * width * height:
        raise ImageError(f"{path}: damaged or truncated image")
    values = np.frombuffer(data, kind, channels * width * height, header.end())
    upwards = values.astype(np.float32).reshape(height, width, channels)
    return Floats(np.repeat(upwards[::-1], 3 // channels, axis=2))


def _read_tiff(path: epath.PathLike, data: bytes) -> Floats | None:
    try:
        with quiet(), Pil.open(io.BytesIO(data)):
            return None
    except Pil.UnidentifiedImageError:
        pass
    except Exception:  # it will be raised again where the rest is read
        return None
    _reading.here = True
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            if page.sampleformat != tifffile.SAMPLEFORMAT.IEEEFP:
                return None
            size = page.imagewidth, page.imagelength
            check_decoded(path, size, math.prod(size))
            upright = page.tags.valueof("Orientation", 1) == 1
            values = np.asarray(page.asarray(), np.float32)
            profile = page.iccprofile
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{path}: too many pixels for this machine's memory") from None
    except Exception as error:  # its decoders raise anything on damaged files
        raise ImageError(f"{path}: damaged or truncated image ({brief(error)})") from None
    finally:
        _reading.here = False
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and values.ndim == 3:
        values = np.moveaxis(values, 0, -1)
    channels = values.shape[2] if values.ndim == 3 else 1 if values.ndim == 2 else 0
    if channels not in (1, 3, 4) or not upright:
        raise ImageError(f"{path}: TIFF of this kind is not supported; save it as 16-bit PNG")
    return Floats(np.repeat(values[..., None], 3, axis=2) if channels == 1 else values, profile)
