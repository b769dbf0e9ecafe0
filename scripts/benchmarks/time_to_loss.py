"""Section `time_to_loss`: each optimizer's time to the final loss of PyTorch's L-BFGS."""

import math
import statistics
from typing import Any

import numpy as np

from benchmarks.bench import NO_TORCH, OURS, TORCH, Bench, Finding, Row, installed

TWO_SCALES = "jaxstyle, two scales"

_OURS: dict[str, dict[str, Any]] = {
    "jaxstyle": {},
    TWO_SCALES: {"scales": 2, "scale_factor": 2.0},
    "Adam": {"optimizer": "adam"},
}
_OPTAX, _SCIPY, _TORCH = "optax.lbfgs", "SciPy, as the seed", "PyTorch L-BFGS"

Run = dict[str, Any]


def time_to_loss(bench: Bench) -> Finding:
    """Time to the loss at which PyTorch's L-BFGS (else SciPy's) ends, over the time it took."""
    notes = [
        "`gatys-code` is the notebook's objective at one scale, without its second pass. "
        "Compilation is apart. Each system's own evaluations are timed: SciPy, Adam and "
        "optax.lbfgs have jaxstyle's, PyTorch's L-BFGS has PyTorch's. Evaluations at coarser "
        "scales count by their pixels. optax.lbfgs records one loss a search.",
    ]
    peers = [_OPTAX, _SCIPY]
    if installed("torch"):
        peers.append(_TORCH)
    else:
        notes.append(NO_TORCH)
    reference = peers[-1]
    notes.append(f"The loss to reach is that of {reference} after {_budget(bench)} evaluations.")
    curves: list[Row] = []
    for objective in bench.settings.objectives:
        for pair in bench.pairs:
            pictures = bench.write_pair(pair, bench.settings.size, objective)
            _prepare(bench, pictures, objective)
            for repetition in range(bench.settings.runs):
                for system in (*_OURS, *peers):
                    run = _run(bench, system)
                    curves.append(
                        {
                            "objective": objective,
                            "pair": f"{pair[0].name} + {pair[1].name}",
                            "repetition": repetition,
                            "system": system,
                        }
                        | run
                    )
    ratios, absolute = summary(curves, reference)
    return Finding(ratios, absolute, notes, curves)


def _budget(bench: Bench) -> int:
    return bench.settings.evaluations


def _prepare(bench: Bench, pictures: str, objective: str) -> None:
    problem = {"pictures": pictures, "weights": bench.weights, "objective": objective}
    files = {module: str(bench.folder / f"{module}.npy") for module in (OURS, TORCH)}
    ours = bench.worker(OURS).call("prepare", key="run", gradient=files[OURS], **problem)
    if not installed("torch"):
        return
    device = bench.torch_device(bench.devices[-1]) or "cpu"
    peer = {"threads": bench.torch_threads(device), "device": device, "gradient": files[TORCH]}
    theirs = bench.worker(TORCH).call("prepare", key="run", **problem, **peer)
    both = [each | {"gradient": files[m]} for m, each in ((OURS, ours), (TORCH, theirs))]
    bench.agree(both[1], both[0], "float32")


def _run(bench: Bench, system: str) -> Run:
    budget = _budget(bench)
    if system == _TORCH:
        # The first steps include imports and set-up.
        warm = bench.worker(TORCH).call("curve", key="run", evaluations=3)["seconds"][-1]
        run = bench.worker(TORCH).call("curve", key="run", evaluations=budget)
        return run | {"compile_seconds": warm}
    if system in (_OPTAX, _SCIPY):
        function = "optax_curve" if system == _OPTAX else "scipy_curve"
        return bench.worker(OURS).call(function, key="run", evaluations=budget)
    settings = _OURS[system] | {"evaluations": budget}
    if system == TWO_SCALES:
        settings["coarse_evaluations"] = max(1, budget // 2)
    return bench.worker(OURS).call("curve", key="run", settings=settings)


def reached(run: Run, target: float) -> tuple[float, float]:
    """Return seconds and evaluations until a run's loss reaches `target`; infinite if never."""
    for loss, evaluations, seconds in zip(
        run["losses"], run["evaluations"], run["seconds"], strict=True
    ):
        if loss <= target:
            return seconds, evaluations
    return math.inf, math.inf


def summary(curves: list[Row], reference: str) -> tuple[list[Row], list[Row]]:
    """Return medians over pairs, a row per objective and system, and the rows behind them."""
    cases = list(
        dict.fromkeys((run["objective"], run["pair"], run["repetition"]) for run in curves)
    )
    absolute: list[Row] = []
    for objective, pair, repetition in cases:
        runs = {
            run["system"]: run
            for run in curves
            if (run["objective"], run["pair"], run["repetition"]) == (objective, pair, repetition)
        }
        target = min(runs[reference]["losses"])
        against = reached(runs[reference], target)[0]
        for system, run in runs.items():
            seconds, evaluations = reached(run, target)
            absolute.append(
                {
                    "objective": objective,
                    "pair": pair,
                    "system": system,
                    "time ratio": seconds / against,
                    "evaluations": evaluations,
                    "seconds": seconds,
                    "compile, warm-up s": run["compile_seconds"],
                    "end / target": min(run["losses"]) / target,
                    "target": target,
                }
            )
    ratios: list[Row] = []
    for objective, system in dict.fromkeys((row["objective"], row["system"]) for row in absolute):
        rows = [r for r in absolute if (r["objective"], r["system"]) == (objective, system)]
        ends = [row["end / target"] for row in rows]
        ratios.append(
            {
                "objective": objective,
                "system": system,
                f"time / {reference}": statistics.median(row["time ratio"] for row in rows),
                "evaluations": statistics.median(row["evaluations"] for row in rows),
                "reached": f"{sum(math.isfinite(row['seconds']) for row in rows)} of {len(rows)}",
                "end / target": float(np.exp(np.mean(np.log(ends)))),
            }
        )
    return [_told(row) for row in ratios], [_told(row) for row in absolute]


def _told(row: Row) -> Row:
    """Return `row` with infinity, which JSON does not support, as "never"."""
    return {key: "never" if value == math.inf else value for key, value in row.items()}
