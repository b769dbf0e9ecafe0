"""Markdown reports: for each section its ratios, then the absolute values behind them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.bench import Finding, Row


def markdown(
    machine: Mapping[str, Any],
    commands: Mapping[str, str],
    findings: Mapping[str, Finding],
    descriptions: Mapping[str, str],
    plots: Mapping[str, Sequence[str]],
) -> str:
    """Return the whole report.

    Args:
        machine: from `machine.describe`.
        commands: the command that was run, by section.
        findings: by section.
        descriptions: descriptions of the measurements, by section.
        plots: names of plot files, by section.
    """
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
        *dict.fromkeys(commands.values()),
        "```",
    ]
    for name, finding in findings.items():
        lines += ["", f"## {name.replace('_', ' ').capitalize()}", "", descriptions[name]]
        for note in finding.notes:
            lines += ["", note]
        for title, rows in (("Ratios", finding.ratios), ("Absolute", finding.absolute)):
            if rows:
                lines += ["", f"**{title}**", "", *table(rows)]
        for picture in (*plots.get(name, ()), *finding.pictures):
            lines += ["", f"![{name}]({picture})"]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a Markdown table with the columns of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [_line(columns), _line(["---"] * len(columns))]
    return lines + [_line([_cell(row.get(column)) for column in columns]) for row in rows]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
