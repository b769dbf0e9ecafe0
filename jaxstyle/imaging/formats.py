"""Recognition and opening of image files, by their first bytes rather than their names."""

import contextlib
import importlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import PurePath

from etils import epath
from PIL import Image as Pil, ImageFile, JpegImagePlugin

from jaxstyle.config import ImageError, brief

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
"""Formats that are read. Pillow's others start programs (EPS) or are hardly pictures."""

_MAX_DECODED = 2**28
"""Number of pixels above which pictures are not decoded: a small file can claim any size.

Decoded, they take 1 GiB, and three to four times that as floats.
"""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_UNREADABLE = {
    b"8BPS": "a Photoshop document",
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"gimp xcf": "a GIMP document",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"\x00\x00\x01\x00": "an icon",
    b"FUJIFILMCCD-RAW": "a camera's raw file",
    b"IIU\x00": "a camera's raw file",
    b"IIRO": "a camera's raw file",
    b"\x1aE\xdf\xa3": "a video",
    b"II*\x00": "TIFF of this kind",
    b"MM\x00*": "TIFF of this kind",
    b"P7": "PAM of this kind",
}
"""First bytes of formats that are known but not read."""

_exclusive = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ignore the decoders' warnings, in one thread at a time: the filters are the process's."""
    with _exclusive, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif|jaxstyle\.imaging)\b")
        yield


@contextlib.contextmanager
def opened(path: epath.PathLike, data: bytes) -> Iterator[ImageFile.ImageFile]:
    """Open the image in `data`; any exception of its decoder becomes an `ImageError`."""
    if not data:
        raise ImageError(f"{path}: the file is empty")
    try:
        with quiet(), _open(path, data) as source:
            width, height = source.size
            pixels = width * height
            if is_jpeg(source) and not source.info.get("progressive"):
                pixels //= 64  # in rows of blocks, at down to an eighth of its sides
            check_decoded(path, source.size, pixels)
            yield source
    except ImageError:
        raise
    except Pil.UnidentifiedImageError:
        raise ImageError(f"{path}: {_unreadable(data)}") from None
    except MemoryError:
        raise ImageError(f"{path}: too many pixels for this machine's memory") from None
    except Exception as error:  # decoders raise anything on damaged files
        raise ImageError(f"{path}: damaged or truncated image ({brief(error)})") from None


def check_decoded(path: epath.PathLike, size: tuple[int, int], pixels: int) -> None:
    """Raise `ImageError` if decoding a picture of `size` to that many pixels takes too much."""
    if pixels > _MAX_DECODED:
        raise ImageError(
            f"{path}: {size[0]}×{size[1]} pixels; "
            f"more than {_MAX_DECODED // 10**6} megapixels are refused"
        )


def is_jpeg(source: ImageFile.ImageFile) -> bool:
    """Return whether `source` is a JPEG, alone or with further ones (MPO)."""
    return isinstance(source, JpegImagePlugin.JpegImageFile)


def _open(path: epath.PathLike, data: bytes) -> ImageFile.ImageFile:
    stream = io.BytesIO(data)
    brands = _brands(data)
    if b"avif" not in brands and any(brand in brands for brand in _HEIF_BRANDS):
        try:
            return importlib.import_module("pillow_heif").HeifImageFile(stream)
        except ImportError:
            raise ImageError(f"{path}: HEIC needs pip install 'jaxstyle[heif]'") from None
    # TGA has no first bytes to be known by.
    tga = ("TGA",) if PurePath(path).suffix.lower() == ".tga" else ()
    Pil.init()
    formats = [name for name in (*_FORMATS, *tga) if name in Pil.OPEN]
    with _exclusive:  # Pillow's own limit is a global one, and lower
        limit, Pil.MAX_IMAGE_PIXELS = Pil.MAX_IMAGE_PIXELS, None
        try:
            return Pil.open(stream, formats=formats)
        finally:
            Pil.MAX_IMAGE_PIXELS = limit


def _brands(data: bytes) -> bytes:
    """Return the brands that an ISO media file (HEIF, AVIF, MP4 …) declares, or nothing."""
    return data[8 : int.from_bytes(data[:4], "big")][:256] if data[4:8] == b"ftyp" else b""


def _unreadable(data: bytes) -> str:
    brands = _brands(data)
    if b"avif" in brands or b"avis" in brands:
        return "AVIF needs Pillow 11.3 or newer, built with it"
    start = data.lstrip()[:1024]
    kind = next((kind for first, kind in _UNREADABLE.items() if data.startswith(first)), None)
    if kind is None and brands:
        kind = "a camera's raw file" if brands.startswith(b"crx ") else "a video"
    if kind is None and start.startswith((b"<?xml", b"<!--")) and b"<svg" in start:
        kind = "SVG"
    if kind is None:
        return "not an image that can be read"
    return f"{kind}, which is not an image that can be read; save it as PNG or JPEG"
