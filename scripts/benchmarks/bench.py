"""What the sections share: settings, the files that workers read, the workers, and peers."""

import dataclasses
import functools
import importlib.util
import itertools
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problems import (
    Picture,
    evaluation_flops,
    fitted,
    load_picture,
    write_pictures,
    write_weights,
)
from benchmarks.settings import Settings
from benchmarks.worker import BenchmarkError, Worker
from jaxstyle.imaging.arrays import Image
from jaxstyle.imaging.resampling import resize_image
from jaxstyle.network.vgg import CHANNELS

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

OURS = "benchmarks.ours"
TORCH = "benchmarks.pytorch"
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_GRADIENTS_APART = {"float32": 0.02, "tf32": 0.1, "bfloat16": 0.5}
"""Relative L2 distance up to which systems have the same objective: where maxima and ReLUs change
sides, single components differ by all they are."""
_LOSSES_APART = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 0.1}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a section has measured."""

    ratios: Sequence[Row]
    absolute: Sequence[Row]
    """Seconds, bytes and the like, if not in `ratios`."""
    notes: Sequence[str] = ()
    """What was left out, and why; how to read the tables."""
    curves: Sequence[Row] = ()
    """Runs, each with its losses, evaluations and seconds."""
    pictures: Sequence[str] = ()
    """Names of picture files beside the report."""


class Bench:
    """Pictures, weights, and workers that live as long as a section."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.weights = str(folder / "weights.npz")
        write_weights(Path(self.weights), settings.random_weights)
        self._workers: dict[tuple[str, str], Worker] = {}
        self._files = itertools.count()
        self.contents = [load_picture(name) for name in settings.contents]
        self.styles = [load_picture(name) for name in settings.styles]
        self.accelerator = self._accelerator()
        found = ["cpu", *([] if self.accelerator is None else [self.accelerator[0]])]
        self.devices: tuple[str, ...] = settings.device or tuple(found)

    @property
    def pairs(self) -> list[tuple[Picture, Picture]]:
        """Every content with every style."""
        return [(content, style) for content in self.contents for style in self.styles]

    def flops(self, size: int) -> float:
        """See `evaluation_flops`."""
        return evaluation_flops(size, self.settings.random_weights or CHANNELS)

    def _accelerator(self) -> tuple[str, str] | None:
        worker = Worker(OURS)
        found = worker.call("describe")
        worker.close()
        return None if found["platform"] == "cpu" else (found["platform"], found["kind"])

    def fresh(self, module: str, device: str, **variables: str) -> Worker:
        """A worker of one's own, to be closed."""
        if module == TORCH:
            return Worker(module, **variables)
        ours = {
            "JAX_PLATFORMS": PLATFORMS[device],
            # The device's memory is shared with the peers' processes.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        return Worker(module, **ours, **variables)

    def worker(self, module: str, device: str | None = None) -> Worker:
        """The section's worker on a device, the last one if not given."""
        key = module, device or self.devices[-1]
        if key not in self._workers or self.has_ended(*key):
            self._workers[key] = self.fresh(*key)
        return self._workers[key]

    def has_ended(self, module: str, device: str) -> bool:
        """Whether the section's worker was ended by something else, as for its memory."""
        return self._workers[module, device].has_ended

    def torch_device(self, device: str) -> str | None:
        """PyTorch's name of the device; None where it has none."""
        if device != "gpu":
            return "cpu" if device == "cpu" else None
        return "cuda" if self.worker(TORCH, device).call("describe") else None

    def torch_threads(self, device: str) -> int:
        """With how many threads PyTorch is fastest, as far as a device's are its own."""
        return self._cpu_threads if device == "cpu" else THREADS

    @functools.cached_property
    def _cpu_threads(self) -> int:
        worker = self.worker(TORCH, "cpu")
        problem = {"pictures": self.write_square(min(self.settings.sizes)), "objective": "seed"}
        worker.call("prepare", key="threads", threads=THREADS, weights=self.weights, **problem)
        candidates = sorted({max(1, THREADS >> power) for power in range(4)}, reverse=True)
        return worker.call("best_threads", key="threads", candidates=candidates)

    def close_workers(self) -> None:
        """End the section's workers, which frees what they have in memory."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def write_pair(self, pair: tuple[Picture, Picture], size: int, objective: str) -> str:
        """The file of a problem whose long side is `size`, as the objective has its style."""
        content, style = (fitted(picture, size) for picture in pair)
        if objective == "seed":
            style = resize_image(pair[1].pixels, content.shape)
        return self._write(content, style)

    def write_square(self, size: int) -> str:
        """The file of a problem of `size`², of the first pictures."""
        content, style = (
            resize_image(each[0].pixels, (size, size)) for each in (self.contents, self.styles)
        )
        return self._write(content, style)

    def _write(self, content: Image, style: Image) -> str:
        path = self.folder / f"pictures{next(self._files)}.npz"
        write_pictures(path, content, style)
        return str(path)

    def agree(self, found: Row, reference: Row, precision: str) -> float:
        """The relative L2 distance of two gradients.

        Args:
            found: what `prepare` answered, and `gradient`, the file with the gradient.
            reference: the same of the system that counts as right.
            precision: of `found`.

        Raises:
            BenchmarkError: it or the losses' is so large that the objectives are not the same.
        """
        ours, theirs = (np.load(each["gradient"]) for each in (found, reference))
        apart = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        loss = abs(found["loss"] / reference["loss"] - 1)
        if not (apart < _GRADIENTS_APART[precision] and loss < _LOSSES_APART[precision]):
            raise BenchmarkError(
                f"systems disagree: losses {found['loss']:.6g} and {reference['loss']:.6g}, "
                f"gradients {apart:.2g} apart"
            )
        return apart


def installed(package: str) -> bool:
    """Whether a peer's package is there to be imported."""
    return importlib.util.find_spec(package) is not None


def pastiche_command() -> str | None:
    """The peer's command in this environment, if it is there and starts."""
    command = shutil.which("pastiche", path=str(Path(sys.executable).parent))
    if command is None:
        return None
    done = subprocess.run([command, "--version"], capture_output=True, check=False)
    return command if done.returncode == 0 else None


NO_TORCH = "PyTorch is not installed and left out: pip install '.[benchmark]'"
NO_PASTICHE = (
    "pastiche is not installed, or does not start, and is left out: "
    "pip install torch torchvision; pip install --no-deps pastiche==0.1.5"
)


def interleaved(repeats: int, calls: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Each call's values, taken in turn so that all see the same weather."""
    rounds = [[call() for call in calls] for _ in range(repeats)]
    return [list(values) for values in zip(*rounds, strict=True)]


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of what was measured side by side."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))
