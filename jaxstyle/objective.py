"""The objective as a pytree: targets computed once, then image → (loss, terms)."""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jaxtyping import Float

from jaxstyle import vgg
from jaxstyle.config import Config, Precision
from jaxstyle.errors import ConfigError, ImageError
from jaxstyle.images import resize_image
from jaxstyle.losses import content_loss, gram_matrix, style_loss, total_variation
from jaxstyle.types import Features, Image, Params, Scalar

GREY_LEVELS = 255.0
"""Total variation is taken in grey levels, as in the sources of the presets."""


@struct.dataclass
class Objective:
    """What an image is compared with; call it with an sRGB 0–1 image.

    A pytree: arrays are leaves, so one compiled program serves any weights and targets of
    the same shapes, and `jax.vmap` maps over images, targets and weights alike. What
    changes the program (layers, normalisations, the network's build) is static.
    """

    params: Params
    content_targets: dict[str, Float[Array, "_h _w _c"]]
    style_targets: tuple[dict[str, Float[Array, "_c _c"]], ...]
    style_shares: Float[Array, " s"]
    """What each of `style_targets` counts; they sum to 1."""
    content_weights: dict[str, Scalar]
    """Of each layer's term; all that the settings multiply it by."""
    style_weights: dict[str, Scalar]
    tv_weight: Scalar
    network: vgg.VGG19 = struct.field(pytree_node=False)
    content_normalization: Literal["sum", "half-sum", "mean"] = struct.field(pytree_node=False)
    style_normalization: Literal["seed", "gatys", "mean"] = struct.field(pytree_node=False)
    tv: Literal["seed", "l1", "l2", "nine-point"] = struct.field(pytree_node=False)

    def __call__(self, image: Float[Array, "h w 3"]) -> tuple[Scalar, dict[str, Scalar]]:
        """The loss and its terms: `content`, `style/<layer>` for each layer, and `tv`.

        The terms carry their weights; their sum is the loss.
        """
        features = vgg.apply(self.network, self.params, image)
        content = jnp.zeros((), jnp.promote_types(image.dtype, jnp.float32))
        for layer, target in self.content_targets.items():
            loss = content_loss(features[layer], target, self.content_normalization)
            content += self.content_weights[layer] * loss
        terms = {"content": content}
        for layer, weight in self.style_weights.items():
            gram = _normalized_gram(
                features[layer], image, self.style_normalization, self.network.precision
            )
            losses = [
                share * style_loss(gram, targets[layer], self.style_normalization)
                for share, targets in zip(self.style_shares, self.style_targets, strict=True)
            ]
            terms[f"style/{layer}"] = weight * sum(losses)
        terms["tv"] = self.tv_weight * total_variation(image * GREY_LEVELS, self.tv)
        return jnp.sum(jnp.stack(list(terms.values()))), terms


def _normalized_gram(
    features: Float[Array, "_h _w c"],
    image: Float[Array, "h w 3"],
    normalization: str,
    precision: Precision,
) -> Float[Array, "c c"]:
    """The Gram matrix divided by the picture's own size: so that sizes may differ."""
    per = image if normalization == "seed" else features
    return gram_matrix(features, vgg.PRECISIONS[precision]) / (per.shape[0] * per.shape[1])


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _targets(
    network: vgg.VGG19,
    content_layers: tuple[str, ...],
    style_layers: tuple[str, ...],
    normalization: str,
    params: Params,
    picture: Float[Array, "h w 3"],
) -> tuple[Features, dict[str, Float[Array, "_c _c"]]]:
    features = vgg.apply(network, params, picture)
    grams = {
        layer: _normalized_gram(features[layer], picture, normalization, network.precision)
        for layer in style_layers
    }
    return {layer: features[layer] for layer in content_layers}, grams


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
    return _compute_targets(params, content, config, config.content_layers)[0]


def style_targets(
    params: Params, style: Image, config: Config, like: tuple[int, ...]
) -> dict[str, Float[Array, "_c _c"]]:
    """The normalised Gram matrices of `style` for images of the shape `like`."""
    if config.style_shape == "content":
        style = resize_image(style, like)
    # A style of the content's shape shares its compiled program.
    layers = config.content_layers if style.shape == like else ()
    return _compute_targets(params, style, config, layers)[1]


def _compute_targets(
    params: Params, picture: Image, config: Config, content_layers: tuple[str, ...]
) -> tuple[Features, dict[str, Float[Array, "_c _c"]]]:
    if not (content_layers or config.style_layers):
        return {}, {}
    network = _network(params, (*content_layers, *config.style_layers), config)
    arguments = (network, content_layers, config.style_layers, config.style_normalization)
    return _targets(*arguments, params, jnp.asarray(picture))


def _network(params: Params, layers: tuple[str, ...], config: Config) -> vgg.VGG19:
    return vgg.network(params, layers, config.pooling, config.padding, config.precision)


def assemble_objective(
    params: Params,
    content: Features,
    styles: Sequence[dict[str, Float[Array, "_c _c"]]],
    config: Config,
    dtype: jnp.dtype = jnp.dtype(jnp.float32),  # noqa: B008
) -> Objective:
    """The objective of targets that are already computed, blended as `config` says.

    Raises:
        ConfigError: see `style_shares`.
    """
    shares = style_shares(len(styles), config)
    targets = tuple(styles)
    if config.style_blend == "statistics":
        shared = [
            jax.tree.map(functools.partial(operator.mul, share), style)
            for share, style in zip(shares, styles, strict=True)
        ]
        targets, shares = (functools.reduce(optax.tree.add, shared),), (1.0,)
    # seed and gatys average over layers, the others add them up.
    layers = 1.0 if config.style_normalization == "mean" else max(len(config.style_layers), 1)
    return Objective(
        params=params,
        content_targets=content,
        style_targets=targets,
        style_shares=jnp.asarray(shares, dtype),
        content_weights=_layer_weights(
            config.content_layers, config.content_layer_weights, config.content_weight, dtype
        ),
        style_weights=_layer_weights(
            config.style_layers, config.style_layer_weights, config.style_weight / layers, dtype
        ),
        tv_weight=jnp.asarray(config.tv_weight, dtype),
        network=_network(params, config.layers, config),
        content_normalization=config.content_normalization,
        style_normalization=config.style_normalization,
        tv=config.tv,
    )


def _layer_weights(
    layers: Sequence[str], weights: Sequence[float], weight: float, dtype: jnp.dtype
) -> dict[str, Scalar]:
    each = weights or (1.0,) * len(layers)
    return {
        layer: jnp.asarray(weight * here, dtype) for layer, here in zip(layers, each, strict=True)
    }


def build_objective(
    params: Params, content: Image, styles: Image | Sequence[Image], config: Config
) -> Objective:
    """Compute the targets of `content` and `styles` for images of the content's shape.

    The pictures are used at the size they have: `config.size` is `stylize`'s to apply. A
    style is stretched to the content's shape only where `config.style_shape` says so. Several
    styles are blended as `config.style_weights` and `config.style_blend` say.

    Args:
        params: from `load_weights`.
        content: sRGB 0–1.
        styles: one sRGB 0–1 image, or several.
        config: weights, layers, normalisations, pooling, padding, precision.

    Raises:
        ConfigError: an unknown layer, or one named twice; style weights that do not match.
        ImageError: a picture is of the wrong form, or too small for its deepest layer.
    """
    several = as_styles(content, styles)
    check_inputs(content, several, config)
    params = prepare_params(params, config)
    return assemble_objective(
        params,
        content_targets(params, content, config),
        [style_targets(params, style, config, content.shape) for style in several],
        config,
        jnp.promote_types(content.dtype, jnp.float32),
    )
