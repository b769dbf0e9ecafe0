"""The objective as a pytree: precomputed targets, called as image → (loss, terms)."""

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float

from jaxstyle.config import ImageError, Precision
from jaxstyle.network import FeatureExtractor, Features, Params, check_size, extract, vgg
from jaxstyle.objective import tiling
from jaxstyle.objective.losses import Scalar, content_loss, total_variation
from jaxstyle.objective.style_statistics import Gathered, Layer, Measure, StyleStatistic, Target

StyleTargets = dict[str, dict[str, Any]]
"""Targets by layer and statistic; see `StyleStatistic.as_target`."""

GatheredLayers = dict[str, dict[str, Gathered]]
"""Results of `StyleStatistic.gather` by layer and statistic."""

GREY_LEVELS = 255.0
"""Image values are multiplied by this for total variation, as in the sources of the presets."""


@struct.dataclass
class StylePart:
    """A region of the image, or all of it, and the style targets matched there."""

    guides: dict[str, Float[Array, "_h _w"]] | None
    """The region's guides by layer, for `StyleStatistic.gather`; None means the whole image."""
    targets: tuple[StyleTargets, ...]
    shares: dict[str, Float[Array, " s"]]
    """Weight of each of `targets` by layer, including the region's area."""


@struct.dataclass
class Objective:
    """The loss of an image and its targets; call it with an sRGB 0–1 image.

    A pytree whose leaves are the arrays, so one compiled program serves any weights and targets
    of the same shapes, and `jax.vmap` maps over images, targets and weights alike. Fields that
    change the program (layers, normalizations, the network's build) are static.
    """

    params: Params
    content_targets: dict[str, Float[Array, "_h _w _c"]]
    parts: tuple[StylePart, ...]
    axes: dict[str, Float[Array, "_c d"]]
    """Directions to project on by layer, see `StyleStatistic.directions`."""
    content_weights: dict[str, Scalar]
    """Weight of each layer's term: the product of all its weights in the settings."""
    style_weights: dict[str, Scalar]
    statistics_weights: dict[str, Scalar]
    tv_weight: Scalar
    extra_weights: dict[str, Scalar]
    statistics: Mapping[str, StyleStatistic] = struct.field(pytree_node=False)
    """Hashable, like all static fields."""
    network: FeatureExtractor = struct.field(pytree_node=False)
    precision: Precision = struct.field(pytree_node=False)
    """Precision of the statistics' products."""
    convolution: Literal["direct", "winograd"] = struct.field(pytree_node=False)
    """Algorithm of the network's convolutions."""
    content_normalization: Literal["sum", "half-sum", "mean"] = struct.field(pytree_node=False)
    style_normalization: Literal["seed", "gatys", "mean"] = struct.field(pytree_node=False)
    tv: Literal["seed", "l1", "l2", "nine-point"] = struct.field(pytree_node=False)
    extra_terms: Mapping[str, Callable[[Float[Array, "h w 3"]], Scalar]] = struct.field(
        pytree_node=False
    )
    """Terms of the user's own by name."""
    gray: bool = struct.field(pytree_node=False)
    """Whether only the mean of the image's channels is compared."""
    shared: bool = struct.field(pytree_node=False, default=False)
    """Whether several devices share the image's rows."""
    tiles: tiling.Tiling | None = struct.field(pytree_node=False, default=None)
    """The tiles in which features are computed; None for the whole image at once."""
    shape: tuple[int, int] | None = struct.field(pytree_node=False, default=None)
    """Height and width of the only images that it takes; None if nothing depends on them."""

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that are compared."""
        return tuple(dict.fromkeys((*self.content_weights, *self.style_weights)))

    @property
    def activations(self) -> Literal["kept", "recomputed", "tiled"]:
        """How a gradient gets the network's activations; see `Config`."""
        if self.tiles is not None:
            return "tiled"
        return "recomputed" if self.network.recompute else "kept"

    @property
    def has_rows(self) -> "Objective":
        """The same structure with booleans: whether an array's first axis is a layer's rows."""
        none = jax.tree.map(lambda _: False, self)
        parts = [
            part.replace(guides=jax.tree.map(lambda _: True, part.guides)) for part in none.parts
        ]
        targets = jax.tree.map(lambda _: True, self.content_targets)
        return none.replace(content_targets=targets, parts=tuple(parts))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise `ImageError` if this objective takes no image of `shape`."""
        if len(shape) != 3 or shape[2] != 3:
            raise ImageError(f"image must be an array [height, width, 3], not {list(shape)}")
        check_size(self.network, shape, self.layers)
        if self.shape is not None and self.shape != tuple(shape[:2]):
            height, width = self.shape
            raise ImageError(
                f"the objective was built for images of {width}×{height}, not {shape[1]}×{shape[0]}"
            )

    def __call__(self, image: Float[Array, "h w 3"]) -> tuple[Scalar, dict[str, Scalar]]:
        """Compute the loss and its terms: `content`, `style/<layer>`, `tv` and `extra/<name>`.

        The terms are already weighted; the loss is their sum.

        Raises:
            ImageError: the objective takes no image of this shape, or it is not floating-point.
        """
        self.check_shape(image.shape)
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise ImageError(f"image must be floating-point, sRGB in 0–1, not {image.dtype}")
        if self.gray:
            image = jnp.broadcast_to(jnp.mean(image, axis=2, keepdims=True), image.shape)
        contents, measures = self._measure(image)
        content = jnp.zeros((), jnp.promote_types(image.dtype, jnp.float32))
        for layer, loss in contents.items():
            content += self.content_weights[layer] * loss
        terms = {"content": content}
        for layer, loss in self._style_losses(measures, image).items():
            terms[f"style/{layer}"] = self.style_weights[layer] * loss
        terms["tv"] = self.tv_weight * total_variation(image * GREY_LEVELS, self.tv)
        for name, term in self.extra_terms.items():
            terms[f"extra/{name}"] = self.extra_weights[name] * term(image)
        return jnp.sum(jnp.stack(list(terms.values()))), terms

    def _measure(
        self, image: Float[Array, "h w 3"]
    ) -> tuple[dict[str, Scalar], list[GatheredLayers]]:
        """Compute the loss of each content layer, and the gathered statistics of each part."""
        if self.tiles is None:
            features = extract(self.network, self.layers, self.params, image)
            return self._measure_features(features, None, whole=True)

        def visit(carry: Any, features: Features, place: tiling.Place) -> Any:
            contents, measures = self._measure_features(features, place, whole=False)
            return (
                jax.tree.map(operator.add, carry[0], contents),
                [merged(self.statistics, *pair) for pair in zip(carry[1], measures, strict=True)],
            )

        return tiling.fold(
            self.network, self.layers, self.params, image, self.tiles, visit, self._nothing(image)
        )

    def _nothing(self, image: Float[Array, "h w 3"]) -> Any:
        """Return zeros like the result of `_measure_features`, to start a sum over tiles."""
        compute = functools.partial(extract, self.network, self.layers)
        features = jax.eval_shape(compute, self.params, image)
        measure = functools.partial(self._measure_features, place=None, whole=False)
        return zeros(jax.eval_shape(measure, features))

    def _measure_features(
        self, features: Features, place: tiling.Place | None, *, whole: bool
    ) -> tuple[dict[str, Scalar], list[GatheredLayers]]:
        contents = {
            layer: _content_loss(layer, features[layer], target, self.content_normalization, place)
            for layer, target in self.content_targets.items()
        }
        gather = functools.partial(
            gathered_of,
            self.statistics,
            tuple(self.style_weights),
            features,
            precision=self.precision,
            axes=self.axes,
            shared=self.shared,
        )
        measures = [gather(part.guides, place=place, whole=whole) for part in self.parts]
        return contents, measures

    def _style_losses(
        self, gathered: Sequence[GatheredLayers], image: Float[Array, "h w 3"]
    ) -> dict[str, Scalar]:
        if not self.style_weights:
            return {}
        # Of all layers at once, for statistics that compute their distances together.
        places: list[tuple[str, Scalar]] = []
        measures: dict[str, list[Measure]] = {kind: [] for kind in self.statistics}
        targets: dict[str, list[Target]] = {kind: [] for kind in self.statistics}
        for layer in self.style_weights:
            gram_divisor = divisor(self.network, layer, image, self.style_normalization)
            for part, results in zip(self.parts, gathered, strict=True):
                measured = {
                    kind: self.statistics[kind].finish(result, gram_divisor)
                    for kind, result in results[layer].items()
                }
                for share, wanted in zip(part.shares[layer], part.targets, strict=True):
                    places.append((layer, share))
                    for kind, measure in measured.items():
                        measures[kind].append(measure)
                        targets[kind].append(wanted[layer][kind])
        distances = {
            kind: statistic.distances(measures[kind], targets[kind], self.style_normalization)
            for kind, statistic in self.statistics.items()
        }
        losses: dict[str, list[Scalar]] = {layer: [] for layer in self.style_weights}
        for position, (layer, share) in enumerate(places):
            for kind, weight in self.statistics_weights.items():
                losses[layer].append(share * weight * distances[kind][position])
        return {layer: jnp.sum(jnp.stack(each)) for layer, each in losses.items()}


def zeros(shapes: Any) -> Any:
    """Return zeros in the shapes and types of a pytree's leaves."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _content_loss(
    layer: str,
    features: Float[Array, "_h _w c"],
    target: Float[Array, "_h2 _w2 c"],
    normalization: Literal["sum", "half-sum", "mean"],
    place: tiling.Place | None,
) -> Scalar:
    if place is None:
        return content_loss(features, target, normalization)
    own = place.own(layer, features)[:, :, None]
    window = place.cut(layer, target, features)
    loss = content_loss(features * own.astype(features.dtype), window * own, normalization)
    # Rescale to a mean over the whole layer.
    return loss * (features.size / target.size) if normalization == "mean" else loss


def gathered_of(
    statistics: Mapping[str, StyleStatistic],
    layers: tuple[str, ...],
    features: Features,
    guides: dict[str, Float[Array, "_h _w"]] | None,
    precision: Precision,
    axes: dict[str, Float[Array, "_c d"]],
    place: tiling.Place | None,
    *,
    whole: bool,
    shared: bool = False,
) -> GatheredLayers:
    """Gather statistics over all positions or, given a `place`, over the tile's own."""
    gathered: GatheredLayers = {}
    for layer in layers:
        values = features[layer]
        guide = None if guides is None else guides[layer]
        if place is not None:
            own = place.own(layer, values)
            guide = own if guide is None else own * place.cut(layer, jnp.asarray(guide), values)
        gathered[layer] = {
            kind: statistic.gather(
                Layer(values, guide, vgg.PRECISIONS[precision], axes.get(layer), whole, shared)
            )
            for kind, statistic in statistics.items()
        }
    return gathered


def merged(
    statistics: Mapping[str, StyleStatistic], some: GatheredLayers, others: GatheredLayers
) -> GatheredLayers:
    """Merge what was gathered from two disjoint sets of positions."""
    return {
        layer: {
            kind: statistics[kind].merge(gathered, others[layer][kind])
            for kind, gathered in kinds.items()
        }
        for layer, kinds in some.items()
    }


def divisor(network: FeatureExtractor, layer: str, picture: Array, normalization: str) -> int:
    """Return the divisor of Gram matrices: the picture's own size, so that sizes may differ."""
    return math.prod(
        picture.shape[:2] if normalization == "seed" else network.shape(layer, picture.shape)
    )
