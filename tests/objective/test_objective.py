import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxstyle import Config, ConfigError, ImageError, build_objective, preset
from jaxstyle.network.arrays import Params
from jaxstyle.objective.losses import style_loss
from jaxstyle.objective.targets import prepare_params, style_shares
from tests.conftest import SHALLOW, evaluate, picture, random_params
from tests.network.test_vgg import numpy_features
from tests.objective.test_losses import numpy_tv

CASES = json.loads((Path(__file__).parents[1] / "reference.json").read_text())["seed_objective"]


@pytest.mark.parametrize(
    ("case", "convolution"),
    [
        (CASES[-1], "direct"),
        *(pytest.param(case, "auto", marks=pytest.mark.slow) for case in CASES[:-1]),
    ],
)
def test_seed_objective_equals_the_reference(
    imagenet: Params, case: dict, convolution: str
) -> None:
    images = {
        name: picture(case["height"], case["width"], case[f"{name}_seed"])
        for name in ("content", "style", "image")
    }
    config = preset("seed").replace(convolution=convolution)
    params = prepare_params(imagenet, config)
    objective = build_objective(params, images["content"], images["style"], config)
    (loss, terms), grad = evaluate(objective, jnp.asarray(images["image"]))
    expected = dict(case["value"])
    gradient = expected.pop("grad_bgr")
    assert_allclose(loss, expected.pop("total"), rtol=1e-5)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        assert_allclose(term, expected[name], rtol=1e-5, err_msg=name)
    bgr = np.asarray(grad, np.float64)[..., ::-1] / 255
    assert_allclose(np.linalg.norm(bgr), gradient["l2"], rtol=1e-5)
    assert_allclose(np.abs(bgr).sum(), gradient["l1"], rtol=1e-5)
    row, column = case["height"] - 2, case["width"] - 3
    assert_allclose(bgr[1, 2], gradient["at[1,2]"], rtol=1e-4)
    assert_allclose(bgr[row, column], gradient[f"at[{row},{column}]"], rtol=1e-4)


def numpy_objective(
    params: Params, content: np.ndarray, style: np.ndarray, image: np.ndarray, name: str
) -> dict[str, float]:
    """Each preset by the formula of its source, spelled out, in float64."""
    pooling = "average" if name == "gatys" else "max"
    deep_f, deep_p, deep_s = (
        numpy_features(params, x, pooling, "zero") for x in (image, content, style)
    )
    terms = {}
    difference = (
        (deep_f["relu5_2"] - deep_p["relu5_2"])
        if name == "seed"
        else (deep_f["relu4_2"] - deep_p["relu4_2"])
    )
    terms["content"] = {
        "seed": 0.025 * (difference**2).sum(),
        "gatys": (difference**2).sum() / 2,
        "gatys-code": (difference**2).mean(),
        "neural-style": 5 * (difference**2).mean(),
    }[name]
    for block in range(1, 6):
        f, s = (d[f"relu{block}_1"] for d in (deep_f, deep_s))
        n = f.shape[2]
        m, m_style = f.shape[0] * f.shape[1], s.shape[0] * s.shape[1]
        gram, target = (x.reshape(-1, n).T @ x.reshape(-1, n) for x in (f, s))
        pixels = image.shape[0] * image.shape[1]
        key = f"style/block{block}_conv1" if name == "seed" else f"style/relu{block}_1"
        terms[key] = {
            "seed": ((gram - target) ** 2).sum() / (4 * 3**2 * pixels**2) / 5,
            "gatys": 1e3 * ((gram / m - target / m_style) ** 2).sum() / (4 * n**2) / 5,
            "gatys-code": 1e3 / n**2 * ((gram / m - target / m_style) ** 2).mean(),
            "neural-style": 100 * ((gram / (n * m) - target / (n * m_style)) ** 2).mean(),
        }[name]
    kind, weight = {
        "seed": ("seed", 1e-4),
        "gatys": ("l2", 0.0),
        "gatys-code": ("l2", 0.0),
        "neural-style": ("l2", 1e-3),
    }[name]
    terms["tv"] = weight * numpy_tv(image.astype(np.float64) * 255, kind)
    return terms


@pytest.mark.parametrize("name", ["seed", "gatys", "gatys-code", "neural-style"])
def test_presets_follow_their_sources(small_params: Params, name: str) -> None:
    content, image = picture(33, 47, 0), picture(33, 47, 2)
    # The seed stretches a style to the content's shape; the others must not need to.
    style = picture(33, 47, 1) if name == "seed" else picture(40, 36, 1)
    objective = build_objective(small_params, content, style, preset(name))
    (loss, terms), _ = evaluate(objective, image)
    expected = numpy_objective(small_params, content, style, image, name)
    assert terms.keys() == expected.keys()
    for key, value in expected.items():
        assert_allclose(terms[key], value, rtol=2e-5, err_msg=key)
    assert_allclose(loss, sum(expected.values()), rtol=2e-5)


@pytest.mark.parametrize("name", [pytest.param("default", marks=pytest.mark.slow), "crowson"])
def test_terms_sum_to_the_loss(small_params: Params, name: str) -> None:
    config = preset(name)
    objective = build_objective(small_params, picture(33, 47, 0), picture(40, 36, 1), config)
    (loss, terms), _ = evaluate(objective, picture(33, 47, 2))
    assert set(terms) == {"content", "tv", *(f"style/{layer}" for layer in config.style_layers)}
    assert_allclose(loss, sum(terms.values()), rtol=1e-6)


@pytest.mark.parametrize("name", ["seed", "gatys", "neural-style"])
def test_gradient_equals_finite_differences_in_float64(name: str, x64: None) -> None:
    params = jax.tree.map(lambda a: a.astype(jnp.float64), dict(random_params()))
    content, style, image = (picture(32, 40, seed).astype(np.float64) for seed in (0, 1, 2))
    # Of few layers, because each of the convolutions is compiled.
    config = preset(name).replace(content_layers=("relu3_2",), style_layers=("relu1_1", "conv3_1"))
    objective = build_objective(params, content, style, config)
    image = jnp.asarray(image)
    (loss, _), gradient = evaluate(objective, image)
    assert loss.dtype == jnp.float64
    direction = jnp.asarray(np.random.default_rng(0).normal(size=image.shape))
    step = 1e-7  # small, because ReLU and max pooling have kinks
    ahead, behind = (evaluate(objective, image + d * direction)[0][0] for d in (step, -step))
    slope = jnp.vdot(gradient, direction)
    assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-4)


def test_vmap_over_images_equals_a_loop(small_params: Params) -> None:
    objective = build_objective(small_params, picture(33, 47, 0), picture(40, 36, 1), SHALLOW)
    images = jnp.stack([picture(33, 47, seed) for seed in range(2, 6)])
    losses, terms = jax.jit(jax.vmap(objective))(images)
    for index, image in enumerate(images):
        loss, each = objective(image)
        assert_allclose(losses[index], loss, rtol=1e-5)
        for key, value in each.items():
            assert_allclose(terms[key][index], value, rtol=1e-4, err_msg=key)


def test_vmap_over_whole_objectives(small_params: Params) -> None:
    """A grid's lanes differ in targets and weights and share the network's parameters."""
    objectives = [
        build_objective(
            small_params,
            picture(33, 47, seed),
            picture(40, 36, seed + 1),
            SHALLOW.replace(style_weight=10.0**seed, tv_weight=seed / 10),
        )
        for seed in range(3)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *objectives)
    shared = stacked.replace(params=objectives[0].params)
    axes = jax.tree.map(lambda _: 0, shared).replace(
        params=jax.tree.map(lambda _: None, dict(small_params))
    )
    image = jnp.asarray(picture(33, 47, 7))
    losses, _ = jax.vmap(lambda o: o(image), in_axes=(axes,))(shared)
    assert_allclose(losses, [objective(image)[0] for objective in objectives], rtol=1e-5)


def test_one_program_serves_other_weights_and_targets(small_params: Params) -> None:
    loss = jax.jit(lambda objective, image: objective(image)[0])
    image = jnp.asarray(picture(33, 47, 2))
    for seed, weight in ((0, 1.0), (3, 7.0)):
        config = Config(style_weight=weight, evaluations=10 + seed, seed=seed)
        loss(
            build_objective(small_params, picture(33, 47, seed), picture(36, 36, 1), config), image
        )
    assert loss._cache_size() == 1


def test_several_styles_average_their_statistics(small_params: Params) -> None:
    content, styles = picture(33, 47, 0), [picture(40, 36, 1), picture(33, 50, 3)]
    config = Config()
    both = build_objective(small_params, content, styles, config)
    alone = [build_objective(small_params, content, style, config) for style in styles]
    (blended,) = both.parts[0].targets
    for layer, target in blended.items():
        grams = [objective.parts[0].targets[0][layer]["gram"] for objective in alone]
        assert_allclose(target["gram"], (grams[0] + grams[1]) / 2, rtol=1e-6)


@pytest.mark.parametrize("blend", ["statistics", "loss"])
def test_a_style_of_weight_1_to_0_is_alone(small_params: Params, blend: str) -> None:
    content, styles = picture(33, 47, 0), [picture(40, 36, 1), picture(33, 50, 3)]
    image = jnp.asarray(picture(33, 47, 2))
    alone = evaluate(build_objective(small_params, content, styles[1], Config()), image)
    config = Config(style_weights=(0.0, 7.0), style_blend=blend)  # type: ignore[arg-type]
    both = evaluate(build_objective(small_params, content, styles, config), image)
    # Another program where there are two targets.
    equal = assert_array_equal if blend == "statistics" else partial(assert_allclose, rtol=1e-4)
    jax.tree.map(equal, both[0], alone[0])
    largest = float(jnp.max(jnp.abs(alone[1])))
    tolerance = 0 if blend == "statistics" else 1e-5 * largest
    assert_allclose(both[1], alone[1], rtol=0, atol=tolerance)


def test_blends_pull_alike_and_differ_by_the_spread_of_the_styles(
    small_params: Params, x64: None
) -> None:
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), small_params)
    content, styles = picture(33, 47, 0), [picture(40, 36, 1), picture(33, 50, 3)]
    # Shallow, because it compiles in a fraction of the time.
    layers = {"content_layers": ("relu2_1",), "style_layers": ("relu1_1", "relu3_1")}
    config = Config(style_weights=(3.0, 1.0), tv_weight=0.0, **layers)
    content, *styles = (np.asarray(x, np.float64) for x in (content, *styles))
    image = jnp.asarray(picture(33, 47, 2), jnp.float64)
    (_, one), pull = evaluate(build_objective(params, content, styles, config), image)
    each = build_objective(params, content, styles, config.replace(style_blend="loss"))
    (_, two), same = evaluate(each, image)
    assert_allclose(same, pull, rtol=1e-6, atol=1e-9)
    for layer in config.style_layers:
        first, second = (targets[layer]["gram"] for targets in each.parts[0].targets)
        spread = 0.75 * 0.25 * style_loss(first, second, "mean")
        assert_allclose(two[f"style/{layer}"], one[f"style/{layer}"] + 1000 * spread, rtol=1e-6)


def test_layer_weights_multiply_the_layers_terms(small_params: Params) -> None:
    pictures = picture(33, 47, 0), picture(40, 36, 1)
    image = jnp.asarray(picture(33, 47, 2))
    plain = Config(content_layers=("relu3_1", "conv4_2"), style_layers=("relu1_1", "relu4_1"))
    alone = {
        layer: build_objective(small_params, *pictures, plain.replace(content_layers=(layer,)))
        for layer in plain.content_layers
    }
    weighted = plain.replace(
        content_layers={"relu3_1": 2, "conv4_2": 0.5}, style_layers={"relu1_1": 0, "relu4_1": 3}
    )
    _, before = build_objective(small_params, *pictures, plain)(image)
    _, terms = build_objective(small_params, *pictures, weighted)(image)
    contents = [alone[layer](image)[1]["content"] for layer in plain.content_layers]
    assert_allclose(before["content"], sum(contents), rtol=1e-5)
    assert_allclose(terms["content"], 2 * contents[0] + 0.5 * contents[1], rtol=1e-5)
    assert terms["style/relu1_1"] == 0
    assert_allclose(terms["style/relu4_1"], 3 * before["style/relu4_1"], rtol=1e-5)


@pytest.mark.parametrize(("count", "noun"), [(1, "style"), (3, "styles")])
def test_as_many_style_weights_as_styles(small_params: Params, count: int, noun: str) -> None:
    styles = [picture(40, 36, seed) for seed in range(count)]
    with pytest.raises(ConfigError, match=f"2 style_weights for {count} {noun}; give one"):
        build_objective(small_params, styles[0], styles, Config(style_weights=(1, 2)))


def test_style_weights_sum_to_1() -> None:
    assert style_shares(2, Config(style_weights=(3, 1))) == (0.75, 0.25)
    assert style_shares(2, Config(style_weights=(1e308, 1e308))) == (0.5, 0.5)
    assert style_shares(4, Config()) == (0.25,) * 4


def test_a_style_is_its_own_minimum_in_style_terms(small_params: Params) -> None:
    style = picture(40, 36, 1)
    _, terms = build_objective(small_params, style, style, Config())(jnp.asarray(style))
    assert_allclose([v for k, v in terms.items() if k != "tv"], 0, atol=1e-6)


def test_content_alone_and_style_alone(small_params: Params) -> None:
    content, style = picture(33, 47, 0), picture(40, 36, 1)
    _, terms = build_objective(small_params, content, style, Config(style_layers=()))(
        jnp.asarray(picture(33, 47, 2))
    )
    assert set(terms) == {"content", "tv"}
    _, terms = build_objective(small_params, content, style, Config(content_layers=()))(
        jnp.asarray(picture(33, 47, 2))
    )
    assert terms["content"] == 0


@pytest.mark.parametrize(
    ("content", "style", "changes", "error", "message"),
    [
        (picture(15, 40, 0), picture(40, 40, 0), {}, ImageError, "content of 40×15 .* too small"),
        (
            picture(40, 40, 0),
            picture(40, 9, 0),
            {},
            ImageError,
            "style of 9×40 pixels is too small",
        ),
        (
            picture(40, 40, 0)[..., :2],
            picture(40, 40, 0),
            {},
            ImageError,
            "content must be an array",
        ),
        (picture(40, 40, 0), [picture(40, 40, 0)[None]], {}, ImageError, "style must be an array"),
        (picture(40, 40, 0) * 255, picture(40, 40, 0), {}, ImageError, "content has values from 2"),
        (picture(40, 40, 0), [], {}, ImageError, "no style"),
        (picture(40, 40, 0), np.full((40, 40, 3), np.nan), {}, ImageError, "style has values"),
        (
            picture(40, 40, 0),
            picture(40, 40, 0),
            {"style_layers": ("relu9_1",)},
            ConfigError,
            "relu9_1",
        ),
        (
            picture(40, 40, 0),
            picture(40, 40, 0),
            {"content_layers": ("relu4_2", "block4_conv2")},
            ConfigError,
            "named twice",
        ),
    ],
)
def test_unsuitable_input_is_refused(
    small_params: Params,
    content: np.ndarray,
    style: object,
    changes: dict,
    error: type,
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        build_objective(small_params, content, style, Config(**changes))


def test_a_stretched_style_may_be_small(small_params: Params) -> None:
    config = dataclasses.replace(preset("seed"), evaluations=1)
    build_objective(small_params, picture(40, 40, 0), picture(9, 9, 0), config)
