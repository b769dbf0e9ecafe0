"""Settings: what a run does, as data.

`Config` is a frozen, hashable dataclass that checks itself; `preset` names well-known recipes.
Every error that a user meets is defined here. Nothing here imports JAX.
"""

from jaxstyle.config.errors import (
    ConfigError,
    ImageError,
    JaxstyleError,
    RunError,
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
    "ImageError",
    "JaxstyleError",
    "Padding",
    "Precision",
    "RunError",
    "Statistic",
    "WeightsError",
    "is_out_of_memory",
    "parse_toml",
    "preset",
    "to_toml",
]
