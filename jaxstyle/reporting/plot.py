"""Plots for papers: loss against evaluations and seconds, on a log scale."""

import io
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from jaxstyle.config import ConfigError
from jaxstyle.imaging import files
from jaxstyle.storage import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinguishable by the colour-blind; dashes, for print.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxstyle",
}


def plot_runs(runs: Sequence[epath.PathLike], output: epath.PathLike) -> None:
    """Plot the best loss so far of `runs` and write the plot to `output`: .png, .pdf or .svg.

    Raises:
        FileError: a folder is not a run's, or the file cannot be written or has another suffix.
        ConfigError: there are no runs, no loss is finite, or matplotlib is missing.
    """
    suffix = files.check_writable(output, (".png", ".pdf", ".svg"))
    if not runs:
        raise ConfigError("name the runs to plot")
    curves = {name: read_metrics(run) for name, run in _names(runs).items()}
    try:
        import matplotlib as mpl
    except ImportError:
        raise ConfigError("jaxstyle plot needs pip install 'jaxstyle[plots]'") from None
    with mpl.rc_context(STYLE):
        buffer = io.BytesIO()
        metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
        draw(curves).savefig(buffer, format=suffix[1:], dpi=300, metadata=metadata)
    files.write_atomically(output, buffer.getvalue())


def _names(runs: Sequence[epath.PathLike]) -> dict[str, epath.PathLike]:
    """Name each run after its folder, or by its whole path where folder names are ambiguous."""
    stems = [PurePath(run).name for run in runs]
    return {
        stem if stems.count(stem) == 1 else str(run): run
        for stem, run in zip(stems, runs, strict=True)
    }


def draw(curves: dict[str, list[dict[str, Any]]]) -> "Figure":
    """Draw two panels with a common loss axis and a curve per run; see `draw_curves`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 2.6), layout="constrained")
    draw_curves(figure.subplots(1, 2, sharey=True), curves)
    return figure


def draw_curves(panels: "Sequence[Axes]", curves: Mapping[str, list[dict[str, Any]]]) -> None:
    """Draw a curve per run, from the lines of its metrics, over evaluations and over seconds.

    Losses of different scales measure different things, so a new curve starts at each scale.

    Args:
        panels: one for evaluations and one for seconds.
        curves: by the name of the run.

    Raises:
        ConfigError: no loss is finite.
    """
    drawn = False
    for number, (name, rows) in enumerate(curves.items()):
        for scale in sorted({row["scale"] for row in rows}):
            scale_rows = [row for row in rows if row["scale"] == scale]
            best = np.minimum.accumulate(
                [np.inf if row.get("loss") is None else row["loss"] for row in scale_rows]
            )
            best[~np.isfinite(best)] = np.nan
            drawn |= bool(np.isfinite(best).any())
            for panel, key in zip(panels, ("evaluation", "seconds"), strict=True):
                panel.plot(
                    [row[key] for row in scale_rows],
                    best,
                    color=_COLORS[number % len(_COLORS)],
                    linestyle=_DASHES[number % len(_DASHES)],
                    linewidth=1.2,
                    label=name if scale == 0 else None,
                )
    if not drawn:
        raise ConfigError("there is no finite loss to plot")
    panels[0].set_yscale("log")
    panels[0].set_ylabel("best loss so far")
    for panel, label in zip(panels, ("evaluations", "seconds"), strict=True):
        panel.set_xlabel(label)
        panel.set_xlim(left=0)
        panel.grid(visible=True, which="major", linewidth=0.3)
    if len(curves) > 1:
        panels[1].legend(frameon=False)
