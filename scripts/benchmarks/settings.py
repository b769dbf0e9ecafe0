"""Benchmark settings: the command line as a frozen dataclass."""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import arg

from benchmarks.problems import CONTENTS, STYLES
from jaxstyle import ConfigError
from jaxstyle.config.presets import PRESETS
from jaxstyle.network.vgg import CHANNELS


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure jaxstyle beside its peers on this machine: benchmark.json, tables and plots.

    A peer that is not installed is named and left out. Sizes are in pixels.
    """

    output: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """Folder to write to; sections in it that are from this machine stay."""
    sections: tuple[str, ...] = ()
    """Which ones; all if not given."""
    quick: bool = False
    """Few and small: within ten minutes on two cores."""
    device: tuple[Literal["cpu", "gpu", "tpu"], ...] = ()
    """Evaluations are measured on each, all else on the last; if not given, the CPU and what JAX
    finds beside it."""
    contents: tuple[str, ...] = CONTENTS
    """Photographs."""
    styles: tuple[str, ...] = STYLES
    """Paintings, or the patterns glass, dots and woodcut."""
    sizes: tuple[int, ...] = (256, 512, 1024)
    """Square sizes for evaluation and memory."""
    precisions: tuple[Literal["float32", "tf32", "bfloat16"], ...] = ("float32", "bfloat16")
    """For evaluation and throughput; tf32 is not for CPUs."""
    repeats: int = 5
    """Repetitions, of which the median counts."""
    random_weights: tuple[int, ...] | None = None
    """Where weights cannot travel: random ones, the same for every system, of VGG19's widths or
    those of five blocks."""
    size: int | None = None
    """Long side of pictures, square side of a grid's cells; by default each section's own."""
    evaluations: int | None = None
    """Budget of each run; by default each section's own."""
    objectives: tuple[Literal["seed", "gatys-code"], ...] = ("seed", "gatys-code")
    """For time to loss."""
    cells: int = 8
    """Cells of the grid."""
    lanes: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of lanes to try."""
    systems: tuple[str, ...] = (*(name for name in PRESETS if name != "gatys"), "pastiche")
    """For quality: presets, and pastiche."""


_QUICK: dict[str, Any] = {
    "styles": STYLES[:1],
    "sizes": (192,),
    "precisions": ("float32",),
    "repeats": 3,
    "size": 96,
    "evaluations": 20,
    "cells": 4,
    "lanes": (1, 4),
    "systems": ("default", "seed", "pastiche"),
}
"""Defaults of --quick: all sections in ten minutes on two cores."""


def told_command(argv: Sequence[str]) -> str:
    """Return the command for a report, with file names in place of paths."""
    names = [Path(each).name if os.sep in each else each for each in argv]
    return shlex.join(["scripts/benchmark", *names])


def parse(argv: Sequence[str], sections: dict[str, str]) -> Settings:
    """Parse `argv`; `sections` maps each section's name to its description.

    Raises:
        ConfigError: a section is unknown, or the number of widths is not a network's.
    """
    described = "\n\n".join(f"{name}: {text}" for name, text in sections.items())
    settings = tyro.cli(
        Settings,
        prog="scripts/benchmark",
        args=argv,
        description=f"{Settings.__doc__}\n\nThe sections:\n\n{described}",
        default=Settings(tyro.MISSING, **(_QUICK if "--quick" in argv else {})),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    unknown = set(settings.sections) - set(sections)
    if unknown:
        raise ConfigError(f"no section {min(unknown)!r}; there are {', '.join(sections)}")
    channels = settings.random_weights
    if channels and len(channels) != len(CHANNELS):
        raise ConfigError("--random-weights takes no widths, or those of five blocks")
    return dataclasses.replace(
        settings,
        sections=settings.sections or tuple(sections),
        random_weights=CHANNELS if channels == () else channels,
    )
