"""Shared parts of the sections: settings, input files for the workers, the workers, and peers."""

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
"""Relative L2 distance up to which objectives count as the same: where maxima and ReLUs change
sides, single components differ by their full value."""
_LOSSES_APART = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 0.1}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The measurements of a section."""

    ratios: Sequence[Row]
    absolute: Sequence[Row]
    """Seconds, bytes and other absolute values that are not in `ratios`."""
    notes: Sequence[str] = ()
    """Omissions with their reasons, and how to read the tables."""
    curves: Sequence[Row] = ()
    """Runs, each with its losses, evaluations and seconds."""
    pictures: Sequence[str] = ()
    """Names of picture files in the report's folder."""


class Bench:
    """Pictures and weights for all sections, and workers that live as long as one section."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.weights = str(folder / "weights.npz")
        write_weights(Path(self.weights), settings.random_weights)
        self._workers: dict[tuple[str, str], Worker] = {}
        self._files = itertools.count()
        self.contents = [load_picture(name) for name in settings.contents]
        self.styles = [load_picture(name) for name in settings.styles]
        self.accelerator = self._accelerator()
        available = ["cpu", *([] if self.accelerator is None else [self.accelerator[0]])]
        self.devices: tuple[str, ...] = settings.device or tuple(available)

    @property
    def pairs(self) -> list[tuple[Picture, Picture]]:
        """All pairs of a content and a style."""
        return [(content, style) for content in self.contents for style in self.styles]

    def flops(self, size: int) -> float:
        """Return `evaluation_flops` for the widths of these weights."""
        return evaluation_flops(size, self.settings.random_weights or CHANNELS)

    def _accelerator(self) -> tuple[str, str] | None:
        worker = Worker(OURS)
        device = worker.call("describe")
        worker.close()
        return None if device["platform"] == "cpu" else (device["platform"], device["kind"])

    def fresh(self, module: str, device: str, **variables: str) -> Worker:
        """Start a separate worker, which the caller closes."""
        if module == TORCH:
            return Worker(module, **variables)
        ours = {
            "JAX_PLATFORMS": PLATFORMS[device],
            # The device's memory is shared with the peers' processes.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        return Worker(module, **ours, **variables)

    def worker(self, module: str, device: str | None = None) -> Worker:
        """Return the section's worker on a device, by default the last device."""
        key = module, device or self.devices[-1]
        if key not in self._workers or self.has_ended(*key):
            self._workers[key] = self.fresh(*key)
        return self._workers[key]

    def has_ended(self, module: str, device: str) -> bool:
        """Return whether the section's worker was killed, for example for its memory use."""
        return self._workers[module, device].has_ended

    def torch_device(self, device: str) -> str | None:
        """Return PyTorch's name for the device, or None if it has none."""
        if device != "gpu":
            return "cpu" if device == "cpu" else None
        return "cuda" if self.worker(TORCH, device).call("describe") else None

    def torch_threads(self, device: str) -> int:
        """Return the number of threads for PyTorch: the fastest on the CPU, else all."""
        return self._cpu_threads if device == "cpu" else THREADS

    @functools.cached_property
    def _cpu_threads(self) -> int:
        worker = self.worker(TORCH, "cpu")
        problem = {"pictures": self.write_square(min(self.settings.sizes)), "objective": "seed"}
        worker.call("prepare", key="threads", threads=THREADS, weights=self.weights, **problem)
        candidates = sorted({max(1, THREADS >> power) for power in range(4)}, reverse=True)
        return worker.call("best_threads", key="threads", candidates=candidates)

    def close_workers(self) -> None:
        """End the section's workers, which frees their memory."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def write_pair(self, pair: tuple[Picture, Picture], size: int, objective: str) -> str:
        """Write a problem of long side `size`, its style sized for `objective`; return its path."""
        content, style = (fitted(picture, size) for picture in pair)
        if objective == "seed":
            style = resize_image(pair[1].pixels, content.shape)
        return self._write(content, style)

    def write_square(self, size: int) -> str:
        """Write a problem of `size`² from the first content and style; return its path."""
        content, style = (
            resize_image(each[0].pixels, (size, size)) for each in (self.contents, self.styles)
        )
        return self._write(content, style)

    def _write(self, content: Image, style: Image) -> str:
        path = self.folder / f"pictures{next(self._files)}.npz"
        write_pictures(path, content, style)
        return str(path)

    def agree(self, found: Row, reference: Row, precision: str) -> float:
        """Return the relative L2 distance of two gradients.

        Args:
            found: the answer of `prepare`, with the gradient's file as `gradient`.
            reference: the same for the system that is taken as correct.
            precision: the precision of `found`.

        Raises:
            BenchmarkError: gradients or losses differ too much for the same objective.
        """
        ours, theirs = (np.load(each["gradient"]) for each in (found, reference))
        distance = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        loss = abs(found["loss"] / reference["loss"] - 1)
        if not (distance < _GRADIENTS_APART[precision] and loss < _LOSSES_APART[precision]):
            raise BenchmarkError(
                f"systems disagree: losses {found['loss']:.6g} and {reference['loss']:.6g}, "
                f"gradients {distance:.2g} apart"
            )
        return distance


def installed(package: str) -> bool:
    """Return whether a peer's package can be imported."""
    return importlib.util.find_spec(package) is not None


def pastiche_command() -> str | None:
    """Return the peer's command in this environment, or None if it is missing or does not start."""
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
    """Return each call's values, interleaved so that all calls see the same conditions."""
    rounds = [[call() for call in calls] for _ in range(repeats)]
    return [list(values) for values in zip(*rounds, strict=True)]


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median ratio of values measured side by side."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))
