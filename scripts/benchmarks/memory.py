"""Section `memory`: peak memory of one value and gradient, by size."""

from benchmarks.bench import NO_TORCH, OURS, TORCH, Bench, Finding, Row, installed

_MIB = 2**20


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
    torch_device = bench.torch_device(device) if installed("torch") else None
    if torch_device is not None:
        threads = bench.torch_threads(torch_device)
        systems["PyTorch"] = TORCH, {"device": torch_device, "threads": threads}
    else:
        notes.append(NO_TORCH if not installed("torch") else f"PyTorch has no {device} here.")
    bench.close_workers()
    ratios: list[Row] = []
    absolute: list[Row] = []
    for size in bench.settings.sizes:
        problem = {
            "pictures": bench.write_square(size),
            "weights": bench.weights,
            "objective": "seed",
        }
        peaks: dict[str, int] = {}
        for system, (module, arguments) in systems.items():
            worker = bench.fresh(module, device)
            rest = worker.call("peak_memory")[kind]
            worker.call("prepare", key="once", **problem, **arguments)
            peaks[system] = worker.call("peak_memory")[kind]
            worker.close()
            absolute.append(
                {
                    "size": f"{size}²",
                    "system": system,
                    "peak MiB": round(peaks[system] / _MIB),
                    "at rest MiB": round(rest / _MIB),
                }
            )
        against = "PyTorch" if "PyTorch" in peaks else "jaxstyle, direct"
        ratios.extend(
            {"size": f"{size}²", "system": system, f"peak / {against}": peak / peaks[against]}
            for system, peak in peaks.items()
            if peaks[against]  # some devices do not report it
        )
    return Finding(ratios, absolute, notes)
