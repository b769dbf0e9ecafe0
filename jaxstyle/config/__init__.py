"""The settings of a run, as data.

`Config` and the classes nested in it are frozen, hashable dataclasses that validate themselves;
`preset` returns well-known recipes. All user-facing errors are defined here. This package does not
import JAX.
"""

from jaxstyle.config.errors import (
    ConfigError,
    FileError,
    ImageError,
    JaxstyleError,
    OutOfMemoryError,
    WeightsError,
    brief,
    counted,
    is_out_of_memory,
)
from jaxstyle.config.flat import SETTINGS, flat, parse_toml, to_toml, words
from jaxstyle.config.presets import PRESETS, SUMMARIES, preset
from jaxstyle.config.settings import (
    INITS,
    LBFGS,
    Adam,
    AutoPyramid,
    Config,
    NetworkName,
    OneScale,
    Padding,
    Precision,
    Pyramid,
)
from jaxstyle.config.validation import equal, named

__all__ = [
    "INITS",
    "LBFGS",
    "PRESETS",
    "SETTINGS",
    "SUMMARIES",
    "Adam",
    "AutoPyramid",
    "Config",
    "ConfigError",
    "FileError",
    "ImageError",
    "JaxstyleError",
    "NetworkName",
    "OneScale",
    "OutOfMemoryError",
    "Padding",
    "Precision",
    "Pyramid",
    "WeightsError",
    "brief",
    "counted",
    "equal",
    "flat",
    "is_out_of_memory",
    "named",
    "parse_toml",
    "preset",
    "to_toml",
    "words",
]
