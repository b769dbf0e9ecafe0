"""A user's own statistic goes wherever a named one goes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle import (
    Config,
    ConfigError,
    Guides,
    StyleStatistic,
    build_objective,
    extract_features,
    stylize,
    stylize_batch,
)
from jaxstyle.config import flat
from jaxstyle.engine import fitting, layout
from jaxstyle.network.arrays import Params
from jaxstyle.objective import Layer
from tests.conftest import SHALLOW, evaluate, picture, random_params

CONTENT, STYLE, OTHER = picture(48, 64, 0), picture(40, 36, 1), picture(40, 36, 3)
LAYERS = {"relu1_1": 1.0, "relu1_2": 0.5}
BASE = SHALLOW.replace(
    evaluations=4,
    content_layers=("relu1_2",),
    style_layers=LAYERS,
    style_weight=3.0,
    convolution="direct",
)


@dataclasses.dataclass(frozen=True)
class Means(StyleStatistic):
    """Mean of each channel, of whole layers."""

    power: float = 2.0

    def gather(self, layer: Layer) -> jax.Array:
        assert layer.whole
        return jnp.mean(layer.features, axis=(0, 1))

    def finish(self, gathered: jax.Array, divisor: float) -> jax.Array:
        del divisor
        return gathered

    def distance(self, measure: jax.Array, target: jax.Array, normalization: Any) -> jax.Array:
        del normalization
        return jnp.mean(jnp.abs(measure - target) ** self.power)


@dataclasses.dataclass(frozen=True)
class MergedMeans(Means):
    """The same, also of regions and tiles."""

    def gather(self, layer: Layer) -> Any:
        guide = jnp.ones(layer.features.shape[:2]) if layer.guide is None else layer.guide
        weights = jnp.square(guide)[:, :, None]
        return jnp.sum(weights), jnp.sum(weights * layer.features, axis=(0, 1))

    def merge(self, some: Any, others: Any) -> Any:
        return jax.tree.map(jnp.add, some, others)

    def finish(self, gathered: Any, divisor: float) -> jax.Array:
        del divisor
        mass, total = gathered
        return total / mass


@dataclasses.dataclass(frozen=True)
class Projections(StyleStatistic):
    """Mean square along random directions."""

    directions: int = 5

    def gather(self, layer: Layer) -> jax.Array:
        assert layer.axes is not None
        projected = layer.features @ layer.axes[:, : self.directions]
        return jnp.mean(jnp.square(projected), axis=(0, 1))

    def finish(self, gathered: jax.Array, divisor: float) -> jax.Array:
        del divisor
        return gathered

    def distance(self, measure: jax.Array, target: jax.Array, normalization: Any) -> jax.Array:
        del normalization
        return jnp.mean(jnp.square(measure - target))


def of(*statistics: Any, **changes: Any) -> Config:
    return BASE.replace(style_statistics=statistics, **changes)


def means(params: Params, image: np.ndarray) -> dict[str, np.ndarray]:
    features = extract_features(params, image, list(LAYERS), padding="replicate")
    return {layer: np.asarray(each).mean(axis=(0, 1)) for layer, each in features.items()}


@pytest.mark.parametrize("power", [2.0, 4.0])
@pytest.mark.parametrize("kind", [Means, MergedMeans])
def test_terms_are_what_it_says(small_params: Params, kind: type[Means], power: float) -> None:
    config = BASE.replace(style_statistics={kind(power): 0.25})
    image = picture(48, 64, 2)
    objective = build_objective(small_params, CONTENT, STYLE, config)
    (_, terms), _ = evaluate(objective, jnp.asarray(image))
    found, wanted = means(small_params, image), means(small_params, STYLE)
    for layer, weight in LAYERS.items():
        by_hand = np.mean(np.abs(found[layer] - wanted[layer]) ** power)
        assert_allclose(terms[f"style/{layer}"], 3.0 * weight * 0.25 * by_hand, rtol=1e-4)


def test_it_goes_beside_named_ones(small_params: Params) -> None:
    image = jnp.asarray(picture(48, 64, 2))
    weights = {"gram": 2.0, Means(): 0.5, "sliced": 1.0, Projections(80): 3.0}

    def term(statistics: dict) -> float:
        config = BASE.replace(style_statistics=statistics)
        (_, terms), _ = evaluate(build_objective(small_params, CONTENT, STYLE, config), image)
        return terms["style/relu1_2"]

    alone = [term({statistic: weight}) for statistic, weight in weights.items()]
    assert all(alone)
    assert_allclose(term(weights), sum(alone), rtol=1e-4)


def test_directions_are_seeded(small_params: Params) -> None:
    image = jnp.asarray(picture(48, 64, 2))
    losses = [
        float(build_objective(small_params, CONTENT, STYLE, of(Projections(), seed=seed))(image)[0])
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_runs_and_batches_match_it(small_params: Params) -> None:
    # Equal ones share a program.
    configs = [of(Means()), of(Means(), style_weight=30.0), of(Means(4.0))]
    styles = [STYLE, OTHER, STYLE]
    before = layout._compiled.cache_info().misses
    batch = stylize_batch([CONTENT] * 3, styles, configs, small_params, lanes=2)
    assert layout._compiled.cache_info().misses == before + 2
    for result, style, config in zip(batch, styles, configs, strict=True):
        single = stylize(CONTENT, style, config, small_params)
        assert result.loss < result.history[0].loss
        assert_allclose(result.loss, single.loss, rtol=1e-3)
        assert_allclose(result.image, single.image, atol=2e-3)


def test_styles_are_blended(small_params: Params) -> None:
    config = of(Means(), style_weights=(3.0, 1.0))
    image = picture(48, 64, 2)
    objective = build_objective(small_params, CONTENT, [STYLE, OTHER], config)
    (_, terms), _ = evaluate(objective, jnp.asarray(image))
    first, second, found = (means(small_params, each) for each in (STYLE, OTHER, image))
    wanted = 0.75 * first["relu1_1"] + 0.25 * second["relu1_1"]
    by_hand = 3.0 * np.mean((found["relu1_1"] - wanted) ** 2)
    assert_allclose(terms["style/relu1_1"], by_hand, rtol=1e-4)


def test_one_that_merges_may_have_tiles_and_regions(small_params: Params) -> None:
    guide = np.zeros((48, 64, 3), np.float32)
    guide[:, 24:] = 1
    guides = Guides.of(guide)
    whole, tiled = of(MergedMeans()), of(MergedMeans(), tile=24)
    image = jnp.asarray(picture(48, 64, 2))
    ((first, _), slope), ((second, _), tiled_slope) = (
        evaluate(build_objective(small_params, CONTENT, STYLE, config, guides), image)
        for config in (whole, tiled)
    )
    assert_allclose(second, first, rtol=1e-5)
    assert_allclose(tiled_slope, slope, rtol=1e-3, atol=1e-5 * np.abs(slope).max())
    run = stylize(CONTENT, STYLE, tiled, small_params)
    assert run.activations == "tiled"
    assert run.loss < run.history[0].loss
    (lane,) = stylize_batch(CONTENT, STYLE, tiled, small_params)
    assert_allclose(lane.image, run.image, atol=2e-3)


@pytest.mark.parametrize("changes", [{"tile": 24}, {"activations": "tiled"}], ids=str)
def test_one_that_does_not_merge_has_no_tiles(
    small_params: Params, changes: dict[str, Any]
) -> None:
    config = of(Means(), **changes)
    refused = r"Means\(power=2.0\) needs whole layers, not tiles"
    with pytest.raises(ConfigError, match=refused):
        build_objective(small_params, CONTENT, STYLE, config)
    for run in (stylize, stylize_batch):
        with pytest.raises(ConfigError, match=refused):
            run(CONTENT, STYLE, config, small_params)


def test_tiles_are_chosen_for_one_that_merges() -> None:
    wide = random_params((64, 64, 8, 8, 8))
    shape, memory = (2048, 2048, 3), 3 * 10**9
    fitted = fitting.fit(of(MergedMeans(), optimizer="adam"), shape, wide, memory)
    assert fitted.activations == "tiled"
    with pytest.raises(ConfigError, match="activations recomputed need about"):
        fitting.fit(of(Means(), optimizer="adam"), shape, wide, memory)


def test_its_class_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"style_statistics: expected an instance, as in Means\(\.\.\.\)"
    ):
        BASE.replace(style_statistics=[Means])


def test_settings_with_it_are_compared_and_written() -> None:
    assert of(Means()) == of(Means())
    assert hash(of(Means())) == hash(of(Means()))
    assert of(Means()) not in (of(Means(4.0)), of(MergedMeans()), of("gram"))
    assert flat(of(Means()))["style_statistics"] == {"Means(power=2.0)": 1.0}
