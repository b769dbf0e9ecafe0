"""The settings of a run, as data.

`Config` is a frozen, hashable dataclass that validates itself; `preset` returns well-known recipes.
All user-facing errors are defined here. This package does not import JAX.
"""

from jaxstyle.config.errors import (
    ConfigError,
    FileError,
    ImageError,
    JaxstyleError,
    WeightsError,
    is_out_of_memory,
)
from jaxstyle.config.presets import PRESETS, SUMMARIES, preset
from jaxstyle.config.settings import (
    INITS,
    Config,
    Padding,
    Precision,
    Statistic,
    parse_toml,
    to_toml,
)

__all__ = [
    "INITS",
    "PRESETS",
    "SUMMARIES",
    "Config",
    "ConfigError",
    "FileError",
    "ImageError",
    "JaxstyleError",
    "Padding",
    "Precision",
    "Statistic",
    "WeightsError",
    "is_out_of_memory",
    "parse_toml",
    "preset",
    "to_toml",
]
