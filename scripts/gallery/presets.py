"""Comparison of presets over photographs and styles, at an equal cost in full-size evaluations."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pil, ImageDraw, ImageFont

from gallery.judge import Judgement, judge
from gallery.kept import settings_of
from gallery.patterns import PATTERNS
from jaxstyle import Config, load_image, save_image, stylize
from jaxstyle.config.presets import PRESETS, preset
from jaxstyle.engine import pyramid
from jaxstyle.imaging.arrays import Image
from jaxstyle.imaging.files import write_atomically
from jaxstyle.imaging.images import read_metadata
from jaxstyle.imaging.resampling import fit_shape, resize_image, to_uint8
from jaxstyle.network.arrays import Params

_GAP, _TEXT = 4, 12


def at_cost(config: Config, shape: tuple[int, ...], evaluations: int) -> Config:
    """Return `config` with its budgets scaled to the cost of `evaluations` at the full `shape`."""
    levels = pyramid.levels(config, shape)
    cost = sum(level.ratio**2 * level.evaluations for level in levels)

    def scaled(budget: int) -> int:
        return max(1, round(budget * evaluations / cost))

    coarse = config.coarse_evaluations
    return config.replace(
        evaluations=scaled(config.evaluations),
        coarse_evaluations=tuple(map(scaled, coarse))
        if isinstance(coarse, tuple)
        else coarse and scaled(coarse),
    )


def compare_presets(
    params: Params,
    contents: Sequence[Path],
    styles: Sequence[Path],
    output: Path,
    size: int,
    evaluations: int,
    presets: Sequence[str] | None,
) -> None:
    """Write every picture, a sheet of them for each content, and a table of judgements.

    Pictures already in `output` are reused, unless their settings or inputs differ.
    """
    output.mkdir(parents=True, exist_ok=True)
    names = list(presets or PRESETS)
    for name in names:
        preset(name)  # reject an unknown name before making anything
    pictures: dict[str, Image] = {path.stem: load_image(path) for path in styles}
    pictures |= {name: make() for name, make in PATTERNS.items()}
    files = {path.stem: [path] for path in styles}
    judgements: dict[str, list[Judgement]] = {name: [] for name in names}
    for path in contents:
        content = load_image(path, size)
        rows: list[list[Image]] = []
        for title, style in pictures.items():
            fitted = resize_image(style, fit_shape(style.shape, size))
            row: list[Image] = []
            for name in names:
                base = output / f"{path.stem}_{title}_{name}"
                made, judged = base.with_suffix(".png"), base.with_suffix(".json")
                config = at_cost(PRESETS[name].replace(size=size), content.shape, evaluations)
                settings = settings_of(config, [path, *files.get(title, [])])
                if not (made.exists() and judged.exists()) or read_metadata(made) != settings:
                    result = stylize(content, style, config, params)
                    found = judge(params, result.image, content, fitted)
                    save_image(made, result.image, metadata=settings)
                    write_atomically(judged, json.dumps(found._asdict()).encode())
                row.append(load_image(made))
                found = Judgement(**json.loads(judged.read_text()))
                judgements[name].append(found)
                print(base.name, *(f"{value:.3f}" for value in found), flush=True)
            rows.append(row)
        save_image(output / f"{path.stem}.jpg", picture_sheet(rows, list(pictures), names))
    lines = ["| preset | style | content | colour | border |", "|---|---|---|---|---|"]
    for name, found in judgements.items():
        medians = np.median(np.array(found), axis=0)
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in medians) + " |")
    write_atomically(output / "table.md", ("\n".join(lines) + "\n").encode())


def picture_sheet(
    rows: Sequence[Sequence[Image]], styles: Sequence[str], presets: Sequence[str]
) -> Image:
    """Lay out a row per style and a column per preset, with both names under each picture."""
    heights = [max(len(image) for image in row) + _TEXT + 2 * _GAP for row in rows]
    across = max(image.shape[1] for row in rows for image in row) + _GAP
    page = Pil.new("RGB", (across * len(presets) + _GAP, sum(heights) + _GAP), "white")
    draw, font, top = ImageDraw.Draw(page), ImageFont.load_default(_TEXT), _GAP
    for style, row, height in zip(styles, rows, heights, strict=True):
        for column, (name, image) in enumerate(zip(presets, row, strict=True)):
            left = _GAP + column * across
            page.paste(Pil.fromarray(to_uint8(image)), (left, top))
            draw.text((left, top + height - _TEXT - 2 * _GAP), f"{style}, {name}", "black", font)
        top += height
    return np.asarray(page, np.float32) / 255
