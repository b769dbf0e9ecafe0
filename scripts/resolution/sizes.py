"""Whether a result's features keep their size relative to the image, whatever its size is."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxstyle import Config, extract_features, load_image, save_image, stylize
from jaxstyle.images import fit_shape, resize_image
from jaxstyle.losses import gram_matrix
from jaxstyle.types import Image, Params

LAYERS = ("relu2_1", "relu3_1", "relu4_1")
"""relu1_1 would judge how sharp enlarged pictures are."""

MAGNIFICATIONS = tuple(2 ** (step / 2) for step in range(-4, 5))


def texture_distances(params: Params, image: Image, reference: Image) -> tuple[float, ...]:
    """How far Gram matrices are from the reference's, mean over layers, by magnification.

    `image` is resized so that its long side is each of `MAGNIFICATIONS` times the reference's:
    where features have the same size relative to both images, it is closest at 1; where they are
    as many pixels large in an image four times as large, at 4.
    """
    wanted = _grams(params, reference)
    distances: list[float] = []
    for magnification in MAGNIFICATIONS:
        long_side = round(max(reference.shape[:2]) * magnification)
        found = _grams(params, resize_image(image, fit_shape(image.shape, long_side)))
        pairs = zip(found, wanted, strict=True)
        distances.append(
            float(np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]))
        )
    return tuple(distances)


def _grams(params: Params, image: Image) -> list[np.ndarray]:
    features = extract_features(params, jnp.asarray(image), LAYERS, padding="replicate")
    means = (gram_matrix(each) / (each.shape[0] * each.shape[1]) for each in features.values())
    return [np.asarray(mean) for mean in means]


def sizes_table(
    params: Params,
    content: Path,
    style: Path,
    config: Config,
    sizes: Sequence[int],
    output: Path,
) -> str:
    """Stylize at every size, and compare each with the first, in Markdown.

    The pictures are written to `output`, and used from there where they are already.
    """
    output.mkdir(parents=True, exist_ok=True)
    pictures = load_image(str(content)), load_image(str(style))
    results: list[Image] = []
    for size in sizes:
        stored = output / f"{content.stem}_{style.stem}_{size}.png"
        if not stored.exists():
            save_image(stored, stylize(*pictures, config.replace(size=size), params).image)
        results.append(load_image(str(stored)))
    header = " | ".join(f"×{magnification:.2f}" for magnification in MAGNIFICATIONS)
    lines = [f"| size | {header} | closest at |", "|---" * (len(MAGNIFICATIONS) + 2) + "|"]
    for size, result in zip(sizes[1:], results[1:], strict=True):
        distances = texture_distances(params, result, results[0])
        cells = " | ".join(f"{distance:.2f}" for distance in distances)
        closest = MAGNIFICATIONS[int(np.argmin(distances))]
        lines.append(f"| {size} | {cells} | ×{closest:.2f} |")
    return "\n".join(lines)
