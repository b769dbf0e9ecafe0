"""A user's own terms are part of the loss wherever it is computed."""

import dataclasses
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
    FileError,
    FunctionExtractor,
    build_objective,
    stylize,
    stylize_batch,
)
from jaxstyle.config import flat, parse_toml, preset, to_toml
from jaxstyle.engine import Record, layout, state_at
from jaxstyle.network.arrays import Params
from jaxstyle.storage.pace import Schedule
from jaxstyle.storage.runs import Identity, Run
from tests.conftest import SHALLOW, evaluate, picture
from tests.engine.test_own_statistic import Means
from tests.own_networks import LINEN, OF_LINEN, STRIDED_PARAMS

CONTENT, STYLE = picture(48, 64, 0), picture(40, 36, 1)


def darkness(image: jax.Array) -> jax.Array:
    return 1 - jnp.mean(image)


@dataclasses.dataclass(frozen=True)
class Frame:
    """Mean square of the image's border."""

    width: int = 2

    def __call__(self, image: jax.Array) -> jax.Array:
        inside = image[self.width : -self.width, self.width : -self.width]
        return (jnp.sum(jnp.square(image)) - jnp.sum(jnp.square(inside))) / image.size


TERMS = {darkness: 0.5, Frame(3): 2.0}
BASE = SHALLOW.replace(evaluations=4, convolution="direct")
CONFIG = BASE.replace(extra_terms=TERMS)


def test_terms_add_to_the_loss(small_params: Params) -> None:
    image = picture(48, 64, 2)
    with_terms, without = (
        evaluate(build_objective(small_params, CONTENT, STYLE, config), jnp.asarray(image))
        for config in (CONFIG, BASE)
    )
    border = np.ones((48, 64, 1))
    border[3:-3, 3:-3] = 0
    by_hand = {
        "extra/darkness": 0.5 * (1 - image.mean()),
        "extra/Frame(width=3)": 2.0 * (image.astype(np.float64) ** 2 * border).mean(),
    }
    ((loss, terms), slope), ((loss_before, before), slope_before) = with_terms, without
    assert terms.keys() == before.keys() | by_hand.keys()
    for name, value in by_hand.items():
        assert_allclose(terms[name], value, rtol=1e-5)
    assert_allclose(loss, loss_before + sum(by_hand.values()), rtol=1e-5)
    slope_by_hand = (2 * 2.0 * image * border - 0.5) / image.size
    assert_allclose(slope - slope_before, slope_by_hand, rtol=1e-3, atol=1e-6 * np.abs(slope).max())


def test_batches_and_tiles_have_them(small_params: Params) -> None:
    # Weights are data: a program serves them all.
    configs = [CONFIG, CONFIG.replace(extra_terms={darkness: 0.0, Frame(3): 40.0})]
    before = layout._compiled.cache_info().misses
    batch = stylize_batch(CONTENT, STYLE, configs, small_params, lanes=2)
    assert layout._compiled.cache_info().misses == before + 1
    for lane, config in zip(batch, configs, strict=True):
        single = stylize(CONTENT, STYLE, config, small_params)
        assert_allclose(lane.image, single.image, atol=2e-3)
        assert_allclose(sum(single.terms.values()), single.loss, rtol=1e-5)
    tiled = stylize(CONTENT, STYLE, CONFIG.replace(tile=24), small_params)
    assert tiled.activations == "tiled"
    first, second = (run.history[0].terms for run in (batch[0], tiled))
    for name, value in first.items():
        assert_allclose(second[name], value, rtol=1e-4, err_msg=name)


def test_a_term_that_weighs_more_is_met_better(small_params: Params) -> None:
    config = BASE.replace(evaluations=8, tv_weight=0.0)
    weak, strong = (
        stylize(CONTENT, STYLE, config.replace(extra_terms={darkness: weight}), small_params)
        for weight in (1e-3, 1e4)
    )
    assert strong.image.mean() > weak.image.mean() + 0.05


def test_an_interrupted_run_goes_on_and_no_other_takes_its_folder(tmp_path: Path) -> None:
    config = LINEN.replace(
        extra_terms=TERMS, style_statistics=("gram", Means()), scales=2, scale_factor=1.5
    )

    def go_on(folder: Path, config: Config, stop_at: int | None = None) -> np.ndarray:
        with Run(folder, checkpoints=Schedule(every=2)) as run:
            run.identify(Identity(config, {"content": ["c"], "style": ["s"]}, "c.png", ["s.png"]))
            progress = run.resume(lambda scale: state_at(config, CONTENT.shape, scale))

            def callback(record: Record) -> bool:
                run.record(record)
                return record.evaluation == stop_at

            return stylize(
                CONTENT, STYLE, config, STRIDED_PARAMS, callback, keeper=run, progress=progress
            ).image

    whole = go_on(tmp_path / "whole", config)
    for stop_at in (3, 8, None):
        image = go_on(tmp_path / "interrupted", config, stop_at)
    assert_array_equal(image, whole)
    name = "Frame\\(width=3\\)"
    for changes, told in (
        ({"extra_terms": {darkness: 0.5}}, f"extra_terms was .*{name}.*, now {{'darkness': 0.5}}"),
        ({"extra_terms": {darkness: 0.5, Frame(4): 2.0}}, "extra_terms was .*, now .*width=4"),
        ({"extra_terms": ()}, "extra_terms was .*, now not given"),
        ({"network": FunctionExtractor(other, OF_LINEN.strides)}, "network was Strided, now other"),
        ({"style_statistics": ("gram", Means(3.0))}, "style_statistics was .*, now .*power=3"),
    ):  # fmt: skip
        with pytest.raises(FileError, match=f"is another run: {told}"):
            go_on(tmp_path / "whole", config.replace(**changes))


def other(params: Any, image: jax.Array) -> Any:
    raise NotImplementedError


def a_number_each(image: jax.Array) -> jax.Array:
    return jnp.mean(image, axis=2)


def of_another_shape(image: jax.Array) -> jax.Array:
    return jnp.mean(image - jnp.zeros((5, 5, 3)))


def test_mistakes_are_told(small_params: Params) -> None:
    for terms, told in (
        ({"darkness": 1.0}, "extra_terms must be functions of an image, not 'darkness'"),
        ([lambda image: 0.0, lambda image: 1.0], "has 2 different entries called <lambda>"),
        ({darkness: -1.0}, "extra_terms"),
        ("darkness", "a list of names"),
    ):
        with pytest.raises(ConfigError, match=told):
            BASE.replace(extra_terms=terms)
    returned = r"^extra_terms a_number_each must return a number, not float32\[\d+, \d+\]$"
    for run in (stylize, stylize_batch):
        with pytest.raises(ConfigError, match=returned):
            run(CONTENT, STYLE, BASE.replace(extra_terms=(a_number_each,)), small_params)
        with pytest.raises(TypeError, match="incompatible shapes"):
            run(CONTENT, STYLE, BASE.replace(extra_terms=(of_another_shape,)), small_params)


def test_settings_with_them_are_compared_and_written() -> None:
    again = BASE.replace(extra_terms=dict(reversed(TERMS.items())))
    assert again == CONFIG
    assert hash(again) == hash(CONFIG)
    assert BASE.replace(extra_terms={darkness: 0.5, Frame(4): 2.0}) != CONFIG
    names = {"darkness": 0.5, "Frame(width=3)": 2.0}
    assert flat(CONFIG)["extra_terms"] == parse_toml(to_toml(CONFIG))["extra_terms"] == names
    for config in (BASE, preset("default")):
        assert "extra_terms" not in to_toml(config)
        assert "extra_terms" not in flat(config)
