"""Section `quality`: each system's defaults at an equal budget, by measures that none optimizes."""

from benchmarks.bench import NO_PASTICHE, OURS, Bench, Finding, pastiche_command, run_program
from benchmarks.judge import Judgement
from jaxstyle import save_image
from jaxstyle.imaging.sheet import draw_sheet
from measuring.tables import Row, medians
from measuring.worker import seconds_of


def quality(bench: Bench) -> Finding:
    """Each system's defaults at an equal budget, judged by what no objective has; with a sheet."""
    settings = bench.settings
    size, evaluations = settings.size or 192, settings.evaluations or 100
    systems = list(settings.systems)
    notes = [
        f"{size} pixels, the cost of {evaluations} evaluations "
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
    sheets: list[str] = []
    for content in bench.contents:
        rows = []
        for style in bench.styles:
            inputs = bench.png_pair((content, style), size)
            given = {"content": str(inputs[0]), "style": str(inputs[1]), "weights": bench.weights}
            rows.append([(inputs[1], style.name)])
            for system in systems:
                path = settings.output / f"quality_{content.name}_{style.name}_{system}.png"
                if system == "pastiche":
                    command = bench.pastiche(inputs, path, size, evaluations)
                    seconds = seconds_of(lambda command=command: run_program(command))
                else:
                    asked = {"name": system, "evaluations": evaluations, "output": str(path)}
                    seconds = bench.worker(OURS).call("render", **given, **asked)
                judged = bench.worker(OURS).call("judge_picture", **given, picture=str(path))
                where = {"pair": f"{content.name} + {style.name}", "system": system}
                absolute.append(where | judged | {"seconds": seconds})
                rows[-1].append((path, f"{style.name}, {system}"))
        sheets.append(f"quality_{content.name}.jpg")
        save_image(settings.output / sheets[-1], draw_sheet(rows, content.name))
    ratios = medians(absolute, ["system"], Judgement._fields)
    return Finding(ratios, absolute, notes, pictures=sheets)
