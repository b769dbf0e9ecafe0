"""The cost of reaching the loss of a single-scale run from coarse to fine."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gallery.kept import settings_of
from jaxstyle import Config, load_image, stylize
from jaxstyle.engine import pyramid
from jaxstyle.engine.records import Record
from jaxstyle.imaging.files import write_atomically
from jaxstyle.network.arrays import Params


class Saved(NamedTuple):
    """The savings for one pair of pictures."""

    loss: float
    """Best loss of a single-scale run within its budget."""
    cost: float | None
    """Cost of the same loss from coarse to fine, in full-size evaluations; None if not reached."""
    last: int
    """Evaluations at the last scale in that run."""


def cost_of_scales(
    params: Params, content: Path, style: Path, config: Config, budget: int, coarse: int
) -> Saved:
    """Run one scale for `budget` evaluations, then automatic scales until their loss is as low.

    Args:
        params: from `load_weights`.
        content: a photograph.
        style: a painting.
        config: the objective and the size.
        budget: evaluations of the single scale, and at most of the last automatic one.
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
    needed = next((i for i, record in enumerate(last, 1) if record.loss <= single.loss), None)
    before = sum(level.ratio**2 * level.evaluations for level in levels[:-1])
    return Saved(single.loss, None if needed is None else before + needed, needed or len(last))


def scales_table(
    params: Params,
    pairs: Sequence[tuple[Path, Path]],
    config: Config,
    budget: int,
    coarse: int,
    output: Path,
) -> str:
    """Return a Markdown table of every pair and the median.

    Results already in `output` are reused, unless their settings or pictures differ.
    """
    output.mkdir(parents=True, exist_ok=True)
    shares: list[float] = []
    lines = [
        f"| pair | cost to the loss of {budget} | share | evaluations at the last scale |",
        "|---|---|---|---|",
    ]
    for content, style in pairs:
        stored = output / f"{content.stem}_{style.stem}_{coarse}.json"
        settings = settings_of(config, [content, style], budget, coarse)
        row = json.loads(stored.read_text()) if stored.exists() else {}
        if row.pop("settings", None) != settings:
            row = cost_of_scales(params, content, style, config, budget, coarse)._asdict()
            text = json.dumps({**row, "settings": settings})
            write_atomically(stored, text.encode())
        saved = Saved(**row)
        shares.append(float("inf") if saved.cost is None else saved.cost / budget)
        cost = "not reached" if saved.cost is None else f"{saved.cost:.0f}"
        lines.append(f"| {content.stem}, {style.stem} | {cost} | {shares[-1]:.2f} | {saved.last} |")
        print(lines[-1], flush=True)
    lines.append(f"| median | | {statistics.median(shares):.2f} | |")
    return "\n".join(lines)
