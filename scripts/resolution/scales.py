"""What it costs to get where a run of one scale gets, from coarse to fine."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gallery.kept import settings_of
from jaxstyle import Config, JaxstyleError, load_image, stylize
from jaxstyle.engine import pyramid
from jaxstyle.engine.records import Record
from jaxstyle.imaging.files import write_atomically
from jaxstyle.network.arrays import Params


class Saved(NamedTuple):
    """One pair of pictures."""

    loss: float
    """Best of a run of one scale within its budget."""
    cost: float | None
    """Of coarse to fine to the same loss, in evaluations of the full size; None: not reached."""
    last: int
    """Evaluations of the last scale in that."""


def cost_of_scales(
    params: Params, content: Path, style: Path, config: Config, budget: int, coarse: int
) -> Saved:
    """Run one scale for `budget` evaluations, then automatic scales until they are as good.

    Args:
        params: from `load_weights`.
        content: a photograph.
        style: a painting.
        config: the objective and the size.
        budget: evaluations of the single scale, and at most of the last one.
        coarse: evaluations of each scale before the last.
    """
    pictures = load_image(str(content)), load_image(str(style))
    one = config.vary({"scales": 1, "evaluations": budget})
    single = stylize(*pictures, one, params)
    scaled = config.replace(scales="auto", evaluations=budget, coarse_evaluations=coarse)
    height, width = single.image.shape[:2]
    levels = pyramid.levels(scaled, (height, width))
    finest = len(levels) - 1

    def reached(record: Record) -> bool:
        return record.scale == finest and record.loss <= single.loss

    result = stylize(*pictures, scaled, params, reached)
    last = [record for record in result.history if record.scale == finest]
    there = next((i for i, record in enumerate(last, 1) if record.loss <= single.loss), None)
    before = sum(level.ratio**2 * level.evaluations for level in levels[:-1])
    return Saved(single.loss, None if there is None else before + there, there or len(last))


def scales_table(
    params: Params,
    pairs: Sequence[tuple[Path, Path]],
    config: Config,
    budget: int,
    coarse: int,
    output: Path,
) -> str:
    """Markdown of every pair, and the median; what is in `output` already is not run again.

    Unless it is of other settings, or of other pictures.
    """
    output.mkdir(parents=True, exist_ok=True)
    shares: list[float] = []
    lines = [
        f"| pair | cost to the loss of {budget} | share | evaluations at the last scale |",
        "|---|---|---|---|",
    ]
    for content, style in pairs:
        stored = output / f"{content.stem}_{style.stem}_{coarse}.json"
        what = settings_of(config, [content, style], budget, coarse)
        row = json.loads(stored.read_text()) if stored.exists() else {}
        if row.pop("settings", None) != what:
            row = cost_of_scales(params, content, style, config, budget, coarse)._asdict()
            text = json.dumps({**row, "settings": what})
            write_atomically(stored, text.encode(), JaxstyleError)
        saved = Saved(**row)
        shares.append(float("inf") if saved.cost is None else saved.cost / budget)
        cost = "not reached" if saved.cost is None else f"{saved.cost:.0f}"
        lines.append(f"| {content.stem}, {style.stem} | {cost} | {shares[-1]:.2f} | {saved.last} |")
        print(lines[-1], flush=True)
    lines.append(f"| median | | {statistics.median(shares):.2f} | |")
    return "\n".join(lines)
