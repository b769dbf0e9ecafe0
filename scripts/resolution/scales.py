"""The cost of reaching the loss of a single-scale run from coarse to fine."""

import math
import statistics
import sys
from typing import Annotated

from tyro.conf import Positional, arg

from jaxstyle import Config, ConfigError, Record, load_image, load_weights, preset, stylize
from jaxstyle.engine import pyramid
from jaxstyle.imaging import Image
from jaxstyle.network import Params
from measuring.tables import Row, table


def scales(
    pairs: Annotated[Positional[tuple[str, ...]], arg(metavar="CONTENT:STYLE ...")],
    preset_name: Annotated[str, arg(name="preset")] = "default",
    size: int = 384,
    budget: int = 200,
    coarse: int = 50,
) -> None:
    """Print the cost of the loss that one scale has after `budget` evaluations, coarse to fine.

    Args:
        pairs: a photograph and a painting each.
        preset_name: the objective.
        size: long side in pixels.
        budget: evaluations of the single scale, and at most of the last automatic one.
        coarse: evaluations of each scale before the last.
    """
    config = preset(preset_name).replace(size=size)
    rows: list[Row] = []
    params = load_weights()
    for pair in pairs:
        content, colon, style = pair.partition(":")
        if not colon or not style:
            raise ConfigError(f"{pair!r} is not CONTENT:STYLE")
        pictures = load_image(content), load_image(style)
        rows.append({"pair": pair, **cost_of_scales(params, *pictures, config, budget, coarse)})
        print(*rows[-1].values(), file=sys.stderr, flush=True)
    rows.append({"pair": "median", "share": statistics.median(row["share"] for row in rows)})
    print(table(rows))


def cost_of_scales(
    params: Params, content: Image, style: Image, config: Config, budget: int, coarse: int
) -> Row:
    """Run one scale for `budget` evaluations, then automatic scales until their loss is as low.

    Return the cost of the latter in evaluations of the full size, and as a share of the former's;
    both are infinite if the loss is not reached.
    """
    one = config.replace(scales=1, evaluations=budget)
    single = stylize(content, style, one, params)
    scaled = config.replace(scales="auto", evaluations=budget, coarse_evaluations=coarse)
    levels = pyramid.levels(scaled, single.image.shape[:2])
    finest = len(levels) - 1

    def reached(record: Record) -> bool:
        return record.scale == finest and record.loss <= single.loss

    history = stylize(content, style, scaled, params, reached).history
    last = [record for record in history if record.scale == finest]
    # One more evaluation may have been under way when the loss was reached.
    needed = next((i for i, record in enumerate(last, 1) if reached(record)), math.inf)
    before = sum(level.ratio**2 * level.evaluations for level in levels[:-1])
    return {
        f"cost to the loss of {budget}": before + needed,
        "share": (before + needed) / budget,
        "evaluations at the last scale": min(needed, len(last)),
    }
