"""Settings: one frozen, hashable dataclass, its checks, and TOML in and out."""

import contextlib
import dataclasses
import difflib
import math
import tomllib
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w

from jaxstyle.config.errors import ConfigError

Precision = Literal["float32", "tf32", "bfloat16"]
Padding = Literal["zero", "replicate", "reflect", "replicate-first"]
INITS = ("content", "noise", "style")
"""Named starting points of the image; any other value is the path of an image file."""

Statistic = Literal["gram", "covariance", "wasserstein", "sliced", "moments"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run: what to optimize, from where, and how.

    Raises:
        ConfigError: a value has the wrong type, is out of range, or is meaningless in combination
            with the others.
    """

    size: int | Literal["original"] = "original"
    """Long side of the result in pixels (a style that keeps its own shape gets the same long
    side); "original" leaves images as they are."""
    evaluations: int = 300
    """Budget of the last (or only) scale, in evaluations: one value and gradient each."""
    content_weight: float = 5.0
    """Weight of the content term."""
    style_weight: float = 1000.0
    """Weight of the sum of the style terms."""
    tv_weight: float = 1e-3
    """Weight of the total variation of the image, taken in grey levels (0-255)."""
    content_layers: tuple[str, ...] = ("relu4_2",)
    """Layers whose features follow the content."""
    content_layer_weights: tuple[float, ...] = ()
    """Factor of each content layer's term; 1 if not given."""
    style_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    """Layers whose statistics follow the style."""
    style_layer_weights: tuple[float, ...] = ()
    """Factor of each style layer's term; 1 if not given."""
    style_statistics: tuple[Statistic, ...] = ("gram",)
    """Statistics of the style's features to match: Gram matrices, covariances, the Wasserstein
    distance of Gaussians, sliced Wasserstein distances, or means and standard deviations."""
    style_statistics_weights: tuple[float, ...] = ()
    """Factor of each statistic's distance; 1 if not given."""
    style_weights: tuple[float, ...] = ()
    """Weights of several styles, normalized to sum to 1; equal if not given."""
    style_blend: Literal["statistics", "loss"] = "statistics"
    """Whether several styles form one target, their mean statistics, or one target each."""
    content_normalization: Literal["sum", "half-sum", "mean"] = "mean"
    """How squared differences of features are added up."""
    style_normalization: Literal["seed", "gatys", "mean"] = "mean"
    """How squared differences of Gram matrices and covariances are scaled, see losses.style_loss;
    seed and gatys average over layers, mean adds them up."""
    tv: Literal["seed", "l1", "l2", "nine-point"] = "l2"
    """Kind of total variation: the Keras example's power 1.25, absolute, half squares, or the
    mean of squares over a pixel and its eight neighbours."""
    style_shape: Literal["own", "content"] = "own"
    """Whether the style keeps its own shape or is stretched to the content's."""
    style_scale: float = 1.0
    """Size of the style's features: below 1 finer, above 1 coarser."""
    style_size: int | Literal["original"] | None = None
    """Long side of the style in pixels, if not that of the result."""
    preserve_color: Literal["none", "luminance", "match", "histogram"] = "none"
    """Keep the content's colours: transfer lightness only, or first give the style the content's
    mean and covariance of colours, or its histograms; in Oklab."""
    color_match: Literal["symmetric", "cholesky"] | None = None
    """Square root of the covariances that preserve_color match uses; symmetric if not given."""
    init: str = "content"
    """Where the image starts: content, noise, style, or the path of an image file."""
    pooling: Literal["max", "average"] = "max"
    """The network's pooling."""
    padding: Padding = "replicate"
    """Padding of the network's convolutions; replicate-first replicates at the first one only and
    pads the others with zeros; zero, the classic choice, draws a frame."""
    precision: Precision = "float32"
    """Arithmetic of the network's convolutions; losses always accumulate in float32."""
    activations: Literal["auto", "kept", "recomputed", "tiled"] = "auto"
    """How a gradient obtains the network's activations: all kept, recomputed block by block, or
    tile by tile, which is also exact and takes the memory of one tile; auto is the first of them
    that fits."""
    tile: int | None = None
    """Side of the tiles in pixels; if given, tiles are used; if not, the largest that fits."""
    convolution: Literal["auto", "direct", "winograd"] = "auto"
    """Algorithm of the convolutions: auto takes Winograd's on CPUs in float32."""
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    history_size: int | None = None
    """Number of pairs that L-BFGS keeps; 20 if not given."""
    history_precision: Literal["float32", "bfloat16"] | None = None
    """Type in which L-BFGS stores its pairs; float32 if not given. The pairs are most of the memory
    that does not depend on the activations setting."""
    preconditioner: Literal["cosine", "none"] | None = None
    """Initial inverse Hessian of L-BFGS: cosine (if not given) puts coarse structure ahead of
    detail, none treats them alike."""
    learning_rate: float | None = None
    """Adam's step, in units of the 0-1 image; 0.02 if not given."""
    learning_rate_schedule: Literal["constant", "cosine"] | None = None
    """Whether Adam's step is constant (if not given) or falls to 0 along a half cosine, at each
    scale."""
    adam_beta2: float | None = None
    """Decay of Adam's mean of squared gradients; 0.999 if not given."""
    ema: float | None = None
    """Decay of a bias-corrected moving average of Adam's iterates; if given, the average is the
    result."""
    scales: int | Literal["auto"] = 1
    """Number of scales, from coarse to fine; each starts from the result of the one before. auto
    takes as many as fit between start_size and the result's size, none below 32 pixels."""
    start_size: int | None = None
    """Smallest long side of an automatic scale, in pixels; 128 if not given."""
    scale_factor: float | None = None
    """Ratio of one scale's size to that of the scale before; √2 if not given."""
    coarse_evaluations: int | tuple[int, ...] | None = None
    """Budget of each scale before the last: one for all, or one per scale from the coarsest on;
    `evaluations` if not given."""
    seed: int = 0
    """Seed of the noise init and of the directions of sliced distances."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), hint))
        for name in (*_COUNTS, "coarse_evaluations"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, int) and number < 1 for number in numbers):
                raise ConfigError(f"{name} must be at least 1, not {value}")
        for name in ("content_weight", "style_weight", "tv_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be finite and not negative, not {value}")
        _check_shares("style_weights", self.style_weights)
        for name, weighted in _WEIGHTED.items():
            weights, count = getattr(self, name), len(getattr(self, weighted))
            _check_shares(name, weights)
            if weights and len(weights) != count:
                raise ConfigError(
                    f"{name} must be as many as {weighted}, {count}, not {len(weights)}"
                )
        if not self.style_statistics:
            raise ConfigError("style_statistics must name at least one")
        if len(set(self.style_statistics)) < len(self.style_statistics):
            raise ConfigError("style_statistics names one twice")
        if not (self.content_layers and self.content_weight) and not (
            self.style_layers and self.style_weight
        ):
            raise ConfigError("nothing to match: content and style both have no layers or weight 0")
        for name in ("learning_rate", "style_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive, not {value}")
        for name in ("adam_beta2", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name} must be between 0 and 1, not {value}")
        for name, (setting, values) in _ONLY_WITH.items():
            if getattr(self, name) is not None and getattr(self, setting) not in values:
                raise ConfigError(f"{name} has no meaning with {setting} {getattr(self, setting)}")
        if self.style_shape == "content" and (self.style_scale, self.style_size) != (1.0, None):
            raise ConfigError("style_scale and style_size have no meaning with style_shape content")
        if self.convolution == "winograd" and self.precision != "float32":
            raise ConfigError(f"convolution winograd needs precision float32, not {self.precision}")
        tiled = self.activations == "tiled" or self.tile is not None
        if tiled and "sliced" in self.style_statistics:
            raise ConfigError("style_statistics sliced sorts whole layers, which tiles do not have")
        factor = self.scale_factor
        if factor is not None and not 1 < factor < math.inf:
            raise ConfigError(f"scale_factor must be above 1, not {factor}")
        if factor is not None and self.scales == "auto" and factor < _LEAST_AUTO_FACTOR:
            raise ConfigError(
                f"scale_factor must be at least {_LEAST_AUTO_FACTOR} with scales auto, "
                f"not {factor}: there would be too many"
            )
        for name in _SCALED if self.scales == 1 else ():
            if getattr(self, name) is not None:
                raise ConfigError(f"{name} has no meaning with scales 1")
        if isinstance(self.coarse_evaluations, tuple):
            if self.scales == "auto":
                raise ConfigError("coarse_evaluations must be one with scales auto")
            if len(self.coarse_evaluations) != self.scales - 1:
                raise ConfigError(
                    f"coarse_evaluations must be one, or one for each of the {self.scales - 1} "
                    f"scales before the last, not {len(self.coarse_evaluations)}"
                )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be between 0 and 2**32 - 1, not {self.seed}")
        if not self.init:
            raise ConfigError("init must be content, noise, style or the path of an image")

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that the objective reads."""
        return (*self.content_layers, *self.style_layers)

    def replace(self, **changes: Any) -> "Config":
        """Return a copy with `changes`, validated again.

        Raises:
            ConfigError: a setting is unknown (the message lists close names) or a value invalid.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name.replace("-", "_"), known)
                hint = f"; did you mean {', '.join(close)}?" if close else ""
                raise ConfigError(f"unknown setting {name!r}{hint}")
        return dataclasses.replace(self, **changes)

    def vary(
        self, changes: Mapping[str, Any], over: Mapping[str, Any] = types.MappingProxyType({})
    ) -> "Config":
        """Return a copy with `changes`, resetting settings that no longer apply.

        Where `replace` would raise an error, this resets any setting that `changes` makes
        meaningless and does not contain: Adam's settings of a preset when another optimizer is
        chosen, or its layer weights and scale budgets when the layers or scales change.

        Args:
            changes: new values by setting.
            over: settings that override `changes`, as flags override a file; entries of `changes`
                that they make meaningless are reset too.
        """
        if over:
            with contextlib.suppress(ConfigError):
                return self.vary({**changes, **over})
            try:
                under = self.vary(changes)
            except ConfigError:  # `over` may set what `changes` lacks to be valid
                open_ = {name: value for name, value in over.items() if name not in changes}
                under = self.vary({**changes, **open_})
            return under.vary(over)
        lost: dict[str, Any] = {
            name: None
            for name, (setting, values) in _ONLY_WITH.items()
            if changes.get(setting, getattr(self, setting)) not in values
        } | {name: () for name, weighted in _WEIGHTED.items() if weighted in changes}
        scales = changes.get("scales", self.scales)
        if isinstance(self.coarse_evaluations, tuple) and scales != self.scales:
            lost["coarse_evaluations"] = None
        if scales == 1:
            lost |= dict.fromkeys(_SCALED)
        return self.replace(**{**lost, **changes})


_LEAST_AUTO_FACTOR = 1.05
"""Smallest `scale_factor` of automatic scales: 57 scales from 128 to 2048 pixels."""

_COUNTS = (
    "evaluations",
    "history_size",
    "scales",
    "size",
    "start_size",
    "style_size",
    "tile",
)

_SCALED = ("coarse_evaluations", "scale_factor")
"""Settings that apply only with several scales."""

_WEIGHTED = {
    "content_layer_weights": "content_layers",
    "style_layer_weights": "style_layers",
    "style_statistics_weights": "style_statistics",
}

_ONLY_WITH = {
    "learning_rate": ("optimizer", ("adam",)),
    "learning_rate_schedule": ("optimizer", ("adam",)),
    "adam_beta2": ("optimizer", ("adam",)),
    "ema": ("optimizer", ("adam",)),
    "history_size": ("optimizer", ("lbfgs",)),
    "history_precision": ("optimizer", ("lbfgs",)),
    "preconditioner": ("optimizer", ("lbfgs",)),
    "color_match": ("preserve_color", ("match",)),
    "start_size": ("scales", ("auto",)),
    "tile": ("activations", ("auto", "tiled")),
}
"""Settings that apply only while another setting has one of the listed values."""


def _check_shares(name: str, weights: tuple[float, ...]) -> None:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ConfigError(f"{name} must be finite and not negative, not {list(weights)}")
    if weights and not any(weights):
        raise ConfigError(f"{name} must not all be 0")


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Convert `value` to the annotation `hint`: an int may serve as a float, a list as a tuple."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        fitted = _fitted(value, option)
        if fitted is not None or (value is None and option is types.NoneType):
            return fitted
    raise ConfigError(f"{name} must be {' or '.join(map(_describe, options))}, not {value!r}")


def _fitted(value: Any, option: Any) -> Any:
    """Convert `value` to one type of an annotation; return None if it does not fit."""
    if get_origin(option) is Literal:
        return value if isinstance(value, str) and value in get_args(option) else None
    if get_origin(option) is tuple:
        if not isinstance(value, (tuple, list)):
            return None
        items = tuple(_fitted(item, get_args(option)[0]) for item in value)
        return None if None in items else items
    if isinstance(value, bool):
        return None
    if option is float and isinstance(value, (int, float)):
        return float(value)
    return value if isinstance(value, option) else None


def _describe(option: Any) -> str:
    words = {int: "an integer", float: "a number", str: "a text", types.NoneType: "left out"}
    lists = {int: "a list of integers", float: "a list of numbers", str: "a list of layer names"}
    if get_origin(option) is Literal:
        return " or ".join(map(repr, get_args(option)))
    if get_origin(option) is not tuple:
        return words[option]
    item = get_args(option)[0]
    return lists.get(item) or f"a list of {_describe(item)}"


def parse_toml(text: str) -> dict[str, Any]:
    """Parse the settings in a TOML document; `Config.replace` validates them.

    The table `run`, in which a run folder records the origin of its settings, is left out.

    Raises:
        ConfigError: the text is not TOML.
    """
    try:
        return {name: value for name, value in tomllib.loads(text).items() if name != "run"}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not a TOML document: {error}") from None


def to_toml(config: Config) -> str:
    """Write `config` as TOML; `Config().replace(**parse_toml(text))` returns an equal `Config`."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    return tomli_w.dumps(values)
