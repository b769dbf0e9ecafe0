"""Example pictures, one per option, from the photograph and painting shipped with the project.

They are shown in docs/options.md.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from gallery.patterns import glass
from jaxstyle import ConfigError, Guides, load_image, load_weights, preset, save_image, stylize
from jaxstyle.imaging import Image, resize_image
from measuring.command import run

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
    "histogram": {"preserve_color": "histogram"},
    "style-scale-half": {"style_scale": 0.5},
    "style-scale-double": {"style_scale": 2.0},
    "gram": {"style_statistics": ("gram",)},
    "covariance": {"style_statistics": ("covariance",)},
    "sliced": {"style_statistics": ("sliced",)},
    "moments": {"style_statistics": ("moments",)},
    # Weights that offset the magnitude of squared features at the layer, measured on the content.
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
"""Changes to the default preset by picture name; a style weight is a factor."""

_BALANCED = {"wasserstein": 1.0, "gram": 0.7, "covariance": 5.0, "sliced": 1.9, "moments": 1.5}
"""Factors of the style weight that equalize the style loss at the content, where a run starts;
measured at 128 pixels with the default preset's layers and weights."""


def options(
    output: Annotated[Path, arg(aliases=["-o"])] = IMAGES / "options",
    size: int = 256,
    evaluations: int = 60,
    only: tuple[str, ...] = tuple(OPTIONS),
) -> None:
    """Make the pictures of docs/options.md: one for each option, of the cat Chelsea.

    Args:
        output: the folder to write to, created if missing.
        size: long side in pixels.
        evaluations: budget of each scale.
        only: names of pictures.

    Raises:
        ConfigError: `only` has a name that no picture has.
    """
    unknown = sorted(set(only) - set(OPTIONS))
    if unknown:
        raise ConfigError(f"no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    params = load_weights()
    content = load_image(IMAGES / "chelsea.jpg", size)
    styles = [load_image(IMAGES / "starry_night.jpg", size), resize_image(glass(), (size, size))]
    guide = _cat(content.shape)
    output.mkdir(parents=True, exist_ok=True)
    save_image(output / "glass.jpg", styles[1])
    save_image(output / "guide.png", guide)
    for name, settings in OPTIONS.items():
        if name not in only:
            continue
        changes = dict(settings)
        used_styles = styles[: changes.pop("styles", 1)]
        guides = Guides.of(guide) if changes.pop("guide", False) else None
        default = preset("default").replace(evaluations=evaluations)
        factor = changes.pop("style_weight", 1.0)
        config = default.replace(**changes)
        factor *= _BALANCED[next(iter(config.style_statistics))]
        config = config.replace(style_weight=config.style_weight * factor)
        result = stylize(content, used_styles, config, params, guides=guides)
        save_image(output / f"{name}.jpg", result.image)
        print(f"{name}: {result.evaluations} evaluations, {result.seconds:.0f} s")


def _cat(shape: tuple[int, ...]) -> Image:
    """Return an approximate mask of the cat Chelsea's face, white on black."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    down, across = (y + 0.5) / shape[0], (x + 0.5) / shape[1]
    inside = ((across - 0.45) / 0.33) ** 2 + ((down - 0.5) / 0.48) ** 2 < 1
    return np.repeat(inside[..., None], 3, axis=2).astype(np.float32)


if __name__ == "__main__":
    sys.exit(run("scripts/option_pictures", (options,)))
