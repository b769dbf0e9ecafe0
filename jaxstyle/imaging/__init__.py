"""Reading, writing, resampling and recolouring of pictures.

Decoding honours orientation and colour profiles, resampling is bicubic with antialiasing, and
files are written whole or not at all. An image is an sRGB array `[h, w, 3]` in 0–1. This package
does not import JAX.
"""

from jaxstyle.imaging import files, images
from jaxstyle.imaging.arrays import Image, PictureLike
from jaxstyle.imaging.color import colored_content, colored_result, colored_style
from jaxstyle.imaging.images import Picture, save_image
from jaxstyle.imaging.jsonl import parse, plain, read_rows, to_json
from jaxstyle.imaging.resampling import (
    crop_middle,
    fit_shape,
    nearest_shape,
    resize_image,
    to_uint8,
)
from jaxstyle.imaging.sheet import contact_sheet
from jaxstyle.imaging.sources import as_several, load_image, load_mask

__all__ = [
    "Image",
    "Picture",
    "PictureLike",
    "as_several",
    "colored_content",
    "colored_result",
    "colored_style",
    "contact_sheet",
    "crop_middle",
    "files",
    "fit_shape",
    "images",
    "load_image",
    "load_mask",
    "nearest_shape",
    "parse",
    "plain",
    "read_rows",
    "resize_image",
    "save_image",
    "to_json",
    "to_uint8",
]
