"""Plots of a report: loss against evaluations and seconds, and cells per hour against lanes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bench import Finding, Row, installed
from jaxstyle.reporting.plot import DASHES, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which the colour-blind can distinguish; ours are blue.
_COLORS = ("#0072B2", "#56B4E9", "#CC79A7", "#E69F00", "#009E73", "#D55E00", "#000000")

NO_MATPLOTLIB = "matplotlib is not installed, so there are no plots: pip install '.[benchmark]'"


def write_plots(findings: dict[str, Finding], output: Path) -> dict[str, list[str]]:
    """Write all available plots as .svg and .png; return the names of the .svg by section."""
    if not installed("matplotlib"):
        return {}
    import matplotlib as mpl

    names: dict[str, list[str]] = {}
    with mpl.rc_context(STYLE):
        for section, finding in findings.items():
            for objective in dict.fromkeys(run["objective"] for run in finding.curves):
                runs = [run for run in finding.curves if run["objective"] == objective]
                name = f"{section}_{objective}"
                _save(_curves(runs), output / name)
                names.setdefault(section, []).append(f"{name}.svg")
            if section == "throughput" and finding.absolute:
                _save(_lanes(finding.absolute), output / section)
                names.setdefault(section, []).append(f"{section}.svg")
    return names


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=200)


def _curves(runs: Sequence[Row]) -> Any:
    """Plot the best loss so far against evaluations and seconds, a row of panels for each pair."""
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys(run["pair"] for run in runs))
    systems = list(dict.fromkeys(run["system"] for run in runs))
    figure = Figure(figsize=(6.5, 2.4 * len(pairs)), layout="constrained")
    panels = figure.subplots(len(pairs), 2, sharey="row", squeeze=False)
    for row, pair in zip(panels, pairs, strict=True):
        first_runs = [run for run in runs if run["pair"] == pair and run["repetition"] == 0]
        for axes, key in zip(row, ("evaluations", "seconds"), strict=True):
            for run in first_runs:
                _line(axes, run[key], run["losses"], systems.index(run["system"]), run["system"])
            axes.set_yscale("log")
            axes.set_xlim(left=0)
            axes.grid(visible=True, which="major", linewidth=0.3)
            axes.set_xlabel(key)
        row[0].set_ylabel("best loss so far")
        row[0].set_title(pair, fontsize=8, loc="left")
    panels[0][1].legend(frameon=False, fontsize=6)
    return figure


def _line(axes: "Axes", x: list[float], losses: list[float], number: int, label: str) -> None:
    best = np.minimum.accumulate(np.asarray(losses, float))
    axes.plot(
        x,
        best,
        label=label,
        linewidth=1.2,
        color=_COLORS[number % len(_COLORS)],
        linestyle=DASHES[number % len(DASHES)],
    )


def _lanes(rows: Sequence[Row]) -> Any:
    """Plot cells per hour against lanes, with runs one after another as horizontal lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0, 2.6), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        label = f"{row['system']}, {row['precision']}"
        if row["devices"] > 1:
            label += f", {row['devices']} devices"
        lines.setdefault(label, []).append((row["lanes"], row["cells an hour"]))
    most = max(row["lanes"] for row in rows)
    for number, (label, points) in enumerate(lines.items()):
        level = len(points) == 1 and points[0][0] == 1
        x, y = zip(*points, strict=True) if not level else ((1, most), (points[0][1],) * 2)
        axes.plot(
            x,
            y,
            label=label,
            marker=None if level else ".",
            color=_COLORS[number % len(_COLORS)],
            linestyle=DASHES[number % len(DASHES)],
        )
    axes.set_xticks(sorted({row["lanes"] for row in rows}))
    axes.set_xlabel("lanes")
    axes.set_ylabel("cells an hour")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(frameon=False, fontsize=6)
    return figure
