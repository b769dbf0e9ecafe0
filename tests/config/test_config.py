import dataclasses

import pytest

from jaxstyle import Config, ConfigError, preset
from jaxstyle.config.presets import PRESETS
from jaxstyle.config.settings import parse_toml, to_toml


@pytest.mark.parametrize("name", PRESETS)
def test_toml_gives_back_an_equal_config(name: str) -> None:
    config = preset(name)
    assert Config().replace(**parse_toml(to_toml(config))) == config


def test_config_is_frozen_and_hashable() -> None:
    config = preset("seed")
    assert {config: 1}[preset("seed")] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.size = 3


def test_toml_overrides_its_base() -> None:
    config = preset("gatys").replace(**parse_toml('size = 300\ncontent_layers = ["relu3_1"]'))
    assert (config.size, config.content_layers) == (300, ("relu3_1",))
    assert config.pooling == "average"


def test_lists_of_numbers_go_through_toml() -> None:
    config = Config(style_weights=(1, 0.5), style_layer_weights=(1.0, 0.0, 2.0, 0.0, 3.0))
    assert config.style_weights == (1.0, 0.5)
    assert Config().replace(**parse_toml(to_toml(config))) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"scales": "auto"},
        {"scales": "auto", "start_size": 96, "coarse_evaluations": 7, "scale_factor": 1.05},
        {"scales": 3, "coarse_evaluations": (4, 5)},
    ],
)
def test_scales_go_through_toml(changes: dict) -> None:
    config = Config(**changes)
    assert Config().replace(**parse_toml(to_toml(config))) == config


def test_what_means_nothing_any_more_is_dropped() -> None:
    config = Config(
        style_layer_weights=(1, 2, 3, 4, 5),
        content_layer_weights=(2,),
        style_statistics_weights=(3,),
        scales="auto",
        start_size=64,
        optimizer="adam",
        ema=0.9,
    )
    fewer = config.vary({"style_layers": ["relu1_1"]})
    assert fewer == config.replace(style_layers=("relu1_1",), style_layer_weights=())
    other = config.vary({"content_layers": ["relu1_1"], "style_statistics": ["sliced"]})
    assert (other.content_layer_weights, other.style_statistics_weights) == ((), ())
    assert other.style_layer_weights == (1, 2, 3, 4, 5)
    both = config.vary({"style_layers": ["relu1_1"], "style_layer_weights": [0.5]})
    assert both.style_layer_weights == (0.5,)
    assert config.vary({"scales": 2}) == config.replace(scales=2, start_size=None)
    assert config.vary({"scales": "auto"}) == config.vary({}) == config
    assert config.vary({"optimizer": "lbfgs"}) == config.replace(optimizer="lbfgs", ema=None)
    with pytest.raises(ConfigError, match="as many as style_layers, 1, not 2"):
        config.vary({"style_layers": ["relu1_1"], "style_layer_weights": [1, 2]})


def test_budgets_for_each_scale_go_with_the_scales() -> None:
    config = Config(scales=3, coarse_evaluations=(4, 5))
    assert config.vary({"scales": "auto"}) == Config(scales="auto")
    assert config.vary({"scales": 1}) == Config()
    assert config.vary({"scales": 3, "seed": 1}) == config.replace(seed=1)
    assert config.vary({"scales": 2, "coarse_evaluations": 9}).coarse_evaluations == 9
    one = Config(scales=3, coarse_evaluations=4)
    assert one.vary({"scales": "auto"}).coarse_evaluations == 4


def test_an_integer_serves_as_a_number() -> None:
    weight = Config(style_weight=3).style_weight
    assert isinstance(weight, float)
    assert weight == 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "evaluations must be at least 1"),
        ({"evaluations": 2.5}, "evaluations must be an integer, not 2.5"),
        ({"evaluations": True}, "evaluations must be an integer"),
        ({"size": 0}, "size must be at least 1"),
        ({"size": "big"}, "size must be an integer or 'original', not 'big'"),
        ({"style_weight": -1.0}, "style_weight must be finite and not negative"),
        ({"tv_weight": float("nan")}, "tv_weight must be finite"),
        ({"content_weight": float("inf")}, "content_weight must be finite"),
        ({"style_weight": "3"}, "style_weight must be a number"),
        ({"content_layers": "relu4_2"}, "content_layers must be a list of layer names"),
        ({"style_weights": 0.5}, "style_weights must be a list of numbers, not 0.5"),
        ({"style_weights": [1, True]}, "style_weights must be a list of numbers"),
        ({"style_weights": [0.5, -0.1]}, "style_weights must be finite and not negative"),
        ({"style_weights": [float("nan")]}, "style_weights must be finite"),
        ({"style_weights": [0, 0]}, "style_weights must not all be 0"),
        ({"style_layer_weights": [0.0] * 5}, "style_layer_weights must not all be 0"),
        ({"style_layer_weights": [1, 2]}, "as many as style_layers, 5, not 2"),
        ({"content_layer_weights": [1, 2]}, "as many as content_layers, 1, not 2"),
        ({"optimizer": "sgd"}, "optimizer must be 'lbfgs' or 'adam'"),
        ({"learning_rate": 0.1}, "learning_rate has no meaning with optimizer lbfgs"),
        ({"learning_rate": 0.0, "optimizer": "adam"}, "learning_rate must be positive"),
        ({"history_size": 5, "optimizer": "adam"}, "history_size has no meaning"),
        ({"preconditioner": "none", "optimizer": "adam"}, "preconditioner has no meaning"),
        ({"convolution": "winograd", "precision": "bfloat16"}, "winograd needs precision float32"),
        ({"coarse_evaluations": 0}, "coarse_evaluations must be at least 1"),
        ({"scale_factor": 1.0}, "scale_factor must be above 1"),
        ({"scale_factor": 2.0}, "scale_factor has no meaning with scales 1"),
        ({"coarse_evaluations": 9}, "coarse_evaluations has no meaning with scales 1"),
        ({"scales": "many"}, "scales must be an integer or 'auto', not 'many'"),
        ({"scales": 0}, "scales must be at least 1"),
        ({"scales": 2.0}, "scales must be an integer or 'auto', not 2.0"),
        ({"start_size": 128}, "start_size has no meaning with scales 1"),
        ({"start_size": 128, "scales": 2}, "start_size has no meaning with scales 2"),
        ({"start_size": 0, "scales": "auto"}, "start_size must be at least 1"),
        ({"start_size": "auto", "scales": "auto"}, "start_size must be an integer or left out"),
        ({"scales": "auto", "coarse_evaluations": [5, 5]}, "must be one with scales auto"),
        ({"scales": "auto", "coarse_evaluations": []}, "must be one with scales auto"),
        ({"scales": 3, "coarse_evaluations": [5]}, "each of the 2 scales before the last, not 1"),
        ({"scales": "auto", "scale_factor": 1.01}, "at least 1.05 with scales auto, not 1.01"),
        ({"seed": -1}, "seed must be between"),
        ({"init": ""}, "init must be"),
        ({"content_weight": 0.0, "style_layers": []}, "nothing to match"),
        ({"style-wieght": 1.0}, "unknown setting 'style-wieght'; did you mean style_weight"),
    ],
)
def test_a_bad_setting_says_what_is_wrong(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        Config().replace(**changes)


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="there are default, seed, gatys"):
        preset("sed")


def test_bad_toml_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="not a TOML document"):
        parse_toml("size = = 3")
