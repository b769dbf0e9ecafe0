"""Settings: one frozen, hashable dataclass, its checks, the presets, TOML in and out."""

import dataclasses
import difflib
import math
import tomllib
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w

from jaxstyle.errors import ConfigError

SQRT2 = math.sqrt(2.0)

Precision = Literal["float32", "tf32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Config:
    """What to optimize, from where, and how.

    Raises:
        ConfigError: a value is of the wrong type, out of range, or has no meaning together
            with the others.
    """

    size: int | Literal["original"] = "original"
    """Long side of the result in pixels (a style that keeps its own shape gets the same long
    side); "original" leaves images as they are."""
    evaluations: int = 300
    """Budget of the last (or only) scale, in evaluations: one value and gradient each. The line
    search of optax-lbfgs may go over it."""
    content_weight: float = 5.0
    """Weight of the content term."""
    style_weight: float = 1000.0
    """Weight of the sum of the style terms."""
    tv_weight: float = 1e-3
    """Weight of the total variation of the image, taken in grey levels (0-255)."""
    content_layers: tuple[str, ...] = ("relu4_2",)
    """Layers whose features follow the content."""
    content_layer_weights: tuple[float, ...] = ()
    """What each content layer's term is multiplied by; 1 if not given."""
    style_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    """Layers whose Gram matrices follow the style."""
    style_layer_weights: tuple[float, ...] = ()
    """What each style layer's term is multiplied by; 1 if not given."""
    style_weights: tuple[float, ...] = ()
    """Shares of several styles, made to sum to 1; equal if not given."""
    style_blend: Literal["statistics", "loss"] = "statistics"
    """Whether several styles are one target, their mean statistics, or one target each."""
    content_normalization: Literal["sum", "half-sum", "mean"] = "mean"
    """How squared differences of features are added up."""
    style_normalization: Literal["seed", "gatys", "mean"] = "mean"
    """How squared differences of Gram matrices are scaled; see losses.style_loss."""
    tv: Literal["seed", "l1", "l2", "nine-point"] = "l2"
    """Kind of total variation: the Keras example's power 1.25, absolute, half squares, or the
    mean of squares over a pixel and its eight neighbours."""
    style_shape: Literal["own", "content"] = "own"
    """Whether the style keeps its own shape or is stretched to the content's."""
    init: str = "content"
    """Where the image starts: content, noise, style, or the path of an image file."""
    pooling: Literal["max", "average"] = "max"
    """The network's pooling."""
    padding: Literal["zero", "replicate", "reflect"] = "replicate"
    """What the network's convolutions see beyond the border; the classic zero draws a frame."""
    precision: Precision = "float32"
    """Arithmetic of the network's convolutions; losses accumulate in float32 whatever it is."""
    convolution: Literal["auto", "direct", "winograd"] = "auto"
    """Algorithm of the convolutions: auto takes Winograd's on CPUs in float32."""
    optimizer: Literal["lbfgs", "adam", "optax-lbfgs"] = "lbfgs"
    """lbfgs spends one evaluation an update; optax-lbfgs is the baseline to compare with."""
    history_size: int | None = None
    """Pairs that L-BFGS remembers; 20 if not given."""
    preconditioner: Literal["cosine", "none"] | None = None
    """Where L-BFGS starts its inverse Hessian from: coarse structure ahead of detail (cosine, if
    not given), or all alike (none)."""
    learning_rate: float | None = None
    """Adam's step, in units of the 0-1 image; 0.02 if not given."""
    scales: int = 1
    """Scales from coarse to fine; each starts from the result of the one before."""
    scale_factor: float = SQRT2
    """Ratio of one scale's size to that of the scale before."""
    coarse_evaluations: int | None = None
    """Budget of each scale before the last; `evaluations` if not given."""
    seed: int = 0
    """Seed of the noise init."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), hint))
        for name in ("evaluations", "history_size", "scales", "coarse_evaluations", "size"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        for name in ("content_weight", "style_weight", "tv_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be finite and not negative, not {value}")
        for name in ("content_layer_weights", "style_layer_weights", "style_weights"):
            _check_shares(name, getattr(self, name))
        for role in ("content", "style"):
            layers, weights = (
                getattr(self, f"{role}_{kind}") for kind in ("layers", "layer_weights")
            )
            if weights and len(weights) != len(layers):
                raise ConfigError(
                    f"{role}_layer_weights must be as many as {role}_layers, {len(layers)}, "
                    f"not {len(weights)}"
                )
        if not (self.content_layers and self.content_weight) and not (
            self.style_layers and self.style_weight
        ):
            raise ConfigError("nothing to match: content and style both have no layers or weight 0")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be positive, not {self.learning_rate}")
        if self.learning_rate is not None and self.optimizer != "adam":
            raise ConfigError(f"learning_rate has no meaning with optimizer {self.optimizer}")
        if self.history_size is not None and self.optimizer == "adam":
            raise ConfigError("history_size has no meaning with optimizer adam")
        if self.preconditioner is not None and self.optimizer != "lbfgs":
            raise ConfigError(f"preconditioner has no meaning with optimizer {self.optimizer}")
        if self.convolution == "winograd" and self.precision != "float32":
            raise ConfigError(f"convolution winograd needs precision float32, not {self.precision}")
        if not 1 < self.scale_factor < math.inf:
            raise ConfigError(f"scale_factor must be above 1, not {self.scale_factor}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be between 0 and 2**32 - 1, not {self.seed}")
        if not self.init:
            raise ConfigError("init must be content, noise, style or the path of an image")

    @property
    def layers(self) -> tuple[str, ...]:
        """Every layer the objective reads."""
        return (*self.content_layers, *self.style_layers)

    def replace(self, **changes: Any) -> "Config":
        """A copy with `changes`, checked again.

        Raises:
            ConfigError: an unknown setting (the message lists close ones) or a bad value.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name.replace("-", "_"), known)
                hint = f"; did you mean {', '.join(close)}?" if close else ""
                raise ConfigError(f"unknown setting {name!r}{hint}")
        return dataclasses.replace(self, **changes)


def _check_shares(name: str, weights: tuple[float, ...]) -> None:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ConfigError(f"{name} must be finite and not negative, not {list(weights)}")
    if weights and not any(weights):
        raise ConfigError(f"{name} must not all be 0")


def _checked(name: str, value: Any, hint: Any) -> Any:
    """`value` as the annotation `hint` wants it: an int may serve as a float, a list as a tuple."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if isinstance(value, str) and value in get_args(option):
                return value
        elif get_origin(option) is tuple:
            if isinstance(value, (tuple, list)) and not any(isinstance(v, bool) for v in value):
                kind = get_args(option)[0]
                if all(isinstance(item, (int, float) if kind is float else kind) for item in value):
                    return tuple(map(kind, value))
        elif isinstance(value, bool):
            continue
        elif option is float and isinstance(value, (int, float)):
            return float(value)
        elif isinstance(value, option):
            return value
    raise ConfigError(f"{name} must be {_describe(options)}, not {value!r}")


def _describe(options: tuple[Any, ...]) -> str:
    words = {
        int: "an integer",
        float: "a number",
        str: "a text",
        types.NoneType: "left out",
        tuple[str, ...]: "a list of layer names",
        tuple[float, ...]: "a list of numbers",
    }
    parts: list[str] = []
    for option in options:
        if get_origin(option) is Literal:
            parts.extend(repr(choice) for choice in get_args(option))
        else:
            parts.append(words[option])
    return " or ".join(parts)


_BLOCK_CONV1 = tuple(f"block{block}_conv1" for block in range(1, 6))

PRESETS: Mapping[str, Config] = {
    "default": Config(),
    # The Keras example as its code runs: ten SciPy calls of 20 evaluations at height 400.
    "seed": Config(
        evaluations=200,
        content_weight=0.025,
        style_weight=1.0,
        tv_weight=1e-4,
        content_layers=("block5_conv2",),
        style_layers=_BLOCK_CONV1,
        content_normalization="sum",
        style_normalization="seed",
        tv="seed",
        style_shape="content",
        padding="zero",
    ),
    # Gatys, Ecker, Bethge, CVPR 2016. Its "conv4_2" names rectified responses.
    "gatys": Config(
        evaluations=1000,
        content_weight=1.0,
        style_weight=1e3,
        tv_weight=0.0,
        content_normalization="half-sum",
        style_normalization="gatys",
        init="noise",
        pooling="average",
        padding="zero",
    ),
    # Gatys' PyTorch notebook: 500 iterations at 512 pixels, then 200 at 800.
    "gatys-code": Config(
        evaluations=200,
        content_weight=1.0,
        style_weight=1e3,
        tv_weight=0.0,
        content_normalization="mean",
        style_normalization="mean",
        padding="zero",
        scales=2,
        scale_factor=800 / 512,
        coarse_evaluations=500,
    ),
    # jcjohnson/neural-style and its PyTorch port.
    "neural-style": Config(
        evaluations=1000,
        content_weight=5.0,
        style_weight=100.0,
        tv_weight=1e-3,
        content_normalization="mean",
        style_normalization="mean",
        tv="l2",
        init="noise",
        padding="zero",
    ),
}


def preset(name: str) -> Config:
    """The settings called `name`.

    Raises:
        ConfigError: no such preset; the message lists those there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def parse_toml(text: str) -> dict[str, Any]:
    """The settings in a TOML document, for `Config.replace`, which judges them.

    A table `run`, in which a run's folder says where they came from, is left out.

    Raises:
        ConfigError: the text is not TOML.
    """
    try:
        return {name: value for name, value in tomllib.loads(text).items() if name != "run"}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not a TOML document: {error}") from None


def to_toml(config: Config) -> str:
    """The settings as TOML; `Config().replace(**parse_toml(text))` gives back an equal `Config`."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    return tomli_w.dumps(values)
