"""Coarse-to-fine schedules: which sizes to pass through, and with what budget."""

from typing import NamedTuple

from jaxstyle.config import Config


class Level(NamedTuple):
    """One pass: its size relative to the last pass's, and its budget of evaluations."""

    ratio: float
    evaluations: int


def levels(config: Config) -> tuple[Level, ...]:
    """The passes of `config`, coarsest first; the last has ratio 1."""
    coarse = config.coarse_evaluations or config.evaluations
    return tuple(
        Level(config.scale_factor**-below, coarse if below else config.evaluations)
        for below in reversed(range(config.scales))
    )


def level_shape(shape: tuple[int, ...], ratio: float) -> tuple[int, int]:
    """`(height, width)` of a picture of `shape` in a pass of `ratio`."""
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))
