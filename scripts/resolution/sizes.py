"""Comparison across image sizes of how large a style's features are, relative to the image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from tyro.conf import Positional, arg

from jaxstyle import Config, ImageError, load_image, preset, run_grid
from jaxstyle.imaging import Image, resize_image
from jaxstyle.storage.cells import GridCell
from measuring.tables import Row, table

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


def sizes(
    content: Positional[str],
    style: Positional[str],
    output: Annotated[Path, arg(aliases=["-o"])],
    sizes: tuple[int, ...] = (512, 2048),
    evaluations: int = 100,
    coarse: int = 50,
) -> None:
    """Print how large features are, relative to the image, in results of several sizes.

    Args:
        content: a photograph.
        style: a painting.
        output: a folder for the results; those already there are not made again.
        sizes: long sides in pixels; each is compared with the first.
        evaluations: budget of the last scale.
        coarse: budget of each scale before the last.
    """
    config = preset("default").replace(
        scales="auto", evaluations=evaluations, coarse_evaluations=coarse
    )
    print(table(sizes_rows(content, style, [config.replace(size=size) for size in sizes], output)))


def sizes_rows(content: str, style: str, configs: Sequence[Config], output: Path) -> list[Row]:
    """Stylize with each of `configs` and compare the results with the first one's, by octave."""
    run_grid([GridCell(content, (style,), config) for config in configs], output, aspect="own")
    cells = [json.loads(line) for line in (output / "grid.jsonl").read_text().splitlines()]
    for cell in cells:
        if cell["status"] == "failed":
            raise ImageError(cell["reason"])
    reference, *others = (load_image(output / cell["image"]) for cell in cells)
    rows: list[Row] = []
    for config, image in zip(configs[1:], others, strict=True):
        bands = compare_bands(image, reference, load_image(content))
        for name in ("correlation", "power"):
            values = {f"{band.low}–{band.high}": getattr(band, name) for band in bands}
            rows.append({"size": config.size, "cycles an image": name, **values})
    return rows
