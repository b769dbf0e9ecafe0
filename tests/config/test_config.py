import dataclasses
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from jaxstyle import LBFGS, Adam, AutoPyramid, Config, ConfigError, Pyramid, preset
from jaxstyle.config import SETTINGS, OneScale, equal, flat, parse_toml, to_toml
from jaxstyle.config.presets import PRESETS, SUMMARIES


@pytest.mark.parametrize("name", PRESETS)
def test_toml_gives_back_an_equal_config(name: str) -> None:
    config = preset(name)
    text = to_toml(config)
    assert Config().replace(**parse_toml(text)) == config
    assert Config().replace(**tomllib.loads(text)) == config
    found = parse_toml(text)
    assert {name: value for name, value in found.items() if value is not None} == flat(config)
    for setting in flat(config):
        line = next(line for line in text.splitlines() if line.startswith(_key(setting, config)))
        above = text[: text.index(f"\n{line}")].splitlines()[-1]
        assert above.startswith("# "), setting
        assert SETTINGS[setting].description.endswith(above.removeprefix("# ")), setting


def _key(setting: str, config: Config) -> str:
    """What the line of `setting` starts with: mappings and alternatives have tables."""
    value = getattr(config, setting, None)
    table = isinstance(value, Mapping) or dataclasses.is_dataclass(value)
    return f"[{setting}]" if table else f"{setting} = "


@pytest.mark.parametrize("base", PRESETS)
def test_toml_replaces_every_setting(base: str) -> None:
    # Options that are None cannot be written, yet replace those of the base.
    for config in (
        *PRESETS.values(),
        Config(optimizer=Adam(), scales=3),
        Config(optimizer=Adam(), scales="auto"),
    ):
        assert preset(base).replace(**parse_toml(to_toml(config))) == config


@pytest.mark.parametrize("name", PRESETS)
def test_flat_settings_give_back_an_equal_config(name: str) -> None:
    settings = flat(preset(name))
    assert set(settings) <= set(SETTINGS)
    assert Config().replace(**settings) == preset(name)


def test_presets_are_described() -> None:
    assert list(PRESETS) == list(SUMMARIES)


def test_config_is_frozen_and_hashable() -> None:
    config = preset("seed")
    assert {config: 1}[preset("seed")] == 1
    assert hash(preset("crowson")) == hash(PRESETS["crowson"].replace())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.size = 3
    with pytest.raises(TypeError):
        config.style_layers["relu1_1"] = 3.0  # pyright: ignore[reportIndexIssue]


def test_toml_overrides_its_base() -> None:
    config = preset("gatys").replace(**parse_toml('size = 300\ncontent_layers = ["relu3_1"]'))
    assert (config.size, config.content_layers) == (300, equal("relu3_1"))
    assert config.pooling == "average"


def test_lists_and_tables_of_numbers_go_through_toml() -> None:
    config = Config(style_weights=(1, 0.5), style_layers={"relu1_1": 1, "relu2_1": 0, "relu3_1": 3})
    assert config.style_weights == (1.0, 0.5)
    assert Config().replace(**parse_toml(to_toml(config))) == config


@pytest.mark.parametrize(
    "scales",
    [
        AutoPyramid(),
        AutoPyramid(start_size=96, coarse_evaluations=7, scale_factor=1.05),
        Pyramid(3, coarse_evaluations=5, first_evaluations=4),
        Pyramid(2),
        OneScale(),
    ],
)
def test_scales_go_through_toml(scales: Any) -> None:
    config = Config(scales=scales)
    assert Config().replace(**parse_toml(to_toml(config))) == config


@pytest.mark.parametrize(
    "text",
    [
        'scales = "auto"\nstart_size = 64\noptimizer = "adam"\nema = 0.9\n',
        '[scales]\nnumber = "auto"\nstart_size = 64\n[optimizer]\nname = "adam"\nema = 0.9\n',
        'ema = 0.9\nstart_size = 64\n[optimizer]\nname = "adam"\n[scales]\nnumber = "auto"\n',
        'scales = {number = "auto", start_size = 64}\noptimizer = {name = "adam", ema = 0.9}\n',
    ],
    ids=["flat", "tables", "mixed", "inline"],
)
def test_options_are_read_flat_and_nested(text: str) -> None:
    expected = Config(scales=AutoPyramid(start_size=64), optimizer=Adam(ema=0.9))
    assert Config().replace(**parse_toml(text)) == expected


def test_a_table_of_options_alone_changes_the_present_alternative() -> None:
    config = Config().replace(**parse_toml("[optimizer]\nhistory_size = 7\n"))
    assert config == Config(optimizer=LBFGS(history_size=7))


def test_a_table_that_names_an_alternative_leaves_nothing_of_the_present_one() -> None:
    crowson = preset("crowson")
    changed = crowson.replace(**parse_toml('[optimizer]\nname = "adam"\n[scales]\nnumber = 5\n'))
    assert (changed.optimizer, changed.scales) == (Adam(), Pyramid(5))
    kept = crowson.replace(**parse_toml('optimizer = "adam"\nscales = 5\n'))
    assert kept == crowson
    with pytest.raises(ConfigError, match="optimizer must be 'lbfgs' or 'adam', not 'sgd'"):
        parse_toml('[optimizer]\nname = "sgd"\n')


def test_the_record_of_a_run_is_no_setting() -> None:
    assert parse_toml('size = 3\n[run]\ncontent = "a.png"\n') == {"size": 3}


def test_a_name_stands_for_an_alternative_with_its_defaults() -> None:
    values: dict[str, Any] = {"optimizer": "adam", "scales": 3}
    assert Config(**values) == Config(optimizer=Adam(), scales=Pyramid(3))
    assert Config(**{"scales": "auto"}) == Config(scales=AutoPyramid())  # noqa: PIE804
    assert Config(**{"scales": 1, "optimizer": "lbfgs"}) == Config()  # noqa: PIE804
    nested: dict[str, Any] = {"optimizer": {"name": "adam", "ema": 0.5}}
    assert Config(**nested) == Config(optimizer=Adam(ema=0.5))


def test_names_have_weights() -> None:
    names: Any = ("relu1_1", "relu2_1=0.5")
    config = Config(style_layers=names)
    assert dict(config.style_layers) == {"relu1_1": 1.0, "relu2_1": 0.5}
    assert config == Config(style_layers={"relu2_1": 0.5, "relu1_1": 1.0})
    assert list(config.style_layers) == ["relu1_1", "relu2_1"]
    assert Config(content_layers={"relu4_2": 1}) == Config(content_layers=equal("relu4_2"))
    assert config.layers == ("relu4_2", "relu1_1", "relu2_1")
    assert flat(config)["style_layers"] == {"relu1_1": 1.0, "relu2_1": 0.5}


def test_options_go_with_their_alternative() -> None:
    config = Config(
        scales=AutoPyramid(start_size=64, coarse_evaluations=4, scale_factor=1.5),
        optimizer=Adam(ema=0.9),
    )
    assert config.replace(scales="auto", optimizer="adam") == config.replace() == config
    three = Pyramid(3, scale_factor=1.5, coarse_evaluations=4)
    assert config.replace(scales=3) == dataclasses.replace(config, scales=three)
    assert config.replace(scales=3).replace(scales="auto", start_size=64) == config
    assert config.replace(scales=1).scales == OneScale()
    assert config.replace(scales=2, coarse_evaluations=9).scales == dataclasses.replace(
        three, number=2, coarse_evaluations=9
    )
    assert config.replace(scales=Pyramid(3)).scales == Pyramid(3)
    assert config.replace(seed=1).scales == config.scales
    assert config.replace(start_size=32).scales == dataclasses.replace(config.scales, start_size=32)
    assert config.replace(optimizer="lbfgs").optimizer == LBFGS()
    assert config.replace(learning_rate=0.1).optimizer == Adam(learning_rate=0.1, ema=0.9)
    assert config.replace(optimizer=Adam(), learning_rate=0.1).optimizer == Adam(learning_rate=0.1)
    layers = config.replace(style_layers=["relu1_1"])
    assert dict(layers.style_layers) == {"relu1_1": 1.0}


def test_only_a_cosine_is_a_schedule() -> None:
    assert not Config().scheduled
    assert not Config(optimizer=Adam()).scheduled
    assert Config(optimizer=Adam(learning_rate_schedule="cosine")).scheduled


def test_an_integer_serves_as_a_number() -> None:
    weight = Config(style_weight=3).style_weight
    assert isinstance(weight, float)
    assert weight == 3.0
    (weight,) = Config(style_layers={"relu1_1": 2}).style_layers.values()
    assert isinstance(weight, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "evaluations must be at least 1, not 0"),
        ({"evaluations": 2.5}, "evaluations must be a whole number, not 2.5"),
        ({"evaluations": True}, "evaluations must be a whole number, not True"),
        ({"size": 0}, "size must be at least 1 or 'original', not 0"),
        ({"size": "big"}, "size must be a whole number or 'original', not 'big'"),
        ({"style_weight": -1.0}, "style_weight must be at least 0, not -1.0"),
        ({"tv_weight": float("nan")}, "tv_weight must be a finite number"),
        ({"content_weight": float("inf")}, "content_weight must be a finite number"),
        ({"style_weight": "3"}, "style_weight must be a number, not '3'"),
        (
            {"content_layers": "relu4_2"},
            "content_layers: a list of names or a table of their weigh",
        ),
        ({"content_layers": 3}, "content_layers: a list .* of their weights is needed, not 3"),
        ({"content_layers": [3]}, "content_layers must be a string, not 3"),
        ({"style_weights": 0.5}, "style_weights must be a list, not 0.5"),
        ({"style_weights": [1, True]}, "style_weights must be a number, not True"),
        ({"style_weights": [0.5, -0.1]}, "style_weights must be at least 0"),
        ({"style_weights": [float("nan")]}, "style_weights must be a finite number"),
        ({"style_weights": [0, 0]}, "style_weights must not all be 0"),
        ({"style_layers": {"relu1_1": 0.0}}, "^style_layers: the weights must not all be 0$"),
        ({"style_layers": {"relu1_1": -1}}, "style_layers must be at least 0"),
        ({"style_layers": {"relu1_1": "1"}}, "style_layers must be a number, not '1'"),
        ({"style_layers": ["relu1_1=nan"]}, "style_layers must be a finite number"),
        ({"style_layers": ["relu1_1=x"]}, "style_layers: the weight of relu1_1 must be a number"),
        ({"style_layers": ["relu1_1", "relu1_1=2"]}, "^style_layers: relu1_1 is named twice$"),
        ({"style_statistics": []}, "style_statistics must name at least one"),
        ({"style_statistics": ["grams"]}, "must be one of gram, .*, moments, not 'grams'"),
        ({"style_statistics": {3: 1.0}}, "must be one of gram, .*, moments, not 3"),
        ({"style_layer_weights": [1, 2]}, "unknown setting 'style_layer_weights'; did you mean"),
        ({"optimizer": "sgd"}, "optimizer must be 'lbfgs' or 'adam', not 'sgd'"),
        ({"optimizer": {"name": "adam", "ema": 2.0}}, "ema must be less than 1, not 2.0"),
        ({"optimizer": {"name": "adam", "history_size": 5}}, "history_size: unexpected"),
        ({"learning_rate": 0.1}, "learning_rate has no meaning with optimizer lbfgs"),
        ({"learning_rate": 0.0, "optimizer": "adam"}, "learning_rate must be greater than 0"),
        ({"history_size": 5, "optimizer": "adam"}, "history_size has no meaning"),
        ({"preconditioner": "none", "optimizer": "adam"}, "preconditioner has no meaning"),
        ({"preconditioner": "sine"}, "preconditioner must be 'cosine' or 'none', not 'sine'"),
        ({"convolution": "winograd", "precision": "bfloat16"}, "winograd needs precision float32"),
        ({"coarse_evaluations": 0, "scales": 2}, "coarse_evaluations must be at least 1, not 0"),
        ({"first_evaluations": 0, "scales": "auto"}, "first_evaluations must be at least 1, not 0"),
        ({"scale_factor": 1.0, "scales": 2}, "scale_factor must be greater than 1, not 1.0"),
        ({"scale_factor": 2.0}, "scale_factor has no meaning with scales 1"),
        ({"coarse_evaluations": 9}, "coarse_evaluations has no meaning with scales 1"),
        ({"first_evaluations": 9}, "first_evaluations has no meaning with scales 1"),
        *(
            (
                {"scales": wrong},
                f"^scales must be 'auto' or a whole number of at least 1, not {wrong!r}$",
            )
            for wrong in ("many", 0, 2.0, True, None)
        ),
        (
            {"scales": {"number": 0}},
            "scales must be 'auto' or a whole number of at least 1, not {",
        ),
        ({"optimizer": None}, "^optimizer must be 'lbfgs' or 'adam', not None$"),
        ({"optimizer": {"ema": 0.5}}, "optimizer must be 'lbfgs' or 'adam', not {'ema': 0.5}"),
        ({"start_size": 128}, "start_size has no meaning with scales 1"),
        ({"start_size": 128, "scales": 2}, "start_size has no meaning with scales 2"),
        ({"start_size": 0, "scales": "auto"}, "start_size must be at least 1"),
        ({"start_size": "auto", "scales": "auto"}, "start_size must be a whole number"),
        (
            {"scales": "auto", "coarse_evaluations": [5]},
            "coarse_evaluations must be a whole number",
        ),
        ({"scales": "auto", "scale_factor": 1.01}, "scale_factor must be at least"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"seed": 2**64}, "seed must be less than 184467440737095"),
        ({"seed": np.uint32(3)}, "seed must be a whole number"),
        (
            {"seed": jax.random.split(jax.random.key(0), 3)},
            r"a single threefry2x32 key, not key<fry>\[3\]",
        ),
        ({"seed": jax.random.key(0, impl="rbg")}, r"threefry2x32 key, not key<rbg>\[\]$"),
        ({"init": ""}, "init: string should have at least 1 character"),
        ({"tile": 64, "activations": "kept"}, "tile has no meaning with activations kept"),
        ({"style_scale": 2.0, "style_shape": "content"}, "no meaning with style_shape content"),
        ({"content_weight": 0.0, "style_layers": []}, "nothing to match"),
        ({"style-wieght": 1.0}, "unknown setting 'style-wieght'; did you mean style_weight"),
        ({"history-sise": 1.0}, "unknown setting 'history-sise'; did you mean history_size"),
    ],
)
def test_a_bad_setting_says_what_is_wrong(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Config().replace(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Config, {"evaluations": 0}, "evaluations must be at least 1, not 0"),
        (Config, {"learning_rate": 0.1}, "learning_rate: unexpected keyword argument"),
        (Config, {"content_weight": 0.0, "style_layers": ()}, "nothing to match"),
        (Adam, {"ema": 1.0}, "ema must be less than 1, not 1.0"),
        (LBFGS, {"history_size": 0}, "history_size must be at least 1, not 0"),
        (Pyramid, {"number": 1}, "number must be at least 2, not 1"),
        (AutoPyramid, {"start_size": 0}, "start_size must be at least 1, not 0"),
    ],
)
def test_classes_validate_themselves(cls: type, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**options)


class Term:
    """What stands for one's own term."""

    def __call__(self, image: Any) -> Any:
        return image.mean()


@dataclasses.dataclass
class Unfrozen(Term):
    """A term without a hash."""


@pytest.mark.parametrize(
    ("setting", "given", "name"),
    [
        ("optimizer", LBFGS, "LBFGS"),
        ("scales", Pyramid, "Pyramid"),
        ("extra_terms", [Term], "Term"),
        ("extra_terms", {Term: 2.0}, "Term"),
        ("style_statistics", ["gram", Term], "Term"),
        ("network", Term, "Term"),
    ],
)
def test_a_class_is_no_instance(setting: str, given: Any, name: str) -> None:
    message = f"{setting}: expected an instance, as in {name}(...), not the class {name}"
    makers: tuple[Any, ...] = (Config, Config().replace)
    for make in makers:
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            make(**{setting: given})


@dataclasses.dataclass(frozen=True)
class OfAList(Term):
    """A term whose hash fails, as that of its field does."""

    values: list[int]


@pytest.mark.parametrize("setting", ["extra_terms", "style_statistics"])
@pytest.mark.parametrize("given", [Unfrozen(), OfAList([1])])
def test_what_has_no_hash_is_refused(setting: str, given: Term) -> None:
    message = re.escape(f"{setting}: {given} must be hashable; make it a frozen dataclass")
    with pytest.raises(ConfigError, match=f"^{message}"):
        Config().replace(**{setting: [given]})


def test_what_is_shown_of_a_value_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"not array\(\[\[0\., 0\.\], \[0\., 0\.\]\]\)$"):
        Config(seed=np.zeros((2, 2)))  # pyright: ignore[reportArgumentType]


def test_a_positional_value_has_its_name_in_messages() -> None:
    with pytest.raises(ConfigError, match=r"^number must be at least 2, not 1$"):
        Pyramid(1)
    with pytest.raises(ConfigError, match=r"^scale_factor must be a number, not 'a'$"):
        Pyramid(2, "a")  # pyright: ignore[reportArgumentType]


class Distance:
    """What stands for one's own statistic."""

    distance = None

    def __str__(self) -> str:
        return "own"


def test_statistics_of_one_name_are_refused() -> None:
    one = Distance()
    assert Config(style_statistics={one: 1.0, "gram": 1.0}).style_statistics[one] == 1.0
    refused = "^style_statistics has 2 different entries called own$"
    with pytest.raises(ConfigError, match=refused):
        Config(style_statistics=[one, Distance()])


def test_every_setting_is_described() -> None:
    for name, setting in SETTINGS.items():
        assert setting.description[0].isupper(), name
        assert setting.description.endswith("."), name
    fields = {field.name for field in dataclasses.fields(Config)}
    options = {
        field.name
        for kind in (LBFGS, Adam, OneScale, Pyramid, AutoPyramid)
        for field in dataclasses.fields(kind)
    } - {"name", "number"}
    assert set(SETTINGS) == (fields | options) - {"extra_terms"}  # which no text can give
    assert not fields & options


def test_options_of_one_name_are_described_alike() -> None:
    for name, (first, second) in {
        "scale_factor": (Pyramid, AutoPyramid),
        "coarse_evaluations": (Pyramid, AutoPyramid),
        "first_evaluations": (Pyramid, AutoPyramid),
    }.items():
        fields: Any = (first, second)
        texts = {cls.__pydantic_fields__[name].description for cls in fields}
        assert texts == {SETTINGS[name].description}


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="the presets are default, seed, gatys"):
        preset("mine")
    with pytest.raises(ConfigError, match=r"did you mean gatys\?"):
        preset("gatis")


def test_bad_toml_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="not a TOML document"):
        parse_toml("size = = 3")


def test_a_seed_may_be_a_key() -> None:
    assert Config(seed=jax.random.key(7)) == Config(seed=jax.random.PRNGKey(7)) == Config(seed=7)
    one, two = (Config().replace(seed=key) for key in jax.random.split(jax.random.key(7)))
    assert one.seed != two.seed
    assert max(one.seed, two.seed) >= 2**32
    assert {one: 1}[Config().replace(**parse_toml(to_toml(one)))] == 1
