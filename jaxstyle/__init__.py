"""Neural style transfer as a functional JAX system.

The names here are imported when first used, so that a command that needs no JAX does not
wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxstyle.batch import stylize_batch
    from jaxstyle.config import Config
    from jaxstyle.errors import ConfigError, ImageError, JaxstyleError, WeightsError
    from jaxstyle.grid import run_grid
    from jaxstyle.images import load_image, save_image
    from jaxstyle.loop import optimize
    from jaxstyle.objective import Objective
    from jaxstyle.presets import preset
    from jaxstyle.records import Record, Result
    from jaxstyle.regions import Guides
    from jaxstyle.targets import build_objective
    from jaxstyle.transfer import stylize
    from jaxstyle.vgg import extract_features
    from jaxstyle.weights import load_weights

__version__ = "0.1.0"

__all__ = [
    "Config",
    "ConfigError",
    "Guides",
    "ImageError",
    "JaxstyleError",
    "Objective",
    "Record",
    "Result",
    "WeightsError",
    "build_objective",
    "extract_features",
    "load_image",
    "load_weights",
    "optimize",
    "preset",
    "run_grid",
    "save_image",
    "stylize",
    "stylize_batch",
]

_HOMES = {
    "config": ("Config",),
    "presets": ("preset",),
    "errors": ("ConfigError", "ImageError", "JaxstyleError", "WeightsError"),
    "images": ("load_image", "save_image"),
    "objective": ("Objective",),
    "regions": ("Guides",),
    "loop": ("optimize",),
    "records": ("Record", "Result"),
    "batch": ("stylize_batch",),
    "grid": ("run_grid",),
    "targets": ("build_objective",),
    "transfer": ("stylize",),
    "vgg": ("extract_features",),
    "weights": ("load_weights",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"jaxstyle.{module}"), name)
    raise AttributeError(f"module 'jaxstyle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
