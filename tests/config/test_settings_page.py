"""docs/settings.md shows what the settings say of themselves."""

import re
from pathlib import Path

from jaxstyle.config import SETTINGS, preset, to_toml

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


def test_the_page_has_the_presets_as_they_are_printed() -> None:
    every, tables = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert every == to_toml(preset("default"))
    crowson = to_toml(preset("crowson"))
    assert tables == crowson[crowson.index("# The optimizer") :]


def test_the_page_names_every_setting() -> None:
    assert not [name for name in SETTINGS if name not in PAGE]
