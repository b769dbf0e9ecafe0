"""Section `throughput`: cells per hour of a grid, by lanes, against runs one after another."""

import functools
import statistics

from benchmarks.bench import (
    NO_TORCH,
    OURS,
    THREADS,
    TORCH,
    Bench,
    Finding,
    Row,
    installed,
    interleaved,
    median_ratio,
)
from benchmarks.worker import Worker

_HOUR = 3600.0
_PEER = "PyTorch, one by one"
_TWO = "2"
"""Devices the CPU is split into for the last case: one works while the other waits."""


def throughput(bench: Bench) -> Finding:
    """Cells an hour of a grid: lanes of one program, jaxstyle and PyTorch one run after another."""
    settings, device = bench.settings, bench.devices[-1]
    notes = [
        f"{settings.cells} cells of {settings.cell_evaluations} evaluations each, `seed` "
        "objective, programs compiled before. Targets are in jaxstyle's times and not in PyTorch's."
    ]
    torch_device = bench.torch_device(device) if installed("torch") else None
    if torch_device is None:
        notes.append(NO_TORCH if not installed("torch") else f"PyTorch has no {device} here.")
    ratios: list[Row] = []
    absolute: list[Row] = []
    pictures = bench.write_square(settings.cell_size)
    for precision in settings.precisions:
        if device == "cpu" and precision != "float32":
            continue  # slower on a CPU
        workers = [(1, bench.worker(OURS, device))]
        if device == "cpu" and THREADS > 1:
            workers.append((2, bench.fresh(OURS, device, JAX_NUM_CPU_DEVICES=_TWO)))
        peer: Row | None = None
        if torch_device is not None:
            peer = {"device": torch_device, "threads": bench.torch_threads(device)}
        rows = _measure(bench, pictures, precision, workers, peer)
        for row in rows:
            where = {"device": device, "precision": precision, "system": row["system"]}
            where |= {"lanes": row["lanes"], "devices": row["devices"]}
            ratios.append(where | row["ratios"])
            absolute.append(where | row["absolute"])
        for _, worker in workers[1:]:
            worker.close()
    return Finding(ratios, absolute, notes)


def _measure(
    bench: Bench,
    pictures: str,
    precision: str,
    workers: list[tuple[int, Worker]],
    peer: Row | None,
) -> list[Row]:
    settings = bench.settings
    problem = {"pictures": pictures, "weights": bench.weights, "objective": "seed"}
    size = {"cells": settings.cells, "evaluations": settings.cell_evaluations}
    calls = {}
    for devices, worker in workers:
        worker.call("prepare", key="cell", precision=precision, **problem)
        for lanes in settings.lanes:
            if lanes <= settings.cells and lanes % devices == 0:
                case = "jaxstyle, lanes", lanes, devices
                each = lanes // devices
                calls[case] = functools.partial(worker.call, "grid", key="cell", lanes=each, **size)
    alone = "jaxstyle, one by one", 1, 1
    calls[alone] = functools.partial(workers[0][1].call, "one_by_one", key="cell", **size)
    if peer is not None:
        worker = bench.worker(TORCH)
        worker.call("prepare", key="cell", precision=precision, **problem, **peer)
        calls[_PEER, 1, 1] = functools.partial(worker.call, "one_by_one", key="cell", **size)
    first = {case: call() for case, call in calls.items()}  # compiles
    values = interleaved(settings.repeats, list(calls.values()))
    seconds = dict(zip(calls, values, strict=True))
    rows: list[Row] = []
    for (system, lanes, devices), mine in seconds.items():
        median = statistics.median(mine)
        over = {"cells an hour / one by one": median_ratio(seconds[alone], mine)}
        if peer is not None:
            theirs = seconds[_PEER, 1, 1]
            over["cells an hour / PyTorch's"] = median_ratio(theirs, mine)
        rows.append(
            {
                "system": system,
                "lanes": lanes,
                "devices": devices,
                "ratios": over,
                "absolute": {
                    "cells an hour": _HOUR * settings.cells / median,
                    "seconds": median,
                    "first s": first[system, lanes, devices],
                },
            }
        )
    return rows
