"""A picture for each option, of the photograph and the painting that come with the project.

The page that shows them is docs/options.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gallery.patterns import glass
from jaxstyle import ConfigError, Guides, load_image, preset, save_image, stylize
from jaxstyle.imaging.arrays import Image
from jaxstyle.imaging.resampling import resize_image
from jaxstyle.network.arrays import Params

IMAGES = Path(__file__).parents[2] / "docs" / "images"

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "style-weight-quarter": {"style_weight": 0.25},
    "style-weight-fourfold": {"style_weight": 4.0},
    "two-styles": {"styles": 2, "style_weights": (0.5, 0.5)},
    "region-kept": {"guide": True},
    "two-regions": {"guide": True, "styles": 2},
    "luminance": {"preserve_color": "luminance"},
    "match": {"preserve_color": "match"},
    "cholesky": {"preserve_color": "match", "color_match": "cholesky"},
    "histogram": {"preserve_color": "histogram"},
    "style-scale-half": {"style_scale": 0.5},
    "style-scale-double": {"style_scale": 2.0},
    "gram": {"style_statistics": ("gram",)},
    "covariance": {"style_statistics": ("covariance",)},
    "sliced": {"style_statistics": ("sliced",)},
    "moments": {"style_statistics": ("moments",)},
    # Weights for how large the squares of features are there, measured on the content.
    "content-layer": {"content_layers": ("relu3_1",), "content_weight": 10.0},
    "pre-activation": {"content_layers": ("conv4_2",), "content_weight": 0.25},
    "style-layers": {"style_layers": ("relu1_1", "relu2_1", "relu3_1")},
    "smooth": {"tv_weight": 100.0},
    "zero-padding": {"padding": "zero"},
    "one-scale": {"scales": 1},
    "from-noise": {"init": "noise"},
    "coarse-evaluations": {"coarse_evaluations": 10},
    "adam": {"optimizer": "adam"},
    "adam-ema": {"optimizer": "adam", "learning_rate_schedule": "cosine", "ema": 0.9},
}
"""By the name of the picture: settings over the default preset's; a style weight is a factor."""

_BALANCED = {"wasserstein": 1.0, "gram": 0.7, "covariance": 5.0, "sliced": 1.9, "moments": 1.5}
"""Factors of the style weight that make the style's loss the same at the content, where a run
starts: measured at 128 pixels with the default's layers and weights."""


def make_option_pictures(
    params: Params, output: Path, size: int, evaluations: int, only: Sequence[str] | None
) -> None:
    """Write a JPEG for each of `OPTIONS`, and the second style and the guide they use.

    Args:
        params: from `load_weights`.
        output: a folder, made if it is not there.
        size: long side in pixels.
        evaluations: of each scale, in place of the default's.
        only: names of `OPTIONS`; all if not given.

    Raises:
        ConfigError: a name that is none of them.
    """
    unknown = sorted(set(only or ()) - set(OPTIONS))
    if unknown:
        raise ConfigError(f"no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    content = load_image(IMAGES / "chelsea.jpg", size)
    styles = [load_image(IMAGES / "starry_night.jpg", size), resize_image(glass(), (size, size))]
    guide = _cat(content.shape)
    output.mkdir(parents=True, exist_ok=True)
    save_image(output / "glass.jpg", styles[1])
    save_image(output / "guide.png", guide)
    for name, settings in OPTIONS.items():
        if only is not None and name not in only:
            continue
        changes = dict(settings)
        several = styles[: changes.pop("styles", 1)]
        guides = Guides.of(guide) if changes.pop("guide", False) else None
        default = preset("default").replace(evaluations=evaluations)
        kinds = changes.get("style_statistics", default.style_statistics)
        factor = _BALANCED[kinds[0]] * changes.pop("style_weight", 1.0)
        config = default.vary({"style_weight": default.style_weight * factor, **changes})
        result = stylize(content, several, config, params, guides=guides)
        save_image(output / f"{name}.jpg", result.image)
        print(f"{name}: {result.evaluations} evaluations, {result.seconds:.0f} s")


def _cat(shape: tuple[int, ...]) -> Image:
    """Where the cat Chelsea's face is, about: white on black."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    down, across = (y + 0.5) / shape[0], (x + 0.5) / shape[1]
    inside = ((across - 0.45) / 0.33) ** 2 + ((down - 0.5) / 0.48) ** 2 < 1
    return np.repeat(inside[..., None], 3, axis=2).astype(np.float32)
