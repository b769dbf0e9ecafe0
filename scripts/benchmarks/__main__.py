"""The command: sections, interleaved repetitions, medians, a JSON file and a Markdown table."""

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import Worker
from jaxstyle import load_image, load_weights
from jaxstyle.images import resize_image
from jaxstyle.vgg import CONVOLUTIONS

IMAGES = Path(__file__).parents[2] / "docs" / "images"
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Row = dict[str, Any]


def main() -> None:
    """Run the sections that were asked for and write what they found."""
    arguments = _arguments()
    report: dict[str, Any] = {"machine": _machine(), "arguments": vars(arguments)}
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        for name in arguments.sections:
            print(f"{name} …", file=sys.stderr, flush=True)
            report[name] = SECTIONS[name](bench)
            text = json.dumps(report, indent=1, default=str)
            (arguments.output / "benchmark.json").write_text(text, encoding="utf-8")
        bench.close()
    table = _markdown(report, arguments.sections)
    (arguments.output / "benchmark.md").write_text(table, encoding="utf-8")
    print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="folder for benchmark.json and .md")
    add("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
        help=", ".join(SECTIONS))  # fmt: skip
    add("--sizes", nargs="+", type=int, default=[256, 512], help="square sizes of evaluations")
    add("--size", type=int, default=256, help="long side for time to loss and the start")
    add("--lane-size", type=int, default=160, help="square size of lanes")
    add("--repeats", type=int, default=9, help="repetitions, of which the median counts")
    add("--loop", type=int, default=15, help="evaluations in each run that overhead times")
    add("--runs", type=int, default=3, help="repetitions of the runs in time to loss")
    add("--evaluations", type=int, default=200, help="PyTorch's budget in time to loss")
    add("--pairs", nargs="+", metavar="CONTENT:STYLE", help="pictures, if not the project's own",
        default=[f"{IMAGES / 'chelsea.jpg'}:{IMAGES / 'starry_night.jpg'}"])  # fmt: skip
    return parser.parse_args()


class Bench:
    """The workers, and the files that they read."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        self.pairs = [tuple(map(Path, pair.split(":"))) for pair in arguments.pairs]
        self.ours = Worker("benchmarks.ours")
        self.torch = Worker("benchmarks.pytorch")
        self.pictures = str(folder / "pictures.npz")
        self._weights = folder / "weights.npz"
        _write_weights(self._weights)

    def prepare(self, pair: tuple[Path, ...], size: int, square: bool = False) -> Row:
        """Give both workers the same problem; their losses must agree."""
        content = load_image(str(pair[0]), "original" if square else size)
        shape = (size, size) if square else content.shape
        content = resize_image(content, shape)
        np.savez(
            self.pictures, content=content, style=resize_image(load_image(str(pair[1])), shape)
        )
        ours = self.ours.call("prepare", pictures=self.pictures)
        theirs = self.torch.call(
            "prepare", pictures=self.pictures, weights=str(self._weights), threads=THREADS
        )
        for key in ("loss", "gradient_norm"):
            if not abs(ours[key] / theirs[key] - 1) < 1e-3:
                raise SystemExit(f"benchmark: {key} differs: {ours[key]} and {theirs[key]}")
        return ours

    def close(self) -> None:
        """End the workers."""
        self.ours.close()
        self.torch.close()


def interleaved(repeats: int, *calls: Callable[[], float]) -> list[float]:
    """The median of each call's values, taken in turn so that all see the same weather."""
    rounds = [[call() for call in calls] for _ in range(repeats)]
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def evaluation(bench: Bench) -> list[Row]:
    """One value and gradient of the seed objective, against PyTorch."""
    rows = []
    for size in bench.arguments.sizes:
        ours = bench.prepare(bench.pairs[0], size, square=True)
        mine, theirs = interleaved(
            bench.arguments.repeats,
            lambda: bench.ours.call("evaluation", count=5),
            lambda: bench.torch.call("evaluation", count=5),
        )
        rows.append(
            {
                "size": f"{size}²",
                "convolution": ours["convolution"],
                "jaxstyle / PyTorch": mine / theirs,
                "jaxstyle s": mine,
                "PyTorch s": theirs,
                "gradient error": bench.ours.call("gradient_error"),
            }
        )
    return rows


def overhead(bench: Bench) -> list[Row]:
    """A run's time an evaluation over a bare evaluation's."""
    rows = []
    for size in bench.arguments.sizes:
        bench.prepare(bench.pairs[0], size, square=True)
        bench.ours.call("loop", evaluations=2)  # compiled here
        count = bench.arguments.loop
        ratios, seconds = [], []
        for _ in range(bench.arguments.repeats):
            run = bench.ours.call("loop", evaluations=count)
            seconds.append(bench.ours.call("evaluation", count=count))
            ratios.append(run / seconds[-1])
        rows.append(
            {
                "size": f"{size}²",
                "run / bare": statistics.median(ratios),
                "evaluation s": statistics.median(seconds),
            }
        )
    return rows


def lanes(bench: Bench) -> list[Row]:
    """What an evaluation of one lane of a grid costs, over that of a run alone."""
    size, evaluations = bench.arguments.lane_size, bench.arguments.loop
    bench.prepare(bench.pairs[0], size, square=True)
    two = Worker("benchmarks.ours", JAX_NUM_CPU_DEVICES="2")
    two.call("prepare", pictures=bench.pictures)
    workers = {1: bench.ours, 2: two}
    cases = [(1, 2), (1, 8), (2, 8)]

    def cost(devices: int, count: int) -> float:
        return workers[devices].call("lanes", count=count, evaluations=evaluations)

    def alone() -> float:
        return bench.ours.call("loop", evaluations=evaluations)

    calls = [functools.partial(cost, *case) for case in cases]
    for call in [alone, *calls]:  # compiled here
        call()
    # Beside each, a run alone: so that both see the same weather.
    rows = []
    for case, call in zip(cases, calls, strict=True):
        pairs = [(call(), alone()) for _ in range(bench.arguments.repeats)]
        rows.append(
            {
                "size": f"{size}²",
                "CPU devices": case[0],
                "lanes": case[1],
                "lane / alone": statistics.median(lane / single for lane, single in pairs),
                "lane s": statistics.median(lane for lane, _ in pairs),
                "alone s": statistics.median(single for _, single in pairs),
            }
        )
    two.close()
    return rows


RUNS = {
    "no preconditioner": {"preconditioner": "none"},
    "default": {},
    "two scales": {"scales": 2, "scale_factor": 2.0, "coarse_evaluations": 100},
}


def time_to_loss(bench: Bench) -> list[Row]:
    """Until PyTorch's loss after its budget, over the time that PyTorch took; compiled before."""
    rows = []
    budget = bench.arguments.evaluations
    for pair in bench.pairs:
        bench.prepare(pair, bench.arguments.size)
        theirs: list[float] = []
        ours: dict[str, list[Row]] = {name: [] for name in RUNS}
        target = 0.0
        for _ in range(bench.arguments.runs):
            run = bench.torch.call("curve", evaluations=budget)
            target = run["loss"]
            theirs.append(run["seconds"])
            for name, settings in RUNS.items():
                settings = settings | {"evaluations": budget}
                ours[name].append(bench.ours.call("curve", settings=settings, target=target))
        for name, runs in ours.items():
            ratios = [run["seconds"] / seconds for run, seconds in zip(runs, theirs, strict=True)]
            rows.append(
                {
                    "pair": f"{pair[0].stem} + {pair[1].stem}",
                    "jaxstyle": name,
                    "jaxstyle / PyTorch": statistics.median(ratios),
                    "evaluations": runs[0]["evaluations"],
                    "jaxstyle s": statistics.median(run["seconds"] for run in runs),
                    "PyTorch s": statistics.median(theirs),
                    "loss": target,
                }
            )
    for name in RUNS:
        ratios = [row["jaxstyle / PyTorch"] for row in rows if row["jaxstyle"] == name]
        rows.append(
            {"pair": "median", "jaxstyle": name, "jaxstyle / PyTorch": statistics.median(ratios)}
        )
    return rows


def start(bench: Bench) -> list[Row]:
    """Wall time of `jaxstyle stylize` with one evaluation, cold and with a warm cache."""
    content, style = bench.pairs[0]
    with tempfile.TemporaryDirectory() as cache:
        command = [
            *(sys.executable, "-m", "jaxstyle.cli", "stylize", str(content), str(style)),
            *("--preset", "seed", "--size", str(bench.arguments.size), "--evaluations", "1"),
            *("--quiet", "--offline", "-o", str(Path(cache) / "out.png")),
        ]
        variables = {
            "JAX_COMPILATION_CACHE_DIR": str(Path(cache) / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        seconds = []
        for _ in range(1 + bench.arguments.repeats):
            began = time.perf_counter()
            subprocess.run(command, check=True, env=os.environ | variables)
            seconds.append(time.perf_counter() - began)
    return [
        {"start": "cold", "seconds": seconds[0]},
        {"start": "cache warm", "seconds": statistics.median(seconds[1:])},
    ]


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "evaluation": evaluation,
    "overhead": overhead,
    "lanes": lanes,
    "time_to_loss": time_to_loss,
    "start": start,
}


def _write_weights(path: Path) -> None:
    params = load_weights()
    arrays = {"mean": np.asarray(params["mean"])}
    for conv in itertools.takewhile(lambda conv: conv != "conv5_3", CONVOLUTIONS):
        for key in ("kernel", "bias"):
            arrays[f"{conv}/{key}"] = np.asarray(params[conv][key])
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


def _machine() -> Row:
    names = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy", "torch")
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": THREADS,
        "system": platform.platform(),
        "python": platform.python_version(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _markdown(report: dict[str, Any], sections: list[str]) -> str:
    machine = report["machine"]
    versions = machine["versions"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; jax {versions['jax']}, "
        f"torch {versions['torch']}. Medians of interleaved runs.",
    ]
    for name in sections:
        rows = report[name]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"**{name.replace('_', ' ')}**: {SECTIONS[name].__doc__}", ""]
        lines += [_line(columns), _line(["---"] * len(columns))]
        lines += [_line([_cell(row.get(column, "")) for column in columns]) for row in rows]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
