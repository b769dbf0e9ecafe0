"""Coarse-to-fine schedules: the scales of a run and their budgets."""

from typing import NamedTuple

from jaxstyle.config import Config

FACTOR = 2**0.5
"""The default ratio of one scale's size to that of the previous scale."""

START_SIZE = 128
"""The default minimum long side of the coarsest automatic scale."""

SHORTEST = 32
"""Minimum short side of automatic scales, which leaves 2 pixels at relu5_1."""


class Level(NamedTuple):
    """One scale: its size relative to the last scale, and its budget of evaluations."""

    ratio: float
    evaluations: int


def levels(config: Config, shape: tuple[int, ...]) -> tuple[Level, ...]:
    """Return `config`'s scales for a result of `shape`, coarsest first; the last has ratio 1."""
    scales = _automatic(config, shape) if config.scales == "auto" else config.scales
    coarse = config.coarse_evaluations or config.evaluations
    if not isinstance(coarse, tuple):
        coarse = (coarse,) * (scales - 1)
    budgets = (*coarse, config.evaluations)
    return tuple(
        Level(_factor(config) ** (position - scales + 1), budget)
        for position, budget in enumerate(budgets)
    )


def _factor(config: Config) -> float:
    return config.scale_factor or FACTOR


def _automatic(config: Config, shape: tuple[int, ...]) -> int:
    scales, start = 1, config.start_size or START_SIZE
    while True:
        coarser = level_shape(shape, _factor(config) ** -scales)
        if max(coarser) < start or min(coarser) < SHORTEST:
            return scales
        scales += 1


def level_shape(shape: tuple[int, ...], ratio: float) -> tuple[int, int]:
    """Return the `(height, width)` of a picture of `shape` at a scale of `ratio`."""
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))
