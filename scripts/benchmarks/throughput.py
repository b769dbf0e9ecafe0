"""Section `throughput`: cells per hour of a grid, by lanes, against runs one after another."""

import functools
import statistics
from collections.abc import Callable

from benchmarks.bench import OURS, THREADS, TORCH, Bench, Finding, interleaved, median_ratio
from measuring.tables import Row

_HOUR = 3600.0
_OURS = ("jaxstyle, one by one", 1, 1)
_PEER = ("PyTorch, one by one", 1, 1)
"""Cases: a system, its lanes and its devices."""


def throughput(bench: Bench) -> Finding:
    """Cells an hour of a grid: lanes of one program, jaxstyle and PyTorch one run after another."""
    settings, device = bench.settings, bench.devices[-1]
    size, evaluations = settings.size or 160, settings.evaluations or 10
    torch, missing = bench.torch(device)
    notes = [
        f"{settings.cells} cells of {size}² and {evaluations} evaluations each, `seed` "
        "objective, programs compiled before. Targets are in jaxstyle's times and not in PyTorch's."
    ]
    ratios: list[Row] = []
    absolute: list[Row] = []
    problem = bench.square(size) | {"key": "cell"}
    grid = {"key": "cell", "cells": settings.cells, "evaluations": evaluations}
    for precision in settings.precisions:
        if device == "cpu" and precision != "float32":
            continue  # slower on a CPU
        workers = {1: bench.worker(OURS, device)}
        if device == "cpu" and THREADS > 1:
            # One of two devices works while the other waits.
            workers[2] = bench.fresh(OURS, device, JAX_NUM_CPU_DEVICES="2")
        calls: dict[tuple[str, int, int], Callable[[], float]] = {}
        for devices, worker in workers.items():
            worker.call("prepare", precision=precision, **problem)
            for lanes in settings.lanes:
                if lanes <= settings.cells and lanes % devices == 0:
                    calls["jaxstyle, lanes", lanes, devices] = functools.partial(
                        worker.call, "grid", lanes=lanes // devices, **grid
                    )
        calls[_OURS] = functools.partial(workers[1].call, "one_by_one", **grid)
        if torch is not None:
            peer = bench.worker(TORCH, device)
            peer.call("prepare", precision=precision, **problem, **torch)
            calls[_PEER] = functools.partial(peer.call, "one_by_one", **grid)
        first = {case: call() for case, call in calls.items()}  # compiles
        seconds = interleaved(settings.repeats, calls)
        for case, mine in seconds.items():
            where = {"device": device, "precision": precision}
            where |= dict(zip(("system", "lanes", "devices"), case, strict=True))
            over = {"cells an hour / one by one": median_ratio(seconds[_OURS], mine)}
            if torch is not None:
                over["cells an hour / PyTorch's"] = median_ratio(seconds[_PEER], mine)
            ratios.append(where | over)
            median = statistics.median(mine)
            hourly = {"cells an hour": _HOUR * settings.cells / median}
            absolute.append(where | hourly | {"seconds": median, "first s": first[case]})
        if 2 in workers:
            workers[2].close()
    return Finding(ratios, absolute, notes + missing)
