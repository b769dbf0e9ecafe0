"""The command `scripts/benchmark`: run sections in order and report as JSON, Markdown and plots."""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Finding
from benchmarks.evaluation import evaluation, memory, overhead
from benchmarks.programs import programs, start
from benchmarks.quality import quality
from benchmarks.report import describe_machine, markdown, write_plots
from benchmarks.settings import parse, told_command
from benchmarks.throughput import throughput
from benchmarks.time_to_loss import time_to_loss
from jaxstyle import ConfigError
from jaxstyle.imaging import files
from measuring.command import exit_code
from measuring.worker import MeasurementError

SECTIONS: Mapping[str, Callable[[Bench], Finding]] = {
    section.__name__: section
    for section in (
        evaluation,
        overhead,
        time_to_loss,
        programs,
        start,
        throughput,
        memory,
        quality,
    )
}


def main() -> int:
    """Run the requested sections and write their findings.

    Return 1 if one of them failed, 2 for a mistake in the command line.
    """
    return exit_code(_measure)


def _measure() -> int:
    descriptions = {name: (section.__doc__ or "").strip() for name, section in SECTIONS.items()}
    settings = parse(sys.argv[1:], descriptions)
    settings.output.mkdir(parents=True, exist_ok=True)
    file = settings.output / "benchmark.json"
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(settings, Path(folder))
        described = describe_machine(bench.accelerator)
        sections = _earlier(file, described)
        for name in settings.sections:
            print(f"{name} …", file=sys.stderr, flush=True)
            began = time.perf_counter()
            try:
                finding = SECTIONS[name](bench)
            except MeasurementError as error:
                failed = True
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                if name in sections:  # keep the earlier run's
                    continue
                finding = Finding([], [], [f"Failed: {error}"])
            finally:
                bench.close_workers()
            seconds = time.perf_counter() - began
            print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
            sections[name] = dataclasses.asdict(finding) | {
                "took_seconds": seconds,
                "command": told_command(sys.argv[1:]),
            }
            sections = {each: sections[each] for each in SECTIONS if each in sections}
            report = {"machine": described, "sections": sections}
            _write(file, json.dumps(report, default=str) + "\n")
    plots = write_plots(sections, settings.output)
    text = markdown(described, sections, descriptions, plots)
    _write(settings.output / "benchmark.md", text)
    print(text)
    return int(failed)


def _earlier(file: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of an earlier report, which must be from this same machine."""
    if not file.exists():
        return {}
    report = json.loads(file.read_text(encoding="utf-8"))
    if report["machine"] != described:
        raise ConfigError(f"{file} is from another machine, or other versions: name another folder")
    return report["sections"]


def _write(path: Path, text: str) -> None:
    files.write_atomically(path, text.encode())


if __name__ == "__main__":
    sys.exit(main())
