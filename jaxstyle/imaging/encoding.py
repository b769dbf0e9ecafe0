"""Encoding of grey levels as PNG, JPEG, WebP or TIFF."""

import io
import struct
import zlib

import numpy as np
import png
import tifffile
from PIL import ExifTags, Image as Pil, PngImagePlugin

_MOST_DESCRIBED = 65000
"""Maximum length, in bytes, of metadata in a JPEG's Exif block."""


def encode_8bit(values: np.ndarray, suffix: str, metadata: str | None) -> bytes:
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


def encode_png16(values: np.ndarray, metadata: str | None) -> bytes:
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


def encode_tiff(values: np.ndarray, metadata: str | None) -> bytes:
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
