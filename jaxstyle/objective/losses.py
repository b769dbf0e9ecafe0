"""Content, style and total-variation terms: pure functions of arrays.

Sums are computed in float32, or in float64 for float64 inputs, regardless of the network's
precision.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

Scalar = Float[Array, ""]
"""A scalar JAX array."""

Normalization = Literal["seed", "gatys", "mean"]


def _accumulator(array: Array) -> Array:
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _absolute(x: Array) -> Array:
    # jnp.abs has slope 1 at 0, which would skew flat regions.
    return x * jax.lax.stop_gradient(jnp.sign(x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _self_product(
    features: Float[Array, "*positions c"], precision: jax.lax.Precision
) -> Float[Array, "c c"]:
    return _accumulated_product(features, features, precision)


@_self_product.defjvp
def _(
    precision: jax.lax.Precision,
    primals: tuple[Float[Array, "*positions c"]],
    tangents: tuple[Float[Array, "*positions c"]],
) -> tuple[Float[Array, "c c"], Float[Array, "c c"]]:
    (features,), (tangent,) = primals, tangents
    # Its transpose is one product with the symmetric part, instead of one for each factor.
    half = _accumulated_product(features, tangent, precision)
    return _self_product(features, precision), half + half.T


def _accumulated_product(
    left: Float[Array, "*positions c"],
    right: Float[Array, "*positions d"],
    precision: jax.lax.Precision,
) -> Float[Array, "c d"]:
    dtype = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(
        "...c,...d->cd", left, right, precision=precision, preferred_element_type=dtype
    )


@functools.partial(jax.jit, static_argnames=("precision", "shared"))
def gram_matrix(
    features: Float[Array, "h w c"],
    precision: jax.lax.Precision = jax.lax.Precision.HIGHEST,
    *,
    shared: bool = False,
) -> Float[Array, "c c"]:
    """Compute the Gram matrix FᵀF, channel co-activations summed over positions, in float32.

    It is not normalized: each objective divides it as its source does (Gatys et al. 2016, eq. 3).

    Args:
        features: the features of a layer.
        precision: of the product.
        shared: whether devices share the rows. If so, positions are not flattened, since XLA would
            gather all rows for it; otherwise they are, since its CPU backend would copy the
            features.
    """
    if not shared:
        features = features.reshape(-1, features.shape[-1])
    return _self_product(features, precision)


@functools.partial(jax.jit, static_argnames="normalization")
def content_loss(
    features: Float[Array, "h w c"],
    target: Float[Array, "h w c"],
    normalization: Literal["sum", "half-sum", "mean"],
) -> Scalar:
    """Compute the squared difference of features: Σ, ½Σ (Gatys et al. 2016, eq. 1) or the mean."""
    squares = jnp.square(_accumulator(features) - _accumulator(target))
    if normalization == "mean":
        return jnp.mean(squares)
    return jnp.sum(squares) * (0.5 if normalization == "half-sum" else 1.0)


@functools.partial(jax.jit, static_argnames="normalization")
def style_loss(
    gram: Float[Array, "c c"],
    target: Float[Array, "c c"],
    normalization: Normalization,
) -> Scalar:
    """Compute the squared difference of two Gram matrices, each already divided by its own size.

    For a difference Δ of Gram matrices with N channels:

    - `seed`: ‖Δ‖² / (4·3²), Gram matrices divided by the image's number of pixels at every layer
      (the Keras example, which uses the 3 of RGB for N);
    - `gatys`: ‖Δ‖² / (4N²), Gram matrices divided by the layer's number of positions (Gatys et al.
      2016, eq. 4);
    - `mean`: the mean of (Δ/N)² over the N² entries, Gram matrices as in `gatys` (neural-style;
      Gatys' notebook).
    """
    (loss,) = style_losses((gram,), (target,), normalization)
    return loss


def style_losses(
    grams: Sequence[Float[Array, "_c _c"]],
    targets: Sequence[Float[Array, "_c _c"]],
    normalization: Normalization,
) -> tuple[Scalar, ...]:
    """Compute `style_loss` of several pairs of Gram matrices."""
    squares = [jnp.square(gram - target) for gram, target in zip(grams, targets, strict=True)]
    # In rows of one length, whose sums are one kernel on a GPU.
    length = math.gcd(*(each.size for each in squares))
    rows = [each.reshape(-1, length) for each in squares]
    ends = np.cumsum([len(each) for each in rows])
    totals = sums(jnp.split(jnp.sum(jnp.concatenate(rows), axis=1), ends[:-1]))
    channels = np.asarray([len(gram) for gram in grams], totals.dtype)
    if normalization == "seed":
        divisors = np.full_like(channels, 4 * 3**2)
    else:
        divisors = channels**4 if normalization == "mean" else 4 * channels**2
    return tuple(totals / divisors)


def sums(vectors: Sequence[Float[Array, " _n"]]) -> Float[Array, " k"]:
    """Sum each vector, all of them in one kernel on a GPU."""
    lengths = [len(vector) for vector in vectors]
    owners = np.repeat(np.arange(len(lengths)), lengths)
    own = owners == np.arange(len(lengths))[:, None]
    return jnp.sum(jnp.where(own, jnp.concatenate(vectors), 0.0), axis=1)


@functools.partial(jax.jit, static_argnames="kind")
def total_variation(
    image: Float[Array, "h w c"], kind: Literal["seed", "l1", "l2", "nine-point"]
) -> Scalar:
    """Compute the total variation of `image`, which may be in any unit that suits the weight.

    - `seed`: Σ (dy² + dx²)^1.25 where both neighbours exist (the Keras example);
    - `l1`: Σ|dy| + Σ|dx| (Rudin et al. 1992, anisotropic);
    - `l2`: ½(Σdy² + Σdx²) (jcjohnson/neural-style);
    - `nine-point`: ⅔(mean dy² + mean dx²) + ⅙(mean of both diagonals' squares), with means over
      all positions and the last row and column repeated (crowsonkb/style-transfer-pytorch).
    """
    image = _accumulator(image)
    if kind == "nine-point":
        return _nine_point_variation(image)
    dy = image[1:] - image[:-1]
    dx = image[:, 1:] - image[:, :-1]
    if kind == "seed":
        return jnp.sum(jnp.power(jnp.square(dy[:, :-1]) + jnp.square(dx[:-1]), 1.25))
    if kind == "l1":
        return jnp.sum(_absolute(dy)) + jnp.sum(_absolute(dx))
    return 0.5 * (jnp.sum(jnp.square(dy)) + jnp.sum(jnp.square(dx)))


def _nine_point_variation(image: Float[Array, "h w c"]) -> Scalar:
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across, down = padded[1:-1, 2:] - image, padded[2:, 1:-1] - image
    # One more row and column than the image: at a corner both pixels may come from the border.
    falling = padded[1:, 1:] - padded[:-1, :-1]
    rising = padded[1:, :-1] - padded[:-1, 1:]
    straight = jnp.mean(jnp.square(across) + jnp.square(down))
    diagonal = jnp.mean(jnp.square(falling) + jnp.square(rising))
    return 2 / 3 * straight + diagonal / 6
