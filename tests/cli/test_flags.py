"""Every setting has a flag that works, a value in sweeps, and an entry in the help."""

import re
from typing import Any

import pytest

from jaxstyle import Adam, AutoPyramid, Config, preset
from jaxstyle.cli.commands import CLI_SIZE, RenderGrid, Stylize
from jaxstyle.cli.parsing import parse
from jaxstyle.config import SETTINGS, flat, words
from jaxstyle.storage.cells import Base

# A value for every setting, also those that have none of their own.
GIVEN = Config(
    style_weights=(1.0, 0.5),
    style_size=300,
    tile=64,
    optimizer=Adam(ema=0.9),
    scales=AutoPyramid(coarse_evaluations=7, first_evaluations=9),
)
VALUES: dict[str, Any] = flat(Config()) | flat(GIVEN)


def needed(name: str) -> dict[str, str]:
    """The alternative that has the option `name`."""
    return {"optimizer": "adam"} if hasattr(Adam(), name) else {}


def test_the_values_are_of_all_settings() -> None:
    assert set(VALUES) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_flag_sets_its_setting(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    before = [f"--{other}={value}" for other, value in needed(name).items()]
    command = parse(["stylize", "a.png", "b.png", *before, flag, *words(VALUES[name])])
    assert isinstance(command, Stylize)
    assert command.style == ("b.png",)
    assert set(command.flags) == {name, *needed(name)}
    base = preset("default").replace(size=CLI_SIZE)
    assert command.settings == base.replace(**needed(name)).replace(**{name: VALUES[name]})
    assert flat(command.settings)[name] == VALUES[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_text_sets_its_setting(name: str) -> None:
    texts = {**needed(name), name: "+".join(words(VALUES[name]))}
    assert flat(Base("default").vary(texts))[name] == VALUES[name]


def test_both_commands_have_every_flag_with_its_description(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for command in ("stylize", "grid"):
        with pytest.raises(SystemExit) as ended:
            parse([command, "--help"])
        assert ended.value.code == 0
        help_text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
        for name, setting in SETTINGS.items():
            assert f" --{name.replace('_', '-')} " in help_text
            assert setting.description in help_text
        assert "(default: relu1_1 relu2_1=0.25 relu3_1=0.0625" in help_text
        assert "(default: wasserstein)" in help_text


def test_no_flag_is_no_setting() -> None:
    command = parse(["grid", "--contents", "a", "--styles", "b", "-o", "c"])
    assert isinstance(command, RenderGrid)
    assert not command.flags
