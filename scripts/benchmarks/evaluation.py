"""Sections `evaluation`, `overhead` and `memory`: the cost of one value and gradient."""

import dataclasses
import functools
import statistics

from benchmarks.bench import OURS, THREADS, TORCH, Bench, Finding, interleaved, median_ratio
from benchmarks.problems import evaluation_flops
from jaxstyle.network.vgg import CHANNELS
from measuring.tables import Row
from measuring.worker import MeasurementError

_SECONDS = 1.0
"""The approximate duration of one repetition."""
_MOST = 50
_MATMUL = {"cpu": 2048}
_MATMUL_ELSEWHERE = 8192
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class System:
    """One way to evaluate the objective."""

    name: str
    module: str
    precision: str
    settings: Row = dataclasses.field(hash=False)
    """Arguments of the worker's `prepare`, besides the problem and the precision."""

    @property
    def key(self) -> str:
        """The key under which the worker keeps its problem."""
        return f"{self.name}, {self.precision}"


def systems(device: str, precisions: tuple[str, ...], torch: Row | None) -> list[System]:
    """Return all systems of a device, the direct convolution in float32 first.

    `torch` is what `Bench.torch` returns for the device.
    """
    listed: list[System] = []
    for precision in sorted(precisions, key=lambda each: each != "float32"):
        if device == "cpu" and precision == "tf32":
            continue
        listed.append(System("jaxstyle, direct", OURS, precision, {"convolution": "direct"}))
        if precision == "float32":
            winograd = {"convolution": "winograd"}
            listed.append(System("jaxstyle, Winograd", OURS, precision, winograd))
        if torch is not None:
            for name, compiled in (("eager", False), ("compile", True)):
                settings = torch | {"compiled": compiled}
                listed.append(System(f"PyTorch, {name}", TORCH, precision, settings))
    return listed


def evaluation(bench: Bench) -> Finding:
    """Value and gradient of the seed objective: jaxstyle and PyTorch, FLOP/s over a matmul's."""
    ratios: list[Row] = []
    absolute: list[Row] = []
    notes = [
        "FLOP are those of the direct convolution, whatever the algorithm. PyTorch's best is the "
        "faster of eager and compiled in that precision. `gradient apart`: relative L2 distance "
        "to the gradient of the first row of a size, direct convolution in float32 if measured."
    ]
    for device in bench.devices:
        torch, missing = bench.torch(device)
        notes += missing
        if torch is not None and device == "cpu":
            notes.append(f"PyTorch is fastest with {torch['threads']} of {THREADS} threads.")
        ways = systems(device, bench.settings.precisions, torch)
        peaks = {
            (way.module, way.precision): _matmul(bench, way, device)
            for way in {(way.module, way.precision): way for way in ways}.values()
        }
        for size in bench.settings.sizes:
            problem = bench.square(size)
            flops = evaluation_flops(size, bench.settings.random_weights or CHANNELS)
            prepared: dict[System, Row] = {}
            for way in ways:
                settings = {"precision": way.precision, **way.settings}
                try:
                    prepared[way] = bench.prepare(way.module, way.key, problem, device, **settings)
                except MeasurementError as error:
                    notes.append(f"Left out: {way.name}, {way.precision}, {size}²: {error}")
                    if bench.has_ended(way.module, device):  # its other problems are gone too
                        prepared = {w: row for w, row in prepared.items() if w.module != way.module}
            for way, (relative, seconds) in _measured(bench, device, prepared).items():
                where = {"device": device, "size": f"{size}²"}
                where |= {"precision": way.precision, "system": way.name}
                peak = peaks[way.module, way.precision]
                reached = flops / statistics.median(seconds)
                ratios.append(where | relative | {"FLOP/s over matmul's": reached / peak})
                absolute.append(
                    where
                    | {
                        "seconds": statistics.median(seconds),
                        "least": min(seconds),
                        "most": max(seconds),
                        "GFLOP/s": reached / 1e9,
                        "matmul GFLOP/s": peak / 1e9,
                        "compile s": prepared[way]["compile_seconds"],
                        "first s": prepared[way]["first_seconds"],
                    }
                )
            for module in {way.module for way in prepared}:
                bench.worker(module, device).call("forget")
        bench.close_workers()
    return Finding(ratios, absolute, notes)


def _measured(
    bench: Bench, device: str, prepared: dict[System, Row]
) -> dict[System, tuple[Row, list[float]]]:
    """Return the ratios of the prepared systems, and the interleaved seconds behind them."""
    if not prepared:
        return {}
    first = next(iter(prepared))
    apart = {way: bench.agree(row, prepared[first], way.precision) for way, row in prepared.items()}
    calls = {}
    for way in prepared:
        call = functools.partial(bench.worker(way.module, device).call, "evaluation", key=way.key)
        count = max(1, min(_MOST, round(_SECONDS / call(count=1))))
        calls[way] = functools.partial(call, count=count)
    seconds = interleaved(bench.settings.repeats, calls)
    is_direct = first.key == "jaxstyle, direct, float32"
    measured: dict[System, tuple[Row, list[float]]] = {}
    for way, mine in seconds.items():
        peers = [
            theirs
            for other, theirs in seconds.items()
            if (other.module, other.precision) == (TORCH, way.precision)
        ]
        fastest = min(peers, key=statistics.median, default=None)
        relative = {
            "over PyTorch's best": fastest and median_ratio(mine, fastest),
            "over jaxstyle direct": median_ratio(mine, seconds[first]) if is_direct else None,
            "gradient apart": apart[way],
        }
        measured[way] = relative, mine
    return measured


def _matmul(bench: Bench, way: System, device: str) -> float:
    arguments = {"size": _MATMUL.get(device, _MATMUL_ELSEWHERE), "precision": way.precision}
    if way.module == TORCH:
        arguments["device"] = way.settings["device"]
    return bench.worker(way.module, device).call("matmul", **arguments)


def overhead(bench: Bench) -> Finding:
    """Time per evaluation within a run over that of a bare evaluation: the optimizer's share."""
    ratios: list[Row] = []
    absolute: list[Row] = []
    call = bench.worker(OURS).call
    for size in bench.settings.sizes[:2]:
        call("prepare", key="seed", **bench.square(size))
        call("loop", key="seed", evaluations=2)  # compiles
        count = bench.settings.evaluations or 15
        run, bare = interleaved(
            bench.settings.repeats,
            {
                "run": functools.partial(call, "loop", key="seed", evaluations=count),
                "bare": functools.partial(call, "evaluation", key="seed", count=count),
            },
        ).values()
        ratios.append({"size": f"{size}²", "run / bare": median_ratio(run, bare)})
        seconds = {"run s": statistics.median(run), "evaluation s": statistics.median(bare)}
        absolute.append({"size": f"{size}²"} | seconds)
    return Finding(ratios, absolute)


def memory(bench: Bench) -> Finding:
    """Peak memory of a fresh process for targets and one value and gradient, by size."""
    device = bench.devices[-1]
    kind = "process" if device == "cpu" else "device"
    systems: dict[str, tuple[str, Row]] = {
        "jaxstyle, direct": (OURS, {"convolution": "direct"}),
        "jaxstyle, Winograd": (OURS, {"convolution": "winograd"}),
    }
    notes = [
        "Of the whole process, weights and libraries included; `at rest` is after importing them."
        if kind == "process"
        else "What was in use on the device, weights included."
    ]
    torch, missing = bench.torch(device)
    if torch is not None:
        systems["PyTorch"] = TORCH, torch
    bench.close_workers()
    against = "PyTorch" if torch is not None else "jaxstyle, direct"
    ratios: list[Row] = []
    absolute: list[Row] = []
    for size in bench.settings.sizes:
        problem = bench.square(size)
        peaks: dict[str, int] = {}
        for system, (module, arguments) in systems.items():
            worker = bench.fresh(module, device)
            rest = worker.call("peak_memory")[kind]
            worker.call("prepare", key="once", **problem, **arguments)
            peaks[system] = worker.call("peak_memory")[kind]
            worker.close()
            mebibytes = {"peak MiB": peaks[system], "at rest MiB": rest}
            rounded = {name: round(value / _MIB) for name, value in mebibytes.items()}
            absolute.append({"size": f"{size}²", "system": system} | rounded)
        ratios.extend(
            {"size": f"{size}²", "system": system, f"peak / {against}": peak / peaks[against]}
            for system, peak in peaks.items()
            if peaks[against]  # some devices do not report it
        )
    return Finding(ratios, absolute, notes + missing)
