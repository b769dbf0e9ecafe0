"""The objective as a pytree: targets computed once, then image → (loss, terms)."""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jaxtyping import Float

from jaxstyle import regions, statistics, vgg
from jaxstyle.config import Config, Precision, Statistic
from jaxstyle.errors import ConfigError, ImageError
from jaxstyle.images import resize_image
from jaxstyle.losses import content_loss, total_variation
from jaxstyle.regions import Guide, Guides, Region
from jaxstyle.types import Features, Image, Params, Scalar

StyleTargets = dict[str, dict[str, statistics.Measure]]
"""By layer and kind of statistic."""

GREY_LEVELS = 255.0
"""Total variation is taken in grey levels, as in the sources of the presets."""


@struct.dataclass
class StylePart:
    """A region of the image, or all of it, and what is matched there."""

    guides: dict[str, Float[Array, "_h _w"]] | None
    """By layer, for `statistics.measure`; None: everywhere."""
    targets: tuple[StyleTargets, ...]
    shares: dict[str, Float[Array, " s"]]
    """What each of `targets` counts at a layer, the region's area included."""


@struct.dataclass
class Objective:
    """What an image is compared with; call it with an sRGB 0–1 image.

    A pytree: arrays are leaves, so one compiled program serves any weights and targets of
    the same shapes, and `jax.vmap` maps over images, targets and weights alike. What
    changes the program (layers, normalisations, the network's build) is static.
    """

    params: Params
    content_targets: dict[str, Float[Array, "_h _w _c"]]
    parts: tuple[StylePart, ...]
    axes: dict[str, Float[Array, "_c d"]]
    """By layer, what `sliced` projects on."""
    content_weights: dict[str, Scalar]
    """Of each layer's term; all that the settings multiply it by."""
    style_weights: dict[str, Scalar]
    statistics_weights: dict[str, Scalar]
    tv_weight: Scalar
    network: vgg.VGG19 = struct.field(pytree_node=False)
    content_normalization: Literal["sum", "half-sum", "mean"] = struct.field(pytree_node=False)
    style_normalization: Literal["seed", "gatys", "mean"] = struct.field(pytree_node=False)
    tv: Literal["seed", "l1", "l2", "nine-point"] = struct.field(pytree_node=False)
    gray: bool = struct.field(pytree_node=False)
    """Whether only the mean of the image's channels counts."""

    def __call__(self, image: Float[Array, "h w 3"]) -> tuple[Scalar, dict[str, Scalar]]:
        """The loss and its terms: `content`, `style/<layer>` for each layer, and `tv`.

        The terms carry their weights; their sum is the loss.
        """
        if self.gray:
            image = jnp.broadcast_to(jnp.mean(image, axis=2, keepdims=True), image.shape)
        features = vgg.apply(self.network, self.params, image)
        content = jnp.zeros((), jnp.promote_types(image.dtype, jnp.float32))
        for layer, target in self.content_targets.items():
            loss = content_loss(features[layer], target, self.content_normalization)
            content += self.content_weights[layer] * loss
        terms = {"content": content}
        for layer, weight in self.style_weights.items():
            terms[f"style/{layer}"] = weight * self._style_loss(layer, features[layer], image)
        terms["tv"] = self.tv_weight * total_variation(image * GREY_LEVELS, self.tv)
        return jnp.sum(jnp.stack(list(terms.values()))), terms

    def _style_loss(
        self, layer: str, features: Float[Array, "_h _w c"], image: Float[Array, "h w 3"]
    ) -> Scalar:
        losses: list[Scalar] = []
        for part in self.parts:
            measured = _measured(
                tuple(self.statistics_weights),
                features,
                None if part.guides is None else part.guides[layer],
                _divisor(features, image, self.style_normalization),
                self.network.precision,
                self.axes.get(layer),
            )
            for share, targets in zip(part.shares[layer], part.targets, strict=True):
                for kind, weight in self.statistics_weights.items():
                    apart = statistics.distance(
                        kind, measured[kind], targets[layer][kind], self.style_normalization
                    )
                    losses.append(share * weight * apart)
        return jnp.sum(jnp.stack(losses))


def _measured(
    kinds: tuple[str, ...],
    features: Float[Array, "_h _w c"],
    guide: Float[Array, "_h _w"] | None,
    divisor: int,
    precision: Precision,
    axes: Float[Array, "c d"] | None,
) -> dict[str, statistics.Measure]:
    product = vgg.PRECISIONS[precision]
    return {
        kind: statistics.measure(kind, features, guide, divisor, product, axes) for kind in kinds
    }


def _divisor(features: Array, image: Array, normalization: str) -> int:
    """What Gram matrices are divided by: the picture's own size, so that sizes may differ."""
    per = image if normalization == "seed" else features
    return per.shape[0] * per.shape[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _targets(
    network: vgg.VGG19,
    content_layers: tuple[str, ...],
    style_layers: tuple[str, ...],
    kinds: tuple[Statistic, ...],
    normalization: str,
    positions: tuple[int, ...],
    params: Params,
    picture: Float[Array, "h w 3"],
    guides: dict[str, Float[Array, "_h _w"]] | None,
    axes: dict[str, Float[Array, "_c d"]],
) -> tuple[Features, StyleTargets]:
    features = vgg.apply(network, params, picture)
    styles: StyleTargets = {}
    for layer, count in zip(style_layers, positions, strict=True):
        here = features[layer]
        measured = _measured(
            kinds,
            here,
            None if guides is None else guides[layer],
            _divisor(here, picture, normalization),
            network.precision,
            axes.get(layer),
        )
        styles[layer] = {
            kind: statistics.as_target(kind, value, count) for kind, value in measured.items()
        }
    return {layer: features[layer] for layer in content_layers}, styles


def as_styles(content: Image, styles: Image | Sequence[Image]) -> tuple[Image, ...]:
    """The styles as a tuple, once they and the content are known to be pictures.

    Raises:
        ImageError: no style, or something that is not a finite float `[h, w, 3]`.
    """
    if isinstance(styles, (Array, np.ndarray)) and styles.ndim == 3:
        several = (styles,)
    else:
        several = tuple(styles)
    if not several:
        raise ImageError("no style image is given")
    _check_image(content, "content")
    for style in several:
        _check_image(style, "style")
    return several


def check_layers(config: Config) -> None:
    """Raise `ConfigError` for an unknown layer, or one named twice."""
    for names in (config.content_layers, config.style_layers):
        if len({vgg.canonical_layer(name) for name in names}) != len(names):
            raise ConfigError(f"a layer is named twice: {', '.join(names)}")


def style_shares(count: int, config: Config) -> tuple[float, ...]:
    """What each of `count` styles counts: `config.style_weights` made to sum to 1.

    Raises:
        ConfigError: there are more or fewer weights than styles.
    """
    weights = config.style_weights or (1.0,) * count
    if len(weights) != count:
        raise ConfigError(f"style_weights must be as many as styles, {count}, not {len(weights)}")
    largest = max(weights)  # their sum may be infinite
    total = math.fsum(weight / largest for weight in weights)
    return tuple(weight / largest / total for weight in weights)


def check_inputs(content: Image, styles: Sequence[Image], config: Config) -> None:
    """Raise what `build_objective` would, without computing anything.

    Raises:
        ConfigError: an unknown layer, or one named twice.
        ImageError: a picture is too small for its deepest layer.
    """
    check_layers(config)
    vgg.check_size(content.shape, config.layers, config.padding, "content")
    if config.style_shape == "own":
        for style in styles:
            vgg.check_size(style.shape, config.style_layers, config.padding, "style")


def _check_image(image: object, name: str) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3:
        raise ImageError(f"{name} must be an array [height, width, 3], not {shape}")
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ImageError(f"{name} must be floating-point in 0–1, not {dtype}")
    if not np.isfinite(np.asarray(image)).all():
        raise ImageError(f"{name} has values that are not finite")


def prepare_params(params: Params, config: Config) -> Params:
    """`params` with the kernels as `config.convolution` wants them; nothing to do twice."""
    return vgg.transform_kernels(params, config.layers, config.convolution, config.precision)


def content_targets(params: Params, content: Image, config: Config) -> Features:
    """What the content is at `config.content_layers`; `params` from `prepare_params`."""
    if not config.content_layers:
        return {}
    network = _network(params, config.content_layers, config)
    arguments = (network, config.content_layers, (), (), config.style_normalization, ())
    return _targets(*arguments, params, jnp.asarray(content), None, {})[0]


def style_targets(
    params: Params,
    style: Image,
    config: Config,
    like: tuple[int, ...],
    guides: dict[str, np.ndarray] | None = None,
) -> StyleTargets:
    """The statistics of `style`, or of the region in it of `guides`, for images of shape `like`."""
    if not config.style_layers:
        return {}
    if config.style_shape == "content":
        style = resize_image(style, like)
    # A style of the content's shape shares its compiled program.
    content_layers = config.content_layers if style.shape == like else ()
    network = _network(params, (*content_layers, *config.style_layers), config)
    positions = [
        math.prod(vgg.layer_shape(like, layer)) if depends_on_shape(config) else 0
        for layer in config.style_layers
    ]
    return _targets(
        network,
        content_layers,
        config.style_layers,
        config.style_statistics,
        config.style_normalization,
        tuple(positions),
        params,
        jnp.asarray(style),
        guides,
        _axes(network, config),
    )[1]


def depends_on_shape(config: Config) -> bool:
    """Whether what a style is compared by depends on the shape of the image."""
    return config.style_shape == "content" or "sliced" in config.style_statistics


def _axes(network: vgg.VGG19, config: Config) -> dict[str, Float[Array, "_c d"]]:
    if "sliced" not in config.style_statistics:
        return {}
    found: dict[str, Float[Array, "_c d"]] = {}
    for layer in config.style_layers:
        name = vgg.canonical_layer(layer)
        channels = network.channels[int(name[4]) - 1]
        found[layer] = statistics.directions(vgg.LAYERS.index(name), channels, config.seed)
    return found


def _network(params: Params, layers: tuple[str, ...], config: Config) -> vgg.VGG19:
    return vgg.network(params, layers, config.pooling, config.padding, config.precision)


class Guided(NamedTuple):
    """What was made for a region of a picture: its `layer_guides`, or a style's targets there."""

    value: Any
    there: dict[str, bool]
    """Layers at which the region has not vanished."""


def style_part(
    region: Region,
    guides: Guided,
    targets: Sequence[Guided],
    config: Config,
    dtype: jnp.dtype = jnp.dtype(jnp.float32),  # noqa: B008
) -> StylePart:
    """The targets of the styles of one region, blended as `config` says."""
    shares = [share for _, share in region.styles]
    values = tuple(target.value for target in targets)
    if config.style_blend == "statistics":
        shared = [
            jax.tree.map(functools.partial(operator.mul, share), value)
            for share, value in zip(shares, values, strict=True)
        ]
        values, shares = (functools.reduce(optax.tree.add, shared),), [1.0]
    counts: dict[str, Array] = {}
    for layer in config.style_layers:
        there = all(guided.there.get(layer, True) for guided in (guides, *targets))
        counts[layer] = jnp.asarray([share * region.area * there for share in shares], dtype)
    finished = [
        {
            layer: {kind: statistics.prepared(kind, value) for kind, value in kinds.items()}
            for layer, kinds in layers.items()
        }
        for layers in values
    ]
    return StylePart(guides.value, tuple(finished), counts)


EVERYWHERE = Guided(None, {})
"""A region without bounds."""


def assemble_objective(
    params: Params,
    content: Features,
    parts: Sequence[StylePart],
    config: Config,
    dtype: jnp.dtype = jnp.dtype(jnp.float32),  # noqa: B008
) -> Objective:
    """The objective of targets that are already computed."""
    network = _network(params, config.layers, config)
    # seed and gatys average over layers, the others add them up.
    layers = 1.0 if config.style_normalization == "mean" else max(len(config.style_layers), 1)
    return Objective(
        params=params,
        content_targets=content,
        parts=tuple(parts),
        axes=_axes(network, config),
        content_weights=_weights(
            config.content_layers, config.content_layer_weights, config.content_weight, dtype
        ),
        style_weights=_weights(
            config.style_layers, config.style_layer_weights, config.style_weight / layers, dtype
        ),
        statistics_weights=_weights(
            config.style_statistics, config.style_statistics_weights, 1.0, dtype
        ),
        tv_weight=jnp.asarray(config.tv_weight, dtype),
        network=network,
        content_normalization=config.content_normalization,
        style_normalization=config.style_normalization,
        tv=config.tv,
        gray=config.preserve_color == "luminance",
    )


def _weights(
    names: Sequence[str], weights: Sequence[float], weight: float, dtype: jnp.dtype
) -> dict[str, Scalar]:
    each = weights or (1.0,) * len(names)
    return {name: jnp.asarray(weight * here, dtype) for name, here in zip(names, each, strict=True)}


def build_objective(
    params: Params,
    content: Image,
    styles: Image | Sequence[Image],
    config: Config,
    guides: Guides | None = None,
) -> Objective:
    """Compute the targets of `content` and `styles` for images of the content's shape.

    The pictures are used at the size and with the colours they have: `config.size`,
    `style_scale`, `style_size` and `preserve_color` are `stylize`'s to apply. A style is
    stretched to the content's shape only where `config.style_shape` says so. Several styles are
    blended as `config.style_weights` and `config.style_blend` say.

    Args:
        params: from `load_weights`.
        content: sRGB 0–1.
        styles: one sRGB 0–1 image, or several.
        config: weights, layers, statistics, normalisations, pooling, padding, precision.
        guides: which style goes where; all of them everywhere if not given.

    Raises:
        ConfigError: an unknown layer, or one named twice; style weights that do not match.
        ImageError: a picture is of the wrong form, or too small for its deepest layer; guides
            that do not go with the pictures.
    """
    several = as_styles(content, styles)
    check_inputs(content, several, config)
    params = prepare_params(params, config)
    dtype = jnp.promote_types(content.dtype, jnp.float32)
    parts: list[StylePart] = []
    for region in regions.assign(guides, style_shares(len(several), config)):
        targets = [
            guided_targets(
                params, several[i], config, content.shape, style_guide(guides, i), region
            )
            for i, _ in region.styles
        ]
        here = guided_content(guides, region, content.shape, config)
        parts.append(style_part(region, here, targets, config, dtype))
    found = content_targets(params, content, config)
    return assemble_objective(params, found, parts, config, dtype)


def style_guide(guides: Guides | None, position: int) -> Guide | None:
    """The guide of the style at `position`, if there is one."""
    return guides.styles[position] if guides is not None and guides.styles else None


def guided_content(
    guides: Guides | None, region: Region, shape: tuple[int, ...], config: Config
) -> Guided:
    """Where `region` is in a content of `shape`."""
    if guides is None or region.color is None:
        return EVERYWHERE
    layers = config.style_layers
    return Guided(*regions.layer_guides(guides.content, region.color, shape, layers, "content"))


def guided_targets(
    params: Params,
    style: Image,
    config: Config,
    like: tuple[int, ...],
    guide: Guide | None,
    region: Region,
) -> Guided:
    """`style_targets` of what of `style` belongs to `region`."""
    where = _guided_style(style.shape, config, like, guide, region)
    return where._replace(value=style_targets(params, style, config, like, where.value))


def _guided_style(
    shape: tuple[int, ...],
    config: Config,
    like: tuple[int, ...],
    guide: Guide | None,
    region: Region,
) -> Guided:
    if guide is None or region.color is None:
        return EVERYWHERE
    shape = like if config.style_shape == "content" else shape
    return Guided(*regions.layer_guides(guide, region.color, shape, config.style_layers, "style"))


def check_guides(content: Image, styles: Sequence[Image], config: Config, guides: Guides) -> None:
    """Raise what `build_objective` would because of the guides, without computing anything.

    Raises:
        ImageError: guides and pictures do not go together, or a region is too small.
    """
    regions.check_shape(guides.content, content.shape, "content")
    for guide, style in zip(guides.styles, styles, strict=False):
        regions.check_shape(guide, style.shape, "style")
    for region in regions.assign(guides, style_shares(len(styles), config)):
        guided_content(guides, region, content.shape, config)
        for i, _ in region.styles:
            guide = style_guide(guides, i)
            _guided_style(styles[i].shape, config, content.shape, guide, region)
