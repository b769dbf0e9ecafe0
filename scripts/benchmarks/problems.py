"""Inputs of the measurements: pictures, weights, and files that give both to every system."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from gallery.patterns import PATTERNS
from jaxstyle import load_image, load_weights
from jaxstyle.imaging import Image, fit_shape, resize_image
from jaxstyle.network import Params
from jaxstyle.network.vgg import CHANNELS, VGG19

IMAGES = Path(__file__).parents[2] / "docs" / "images"
CONTENTS = (str(IMAGES / "chelsea.jpg"),)
STYLES = (str(IMAGES / "starry_night.jpg"), *PATTERNS)
_NOISE = 0.05
"""Noise added to the content where evaluations are timed, so that no term is zero."""


class Picture(NamedTuple):
    """A picture at its original size."""

    name: str
    pixels: Image


def load_picture(name: str) -> Picture:
    """Load the picture at a path, or make the pattern of that name."""
    if name in PATTERNS:
        return Picture(name, PATTERNS[name]())
    return Picture(Path(name).stem, load_image(name))


def fitted(picture: Picture, size: int) -> Image:
    """Resize `picture` to a long side of `size` pixels."""
    return resize_image(picture.pixels, fit_shape(picture.pixels.shape, size))


def write_pictures(path: Path, content: Image, style: Image) -> None:
    """Write the pictures of one problem: content, style, and the image to evaluate at."""
    noise = np.random.default_rng(0).normal(size=content.shape).astype(np.float32)
    image = np.clip(content + _NOISE * noise, 0, 1)
    np.savez(path, content=content, style=style, image=image)


def write_weights(path: Path, channels: tuple[int, ...] | None) -> None:
    """Write VGG19's kernels, biases and mean; random ones of `channels` per block, if given."""
    params = load_weights() if channels is None else _random_weights(channels)
    np.savez(path, **flatten_dict(dict(params), sep="/"))  # pyright: ignore[reportArgumentType]


def _random_weights(channels: tuple[int, ...]) -> Params:
    """Draw He-normal weights, which preserve activation scale, for images in grey levels."""
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {"mean": np.array([0.48, 0.45, 0.4], np.float32)}
    inputs, gain = 3, 255.0
    for conv in VGG19.convolutions:
        outputs = channels[int(conv[4]) - 1]
        kernel = rng.normal(size=(3, 3, inputs, outputs)) * gain * np.sqrt(2 / (9 * inputs))
        bias = rng.normal(size=outputs)
        params[conv] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
        inputs, gain = outputs, 1.0
    return params


def evaluation_flops(size: int, channels: tuple[int, ...] = CHANNELS) -> float:
    """Count operations of one value and gradient of `seed` at `size`², with direct convolutions.

    Each convolution up to conv5_2 counts twice, for itself and the gradient of its input, and so
    does each Gram matrix; a multiplication and an addition are two operations.
    """
    total, inputs, side = 0, 3, size
    for block, (count, outputs) in enumerate(zip(VGG19.blocks, channels, strict=True)):
        convolutions = min(count, 2) if block == len(VGG19.blocks) - 1 else count
        for _ in range(convolutions):
            total += 2 * 9 * inputs * outputs * side**2
            inputs = outputs
        total += 2 * outputs**2 * side**2
        side //= 2
    return 2.0 * total
