"""Sections `evaluation` and `overhead`: the cost of one value and gradient."""

import dataclasses
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
from benchmarks.worker import BenchmarkError

_SECONDS = 1.0
"""The approximate duration of one repetition."""
_MOST = 50
_DIRECT = "jaxstyle, direct, float32"
_MATMUL = {"cpu": 2048}
_MATMUL_ELSEWHERE = 8192


@dataclasses.dataclass(frozen=True)
class System:
    """One way to evaluate the objective."""

    name: str
    module: str
    precision: str
    settings: Row = dataclasses.field(hash=False)
    """Arguments of the worker's `prepare`, besides the problem."""

    @property
    def key(self) -> str:
        """The key under which the worker keeps its problem."""
        return f"{self.name}, {self.precision}"


def systems(device: str, precisions: tuple[str, ...], torch_device: str | None) -> list[System]:
    """Return all systems of a device, the direct convolution in float32 first."""
    listed: list[System] = []
    for precision in sorted(precisions, key=lambda each: each != "float32"):
        if device == "cpu" and precision == "tf32":
            continue
        direct = {"precision": precision, "convolution": "direct"}
        listed.append(System("jaxstyle, direct", OURS, precision, direct))
        if precision == "float32":
            winograd = {"precision": precision, "convolution": "winograd"}
            listed.append(System("jaxstyle, Winograd", OURS, precision, winograd))
        if torch_device is not None:
            eager = {"precision": precision, "device": torch_device, "compiled": False}
            listed.append(System("PyTorch, eager", TORCH, precision, eager))
            listed.append(System("PyTorch, compile", TORCH, precision, eager | {"compiled": True}))
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
        torch_device = bench.torch_device(device) if installed("torch") else None
        if torch_device is None:
            notes.append(NO_TORCH if not installed("torch") else f"PyTorch has no {device} here.")
        ways = systems(device, bench.settings.precisions, torch_device)
        threads = THREADS
        if torch_device == "cpu":
            threads = bench.torch_threads(device)
            notes.append(f"PyTorch is fastest with {threads} of {THREADS} threads.")
        peaks = {
            (way.module, way.precision): _matmul(bench, way, device)
            for way in {(way.module, way.precision): way for way in ways}.values()
        }
        for size in bench.settings.sizes:
            pictures = bench.write_square(size)
            prepared: dict[System, Row] = {}
            for way in ways:
                try:
                    prepared[way] = _prepared(bench, way, device, pictures, threads)
                except BenchmarkError as error:
                    notes.append(f"Left out: {way.name}, {way.precision}, {size}²: {error}")
                    if bench.has_ended(way.module, device):  # its other problems are gone too
                        prepared = {w: row for w, row in prepared.items() if w.module != way.module}
            if not prepared:
                continue
            for way, row in _rows(bench, device, prepared).items():
                where = {"device": device, "size": f"{size}²"}
                where |= {"precision": way.precision, "system": way.name}
                peak = peaks[way.module, way.precision]
                reached = bench.flops(size) / row["seconds"]
                ratios.append(where | row["ratios"] | {"FLOP/s over matmul's": reached / peak})
                times = {key: row[key] for key in ("seconds", "least", "most")}
                speeds = {"GFLOP/s": reached / 1e9, "matmul GFLOP/s": peak / 1e9}
                compiling = {
                    "compile s": prepared[way]["compile_seconds"],
                    "first s": prepared[way]["first_seconds"],
                }
                absolute.append(where | times | speeds | compiling)
            for module in {way.module for way in prepared}:
                bench.worker(module, device).call("forget")
        bench.close_workers()
    return Finding(ratios, absolute, notes)


def _rows(bench: Bench, device: str, found: dict[System, Row]) -> dict[System, Row]:
    """Return seconds and ratios of the prepared systems, from interleaved measurements."""
    first = next(iter(found))
    direct = first if first.key == _DIRECT else None
    distances = {way: bench.agree(row, found[first], way.precision) for way, row in found.items()}
    calls = [
        functools.partial(
            bench.worker(way.module, device).call,
            "evaluation",
            key=way.key,
            count=max(1, min(_MOST, round(_SECONDS / row["once"]))),
        )
        for way, row in found.items()
    ]
    values = interleaved(bench.settings.repeats, calls)
    seconds = dict(zip(found, values, strict=True))
    rows: dict[System, Row] = {}
    for way, mine in seconds.items():
        peers = [
            seconds[other]
            for other in found
            if other.module == TORCH and other.precision == way.precision
        ]
        fastest = min(peers, key=statistics.median) if peers else None
        rows[way] = {
            "seconds": statistics.median(mine),
            "least": min(mine),
            "most": max(mine),
            "ratios": {
                "over PyTorch's best": fastest and median_ratio(mine, fastest),
                "over jaxstyle direct": direct and median_ratio(mine, seconds[direct]),
                "gradient apart": distances[way],
            },
        }
    return rows


def _prepared(bench: Bench, way: System, device: str, pictures: str, threads: int) -> Row:
    worker = bench.worker(way.module, device)
    gradient = str(bench.folder / f"{way.key}.npy")
    problem: Row = {"pictures": pictures, "weights": bench.weights, "objective": "seed"}
    if way.module == TORCH:
        problem["threads"] = threads
    answer = worker.call("prepare", key=way.key, gradient=gradient, **problem, **way.settings)
    return answer | {"gradient": gradient, "once": worker.call("evaluation", key=way.key, count=1)}


def _matmul(bench: Bench, way: System, device: str) -> float:
    arguments = {"size": _MATMUL.get(device, _MATMUL_ELSEWHERE), "precision": way.precision}
    if way.module == TORCH:
        arguments["device"] = way.settings["device"]
    return bench.worker(way.module, device).call("matmul", **arguments)


def overhead(bench: Bench) -> Finding:
    """A run's time an evaluation over a bare evaluation's: what the optimizer adds."""
    ratios: list[Row] = []
    absolute: list[Row] = []
    worker = bench.worker(OURS)
    for size in bench.settings.sizes[:2]:
        pictures = bench.write_square(size)
        problem = {"pictures": pictures, "weights": bench.weights, "objective": "seed"}
        worker.call("prepare", key="seed", **problem)
        worker.call("loop", key="seed", evaluations=2)  # compiles
        count = bench.settings.loop
        run, bare = interleaved(
            bench.settings.repeats,
            [
                functools.partial(worker.call, "loop", key="seed", evaluations=count),
                functools.partial(worker.call, "evaluation", key="seed", count=count),
            ],
        )
        ratios.append({"size": f"{size}²", "run / bare": median_ratio(run, bare)})
        absolute.append(
            {
                "size": f"{size}²",
                "run s": statistics.median(run),
                "evaluation s": statistics.median(bare),
            }
        )
    return Finding(ratios, absolute)
