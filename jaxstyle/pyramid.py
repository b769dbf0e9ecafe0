"""Coarse-to-fine schedules: which scales to go through, and with what budget."""

from typing import NamedTuple

from jaxstyle.config import Config


class Level(NamedTuple):
    """One scale: its size relative to the last one's, and its budget of evaluations."""

    ratio: float
    evaluations: int


def levels(config: Config) -> tuple[Level, ...]:
    """The scales of `config`, coarsest first; the last has ratio 1."""
    coarse = config.coarse_evaluations or config.evaluations
    if not isinstance(coarse, tuple):
        coarse = (coarse,) * (config.scales - 1)
    budgets = (*coarse, config.evaluations)
    return tuple(
        Level(config.scale_factor ** (position - config.scales + 1), budget)
        for position, budget in enumerate(budgets)
    )


def level_shape(shape: tuple[int, ...], ratio: float) -> tuple[int, int]:
    """`(height, width)` of a picture of `shape` at a scale of `ratio`."""
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))
