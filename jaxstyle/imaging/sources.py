"""Pictures and masks as callers have them: files, Pillow images and arrays."""

import os
from collections.abc import Iterable
from typing import Any, Literal

import ml_dtypes
import numpy as np
from jaxtyping import Float
from PIL import Image as Pil

from jaxstyle.config import ImageError, brief
from jaxstyle.imaging import decoding, images
from jaxstyle.imaging.arrays import Image, PictureLike
from jaxstyle.imaging.resampling import fit_shape, resize_image

_FAR = 0.9
"""How far outside 0–1 floats may lie. Images that were optimized leave it by up to 0.65; pictures
in −1–1, which some networks take, by 1."""


def as_several(given: Any) -> tuple[Any, ...]:
    """Return one picture, several, or an array of several, as a tuple."""
    if isinstance(given, (str, os.PathLike, Pil.Image)) or not isinstance(given, Iterable):
        return (given,)
    return (given,) if getattr(given, "ndim", None) in (2, 3) else tuple(given)


def load_image(
    source: PictureLike, size: int | Literal["original"] | None = None, *, name: str = "image"
) -> Image:
    """Return a picture as floating-point sRGB `[h, w, 3]`, nominally in 0–1.

    Args:
        source: a path, local or `gs://`, see `read_picture`; a Pillow image, converted like a file;
            or an array, grey or RGB, of uint8 in 0–255 or floats in 0–1, whose type is kept.
        size: the long side in pixels to resize to; None or "original" keeps the size.
        name: what to call the picture in errors.

    Raises:
        FileError: the file is missing or unreadable.
        ImageError: it is damaged or not an image; the array has another layout, type or range;
            `size` is not a whole number of at least 1.
    """
    if isinstance(source, (str, os.PathLike)):
        return images.read_picture(source, size).pixels
    if isinstance(source, Pil.Image):
        rgba = decoding.convert(name, source)
        return images.resampled(rgba, fit_shape(rgba.shape, size))[0]
    image = _from_array(source, name)
    shape = fit_shape(image.shape, size)
    return image if image.shape[:2] == shape else resize_image(image, shape)


def _from_array(source: Any, name: str) -> Image:
    array = _array(source, name)
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    if len(shape) == 3 and shape[2] == 1:
        array, shape = array[..., 0], shape[:2]
    if (len(shape) != 2 and shape[2:] != (3,)) or 0 in shape:
        raise ImageError(f"{name} must be an array [height, width, 3], not {_described(shape)}")
    if dtype == np.uint8:
        array = np.asarray(array, np.float32) / np.float32(255)
    elif not (np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16):
        raise ImageError(f"{name} must be floating-point in 0–1 or uint8 in 0–255, not {dtype}")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} has values that are not finite")
    if low < -_FAR or high > 1 + _FAR:
        hint = "divide by 255" if low >= 0 and high <= 255 else "scale them"
        raise ImageError(
            f"{name} has values from {low:.4g} to {high:.4g}, but floats are sRGB in 0–1; {hint}"
        )
    return np.repeat(np.asarray(array)[..., None], 3, axis=2) if array.ndim == 2 else array


def _array(source: Any, name: str) -> Any:
    """Return `source` if it is an array of NumPy's or JAX's, or else what NumPy makes of it."""
    try:
        np.dtype(source.dtype)
        return source if hasattr(source, "shape") else np.asarray(source)
    except (AttributeError, TypeError):
        pass
    if hasattr(source, "__array__"):
        try:
            return np.asarray(source)
        except Exception as error:  # such as for a tensor on another device
            raise ImageError(
                f"{name} cannot be converted to a NumPy array ({brief(error)})"
            ) from None
    raise ImageError(
        f"{name} must be a path, a Pillow image or an array [height, width, 3], "
        f"not {type(source).__name__}"
    )


def _described(shape: tuple[int, ...]) -> str:
    """Return the text of a shape that a picture must not have, with what to do about it."""
    hint = ""
    if len(shape) == 4:
        hint = ", a batch: take one picture of it, [0]; stylize_batch takes several"
    elif len(shape) == 3 and shape[2] == 4:
        hint = ", with alpha: leave that out, [..., :3]"
    elif len(shape) == 3 and shape[0] in (1, 3, 4):
        hint = ", channels first: move them, numpy.moveaxis(…, 0, -1)"
    return f"{list(shape)}{hint}"


def load_mask(source: PictureLike, name: str) -> tuple[Image, Float[np.ndarray, "h w"] | None]:
    """Return the colour and alpha, if any, of a mask, called `name` in errors.

    From what `load_image` takes, and more: arrays may also be booleans or any integers, such as
    labels 0, 1, 2 …, and may have alpha. Integers keep their differences, however small.

    Raises:
        FileError, ImageError: see `load_image`.
    """
    if isinstance(source, (str, os.PathLike)):
        read = images.read_picture(source)
        return read.pixels, read.alpha
    if isinstance(source, Pil.Image):
        rgba = decoding.convert(name, source)
    else:
        rgba = _mask_values(_array(source, name), name)
    return images.resampled(rgba, (rgba.shape[0], rgba.shape[1]))


def _mask_values(array: Any, name: str) -> Float[np.ndarray, "h w c"]:
    array = np.asarray(array)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"{name} must be an array [height, width] or with 1, 3 or 4 channels after that, "
            f"not {_described(array.shape)}"
        )
    if array.dtype.kind in "bui":
        low, high = int(array.min()), int(array.max())
        depth = 1 if array.dtype.kind == "b" else 255 if high <= 255 else 65535
        if low < 0 or high > depth:
            raise ImageError(f"{name} has values from {low} to {high}; labels are in 0–65535")
        array = array / np.float32(depth)
    elif not (array.min() >= 0 and array.max() <= 1):
        raise ImageError(f"{name} must have floats in 0–1, or labels as integers")
    values = np.asarray(array, np.float32).reshape(*array.shape[:2], channels)
    return np.repeat(values, 3, axis=2) if channels == 1 else values
