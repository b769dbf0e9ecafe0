"""Section `time_to_loss`: each optimizer's time to the final loss of PyTorch's L-BFGS."""

import math
from typing import Any

from benchmarks.bench import OURS, TORCH, Bench, Finding, installed
from measuring.tables import Row, medians

_OURS: dict[str, dict[str, Any]] = {
    "jaxstyle": {},
    "jaxstyle, two scales": {"scales": 2, "scale_factor": 2.0},
    "Adam": {"optimizer": "adam"},
}
_PEERS = {
    "optax.lbfgs": (OURS, "optax_curve"),
    "SciPy, as the seed": (OURS, "scipy_curve"),
    "PyTorch L-BFGS": (TORCH, "curve"),
}


def time_to_loss(bench: Bench) -> Finding:
    """Time to the loss at which PyTorch's L-BFGS (else SciPy's) ends, over the time it took."""
    size, budget = bench.settings.size or 128, bench.settings.evaluations or 200
    torch, missing = bench.torch(bench.devices[-1])
    if torch is None and installed("torch"):
        torch, missing = bench.torch("cpu")
    peers = [peer for peer, (module, _) in _PEERS.items() if module == OURS or torch is not None]
    reference = peers[-1]
    notes = [
        "`gatys-code` is the notebook's objective at one scale, without its second pass. "
        "Compilation is apart. Each system's own evaluations are timed: SciPy, Adam and "
        "optax.lbfgs have jaxstyle's, PyTorch's L-BFGS has PyTorch's. Evaluations at coarser "
        "scales count by their pixels. optax.lbfgs records one loss a search.",
        *missing,
        f"The loss to reach is that of {reference} after {budget} evaluations.",
    ]
    curves: list[Row] = []
    for objective in bench.settings.objectives:
        for pair in bench.pairs:
            problem = bench.pair(pair, size, objective)
            ours = bench.prepare(OURS, "run", problem)
            if torch is not None:
                theirs = bench.prepare(TORCH, "run", problem, **torch)
                bench.agree(theirs, ours, "float32")
            where = {"objective": objective, "pair": f"{pair[0].name} + {pair[1].name}"}
            curves += [
                where | {"system": system} | _run(bench, system, budget)
                for system in (*_OURS, *peers)
            ]
    ratios, absolute = summary(curves, reference)
    return Finding(ratios, absolute, notes, curves)


def _run(bench: Bench, system: str, budget: int) -> Row:
    if system in _PEERS:
        module, function = _PEERS[system]
        return bench.worker(module).call(function, key="run", evaluations=budget)
    settings = _OURS[system] | {"evaluations": budget}
    if "scales" in settings:
        settings["coarse_evaluations"] = max(1, budget // 2)
    return bench.worker(OURS).call("curve", key="run", settings=settings)


def reached(run: Row, target: float) -> tuple[float, float]:
    """Return seconds and evaluations until a run's loss reaches `target`; infinite if never."""
    points = zip(run["losses"], run["seconds"], run["evaluations"], strict=True)
    return next(
        ((seconds, evaluations) for loss, seconds, evaluations in points if loss <= target),
        (math.inf, math.inf),
    )


def summary(curves: list[Row], reference: str) -> tuple[list[Row], list[Row]]:
    """Return medians over pairs, a row per objective and system, and the rows behind them."""
    references = {
        (run["objective"], run["pair"]): run for run in curves if run["system"] == reference
    }
    rows: list[Row] = []
    for run in curves:
        peer = references[run["objective"], run["pair"]]
        target = min(peer["losses"])
        seconds, evaluations = reached(run, target)
        rows.append(
            {key: run[key] for key in ("objective", "pair", "system")}
            | {
                f"time / {reference}": seconds / reached(peer, target)[0],
                "evaluations": evaluations,
                "seconds": seconds,
                "compile, warm-up s": run["compile_seconds"],
                "end / target": min(run["losses"]) / target,
                "target": target,
            }
        )
    columns = f"time / {reference}", "evaluations", "end / target"
    ratios = medians(rows, ["objective", "system"], columns)
    for ratio in ratios:
        mine = [row for row in rows if all(row[k] == ratio[k] for k in ("objective", "system"))]
        times = [row["seconds"] for row in mine]
        ratio["reached"] = f"{sum(map(math.isfinite, times))} of {len(times)}"
    return [_told(row) for row in ratios], [_told(row) for row in rows]


def _told(row: Row) -> Row:
    """Return `row` with infinity, which JSON does not support, as "never"."""
    return {key: "never" if value == math.inf else value for key, value in row.items()}
