"""Style statistics: summaries of features and the distance between two summaries.

Each statistic is a class; `STATISTICS` has an instance of each. Positions of a layer may count
differently: `guide` is the square root of each one's weight, with mean square 1 (Gatys et al.
2017, eq. 2). Values and gradients are finite everywhere, including at constant features.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from immutabledict import immutabledict
from jax import Array
from jaxtyping import Float

from jaxstyle.config import Config, named
from jaxstyle.objective import sliced, wasserstein
from jaxstyle.objective.losses import (
    Normalization,
    Scalar,
    gram_matrix,
    style_loss,
    style_losses,
)

Gathered = Any
"""A partial result over some positions of a layer: a pytree of arrays."""
Measure = Any
"""The statistic of a whole layer: a pytree of arrays."""
Target = Any
"""A style's measure in the form that `StyleStatistic.distance` expects."""

_TINY = 1e-6


class Layer(NamedTuple):
    """The features of a layer or of one of its tiles."""

    features: Float[Array, "h w c"]
    guide: Float[Array, "h w"] | None
    """Square root of each position's weight; None for equal weights."""
    precision: jax.lax.Precision
    """Precision of matrix products."""
    axes: Float[Array, "c d"] | None
    """Unit vectors to project on; None unless a statistic has `directions`."""
    whole: bool
    """Whether these are all positions of the layer rather than a tile."""
    shared: bool = False
    """Whether several devices share the rows; see `gram_matrix`."""


class StyleStatistic(abc.ABC):
    """A statistic of a layer's features, and the distance between two of them.

    An evaluation calls `gather` on a layer or on each of its tiles, `merge` on the tiles' results,
    `finish` on the total, and `distances` on all outcomes, by default `distance` on each. A style
    goes through the same calls up to `finish`, then through `as_target`, an average over several
    styles, and `prepare`.

    An instance of your own subclass can be given in `Config.style_statistics` like a name. It must
    be hashable; make it a frozen dataclass if it has options, so that equal instances share
    compiled programs.
    """

    directions: int = 0
    """Minimum number of random unit vectors in `Layer.axes`."""
    depends_on_positions: ClassVar[bool] = False
    """Whether `as_target` uses the number of positions: targets are then made for each shape."""

    @property
    def mergeable(self) -> bool:
        """Whether `merge` is defined, so that a layer can be gathered tile by tile."""
        return type(self).merge is not StyleStatistic.merge

    @abc.abstractmethod
    def gather(self, layer: Layer) -> Gathered:
        """Reduce the positions of a layer or a tile."""

    def merge(self, some: Gathered, others: Gathered) -> Gathered:
        """Combine the results of `gather` on two tiles."""
        raise NotImplementedError(f"{type(self).__name__} needs whole layers")

    @abc.abstractmethod
    def finish(self, gathered: Gathered, divisor: float) -> Measure:
        """Compute the measure of a whole layer from the total of `gather`.

        Args:
            gathered: result of `gather`, merged over all tiles.
            divisor: number to divide Gram matrices by, as the objective's source does.
        """

    def as_target(self, measure: Measure, positions: int) -> Target:
        """Convert a style's measure to a target for images of that many `positions`.

        Targets of several styles may be averaged.
        """
        del positions
        return measure

    def prepare(self, target: Target) -> Any:
        """Precompute on the host what all distances from a target share; never traced."""
        return target

    @abc.abstractmethod
    def distance(self, measure: Measure, target: Any, normalization: Normalization) -> Scalar:
        """Compare an image's measure with a prepared target."""

    def distances(
        self, measures: Sequence[Measure], targets: Sequence[Any], normalization: Normalization
    ) -> Sequence[Scalar]:
        """Compare several measures with a target each, of all layers, regions and styles."""
        return [
            self.distance(measure, target, normalization)
            for measure, target in zip(measures, targets, strict=True)
        ]


class _GramMatrices(StyleStatistic):
    """Statistics whose measures are compared by `losses.style_loss`."""

    def distance(self, measure: Array, target: Array, normalization: Normalization) -> Scalar:
        return style_loss(measure, target, normalization)

    def distances(
        self, measures: Sequence[Array], targets: Sequence[Array], normalization: Normalization
    ) -> Sequence[Scalar]:
        return style_losses(measures, targets, normalization)


@dataclasses.dataclass(frozen=True)
class Gram(_GramMatrices):
    """FᵀF over the divisor (Gatys et al. 2016, eq. 3), compared by `losses.style_loss`."""

    def gather(self, layer: Layer) -> Float[Array, "c c"]:
        guided = _guided(layer.features, layer.guide)
        return gram_matrix(guided, layer.precision, shared=layer.shared)

    def merge(self, some: Float[Array, "c c"], others: Float[Array, "c c"]) -> Array:
        return some + others

    def finish(self, gathered: Float[Array, "c c"], divisor: float) -> Float[Array, "c c"]:
        return gathered / divisor


class Spread(NamedTuple):
    """Weighted mean and scatter of positions; the weights are the squared guide."""

    mass: Scalar
    """Sum of the weights."""
    mean: Float[Array, " c"]
    scatter: Float[Array, "c c"] | Float[Array, " c"]
    """Sum of outer products, or of squares, of deviations from the mean."""


@dataclasses.dataclass(frozen=True)
class Covariance(_GramMatrices):
    """Gram matrices of the deviations from the mean, as in `Gram`."""

    def gather(self, layer: Layer) -> Spread:
        return _products(layer)

    def merge(self, some: Spread, others: Spread) -> Spread:
        return _merged(some, others)

    def finish(self, gathered: Spread, divisor: float) -> Float[Array, "c c"]:
        return gathered.scatter / divisor


@dataclasses.dataclass(frozen=True)
class Moments(StyleStatistic):
    """Mean μ and standard deviation σ of each channel.

    The distance is the mean over channels of (μ−μ')² + (σ−σ')² (Li et al. 2017, eq. 13).
    """

    def gather(self, layer: Layer) -> Spread:
        mass, mean, deviations = _centred(layer)
        squares = jnp.square(_guided(deviations, layer.guide))
        return Spread(mass, mean, jnp.sum(squares, axis=(0, 1)))

    def merge(self, some: Spread, others: Spread) -> Spread:
        return _merged(some, others)

    def finish(self, gathered: Spread, divisor: float) -> tuple[Array, Array]:
        del divisor
        variance = gathered.scatter / _at_least_tiny(gathered.mass)
        return gathered.mean, jnp.sqrt(variance + _TINY)

    def distance(
        self,
        measure: tuple[Array, Array],
        target: tuple[Array, Array],
        normalization: Normalization,
    ) -> Scalar:
        del normalization
        (mean, deviation), (target_mean, target_deviation) = measure, target
        means = jnp.mean(jnp.square(mean - target_mean))
        return means + jnp.mean(jnp.square(deviation - target_deviation))


@dataclasses.dataclass(frozen=True)
class Wasserstein(StyleStatistic):
    """Mean and covariance, compared as those of Gaussians; see `wasserstein.distance`.

    A whole layer with fewer positions than channels is represented by its positions, which takes
    less computation, unless devices share its rows: all would have to be gathered.
    """

    def gather(self, layer: Layer) -> Spread | wasserstein.Sample:
        height, width, channels = layer.features.shape
        if layer.shared or not layer.whole or height * width >= channels:
            return _products(layer)
        mass, mean, deviations = _centred(layer)
        rows = _guided(deviations, layer.guide).reshape(-1, channels)
        return wasserstein.Sample(mean, rows / jnp.sqrt(_at_least_tiny(mass)))

    def merge(
        self, some: Spread | wasserstein.Sample, others: Spread | wasserstein.Sample
    ) -> Spread:
        assert isinstance(some, Spread)
        assert isinstance(others, Spread)
        return _merged(some, others)

    def finish(
        self, gathered: Spread | wasserstein.Sample, divisor: float
    ) -> wasserstein.Gaussian | wasserstein.Sample:
        del divisor
        if isinstance(gathered, wasserstein.Sample):
            return gathered
        covariance = gathered.scatter / _at_least_tiny(gathered.mass)
        return wasserstein.Gaussian(gathered.mean, covariance)

    def as_target(
        self, measure: wasserstein.Gaussian | wasserstein.Sample, positions: int
    ) -> wasserstein.Gaussian:
        del positions
        return wasserstein.gaussian(measure)

    def prepare(self, target: wasserstein.Gaussian) -> wasserstein.Target:
        return wasserstein.prepare(target)

    def distance(
        self,
        measure: wasserstein.Gaussian | wasserstein.Sample,
        target: wasserstein.Target,
        normalization: Normalization,
    ) -> Scalar:
        del normalization
        return wasserstein.distance(measure, target)

    def distances(
        self,
        measures: Sequence[wasserstein.Gaussian | wasserstein.Sample],
        targets: Sequence[wasserstein.Target],
        normalization: Normalization,
    ) -> Sequence[Scalar]:
        del normalization
        return wasserstein.distances(measures, targets)


@dataclasses.dataclass(frozen=True)
class SlicedWasserstein(StyleStatistic):
    """Features projected on random directions (Heitz et al. 2021, eq. 3).

    The distance is the mean over directions of the squared 2-Wasserstein distance of the
    projections. A position is in a region or not: with weights in between, the distance would
    jump where two positions change their order.
    """

    directions: int = 64
    depends_on_positions: ClassVar[bool] = True

    def gather(self, layer: Layer) -> sliced.Projected:
        assert layer.whole, "sorting needs all positions"
        assert layer.axes is not None
        features = _wide(layer.features)
        axes = layer.axes[:, : self.directions].astype(features.dtype)
        projections = jnp.matmul(features, axes, precision=layer.precision)
        return sliced.Projected(
            projections.reshape(-1, self.directions),
            None if layer.guide is None else sliced.shares(layer.guide.reshape(-1)),
        )

    def finish(self, gathered: sliced.Projected, divisor: float) -> sliced.Projected:
        del divisor
        return gathered

    def as_target(self, measure: sliced.Projected, positions: int) -> Float[Array, "m d"]:
        return sliced.quantiles(measure, positions)

    def distance(
        self, measure: sliced.Projected, target: Float[Array, "m d"], normalization: Normalization
    ) -> Scalar:
        del normalization
        return sliced.distance(measure, target)


STATISTICS: dict[str, StyleStatistic] = {
    "gram": Gram(),
    "covariance": Covariance(),
    "wasserstein": Wasserstein(),
    "sliced": SlicedWasserstein(),
    "moments": Moments(),
}
"""The built-in statistics by their names in the settings."""


def statistics_of(config: Config) -> Mapping[str, StyleStatistic]:
    """Return the statistics of `config` by name; a user's own is named by its `str`."""
    return immutabledict(
        {
            named(each): STATISTICS[each] if isinstance(each, str) else each
            for each in config.style_statistics
        }
    )


def _centred(layer: Layer) -> tuple[Scalar, Float[Array, " c"], Float[Array, "h w c"]]:
    """Return the sum of the weights, the weighted mean, and the `_deviations` from it."""
    features, guide = layer.features, layer.guide
    wide = _wide(features)
    if guide is None:
        mass = jnp.asarray(features.shape[0] * features.shape[1], wide.dtype)
        mean = jnp.mean(wide, axis=(0, 1))
    else:
        weights = jnp.square(guide.astype(wide.dtype))[:, :, None]
        mass = jnp.sum(weights)
        mean = jnp.sum(weights * wide, axis=(0, 1)) / _at_least_tiny(mass)
    return mass, mean, _deviations(wide, wide - mean)


@jax.custom_jvp
def _deviations(wide: Float[Array, "h w c"], centred: Float[Array, "h w c"]) -> Array:
    """Return `centred`, `wide` less its mean, with a derivative that leaves the mean out.

    For functions of deviations' products alone: there, the mean's derivative adds up to 0, as
    deviations do, which would take a pass over all of them. Unlike `stop_gradient` of the mean,
    this keeps second derivatives right: the rule returns `centred` with its own derivative.
    """
    del wide
    return centred


@_deviations.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0]


def _products(layer: Layer) -> Spread:
    mass, mean, deviations = _centred(layer)
    guided = _guided(deviations.astype(layer.features.dtype), layer.guide)
    return Spread(mass, mean, gram_matrix(guided, layer.precision, shared=layer.shared))


def _merged(some: Spread, others: Spread) -> Spread:
    """Combine two disjoint sets of positions (Chan, Golub and LeVeque 1983, eq. 2.1)."""
    mass = some.mass + others.mass
    share = others.mass / _at_least_tiny(mass)
    shift = others.mean - some.mean
    products = jnp.outer(shift, shift) if some.scatter.ndim == 2 else jnp.square(shift)
    scatter = some.scatter + others.scatter + some.mass * share * products
    return Spread(mass, some.mean + share * shift, scatter)


def _at_least_tiny(mass: Scalar) -> Scalar:
    # A small region can have no positions at a deep layer.
    return jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)


def _wide(features: Array) -> Array:
    return features.astype(jnp.promote_types(features.dtype, jnp.float32))


def _guided(features: Float[Array, "h w c"], guide: Float[Array, "h w"] | None) -> Array:
    return features if guide is None else features * guide[:, :, None].astype(features.dtype)
