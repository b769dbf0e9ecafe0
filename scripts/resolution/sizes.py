"""Comparison across image sizes of how large a style's features are, relative to the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gallery.kept import settings_of
from jaxstyle import Config, load_image, save_image, stylize
from jaxstyle.imaging.arrays import Image
from jaxstyle.imaging.images import read_metadata
from jaxstyle.imaging.resampling import resize_image
from jaxstyle.network.arrays import Params

_COARSEST = 8


class Band(NamedTuple):
    """One octave of the features that a style adds to two results, by cycles per long side."""

    low: int
    high: int
    correlation: float
    """1 if the same features are at the same places."""
    power: float
    """The image's power over the reference's; features of another size fall in another octave."""


def compare_bands(image: Image, reference: Image, content: Image) -> list[Band]:
    """Compare by octave how `image` and `reference` differ from `content` in lightness.

    All are resized to the reference's shape.
    """
    content = resize_image(content, reference.shape)
    spectra = [
        np.fft.fft2((picture - content).mean(axis=2))
        for picture in (resize_image(image, reference.shape), reference)
    ]
    height, width = reference.shape[:2]
    long_side = max(height, width)
    down, across = (np.fft.fftfreq(size) * long_side for size in (height, width))
    cycles = np.hypot(down[:, None], across)
    bands: list[Band] = []
    low, high = 1, _COARSEST
    while high <= long_side // 2:
        ours, theirs = (spectrum[(cycles >= low) & (cycles < high)] for spectrum in spectra)
        # Avoid 0 / 0.
        power, wanted = (np.sum(np.abs(each) ** 2) + 1e-12 for each in (ours, theirs))
        shared = np.sum(ours * theirs.conj()).real
        bands.append(Band(low, high, shared / np.sqrt(power * wanted), power / wanted))
        low, high = high, 2 * high
    return bands


def sizes_table(
    params: Params,
    content: Path,
    style: Path,
    config: Config,
    sizes: Sequence[int],
    output: Path,
) -> str:
    """Stylize at every size and return a Markdown table that compares each with the first.

    The results are written to `output`; those already there are reused, unless their settings or
    pictures differ.
    """
    output.mkdir(parents=True, exist_ok=True)
    pictures = load_image(str(content)), load_image(str(style))
    results: list[Image] = []
    for size in sizes:
        stored = output / f"{content.stem}_{style.stem}_{size}.png"
        sized = config.replace(size=size)
        settings = settings_of(sized, [content, style])
        if not stored.exists() or read_metadata(stored) != settings:
            save_image(stored, stylize(*pictures, sized, params).image, metadata=settings)
        results.append(load_image(str(stored)))
    lines: list[str] = []
    for size, result in zip(sizes[1:], results[1:], strict=True):
        bands = compare_bands(result, results[0], pictures[0])
        if not lines:
            lines += [
                "| size | cycles per image | "
                + " | ".join(f"{b.low}–{b.high}" for b in bands)
                + " |",
                "|---" * (len(bands) + 2) + "|",
            ]
        for name in ("correlation", "power"):
            cells = " | ".join(f"{getattr(band, name):.2f}" for band in bands)
            lines.append(f"| {size} | {name} | {cells} |")
    return "\n".join(lines)
