"""Coarse-to-fine schedules: the scales of a run and their budgets."""

import math
from typing import NamedTuple

from jaxstyle.config import AutoPyramid, Config, OneScale

SHORTEST = 32
"""Minimum short side of automatic scales, which leaves 2 pixels at relu5_1."""


_PARTS = (8, 9, 12, 16)
"""Short sides at coarse scales, in sixteenths of the long side (of images narrower than 2:1 in
32nds, and so on): 2:1, 16:9, 4:3 and 1:1."""


class Level(NamedTuple):
    """One scale of a run."""

    ratio: float
    """Size relative to the last scale."""
    shape: tuple[int, int]
    """Height and width of the image."""
    evaluations: int
    """Budget."""


def levels(config: Config, shape: tuple[int, ...]) -> tuple[Level, ...]:
    """Return `config`'s scales for a result of `shape`, coarsest first; the last has ratio 1."""
    scales, budget = config.scales, config.evaluations
    if isinstance(scales, OneScale):
        return (Level(1.0, (shape[0], shape[1]), budget),)
    number = _fitting(scales, shape) if isinstance(scales, AutoPyramid) else scales.number
    coarse = scales.coarse_evaluations or budget
    budgets = [scales.first_evaluations or coarse, *[coarse] * (number - 2), budget][-number:]
    ratios = [scales.scale_factor ** (position - number + 1) for position in range(number)]
    return tuple(
        Level(ratio, image_shape(shape, ratio, config), each)
        for ratio, each in zip(ratios, budgets, strict=True)
    )


def _fitting(scales: AutoPyramid, shape: tuple[int, ...]) -> int:
    number = 1
    while True:
        coarser = level_shape(shape, scales.scale_factor**-number)
        if max(coarser) < scales.start_size or min(coarser) < SHORTEST:
            return number
        number += 1


def image_shape(shape: tuple[int, ...], ratio: float, config: Config) -> tuple[int, int]:
    """Return the `(height, width)` of the image at a scale of `ratio`, `shape` at the last one.

    Programs are compiled for shapes, and photographs have many: before the last scale, the aspect
    ratio is the nearest of few, unless `config` says otherwise.
    """
    height, width = level_shape(shape, ratio)
    if ratio == 1 or isinstance(config.scales, OneScale) or config.scales.coarse_aspect == "own":
        return height, width
    long, short = max(height, width), min(height, width)
    aspect = max(shape[:2]) / min(shape[:2])
    whole = 16 * 2 ** math.floor(math.log2(aspect))
    parts = min(_PARTS, key=lambda parts: abs(math.log(parts * aspect / whole)))
    short = max(round(long * parts / whole), min(short, SHORTEST))
    return (short, long) if height <= width else (long, short)


def level_shape(shape: tuple[int, ...], ratio: float) -> tuple[int, int]:
    """Return the `(height, width)` of a picture of `shape` resized by `ratio`."""
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))
