import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxstyle import Config, ConfigError, ImageError, extract_features, stylize
from jaxstyle.network import vgg
from jaxstyle.network.arrays import Params
from jaxstyle.network.extractors import FeatureExtractor, extract
from jaxstyle.network.vgg import VGG16, VGG19, VGGExtractor
from tests.conftest import SMALL_CHANNELS, picture, random_params

KERAS_16 = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"),
)
"""Convolutions as in keras.applications, in order."""
KERAS_19 = tuple(sorted((*KERAS_16, "conv3_4", "conv4_4", "conv5_4")))

WINOGRAD = dataclasses.replace(VGG19, convolution="winograd")
REFERENCE = json.loads((Path(__file__).parents[1] / "reference.json").read_text())["features"]


def numpy_features(
    params: Params, image: np.ndarray, pooling: str, padding: str, convolutions: Any = KERAS_19
) -> dict[str, np.ndarray]:
    """A VGG by its definition, in float64."""
    mode = {"zero": "constant", "replicate": "edge", "reflect": "reflect"}[padding]
    x = np.asarray(image, np.float64) - np.asarray(params["mean"], np.float64)
    found = {}
    for conv in convolutions:
        if conv[6] == "1" and conv[4] != "1":
            h, w = x.shape[0] // 2, x.shape[1] // 2
            windows = x[: 2 * h, : 2 * w].reshape(h, 2, w, 2, -1)
            x = windows.max(axis=(1, 3)) if pooling == "max" else windows.mean(axis=(1, 3))
        kernel, bias = (np.asarray(params[conv][key], np.float64) for key in ("kernel", "bias"))
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode=mode)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        x = np.einsum("hwcij,ijco->hwo", windows, kernel) + bias
        found[conv] = x
        x = np.maximum(x, 0)
        found[conv.replace("conv", "relu")] = x
    return found


@pytest.fixture(scope="module")
def of_keras(imagenet: Params) -> dict[str, jax.Array]:
    """Every layer that there are reference numbers of, from one program."""
    return extract_features(imagenet, picture(96, 128, 0), list(REFERENCE["layers"]))


@pytest.mark.parametrize("layer", REFERENCE["layers"])
def test_features_equal_keras(of_keras: dict[str, jax.Array], layer: str) -> None:
    expected = REFERENCE["layers"][layer]
    features = np.asarray(of_keras[layer])
    assert list(features.shape) == expected["shape"]
    wide = features.astype(np.float64)
    assert_allclose(wide.mean(), expected["mean"], rtol=1e-5)
    assert_allclose(wide.std(), expected["std"], rtol=1e-5)
    assert_allclose(np.linalg.norm(wide), expected["l2"], rtol=1e-5)
    pixel = np.asarray(expected["at[1,2,:8]"])
    assert_allclose(wide[1, 2, :8], pixel, atol=1e-4 * max(np.abs(pixel).max(), wide.std()))


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("padding", ["zero", "replicate", "reflect"])
@pytest.mark.parametrize("shape", [(32, 48), (35, 41)])
@pytest.mark.parametrize(
    ("network", "convolutions"), [(VGG19, KERAS_19), (VGG16, KERAS_16)], ids=["vgg19", "vgg16"]
)
def test_every_layer_equals_numpy(
    network: VGGExtractor,
    convolutions: tuple[str, ...],
    pooling: Any,
    padding: Any,
    shape: tuple[int, int],
) -> None:
    image, params = picture(*shape, 0), random_params(network=network)
    expected = numpy_features(params, image, pooling, padding, convolutions)
    evaluated = dataclasses.replace(network, pooling=pooling, padding=padding)
    found = extract_features(params, image, network.layers, network=evaluated)
    assert set(found) == set(expected) == set(network.layers)
    for layer, features in found.items():
        scale = np.abs(expected[layer]).max()
        assert_allclose(features, expected[layer], atol=2e-5 * scale, err_msg=layer)


@pytest.mark.parametrize("padding", ["zero", "replicate", "reflect"])
def test_winograd_changes_nothing_but_rounding(small_params: Params, padding: str) -> None:
    image = picture(35, 42, 0)
    layers = [layer for layer in VGG19.layers if layer[4] in "123"]
    transformed = WINOGRAD.prepare(small_params, layers)
    expected = extract_features(small_params, image, layers, padding=padding)
    found = extract_features(transformed, image, layers, padding=padding)
    for layer in layers:
        scale = float(jnp.max(jnp.abs(expected[layer])))
        assert_allclose(found[layer], expected[layer], atol=1e-5 * scale, err_msg=layer)


def test_auto_takes_winograd_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    params = random_params((64, 64, 8, 8, 8))
    transformed = VGG19.prepare(params, ["relu4_1"])
    chosen = ("conv1_2", "conv2_1", "conv2_2", "conv3_1")
    assert VGG19.module(transformed, ["relu4_1"]).winograd == chosen
    assert transformed["conv3_2"] is params["conv3_2"]
    again = VGG19.prepare(transformed, ["relu4_1"])
    assert again["conv1_2"]["kernel"] is transformed["conv1_2"]["kernel"]
    for changes in ({"convolution": "direct"}, {"precision": "tf32"}):
        assert dataclasses.replace(VGG19, **changes).prepare(params, ["relu4_1"]) is params
    rounded = dataclasses.replace(VGG19, precision="bfloat16").prepare(params, ["relu4_1"])
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(rounded["conv4_1"]))
    assert rounded["mean"] is params["mean"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert VGG19.prepare(params, ["relu4_1"]) is params


def test_only_what_is_deep_enough_is_transformed(small_params: Params) -> None:
    transformed = WINOGRAD.prepare(small_params, ["relu2_1"])
    assert VGG19.module(transformed, ["relu2_1"]).winograd == ("conv1_2", "conv2_1")


@pytest.mark.parametrize(
    ("precision", "asked"), [("float32", "HIGHEST"), ("tf32", "HIGH"), ("bfloat16", "DEFAULT")]
)
def test_precision_is_what_the_platform_is_asked_for(
    small_params: Params, precision: vgg.Precision, asked: str
) -> None:
    network = dataclasses.replace(VGG19, precision=precision)
    image = jnp.zeros((16, 16, 3))
    lowered = extract.lower(network, ("relu1_2",), small_params, image).as_text()
    lines = [line for line in lowered.splitlines() if "stablehlo.convolution" in line]
    assert len(lines) == 2
    for line in lines:
        assert line.count(f"#stablehlo<precision {asked}>") == 2
        assert ("xbf16>" in line) == (precision == "bfloat16")


def test_keras_names_are_aliases_and_kept_as_asked(small_params: Params) -> None:
    names = ["block4_conv2", "relu4_2", "conv4_2"]
    found = extract_features(small_params, picture(32, 32, 0), names)
    assert set(found) == set(names)
    assert_allclose(found["block4_conv2"], found["relu4_2"], rtol=0)
    assert_allclose(np.maximum(found["conv4_2"], 0), found["relu4_2"], rtol=0)
    assert np.min(found["conv4_2"]) < 0


@pytest.mark.parametrize("name", ["conv4_5", "relu42", "block4_conv5", "conv6_1", ""])
def test_an_unknown_layer_lists_close_ones(small_params: Params, name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown layer .*; close ones are .*(conv|relu)"):
        extract_features(small_params, picture(32, 32, 0), [name])


def test_the_close_layers_are_close(small_params: Params) -> None:
    with pytest.raises(ConfigError, match=r"relu4_2"):
        extract_features(small_params, picture(32, 32, 0), ["relu4-2"])


@pytest.mark.parametrize(
    ("layer", "convolutions"), [("conv1_1", 1), ("relu2_1", 3), ("relu5_4", 16)]
)
def test_the_network_is_only_as_deep_as_asked(
    small_params: Params, layer: str, convolutions: int
) -> None:
    image = jnp.zeros((32, 32, 3))
    text = extract.lower(VGG19, (layer,), small_params, image).as_text()
    assert text.count("stablehlo.convolution") == convolutions


def test_weights_that_end_early_are_refused(small_params: Params) -> None:
    short = {name: value for name, value in small_params.items() if not name.startswith("conv5")}
    assert VGG19.module(short, ["relu4_4"]).channels == SMALL_CHANNELS[:4]
    with pytest.raises(ConfigError, match="the weights end before layer 'relu5_1'"):
        VGG19.module(short, ["relu5_1"])


@pytest.mark.parametrize(
    ("network", "other", "what"),
    [("vgg19", VGG16, "lack conv3_4"), ("vgg16", VGG19, "have conv3_4")],
)
def test_weights_of_another_network_are_refused(
    network: Any, other: VGGExtractor, what: str
) -> None:
    params = random_params(network=other)
    told = f"these weights {what}, so they are not those of {network}"
    config = Config(network=network, style_layers=("relu1_1",), evaluations=1)
    with pytest.raises(ConfigError, match=told):
        stylize(picture(32, 32, 0), picture(32, 32, 1), config, params)
    with pytest.raises(ConfigError, match=told):
        extract_features(params, picture(32, 32, 0), ["relu1_1"], network=network)


@pytest.mark.parametrize("network", [VGG19, VGG16], ids=["vgg19", "vgg16"])
def test_what_it_says_of_itself_is_what_any_network_would_be_found_to_be(
    network: VGGExtractor,
) -> None:
    params, layers = random_params(network=network), ("conv2_2", "relu4_1", "block3_conv2")
    for layer in layers:
        found = network.channels(params, layer)
        assert found == FeatureExtractor.channels(network, params, layer)
    # The arithmetic of its own saves tracing.
    for prepared in (
        params,
        dataclasses.replace(network, convolution="winograd").prepare(params, layers),
    ):
        found = network.activations(prepared, (70, 90), layers)
        assert found == FeatureExtractor.activations(network, prepared, (70, 90), layers)


@pytest.mark.parametrize(
    ("layer", "padding", "smallest"),
    [
        ("relu1_1", "zero", 1),
        ("relu4_2", "zero", 8),
        ("relu5_1", "zero", 16),
        ("relu3_1", "reflect", 8),
    ],
)
def test_the_smallest_size_is_exact(
    small_params: Params, layer: str, padding: str, smallest: int
) -> None:
    found = extract_features(small_params, picture(smallest, 40, 0), [layer], padding=padding)
    assert np.isfinite(np.asarray(found[layer])).all()
    with pytest.raises(ImageError, match=f"{layer} needs at least {smallest}×{smallest}"):
        extract_features(small_params, picture(40, 40, 0)[: smallest - 1], [layer], padding=padding)


def test_bfloat16_is_close(small_params: Params) -> None:
    image = picture(48, 48, 0)
    exact = extract_features(small_params, image, ["relu4_2"])["relu4_2"]
    rough = extract_features(small_params, image, ["relu4_2"], precision="bfloat16")["relu4_2"]
    assert rough.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(rough, np.float32) - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 0.03


def test_module_makes_its_own_random_parameters() -> None:
    module = VGG19.module(random_params(), ["relu2_1"])
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((16, 16, 3)))
    shapes = jax.tree.map(jnp.shape, variables["params"])
    expected = jax.tree.map(jnp.shape, random_params())
    assert shapes == {name: expected[name] for name in shapes}


def test_rectified_features_have_the_gradient_of_jax_nn_relu() -> None:
    x = jnp.asarray([-2.0, -0.0, 0.0, 1e-30, 3.0])[None, :, None]
    for derivative in (jax.grad, jax.jacfwd):
        found, expected = (
            derivative(lambda x, f=f: jnp.sum(jnp.arange(1.0, 6.0)[:, None] * f(x)))(x)
            for f in (vgg._rectify, jax.nn.relu)
        )
        assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("platform", "expected"), [("cpu", "float32"), ("gpu", "tf32"), ("tpu", "bfloat16")]
)
def test_automatic_precision_is_that_of_the_platform(
    monkeypatch: pytest.MonkeyPatch, small_params: Params, platform: str, expected: str
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    network = dataclasses.replace(VGG19, precision="auto")
    assert network.module(small_params, ["relu1_1"]).precision == expected
    assert vgg.chosen_precision("float32") == "float32"
    assert vgg.chosen_precision("auto", "winograd") == "float32"


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    image = jnp.asarray([[1.0, 3.0], [3.0, 3.0]])[:, :, None]
    gradient = jax.grad(lambda image: jnp.sum(vgg._pool(image, "max")))(image)
    assert gradient[:, :, 0].tolist() == [[0, 1], [0, 0]]
