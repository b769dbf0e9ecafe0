"""The command `scripts/accelerators`."""

import itertools
import os
import sys
from typing import Literal

from compiling.chips import CHIPS
from jaxstyle import ConfigError
from measuring.command import run
from measuring.tables import Row, table
from measuring.worker import MeasurementError, Worker


def updates(
    chips: tuple[str, ...] = tuple(CHIPS),
    presets: tuple[str, ...] = ("seed", "default"),
    sizes: tuple[int, ...] = (256,),
    lanes: int = 1,
    space: int = 1,
    precision: Literal["float32", "tf32", "bfloat16"] = "float32",
) -> None:
    """Print what one update consists of, by chip, preset and size.

    Args:
        chips: h100, v5e, v6e.
        presets: as in `jaxstyle presets`.
        sizes: height and width of the image.
        lanes: number of images at a time.
        space: number of devices that share the rows of each image.
        precision: of convolutions and Gram matrices.
    """
    _print("measure_update", chips, presets, sizes, lanes=lanes, space=space, precision=precision)


def targets(
    chips: tuple[str, ...] = tuple(CHIPS),
    presets: tuple[str, ...] = ("seed", "default"),
    sizes: tuple[int, ...] = (256,),
    precision: Literal["float32", "tf32", "bfloat16"] = "float32",
) -> None:
    """Print what the statistics of a style consist of; see `updates`."""
    _print("measure_targets", chips, presets, sizes, precision=precision)


def memory(
    chips: tuple[str, ...] = ("h100",),
    presets: tuple[str, ...] = ("seed", "default"),
    sizes: tuple[int, ...] = (512, 1024),
    activations: tuple[Literal["kept", "recomputed", "tiled"], ...] = ("kept", "recomputed"),
    precision: Literal["float32", "tf32", "bfloat16"] = "float32",
) -> None:
    """Print the memory that an update needs beside what was estimated; see `updates`.

    Args:
        chips: h100, v5e, v6e.
        presets: as in `jaxstyle presets`.
        sizes: height and width of the image.
        activations: how a gradient gets them.
        precision: of convolutions and Gram matrices.
    """
    for each in activations:
        _print("measure_memory", chips, presets, sizes, activations=each, precision=precision)


def _print(
    function: str,
    chips: tuple[str, ...],
    presets: tuple[str, ...],
    sizes: tuple[int, ...],
    **arguments: object,
) -> None:
    unknown = set(chips) - set(CHIPS)
    if unknown:
        raise ConfigError(f"unknown chip {min(unknown)!r}; there are {', '.join(CHIPS)}")
    rows: list[Row] = []
    for chip, name, size in itertools.product(chips, presets, sizes):
        worker = worker_of()
        try:
            row = worker.call(function, chip=chip, name=name, size=size, **arguments)
        except MeasurementError as error:
            row = {"": str(error)}
        worker.close()
        rows.append({"chip": chip, "preset": name, "size": f"{size}²", **row})
        print(*rows[-1].values(), file=sys.stderr, flush=True)
    print(table(rows))


def worker_of() -> Worker:
    """Return a process that can compile for one kind of chip, once."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    variables = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": flags.strip()}
    return Worker("compiling.programs", **variables)


if __name__ == "__main__":
    sys.exit(run("scripts/accelerators", (updates, targets, memory)))
