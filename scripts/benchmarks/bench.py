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
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.problems import Picture, fitted, load_picture, write_pictures, write_weights
from benchmarks.settings import Settings
from jaxstyle.engine import usable_cores
from jaxstyle.imaging import Image, resize_image, save_image
from measuring.tables import Row
from measuring.worker import MeasurementError, Worker

THREADS = usable_cores()

OURS = "benchmarks.ours"
TORCH = "benchmarks.pytorch"
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_GRADIENTS_APART = {"float32": 0.02, "tf32": 0.1, "bfloat16": 0.5}
"""Relative L2 distance up to which objectives count as the same: where maxima and ReLUs change
sides, single components differ by their full value."""
_LOSSES_APART = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 0.1}

T = TypeVar("T", bound=Hashable)


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

    def _accelerator(self) -> tuple[str, str] | None:
        worker = Worker(OURS)
        device = worker.call("describe")
        worker.close()
        return None if device["platform"] == "cpu" else (device["platform"], device["kind"])

    def fresh(self, module: str, device: str, **variables: str) -> Worker:
        """Start a separate worker, which the caller closes."""
        platform = PLATFORMS[device]
        # The device's memory is shared with the peers' processes.
        shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return Worker(module, JAX_PLATFORMS=platform, **shared, **variables)

    def worker(self, module: str, device: str | None = None) -> Worker:
        """Return the section's worker on a device, by default the last device."""
        key = module, device or self.devices[-1]
        if key not in self._workers or self.has_ended(*key):
            self._workers[key] = self.fresh(*key)
        return self._workers[key]

    def has_ended(self, module: str, device: str) -> bool:
        """Return whether the section's worker was killed, for example for its memory use."""
        return self._workers[module, device].has_ended

    def torch(self, device: str) -> tuple[Row | None, list[str]]:
        """Return how PyTorch's `prepare` is to use a device, or None and a note why it cannot."""
        if not installed("torch"):
            return None, ["PyTorch is not installed and left out: pip install '.[benchmark]'"]
        if device == "cpu":
            return {"device": "cpu", "threads": self._cpu_threads}, []
        if device == "gpu" and self.worker(TORCH, device).call("describe"):
            return {"device": "cuda", "threads": THREADS}, []
        return None, [f"PyTorch has no {device} here."]

    @functools.cached_property
    def _cpu_threads(self) -> int:
        worker = self.worker(TORCH, "cpu")
        problem = self.square(min(self.settings.sizes))
        worker.call("prepare", key="threads", threads=THREADS, **problem)
        candidates = sorted({max(1, THREADS >> power) for power in range(4)}, reverse=True)
        return worker.call("best_threads", key="threads", candidates=candidates)

    def close_workers(self) -> None:
        """End the section's workers, which frees their memory."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def pair(self, pair: tuple[Picture, Picture], size: int, objective: str) -> Row:
        """Return a problem for `prepare`: long side `size`, its style sized for `objective`."""
        content, style = (fitted(picture, size) for picture in pair)
        if objective == "seed":
            style = resize_image(pair[1].pixels, content.shape)
        return self._problem(content, style, objective)

    def square(self, size: int) -> Row:
        """Return a problem for `prepare`: `seed`, the first content and style, at `size`²."""
        pictures = (self.contents[0].pixels, self.styles[0].pixels)
        content, style = (resize_image(pixels, (size, size)) for pixels in pictures)
        return self._problem(content, style, "seed")

    def _problem(self, content: Image, style: Image, objective: str) -> Row:
        path = self.folder / f"pictures{next(self._files)}.npz"
        write_pictures(path, content, style)
        return {"pictures": str(path), "weights": self.weights, "objective": objective}

    def png_pair(self, pair: tuple[Picture, Picture], size: int) -> list[Path]:
        """Write a content and a style with a long side of `size`, for whole programs."""
        files = [self.folder / "content.png", self.folder / f"style_{pair[1].name}.png"]
        for file, picture in zip(files, pair, strict=True):
            save_image(file, fitted(picture, size))
        return files

    def prepare(
        self, module: str, key: str, problem: Row, of: str | None = None, **settings: object
    ) -> Row:
        """Have a worker of the device `of` prepare `problem`.

        Returns:
            Its answer and the `gradient`'s file.
        """
        gradient = str(self.folder / f"{module} {key}.npy")
        worker = self.worker(module, of)
        answer = worker.call("prepare", key=key, gradient=gradient, **problem, **settings)
        return answer | {"gradient": gradient}

    def agree(self, found: Row, reference: Row, precision: str) -> float:
        """Return the relative L2 distance of the gradients of two answers of `prepare`.

        Raises:
            MeasurementError: gradients or losses differ too much for the same objective.
        """
        ours, theirs = (np.load(each["gradient"]) for each in (found, reference))
        distance = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        loss = abs(found["loss"] / reference["loss"] - 1)
        if not (distance < _GRADIENTS_APART[precision] and loss < _LOSSES_APART[precision]):
            raise MeasurementError(
                f"systems disagree: losses {found['loss']:.6g} and {reference['loss']:.6g}, "
                f"gradients {distance:.2g} apart"
            )
        return distance

    def pastiche(self, files: Sequence[Path], output: Path, size: int, steps: int) -> list[str]:
        """Return the peer's command for a content and a style."""
        device = "cuda" if self.devices[-1] == "gpu" else "cpu"
        command = pastiche_command()
        assert command is not None
        return [
            *(command, "--device", device, "--size", str(size), "--style-size", str(size)),
            *("--num-steps", str(steps), "--no-verbose", *map(str, files), str(output)),
        ]


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


NO_PASTICHE = (
    "pastiche is not installed, or does not start, and is left out: "
    "pip install torch torchvision; pip install --no-deps pastiche==0.1.5"
)


def run_program(command: Sequence[str], **variables: str) -> None:
    """Run a whole program.

    Raises:
        MeasurementError: it failed; with the last line that it printed.
    """
    done = subprocess.run(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise MeasurementError(f"{Path(command[0]).name} ended with {done.returncode}: {last}")


def interleaved(repeats: int, calls: Mapping[T, Callable[[], float]]) -> dict[T, list[float]]:
    """Return each call's values, interleaved so that all calls see the same conditions."""
    rounds = [[call() for call in calls.values()] for _ in range(repeats)]
    return dict(zip(calls, map(list, zip(*rounds, strict=True)), strict=True))


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median ratio of values measured side by side."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))
