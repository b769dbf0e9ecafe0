"""A user's own network goes wherever a named one goes."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxstyle import (
    Config,
    ConfigError,
    FunctionExtractor,
    Guides,
    build_objective,
    extract_features,
    run_grid,
    stylize,
    stylize_batch,
)
from jaxstyle.config import flat
from jaxstyle.engine import fitting, layout
from jaxstyle.engine.compiling import thrifty_options
from jaxstyle.engine.optimizers import make_optimizer, state_like
from jaxstyle.engine.update import update
from jaxstyle.storage import product
from tests.conftest import SHALLOW, evaluate, picture
from tests.own_networks import (
    BLURRED,
    LINEN,
    NNX,
    OF_LINEN,
    POOLED_PARAMS,
    STRIDED,
    STRIDED_PARAMS,
    Blurred,
    Strided,
)

# Neither 2 nor 3 divides a side.
CONTENT, STYLE = picture(77, 95, 0), picture(53, 61, 1)
NETWORKS = pytest.mark.parametrize(
    ("config", "params"),
    [(LINEN, STRIDED_PARAMS), (NNX, POOLED_PARAMS), (BLURRED, {})],
    ids=["linen", "nnx", "no parameters"],
)
TILEABLE = pytest.mark.parametrize(
    ("config", "params"), [(LINEN, STRIDED_PARAMS), (NNX, POOLED_PARAMS)], ids=["linen", "nnx"]
)


def test_terms_are_those_of_its_features() -> None:
    image = picture(77, 95, 2)
    objective = build_objective(STRIDED_PARAMS, CONTENT, STYLE, LINEN)
    (_, terms), _ = evaluate(objective, jnp.asarray(image))
    found, content, style = (
        jax.tree.map(
            functools.partial(np.asarray, dtype=np.float64), STRIDED.apply(STRIDED_PARAMS, each)
        )
        for each in (image, CONTENT, STYLE)
    )
    by_hand = LINEN.content_weight * np.mean((found["late"] - content["late"]) ** 2)
    assert_allclose(terms["content"], by_hand, rtol=1e-4)
    for layer in LINEN.style_layers:
        flats = (each[layer].reshape(-1, each[layer].shape[-1]) for each in (found, style))
        ours, theirs = (flat.T @ flat / len(flat) for flat in flats)
        by_hand = np.mean((ours - theirs) ** 2) / len(ours) ** 2 * LINEN.style_weight
        assert_allclose(terms[f"style/{layer}"], by_hand, rtol=1e-3)


@NETWORKS
def test_runs_and_batches_match_it(config: Config, params: Any) -> None:
    configs = [config, config.replace(style_weight=10 * config.style_weight)]
    before = layout._compiled.cache_info().misses
    batch = stylize_batch(CONTENT, STYLE, configs, params, lanes=2)
    assert layout._compiled.cache_info().misses == before + 1
    for lane, setting in zip(batch, configs, strict=True):
        single = stylize(CONTENT, STYLE, setting, params)
        assert lane.loss < lane.history[0].loss
        assert_allclose(lane.loss, single.loss, rtol=1e-3)
        assert_allclose(lane.image, single.image, atol=2e-3)
        assert (single.convolution, single.activations) == ("direct", "kept")


@pytest.mark.parametrize("shape", [(77, 95), (78, 96)])
@TILEABLE
def test_tiles_change_nothing(config: Config, params: Any, shape: tuple[int, int]) -> None:
    content, image = picture(*shape, 0), jnp.asarray(picture(*shape, 2))
    config = config.replace(style_statistics=("gram", "wasserstein"), style_normalization="seed")
    whole = build_objective(params, content, STYLE, config)
    tiled = build_objective(params, content, STYLE, config.replace(tile=24))
    assert tiled.tiles is not None
    assert len(tiled.tiles.tiles) >= 9
    for layer, target in whole.content_targets.items():
        assert_allclose(tiled.content_targets[layer], target, atol=1e-5)
    ((loss, terms), slope), ((tiled_loss, tiled_terms), tiled_slope) = (
        evaluate(objective, image) for objective in (whole, tiled)
    )
    assert_allclose(tiled_loss, loss, rtol=1e-4)
    for name, term in terms.items():
        assert_allclose(tiled_terms[name], term, rtol=1e-3, err_msg=name)
    assert_allclose(tiled_slope, slope, rtol=1e-2, atol=1e-4 * np.abs(slope).max())
    run = stylize(content, STYLE, config.replace(tile=24), params)
    assert run.activations == "tiled"
    assert run.loss < run.history[0].loss


@TILEABLE
def test_a_reach_that_is_too_short_shows(config: Config, params: Any) -> None:
    network: Any = config.network
    short = dataclasses.replace(network, reaches=dict.fromkeys(network.layers, 0))
    whole, tiled = (
        build_objective(params, CONTENT, STYLE, config.replace(network=each, tile=tile))
        for each, tile in ((network, None), (short, 24))
    )
    layer = "late"
    error = np.abs(tiled.content_targets[layer] - whole.content_targets[layer]).max()
    assert error > 0.01


@TILEABLE
def test_regions_and_projections(config: Config, params: Any) -> None:
    guide = np.zeros((77, 95), bool)
    guide[:, 40:] = True
    config = config.replace(style_statistics=("gram", "sliced"), evaluations=3)
    run = stylize(CONTENT, [STYLE, picture(40, 36, 3)], config, params, guides=guide)
    assert run.loss < run.history[0].loss
    objective = build_objective(params, CONTENT, STYLE, config, Guides.of(guide))
    guides = objective.parts[0].guides
    assert guides is not None
    features = extract_features(params, CONTENT, list(guides), network=config.network)
    assert {k: v.shape for k, v in guides.items()} == {k: v.shape[:2] for k, v in features.items()}


@pytest.mark.parametrize("settings", [{"activations": "kept"}, {"tile": 96}], ids=str)
def test_memory_is_estimated(settings: dict[str, Any]) -> None:
    config = LINEN.replace(**settings)
    params = jax.tree.map(jnp.asarray, STRIDED_PARAMS)
    config = fitting.fit(config, (384, 512), params, 2**35)
    content = picture(384, 512, 0)
    objective = build_objective(params, content, STYLE, config)
    step = jax.jit(functools.partial(update, make_optimizer(config)), donate_argnums=1)
    options = None if config.activations == "kept" else thrifty_options()
    usage = step.lower(objective, state_like(content.shape, config)).compile(options)
    analysis = usage.memory_analysis()
    assert analysis is not None
    need = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    assert 0.6 < fitting.estimate(config, content.shape, params) / need < 1.8


def test_activations_of_inner_functions_count() -> None:
    def scanned(params: Any, image: jax.Array) -> dict[str, jax.Array]:
        @jax.checkpoint
        def step(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
            return jax.nn.relu(x @ kernel), None

        return {"last": jax.lax.scan(step, image, params)[0]}

    network = FunctionExtractor(scanned, {"last": 1})
    assert network.activations(jnp.zeros((5, 3, 3)), (7, 11), ("last",)) == 5 * 7 * 11 * 3


def test_kept_or_tiled_is_chosen_for_it() -> None:
    wide = Strided(32)
    params = jax.eval_shape(wide.init, jax.random.key(0), jnp.zeros((16, 16, 3)))
    network = dataclasses.replace(OF_LINEN, function=wide.apply)
    config = LINEN.replace(network=network, optimizer="adam")
    chosen = [
        fitting.fit(config, (2048, 2048), params, memory).activations
        for memory in (5 * 10**10, 5 * 10**9)
    ]
    assert chosen == ["kept", "tiled"]
    with pytest.raises(ConfigError, match="activations kept need about"):
        fitting.fit(BLURRED.replace(optimizer="adam"), (16384, 16384), {}, 10**9)


MISTAKES = [
    (LINEN.replace(style_layers=("earlier",)), "unknown layer 'earlier'; close ones are early"),
    (SHALLOW.replace(network=OF_LINEN), "unknown layer 'relu3_1'; close ones are early"),
    (LINEN.replace(activations="recomputed"), "network Strided does not recompute"),
    (
        LINEN.replace(network=dataclasses.replace(OF_LINEN, reaches=None), tile=24),
        "network Strided cannot be tiled: the reach of late is not known",
    ),
    (BLURRED.replace(activations="tiled"), r"network Blurred\(contrast=2.0\) cannot be tiled"),
    (
        LINEN.replace(network=dataclasses.replace(OF_LINEN, rounds_up=False)),
        r"Strided: late has the shape \(39, 48, 10\) for an image of 77×95; its stride of 2 "
        r"says \(38, 47, 'channels'\)",
    ),
    (
        LINEN.replace(
            network=FunctionExtractor(STRIDED.apply, {"early": 1, "last": 2}),
            content_layers=("last",),
            style_layers=("early",),
        ),
        "Strided returns no last; it has early, middle, late",
    ),
]


@pytest.mark.parametrize(("config", "told"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_told(config: Config, told: str) -> None:
    for run in (stylize, stylize_batch):
        with pytest.raises(ConfigError, match=told):
            run(CONTENT, STYLE, config, STRIDED_PARAMS)


def test_its_parameters_are_asked_for() -> None:
    for run in (stylize, stylize_batch):
        with pytest.raises(ConfigError, match="network Strided has no file of weights: give"):
            run(CONTENT, STYLE, LINEN)


def test_what_is_no_network_is_told() -> None:
    @dataclasses.dataclass
    class Changing:
        stride = Blurred.stride

    with pytest.raises(ConfigError, match="network must be 'vgg19' or 'vgg16', not 'vgg11'"):
        Config(network="vgg11")
    with pytest.raises(ConfigError, match="network must be 'vgg19' or 'vgg16', not <"):
        Config(network=STRIDED.apply)
    with pytest.raises(
        ConfigError, match=r"network: expected an instance, as in Blurred\(\.\.\.\)"
    ):
        Config(network=Blurred)
    with pytest.raises(ConfigError, match=r"network: .*Changing.* must be hashable; make"):
        Config(network=Changing())
    with pytest.raises(ConfigError, match="Strided: the stride of late must be at least 1"):
        FunctionExtractor(STRIDED.apply, {"early": 1, "late": 0})
    with pytest.raises(ConfigError, match="Strided: the reach of late is missing"):
        FunctionExtractor(STRIDED.apply, {"early": 1, "late": 2}, {"early": 1})


def test_its_parameters_are_enough_for_features() -> None:
    found = extract_features(STRIDED_PARAMS, CONTENT, ["late"], network=OF_LINEN)
    assert list(found) == ["late"]
    assert_allclose(found["late"], STRIDED.apply(STRIDED_PARAMS, CONTENT)["late"], atol=1e-6)
    with pytest.raises(ConfigError, match="unknown layer 'center'; close ones are centred"):
        extract_features({}, CONTENT, ["center"], network=Blurred())


def test_devices_share_its_rows() -> None:
    code = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from jaxstyle import stylize
from tests.conftest import picture
from tests.own_networks import LINEN, STRIDED_PARAMS
pictures = picture(72, 95, 0), picture(53, 61, 1)
config = LINEN.replace(extra_terms=(jax.numpy.mean,))
one, two = (
    stylize(*pictures, config, STRIDED_PARAMS, devices=jax.devices()[:count]) for count in (1, 2)
)
assert one.terms.keys() == two.terms.keys() >= {"extra/mean"}
np.testing.assert_allclose(two.loss, one.loss, rtol=1e-4)
np.testing.assert_allclose(two.image, one.image, atol=1e-4)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


def test_grids_of_files_are_for_named_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="network Strided has no file of weights"):
        run_grid(product(["a.png"], ["b.png"], [LINEN]), tmp_path)
    both = [Config(), Config(network="vgg16")]
    with pytest.raises(ConfigError, match="vgg19 and vgg16 have different weights"):
        run_grid(product(["a.png"], ["b.png"], both), tmp_path)


def test_settings_with_it_are_compared_and_written() -> None:
    again = BLURRED.replace(network=Blurred(2.0))
    assert again == BLURRED
    assert hash(again) == hash(BLURRED)
    assert BLURRED.replace(network=Blurred(3.0)) not in (BLURRED, LINEN)
    assert flat(BLURRED)["network"] == "Blurred(contrast=2.0)"
    assert flat(LINEN)["network"] == "Strided"
    assert flat(NNX)["network"] == "pooled"
    # Equal ones share a program.
    before = layout._compiled.cache_info().misses
    results = [stylize(CONTENT, STYLE, config, {}) for config in (BLURRED, again)]
    assert layout._compiled.cache_info().misses <= before + 1
    assert_array_equal(results[0].image, results[1].image)
