"""Benchmark settings: the command line as a frozen dataclass."""

import argparse
import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.objectives import OBJECTIVES
from benchmarks.problems import CONTENTS, STYLES
from jaxstyle.network.vgg import CHANNELS


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `scripts/benchmark`; sizes are in pixels."""

    output: Path
    sections: tuple[str, ...]
    device: tuple[str, ...]
    contents: tuple[str, ...]
    styles: tuple[str, ...]
    sizes: tuple[int, ...]
    size: int
    precisions: tuple[str, ...]
    repeats: int
    runs: int
    evaluations: int
    objectives: tuple[str, ...]
    loop: int
    cell_size: int
    cells: int
    cell_evaluations: int
    lanes: tuple[int, ...]
    program_size: int
    program_steps: int
    quality_size: int
    quality_evaluations: int
    systems: tuple[str, ...]
    random_weights: tuple[int, ...] | None
    quick: bool

    def told(self) -> dict[str, Any]:
        """Return the settings for a report, with file names in place of this machine's paths."""
        files = {name: [Path(file).name for file in getattr(self, name)] for name in _FILES}
        return dataclasses.asdict(self) | files | {"output": self.output.name}


_FILES = ("contents", "styles")


def told_command(argv: Sequence[str]) -> str:
    """Return the command for a report, with file names in place of paths."""
    names = [Path(each).name if os.sep in each else each for each in argv]
    return shlex.join(["scripts/benchmark", *names])


_SYSTEMS = ("default", "seed", "gatys-code", "neural-style", "crowson", "pastiche")

_QUICK: dict[str, Any] = {
    "styles": STYLES[:1],
    "sizes": [192],
    "precisions": ["float32"],
    "size": 96,
    "repeats": 3,
    "runs": 1,
    "evaluations": 40,
    "loop": 5,
    "cell_size": 96,
    "cells": 4,
    "cell_evaluations": 10,
    "lanes": [1, 4],
    "program_size": 96,
    "program_steps": 20,
    "quality_size": 96,
    "quality_evaluations": 20,
    "systems": ["default", "seed", "pastiche"],
}
"""Defaults of --quick: all sections in ten minutes on two cores."""


def parse(argv: Sequence[str] | None, sections: Mapping[str, str]) -> Settings:
    """Parse `argv`; `sections` maps each section's name to its description."""
    described = "\n".join(f"  {name:13} {text}" for name, text in sections.items())
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description="jaxstyle beside its peers on this machine: benchmark.json, tables, plots.",
        epilog=f"sections:\n{described}\n\nA peer that is not installed is named and left out.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="DIR",
        help="folder to write to; sections in it that are from this machine stay")  # fmt: skip
    add("--sections", nargs="+", choices=sections, default=list(sections), metavar="SECTION",
        help="which ones; all, in this order, if not given")  # fmt: skip
    add("--quick", action="store_true", help="few and small: within ten minutes on two cores")
    add("--device", nargs="+", choices=("cpu", "gpu", "tpu"), default=[], metavar="DEVICE",
        help="cpu, gpu, tpu: for evaluations each of them, else the last; the CPU and what JAX "
        "finds beside it if not given")  # fmt: skip
    add("--contents", nargs="+", default=CONTENTS, metavar="FILE", help="photographs")
    add("--styles", nargs="+", default=STYLES, metavar="FILE",
        help="paintings, or the patterns glass, dots and woodcut")  # fmt: skip
    add("--sizes", nargs="+", type=int, default=[256, 512, 1024], metavar="N",
        help="square sizes for evaluation and memory, the first two for overhead")  # fmt: skip
    add("--precisions", nargs="+", choices=("float32", "tf32", "bfloat16"), metavar="PRECISION",
        default=["float32", "bfloat16"], help="for evaluation and throughput: float32, tf32 "
        "(not on CPUs), bfloat16")  # fmt: skip
    add("--repeats", type=int, default=5, help="repetitions, of which the median counts")
    add("--random-weights", nargs="*", type=int, metavar="CHANNELS",
        help="where weights cannot travel: random ones, the same for every system, of VGG19's "
        "widths or those of five blocks")  # fmt: skip
    number = {"type": int, "metavar": "N"}
    add("--loop", default=15, help="evaluations in each run that overhead times", **number)
    add("--size", default=128, help="long side for time to loss and the start", **number)
    add("--evaluations", default=200, help="the budget in time to loss", **number)
    add("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES, metavar="OBJECTIVE",
        help="for time to loss: seed, gatys-code")  # fmt: skip
    add("--runs", default=1, help="repetitions of a pair in time to loss and programs", **number)
    add("--cell-size", default=160, help="square size of the grid's cells", **number)
    add("--cells", default=8, help="cells of the grid", **number)
    add("--cell-evaluations", default=10, help="budget of each cell", **number)
    add("--lanes", nargs="+", default=[1, 2, 4, 8], help="lanes to try", **number)
    add("--program-size", default=192, help="long side for whole programs", **number)
    add("--program-steps", default=100, help="budget of whole programs", **number)
    add("--quality-size", default=192, help="long side for quality", **number)
    add("--quality-evaluations", default=100, help="budget for quality", **number)
    add("--systems", nargs="+", choices=_SYSTEMS, default=list(_SYSTEMS), metavar="SYSTEM",
        help=f"for quality: {', '.join(_SYSTEMS)}")  # fmt: skip
    if "--quick" in (argv or ()):
        parser.set_defaults(**_QUICK)
    values = vars(parser.parse_args(argv))
    channels = values["random_weights"]
    if channels is not None and len(channels) not in (0, len(CHANNELS)):
        parser.error("--random-weights takes no channels, or those of five blocks")
    if channels == []:
        values["random_weights"] = CHANNELS
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Settings(**fields)
