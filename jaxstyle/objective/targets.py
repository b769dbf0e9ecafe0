"""Targets: features of the content and statistics of the styles, computed once for a run."""

import functools
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from immutabledict import immutabledict
from jax import Array
from jaxtyping import Float

from jaxstyle.config import (
    Config,
    ConfigError,
    ImageError,
    Precision,
    WeightsError,
    brief,
    counted,
    named,
)
from jaxstyle.imaging import Image, PictureLike, as_several, load_image, resize_image
from jaxstyle.network import (
    FeatureExtractor,
    Features,
    Params,
    check_size,
    extract,
    network_of,
    vgg,
)
from jaxstyle.objective import regions, sliced, tiling
from jaxstyle.objective.guides import Guide, Guides
from jaxstyle.objective.losses import Scalar
from jaxstyle.objective.objective import (
    GatheredLayers,
    Objective,
    StylePart,
    StyleTargets,
    divisor,
    gathered_of,
    merged,
    zeros,
)
from jaxstyle.objective.regions import Region
from jaxstyle.objective.style_statistics import StyleStatistic, statistics_of

Bind = Callable[..., Callable[..., Any]]
"""`functools.partial`, or a function that compiles the jitted function for the static arguments
that it is given, in a way of its own."""


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _features(
    network: FeatureExtractor,
    layers: tuple[str, ...],
    tiles: tiling.Tiling | None,
    params: Params,
    picture: Float[Array, "h w 3"],
) -> Features:
    compute = functools.partial(extract, network, layers)
    if tiles is None:
        return compute(params, picture)

    def visit(carry: Features, features: Features, place: tiling.Place) -> Features:
        return {layer: place.put(layer, whole, features[layer]) for layer, whole in carry.items()}

    shapes = jax.eval_shape(compute, params, picture)
    return tiling.fold(network, layers, params, picture, tiles, visit, zeros(shapes))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5, 6))
def _statistics(
    network: FeatureExtractor,
    layers: tuple[str, ...],
    precision: Precision,
    statistics: Mapping[str, StyleStatistic],
    normalization: str,
    positions: tuple[int, ...],
    tiles: tiling.Tiling | None,
    params: Params,
    picture: Float[Array, "h w 3"],
    guides: dict[str, Float[Array, "_h _w"]] | None,
    axes: dict[str, Float[Array, "_c d"]],
) -> StyleTargets:
    compute = functools.partial(extract, network, layers)

    def gathered(features: Features, place: tiling.Place | None) -> GatheredLayers:
        return gathered_of(
            statistics, layers, features, guides, precision, axes, place, whole=tiles is None
        )

    def visit(carry: GatheredLayers, features: Features, place: tiling.Place) -> GatheredLayers:
        return merged(statistics, carry, gathered(features, place))

    if tiles is None:
        whole = gathered(compute(params, picture), None)
    else:
        features = jax.eval_shape(compute, params, picture)
        shapes = jax.eval_shape(lambda features: gathered(features, None), features)
        whole = tiling.fold(network, layers, params, picture, tiles, visit, zeros(shapes))
    targets: StyleTargets = {}
    for layer, positions_of_layer in zip(layers, positions, strict=True):
        divided_by = divisor(network, layer, picture, normalization)
        targets[layer] = {
            kind: statistics[kind].as_target(
                statistics[kind].finish(sums, divided_by), positions_of_layer
            )
            for kind, sums in whole[layer].items()
        }
    return targets


def as_styles(styles: PictureLike | Iterable[PictureLike]) -> tuple[PictureLike, ...]:
    """Return the styles, which may be a single picture, as a tuple.

    Raises:
        ImageError: there is none.
    """
    listed = as_several(styles)
    if not listed:
        raise ImageError("no style image is given")
    return listed


def check_settings(config: Config) -> None:
    """Check settings that depend on the network and the statistics.

    Raises:
        ConfigError: an unknown layer, or one named twice; a statistic of whole layers, or a network
            whose layers do not know their reach, with tiles; recomputed activations of a network
            that has none.
    """
    network = network_of(config)
    for names in (config.content_layers, config.style_layers):
        if len({network.canonical(name) for name in names}) != len(names):
            raise ConfigError(f"a layer is named twice: {', '.join(names)}")
    if config.activations == "recomputed" and not network.recompute:
        raise ConfigError(f"network {network} does not recompute activations")
    if config.activations != "tiled" and config.tile is None:
        return
    for layer in config.layers:
        if network.reach(layer) is None:
            raise ConfigError(
                f"network {network} cannot be tiled: the reach of {layer} is not known"
            )
    for name, statistic in statistics_of(config).items():
        if not statistic.mergeable:
            raise ConfigError(f"style_statistics {name} needs whole layers, not tiles of them")


def tileable(config: Config) -> bool:
    """Return whether the network and all statistics can be computed tile by tile."""
    network = network_of(config)
    known = all(network.reach(layer) is not None for layer in config.layers)
    return known and all(statistic.mergeable for statistic in statistics_of(config).values())


def style_shares(count: int, config: Config) -> tuple[float, ...]:
    """Return the share of each of `count` styles: `config.style_weights`, scaled to sum to 1.

    Raises:
        ConfigError: there are more or fewer weights than styles.
    """
    weights = config.style_weights or (1.0,) * count
    if len(weights) != count:
        raise ConfigError(
            f"{len(weights)} style_weights for {counted(count, 'style')}; give one for each"
        )
    largest = max(weights)  # their sum may be infinite
    total = math.fsum(weight / largest for weight in weights)
    return tuple(weight / largest / total for weight in weights)


def check_shapes(
    content: tuple[int, ...], styles: Sequence[tuple[int, ...]], config: Config
) -> None:
    """Raise the errors of `build_objective` for pictures of these shapes.

    Raises:
        ConfigError: an unknown layer, or one named twice; an extra term that is no number.
        ImageError: a picture is too small for its deepest layer.
    """
    check_settings(config)
    for term in config.extra_terms:
        image = jax.ShapeDtypeStruct((*content[:2], 3), jnp.float32)
        found = jax.tree.leaves(jax.eval_shape(term, image))
        if [leaf.shape for leaf in found] != [()]:
            given = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in found) or "nothing"
            raise ConfigError(f"extra_terms {named(term)} must return a number, not {given}")
    network = network_of(config)
    check_size(network, content, config.layers, "content")
    if config.style_shape == "own":
        for style in styles:
            check_size(network, style, config.style_layers, "style")


def check_params(params: Any) -> None:
    """Raise `WeightsError` for weights that are still a file."""
    if isinstance(params, (str, os.PathLike)):
        raise WeightsError(f"params must be weights, not a path: load_weights({str(params)!r})")


def prepare_params(params: Params, config: Config) -> Params:
    """Return `params` in the form that the network of `config` uses, if they are not already."""
    return network_of(config).prepare(params, config.layers)


def content_targets(
    params: Params, content: Image, config: Config, bind: Bind = functools.partial
) -> Features:
    """Compute the content's features at `config.content_layers`.

    Args:
        params: from `load_weights` or `prepare_params`.
        content: sRGB 0–1.
        config: names the layers.
        bind: see `Bind`.
    """
    if not config.content_layers:
        return {}
    layers = tuple(config.content_layers)
    tiles = tiling_of(content.shape, layers, config)
    return bind(_features, network_of(config), layers, tiles)(params, content)


def tiling_of(
    shape: tuple[int, ...], layers: tuple[str, ...], config: Config
) -> tiling.Tiling | None:
    """Return the tiles in which pictures of `shape` are evaluated, or None for whole pictures."""
    if config.activations != "tiled" and config.tile is None:
        return None
    return tiling.tile(network_of(config), shape, config.tile or tiling.SIDE, layers)


def style_targets(
    params: Params,
    style: Image,
    config: Config,
    like: tuple[int, ...],
    guides: dict[str, np.ndarray] | None = None,
    bind: Bind = functools.partial,
) -> StyleTargets:
    """Compute the statistics of `style` for images of shape `like`.

    Args:
        params: from `load_weights` or `prepare_params`.
        style: sRGB 0–1.
        config: names the layers and statistics.
        like: shape of the images.
        guides: from `layer_guides`, for the statistics of one region of the style.
        bind: see `Bind`.
    """
    if not config.style_layers:
        return {}
    if config.style_shape == "content":
        style = resize_image(style, like)
    network, layers = network_of(config), tuple(config.style_layers)
    positions = [
        math.prod(network.shape(layer, like)) if depends_on_shape(config) else 0 for layer in layers
    ]
    compute = bind(
        _statistics,
        network,
        layers,
        vgg.precision_of(params, config.precision),
        statistics_of(config),
        config.style_normalization,
        tuple(positions),
        tiling_of(style.shape, layers, config),
    )
    return compute(params, style, guides, _axes(params, config))


def depends_on_shape(config: Config) -> bool:
    """Return whether the style's targets depend on the shape of the image."""
    return config.style_shape == "content" or any(
        statistic.depends_on_positions for statistic in statistics_of(config).values()
    )


def needs_directions(config: Config) -> bool:
    """Return whether a statistic projects features on random directions."""
    return _directions(config) > 0


def _directions(config: Config) -> int:
    return max(statistic.directions for statistic in statistics_of(config).values())


def _axes(params: Params, config: Config) -> dict[str, Float[Array, "_c d"]]:
    number = _directions(config)
    if not number:
        return {}
    network = network_of(config)
    axes: dict[str, Float[Array, "_c d"]] = {}
    for layer in config.style_layers:
        position = network.layers.index(network.canonical(layer))
        channels = network.channels(params, layer)
        axes[layer] = sliced.directions(position, channels, number, config.seed)
    return axes


class Guided(NamedTuple):
    """Data of one region of a picture: its `layer_guides`, or a style's targets in it."""

    value: Any
    there: dict[str, bool]
    """Whether the region is present, by layer; true for layers left out."""


def blend(
    targets: Sequence[StyleTargets], shares: Sequence[float], config: Config
) -> tuple[StyleTargets, ...]:
    """Blend styles into one target, the mean of their statistics, or keep one target each.

    Targets are prepared for `StyleStatistic.distance`, which takes the host a second or two for
    each of them.

    Args:
        targets: targets of each style, from `style_targets`.
        shares: share of each style; they sum to 1.
        config: whether to blend, as `style_blend`.
    """
    statistics = statistics_of(config)
    if config.style_blend == "statistics":
        shared = [
            jax.tree.map(functools.partial(operator.mul, share), each)
            for share, each in zip(shares, targets, strict=True)
        ]
        targets = (functools.reduce(optax.tree.add, shared),)
    return tuple(
        {
            layer: {kind: statistics[kind].prepare(value) for kind, value in kinds.items()}
            for layer, kinds in layers.items()
        }
        for layers in targets
    )


def style_part(
    region: Region,
    guides: Guided,
    styles: Guided,
    config: Config,
    dtype: jnp.dtype,
) -> StylePart:
    """Assemble the targets of one region, weighted by its area and by the shares of its styles.

    Args:
        region: the region, with the shares of its styles.
        guides: guides of the content.
        styles: targets, from `blend`.
        config: names the layers.
        dtype: type of the weights.
    """
    blended = config.style_blend == "statistics"
    shares = [1.0] if blended else [share for _, share in region.styles]
    counts: dict[str, Array] = {}
    for layer in config.style_layers:
        there = guides.there.get(layer, True) and styles.there.get(layer, True)
        counts[layer] = _placed([share * region.area * there for share in shares], dtype)
    return StylePart(guides.value, styles.value, counts)


def everywhere_there(guided: Sequence[Guided]) -> dict[str, bool]:
    """Return, by layer, whether all of these regions are present."""
    layers = {layer for each in guided for layer in each.there}
    return {layer: all(each.there.get(layer, True) for each in guided) for layer in layers}


EVERYWHERE = Guided(None, {})
"""The region that is the whole picture."""


def assemble_objective(
    params: Params,
    shape: tuple[int, ...],
    content: Features,
    parts: Sequence[StylePart],
    config: Config,
    dtype: jnp.dtype,
) -> Objective:
    """Assemble an objective for images of `shape` from targets computed before."""
    # seed and gatys average over layers, the others add them up.
    layers = 1.0 if config.style_normalization == "mean" else max(len(config.style_layers), 1)
    tiles = tiling_of(shape, config.layers, config)
    guided = any(part.guides for part in parts)
    sized = bool(content or tiles or guided) or depends_on_shape(config)
    return Objective(
        params=params,
        content_targets=content,
        parts=tuple(parts),
        axes=_axes(params, config),
        content_weights=_weights(config.content_layers, config.content_weight, dtype),
        style_weights=_weights(config.style_layers, config.style_weight / layers, dtype),
        statistics_weights=_weights(config.style_statistics, 1.0, dtype),
        tv_weight=_placed(config.tv_weight, dtype),
        extra_weights=_weights(config.extra_terms, 1.0, dtype),
        statistics=statistics_of(config),
        network=network_of(config),
        precision=vgg.precision_of(params, config.precision),
        convolution=vgg.convolution_of(params),
        content_normalization=config.content_normalization,
        style_normalization=config.style_normalization,
        tv=config.tv,
        extra_terms=immutabledict({named(term): term for term in config.extra_terms}),
        gray=config.preserve_color == "luminance",
        tiles=tiles,
        shape=(shape[0], shape[1]) if sized else None,
    )


def _weights(weights: Mapping[Any, float], weight: float, dtype: jnp.dtype) -> dict[str, Scalar]:
    return {named(name): _placed(weight * each, dtype) for name, each in weights.items()}


def _placed(value: Any, dtype: jnp.dtype) -> Array:
    """Like `jnp.asarray`, but convert the dtype on the host, which compiles nothing."""
    return jax.device_put(np.asarray(value, dtype))


def build_objective(
    params: Params,
    content: PictureLike,
    styles: PictureLike | Sequence[PictureLike],
    config: Config,
    guides: Guides | None = None,
) -> Objective:
    """Compute the targets of `content` and `styles` for images of the content's shape.

    Pictures are used as they are: resizing (`config.size`, `style_scale`, `style_size`) and
    recolouring (`preserve_color`) are left to `stylize`, except that `luminance` compares images
    in grey. A style is stretched to the content's shape if `config.style_shape` is `content`.
    Several styles are blended by `config.style_weights` and `config.style_blend`. Automatic
    `activations` are kept.

    Args:
        params: from `load_weights`.
        content: a picture that `load_image` takes.
        styles: one such picture, or several.
        config: weights, layers, statistics, normalizations, pooling, padding, precision.
        guides: regions and their styles; by default all styles apply everywhere.

    Raises:
        ConfigError: an unknown layer, or one named twice; style weights that do not match.
        ImageError: a picture is of the wrong form, or too small for its deepest layer; guides
            that do not match the pictures.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"config must be a Config, not {brief(repr(config))}")
    check_params(params)
    content = load_image(content, name="content")
    listed = [load_image(style, name="style") for style in as_styles(styles)]
    shapes = [style.shape for style in listed]
    check_shapes(content.shape, shapes, config)
    if guides is not None:
        regions.check_aspects(guides, content.shape, shapes)
    # JAX may reduce NumPy's float64.
    dtype = jnp.promote_types(jnp.asarray(content).dtype, jnp.float32)
    parts: list[StylePart] = []
    for region in regions.assign(guides, style_shares(len(listed), config)):
        targets = [
            guided_targets(params, listed[i], config, content.shape, style_guide(guides, i), region)
            for i, _ in region.styles
        ]
        shares = [share for _, share in region.styles]
        values = [jax.device_get(target.value) for target in targets]
        blended = blend(values, shares, config)
        parts.append(
            style_part(
                region,
                guided_content(guides, region, content.shape, config),
                Guided(blended, everywhere_there(targets)),
                config,
                dtype,
            )
        )
    features = content_targets(params, content, config)
    prepared, parts = prepare_params(params, config), jax.device_put(parts)
    return assemble_objective(prepared, content.shape, features, parts, config, dtype)


def style_guide(guides: Guides | None, position: int) -> Guide | None:
    """Return the guide of the style at `position`, or None."""
    return guides.styles[position] if guides is not None and guides.styles else None


def guided_content(
    guides: Guides | None, region: Region, shape: tuple[int, ...], config: Config
) -> Guided:
    """Compute the guides of `region` for a content of `shape`."""
    if guides is None or region.color is None:
        return EVERYWHERE
    return _layer_guides(guides.content, region, shape, config, "content")


def guided_targets(
    params: Params,
    style: Image,
    config: Config,
    like: tuple[int, ...],
    guide: Guide | None,
    region: Region,
    bind: Bind = functools.partial,
) -> Guided:
    """Compute the `style_targets` of the part of `style` that belongs to `region`."""
    guided = _guided_style(style.shape, config, like, guide, region)
    return guided._replace(value=style_targets(params, style, config, like, guided.value, bind))


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
    return _layer_guides(guide, region, shape, config, "style")


def _layer_guides(
    guide: Guide, region: Region, shape: tuple[int, ...], config: Config, name: str
) -> Guided:
    assert region.color is not None
    network, layers = network_of(config), config.style_layers
    return Guided(*regions.layer_guides(guide, region.color, shape, network, layers, name))


def check_guides(
    content: tuple[int, ...],
    styles: Sequence[tuple[int, ...]],
    config: Config,
    guides: Guides,
) -> None:
    """Raise the errors of `build_objective` about regions, for pictures of these shapes.

    Raises:
        ImageError: guides and styles do not match, or a region is too small.
    """
    for region in regions.assign(guides, style_shares(len(styles), config)):
        guided_content(guides, region, content, config)
        for i, _ in region.styles:
            guide = style_guide(guides, i)
            _guided_style(styles[i], config, content, guide, region)
