"""The objective as a pytree: targets computed once, then image → (loss, terms)."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float

from jaxstyle import vgg
from jaxstyle.config import Config
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
    style_targets: dict[str, Float[Array, "_c _c"]]
    content_weight: Scalar
    style_weight: Scalar
    tv_weight: Scalar
    network: vgg.VGG19 = struct.field(pytree_node=False)
    content_normalization: Literal["sum", "half-sum", "mean"] = struct.field(pytree_node=False)
    style_normalization: Literal["seed", "gatys", "mean"] = struct.field(pytree_node=False)
    tv: Literal["seed", "l1", "l2"] = struct.field(pytree_node=False)

    def __call__(self, image: Float[Array, "h w 3"]) -> tuple[Scalar, dict[str, Scalar]]:
        """The loss and its terms: `content`, `style/<layer>` for each layer, and `tv`.

        The terms carry their weights; their sum is the loss.
        """
        features = vgg.apply(self.network, self.params, image)
        content = jnp.zeros((), jnp.promote_types(image.dtype, jnp.float32))
        for layer, target in self.content_targets.items():
            content += content_loss(features[layer], target, self.content_normalization)
        terms = {"content": self.content_weight * content}
        # seed and gatys average over layers, the others add them up.
        share = 1.0 if self.style_normalization == "mean" else 1.0 / max(len(self.style_targets), 1)
        for layer, target in self.style_targets.items():
            gram = _normalized_gram(
                features[layer], image, self.style_normalization, self.network.precision
            )
            loss = style_loss(gram, target, self.style_normalization)
            terms[f"style/{layer}"] = self.style_weight * share * loss
        terms["tv"] = self.tv_weight * total_variation(image * GREY_LEVELS, self.tv)
        return jnp.sum(jnp.stack(list(terms.values()))), terms


def _normalized_gram(
    features: Float[Array, "_h _w c"],
    image: Float[Array, "h w 3"],
    normalization: str,
    precision: vgg.Precision,
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


def check_inputs(content: Image, styles: Sequence[Image], config: Config) -> None:
    """Raise what `build_objective` would, without computing anything.

    Raises:
        ConfigError: an unknown layer, or one named twice.
        ImageError: a picture is too small for its deepest layer.
    """
    for names in (config.content_layers, config.style_layers):
        if len({vgg.canonical_layer(name) for name in names}) != len(names):
            raise ConfigError(f"a layer is named twice: {', '.join(names)}")
    every = (*config.content_layers, *config.style_layers)
    vgg.check_size(content.shape, every, config.padding, "content")
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


def build_objective(
    params: Params, content: Image, styles: Image | Sequence[Image], config: Config
) -> Objective:
    """Compute the targets of `content` and `styles` for images of the content's shape.

    The pictures are used at the size they have: `config.size` is `stylize`'s to apply. A
    style is stretched to the content's shape only where `config.style_shape` says so. Of
    several styles the normalised Gram matrices are averaged.

    Args:
        params: from `load_weights`.
        content: sRGB 0–1.
        styles: one sRGB 0–1 image, or several.
        config: weights, layers, normalisations, pooling, padding, precision.

    Raises:
        ConfigError: an unknown layer, or one named twice.
        ImageError: a picture is of the wrong form, or too small for its deepest layer.
    """
    several = as_styles(content, styles)
    check_inputs(content, several, config)
    if config.style_shape == "content":
        several = tuple(resize_image(style, content.shape) for style in several)

    every = (*config.content_layers, *config.style_layers)
    params = vgg.transform_kernels(params, every, config.convolution, config.precision)

    def build(names: tuple[str, ...]) -> vgg.VGG19:
        return vgg.network(params, names, config.pooling, config.padding, config.precision)

    def targets(
        picture: Image, content_layers: tuple[str, ...]
    ) -> tuple[Features, dict[str, Array]]:
        style_layers = config.style_layers
        network = build((*content_layers, *style_layers))
        arguments = (network, content_layers, style_layers, config.style_normalization)
        return _targets(*arguments, params, jnp.asarray(picture))

    content_targets, style_targets = targets(content, config.content_layers)
    if config.style_layers:
        # A style of the content's shape shares its compiled program.
        shared = {content.shape: config.content_layers}
        each = [targets(style, shared.get(style.shape, ()))[1] for style in several]
        style_targets = jax.tree.map(lambda *grams: sum(grams) / len(grams), *each)
    dtype = jnp.promote_types(content.dtype, jnp.float32)
    return Objective(
        params=params,
        content_targets=content_targets,
        style_targets=style_targets,
        content_weight=jnp.asarray(config.content_weight, dtype),
        style_weight=jnp.asarray(config.style_weight, dtype),
        tv_weight=jnp.asarray(config.tv_weight, dtype),
        network=build(every),
        content_normalization=config.content_normalization,
        style_normalization=config.style_normalization,
        tv=config.tv,
    )
