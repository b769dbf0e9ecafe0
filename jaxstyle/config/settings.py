"""Settings of a run: what to optimize, from where, and how.

Alternatives that have settings of their own are classes: an optimizer is `LBFGS` or `Adam`, the
scales are one, a number of them, or as many as fit. `flat` gives the same settings the names that
flags, sweeps and columns use.
"""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args

from immutabledict import immutabledict
from pydantic import AfterValidator, BeforeValidator, Field

from jaxstyle.config.errors import ConfigError
from jaxstyle.config.validation import (
    Converted,
    Count,
    Decay,
    Positive,
    Weight,
    Weights,
    check_hashable,
    check_instance,
    equal,
    frozen,
    named,
    settings,
    weighted,
)

if TYPE_CHECKING:
    import jax

Precision = Literal["auto", "float32", "tf32", "bfloat16"]
"""Arithmetic of the network's convolutions and of Gram matrices."""

Padding = Literal["zero", "replicate", "reflect", "replicate-first"]
"""What the network sees beyond the border."""

CoarseAspect = Literal["rounded", "own"]

INITS = ("content", "noise", "style")
"""Named starting points of the image; any other value is the path of an image file."""

NetworkName = Literal["vgg19", "vgg16"]
Statistic = Literal["gram", "covariance", "wasserstein", "sliced", "moments"]


@settings
class LBFGS:
    """L-BFGS that spends one evaluation an update; see `jaxstyle.lbfgs`."""

    name: Literal["lbfgs"] = "lbfgs"
    history_size: Count = 20
    """Number of pairs that L-BFGS keeps."""
    history_precision: Literal["float32", "bfloat16"] = "float32"
    """Type in which L-BFGS stores its pairs, which are most of the memory that does not depend on
    the activations setting."""
    preconditioner: Literal["cosine", "none"] = "cosine"
    """Initial inverse Hessian of L-BFGS: cosine puts coarse structure ahead of detail, none treats
    them alike."""


@settings
class Adam:
    """Adam (Kingma and Ba 2015)."""

    name: Literal["adam"] = "adam"
    learning_rate: Positive = 0.02
    """Adam's step, in units of the 0-1 image."""
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    """Whether Adam's step is constant or falls to 0 along a half cosine, at each scale."""
    adam_beta2: Decay = 0.999
    """Decay of Adam's mean of squared gradients."""
    ema: Decay | None = None
    """Decay of a bias-corrected moving average of Adam's iterates; if given, the average is the
    result."""


@settings
class OneScale:
    """The result's size only."""

    number: Literal[1] = 1


@settings
class Pyramid:
    """A number of scales, from coarse to fine; each starts from the result of the one before."""

    number: Annotated[int, Field(strict=True, ge=2)]
    scale_factor: Annotated[float, Field(strict=True, gt=1)] = 2.0
    """Ratio of one scale's size to that of the scale before."""
    coarse_evaluations: Count | None = None
    """Budget of each scale before the last; `evaluations` if not given."""
    first_evaluations: Count | None = None
    """Budget of the coarsest scale; `coarse_evaluations` if not given."""
    coarse_aspect: CoarseAspect = "rounded"
    """Aspect ratio of the image before the last scale: rounded, by 10 % at most, so that few
    programs have to be compiled for pictures of many shapes, or the content's own."""


@settings
class AutoPyramid:
    """As many scales as fit between start_size and the result, none below 32 pixels."""

    number: Literal["auto"] = "auto"
    # 1.05 makes 57 scales from 128 to 2048 pixels.
    scale_factor: Annotated[float, Field(strict=True, ge=1.05)] = 2.0
    """Ratio of one scale's size to that of the scale before."""
    coarse_evaluations: Count | None = None
    """Budget of each scale before the last; `evaluations` if not given."""
    first_evaluations: Count | None = None
    """Budget of the coarsest scale; `coarse_evaluations` if not given."""
    coarse_aspect: CoarseAspect = "rounded"
    """Aspect ratio of the image before the last scale: rounded, by 10 % at most, so that few
    programs have to be compiled for pictures of many shapes, or the content's own."""
    start_size: Count = 96
    """Smallest long side of an automatic scale, in pixels."""


def _optimizer(value: Any) -> LBFGS | Adam:
    if isinstance(value, (LBFGS, Adam)):
        return value
    check_instance("optimizer", value)
    options = value if isinstance(value, Mapping) else {"name": value}
    match options.get("name"):
        case "lbfgs":
            return LBFGS(**options)
        case "adam":
            return Adam(**options)
    raise ConfigError(f"optimizer must be 'lbfgs' or 'adam', not {value!r}")


def _scales(value: Any) -> OneScale | Pyramid | AutoPyramid:
    if isinstance(value, (OneScale, Pyramid, AutoPyramid)):
        return value
    check_instance("scales", value)
    options = value if isinstance(value, Mapping) else {"number": value}
    number = options.get("number")
    if number == "auto":
        return AutoPyramid(**options)
    if type(number) is int and number > 0:
        return OneScale(**options) if number == 1 else Pyramid(**options)
    raise ConfigError(f"scales must be 'auto' or a whole number of at least 1, not {value!r}")


Optimizer = Annotated[LBFGS | Adam, BeforeValidator(_optimizer)]
Scales = Annotated[OneScale | Pyramid | AutoPyramid, BeforeValidator(_scales)]


class Alternatives(NamedTuple):
    """A setting that is one of several classes, each with options of its own."""

    tag: str
    """The field whose value tells the classes apart."""
    values: Any
    """Type of that value."""
    kinds: tuple[type, ...]
    of: Callable[[Any], Any]
    """Convert that value, with all defaults, or a mapping of options, to an alternative."""


NESTED: Mapping[str, Alternatives] = {
    "optimizer": Alternatives("name", Literal["lbfgs", "adam"], (LBFGS, Adam), _optimizer),
    "scales": Alternatives(
        "number", int | Literal["auto"], (OneScale, Pyramid, AutoPyramid), _scales
    ),
}


def _check_network(value: Any) -> Any:
    names = get_args(NetworkName)
    check_instance("network", value)
    if not hasattr(value, "stride") and not (isinstance(value, str) and value in names):
        raise ConfigError(f"network must be {' or '.join(map(repr, names))}, not {value!r}")
    check_hashable(value)
    return value


def _check_statistics(weights: Mapping[Any, float]) -> Mapping[Any, float]:
    known = get_args(Statistic)
    if not weights:
        raise ConfigError("style_statistics must name at least one statistic")
    for statistic in weights:
        check_instance("style_statistics", statistic)
        if not hasattr(statistic, "distance") and statistic not in known:
            raise ConfigError(
                f"style_statistics must be one of {', '.join(known)}, not {statistic!r}"
            )
    return _check_names("style_statistics", weights)


def _check_terms(weights: Mapping[Any, float]) -> Mapping[Any, float]:
    for term in weights:
        check_instance("extra_terms", term)
        if not callable(term):
            raise ConfigError(f"extra_terms must be functions of an image, not {term!r}")
    return immutabledict(_check_names("extra_terms", weights))


def _check_names(setting: str, weights: Mapping[Any, float]) -> Mapping[Any, float]:
    for name, times in Counter(map(named, weights)).items():
        if times > 1:
            raise ConfigError(f"{setting} has {times} different entries called {name}")
    return weights


Statistics = Annotated[
    Mapping[Any, Weight],
    BeforeValidator(weighted),
    AfterValidator(frozen),
    AfterValidator(_check_statistics),
]

Terms = Annotated[Mapping[Any, Weight], BeforeValidator(weighted), AfterValidator(_check_terms)]


def _seed(value: Any) -> Any:
    """Convert a key to a number, which can be hashed and written down."""
    if not hasattr(value, "dtype"):
        return value
    import jax  # imported already by whoever has a key

    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        if value.shape or str(jax.random.key_impl(value)) != "threefry2x32":
            given = f"{value.dtype}{list(value.shape)}"
            raise ConfigError(f"seed must be a single threefry2x32 key, not {given}")
        value = jax.random.key_data(value)
    elif value.shape != (2,) or value.dtype != "uint32":  # nor a key of old
        return value
    high, low = value.tolist()
    return high << 32 | low


Seed = Annotated[int, BeforeValidator(_seed), Field(strict=True, ge=0, lt=2**64)]

Names = Mapping[str, float] | Iterable[str]
Options = Mapping[str, Any]


@settings
class Config:
    """The settings of a run.

    Raises:
        ConfigError: a value has the wrong type, is out of range, or is meaningless in combination
            with the others.
    """

    size: Count | Literal["original"] = "original"
    """Long side of the result in pixels (a style that keeps its own shape gets the same long
    side); "original" leaves images as they are."""
    evaluations: Count = 300
    """Budget of the last (or only) scale, in evaluations: one value and gradient each."""
    content_weight: Weight = 5.0
    """Weight of the content term."""
    style_weight: Weight = 1000.0
    """Weight of the sum of the style terms."""
    tv_weight: Weight = 1e-3
    """Weight of the total variation of the image, taken in grey levels (0-255)."""
    content_layers: Converted[Weights, Names] = Converted(equal("relu4_2"))
    """Layers whose features follow the content, and the weight of each (relu4_2=0.5; 1 if none is
    given)."""
    style_layers: Converted[Weights, Names] = Converted(
        equal("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    )
    """Layers whose statistics follow the style, and the weight of each."""
    style_statistics: Converted[Statistics, Mapping[Any, float] | Iterable[Any]] = Converted(
        equal("gram")
    )
    """Statistics of the style's features to match, and the weight of each one's distance: gram
    (Gram matrices), covariance, wasserstein (of Gaussians), sliced (sliced Wasserstein), or
    moments (means and standard deviations). In Python also your own StyleStatistic."""
    style_weights: Converted[tuple[Weight, ...], Sequence[float]] = Converted(())
    """Weights of several styles, normalized to sum to 1; equal if not given."""
    style_blend: Literal["statistics", "loss"] = "statistics"
    """Whether several styles form one target, their mean statistics, or one target each."""
    content_normalization: Literal["sum", "half-sum", "mean"] = "mean"
    """How squared differences of features are added up."""
    style_normalization: Literal["seed", "gatys", "mean"] = "mean"
    """What squared differences of Gram matrices and covariances of N channels are divided by: 36
    (seed, the Keras example), 4 N^2 (gatys, the paper) or N^4 (mean, as in neural-style). seed and
    gatys average over layers, mean adds them up."""
    tv: Literal["seed", "l1", "l2", "nine-point"] = "l2"
    """Kind of total variation: the Keras example's power 1.25, absolute, half squares, or the
    mean of squares over a pixel and its eight neighbours."""
    extra_terms: Converted[Terms, Mapping[Any, float] | Iterable[Any]] = Converted(immutabledict())
    """Your own terms and the weight of each: functions of the sRGB 0-1 image that JAX can
    differentiate. A name tells them apart: that of a function, or a frozen dataclass' with its
    values."""
    style_shape: Literal["own", "content"] = "own"
    """Whether the style keeps its own shape or is stretched to the content's."""
    style_scale: Positive = 1.0
    """Size of the style's features: below 1 finer, above 1 coarser."""
    style_size: Count | Literal["original"] | None = None
    """Long side of the style in pixels, if not that of the result."""
    preserve_color: Literal["none", "luminance", "match", "histogram"] = "none"
    """Keep the content's colours: transfer lightness only, or first give the style the content's
    mean and covariance of colours, or its histograms; in Oklab."""
    init: Annotated[str, Field(min_length=1)] = "content"
    """Where the image starts: content, noise, style, or the path of an image file."""
    network: Annotated[NetworkName | Any, BeforeValidator(_check_network)] = "vgg19"
    """The network whose features are compared; weights of vgg16 are not fetched, only converted.
    In Python also your own FeatureExtractor, to which pooling, padding and convolution do not
    apply."""
    pooling: Literal["max", "average"] = "max"
    """The network's pooling."""
    padding: Padding = "replicate"
    """Padding of the network's convolutions; replicate-first replicates at the first one only and
    pads the others with zeros; zero, the classic choice, draws a frame."""
    precision: Precision = "auto"
    """Arithmetic of the network's convolutions and of Gram matrices; sums, losses and the optimizer
    are in float32. auto is float32 on CPUs, tf32 on GPUs and bfloat16 on TPUs."""
    activations: Literal["auto", "kept", "recomputed", "tiled"] = "auto"
    """How a gradient obtains the network's activations: all kept, recomputed block by block, or
    tile by tile, which is also exact and takes the memory of one tile; auto is the first of them
    that fits."""
    tile: Count | None = None
    """Side of the tiles in pixels; if given, tiles are used; if not, the largest that fits."""
    convolution: Literal["auto", "direct", "winograd"] = "auto"
    """Algorithm of the convolutions: auto takes Winograd's on CPUs in float32."""
    optimizer: Converted[Optimizer, Optimizer | Literal["lbfgs", "adam"] | Options] = Converted(
        LBFGS()
    )
    """The optimizer: lbfgs spends one evaluation an update."""
    scales: Converted[Scales, Scales | int | Literal["auto"] | Options] = Converted(OneScale())
    """Number of scales, from coarse to fine; each starts from the result of the one before. auto
    takes as many as fit between start_size and the result's size, none below 32 pixels."""
    seed: Converted[Seed, "int | jax.Array"] = Converted(0)
    """Seed of the noise init and of the directions of sliced distances. In Python also a JAX key of
    threefry2x32, which is kept as the number of its 64 bits: 5 for jax.random.key(5)."""

    def __post_init__(self) -> None:
        if self.style_weights and not any(self.style_weights):
            raise ConfigError("style_weights must not all be 0")
        if not (self.content_layers and self.content_weight) and not (
            self.style_layers and self.style_weight
        ):
            raise ConfigError("nothing to match: content and style both have no layers or weight 0")
        if self.style_shape == "content" and (self.style_scale, self.style_size) != (1.0, None):
            raise ConfigError("style_scale and style_size have no meaning with style_shape content")
        if self.convolution == "winograd" and self.precision not in ("auto", "float32"):
            raise ConfigError(f"convolution winograd needs precision float32, not {self.precision}")
        if self.tile is not None and self.activations in ("kept", "recomputed"):
            raise ConfigError(f"tile has no meaning with activations {self.activations}")

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that the objective reads."""
        return (*self.content_layers, *self.style_layers)

    @property
    def scheduled(self) -> bool:
        """Whether the optimizer's steps depend on its budget."""
        adam = self.optimizer
        return isinstance(adam, Adam) and adam.learning_rate_schedule == "cosine"

    def replace(self, **changes: Any) -> "Config":
        """Return a copy with `changes`, by field or by the flat name of an option.

        `replace(optimizer="adam", learning_rate=0.05)` is
        `replace(optimizer=Adam(learning_rate=0.05))`. Where another alternative is chosen, options
        that it has in common with the present one keep their values.

        Raises:
            ConfigError: a setting is unknown (the message lists close names), a value invalid, or
                an option belongs to another alternative.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name, (tag, _, kinds, _) in NESTED.items():
            options = dict.fromkeys(f.name for kind in kinds for f in dataclasses.fields(kind))
            options.pop(tag)
            known += options
            given = {option: changes.pop(option) for option in options if option in changes}
            if given or name in changes:
                choice = changes.get(name, getattr(self, name))
                changes[name] = self._alternative(name, choice, given)
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name.replace("-", "_"), known)
                hint = f"; did you mean {', '.join(close)}?" if close else ""
                raise ConfigError(f"unknown setting {name!r}{hint}")
        return dataclasses.replace(self, **changes)

    def _alternative(self, name: str, choice: Any, options: Mapping[str, Any]) -> Any:
        """Return the alternative `choice` of the setting `name`, changed by `options`."""
        tag, _, kinds, of = NESTED[name]
        chosen = of(choice)
        allowed = {field.name for field in dataclasses.fields(chosen)}
        for option in options:
            if option not in allowed:
                raise ConfigError(f"{option} has no meaning with {name} {getattr(chosen, tag)}")
        kept = {}
        if not isinstance(choice, (Mapping, *kinds)):
            present = vars(getattr(self, name))
            kept = {k: v for k, v in present.items() if k in allowed and k != tag}
        return dataclasses.replace(chosen, **{**kept, **options})
