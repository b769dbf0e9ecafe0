"""Settings under flat names, as flags, sweeps, CSV columns and metadata have them, and as TOML."""

import dataclasses
import textwrap
import tomllib
from collections.abc import Mapping
from types import NoneType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import tomli_w

from jaxstyle.config.errors import ConfigError
from jaxstyle.config.settings import NESTED, Config
from jaxstyle.config.validation import descriptions, named


class Setting(NamedTuple):
    """A setting under its flat name: a field of `Config`, or an option of an alternative."""

    type: Any
    """Type of its value; weighted names are texts, `relu1_1=0.5`."""
    description: str


_PYTHON_ONLY = ("extra_terms",)
"""Tables that no text can fill; they are written if they are not empty."""


def _settings() -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for name, setting in _fields(Config).items():
        if name in _PYTHON_ONLY:
            continue
        if name not in NESTED:
            settings[name] = setting
            continue
        tag, values, kinds, _ = NESTED[name]
        settings[name] = setting._replace(type=values)
        for kind in kinds:
            settings |= {option: each for option, each in _fields(kind).items() if option != tag}
    return settings


def _fields(cls: type) -> dict[str, Setting]:
    types, texts = get_type_hints(cls), descriptions(cls)
    return {name: Setting(_flag_type(types[name]), texts[name]) for name in texts}


def _flag_type(hint: Any) -> Any:
    """Return the type of a value that is given: without None, and without objects of Python."""
    if get_origin(hint) is Mapping:
        return tuple[str, ...]
    if {type(None), Any} & set(get_args(hint)):
        return Union[tuple(each for each in get_args(hint) if each not in (type(None), Any))]  # noqa: UP007
    return hint


SETTINGS: Mapping[str, Setting] = _settings()
"""All settings that a text can give, by flat name."""


def flat(config: Config) -> dict[str, Any]:
    """Return the settings by flat name, as JSON and TOML know them, without those that are None.

    `Config().replace(**flat(config))` equals `config`, unless something in it is a user's own.
    """
    result: dict[str, Any] = {}
    for name, value in _given(config).items():
        result |= _renamed(name, _given(value)) if name in NESTED else {name: _plain(value)}
    return result


def words(value: Any) -> list[str]:
    """Return the words of a flag for a setting's `value`, as in `flat`.

    A weighted name is `relu1_1=0.5`, or the name alone where the weight is 1.
    """
    if isinstance(value, Mapping):
        return [name if weight == 1 else f"{name}={weight}" for name, weight in value.items()]
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def parse_toml(text: str) -> dict[str, Any]:
    """Parse the settings in a TOML document, by flat name; `Config.replace` validates them.

    An option may be in the table of its alternative or by itself. A table that names an alternative
    sets all of its options, to their defaults (which may be None) where it leaves them out. The
    table `run`, in which a run folder records the origin of its settings, is left out.

    Raises:
        ConfigError: the text is not TOML, or an alternative is unknown.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not a TOML document: {error}") from None
    document.pop("run", None)
    result: dict[str, Any] = {}
    for name, value in document.items():
        if name not in NESTED or not isinstance(value, dict):
            result[name] = value
            continue
        tag, _, _, of = NESTED[name]
        defaults = vars(of(value[tag])) if tag in value else {}
        result = {**_renamed(name, defaults), **result, **_renamed(name, value)}
    return result


def to_toml(config: Config) -> str:
    """Write `config` as commented TOML; `Config().replace(**parse_toml(text))` equals `config`."""
    values, tables = [], []
    for name, value in vars(config).items():
        plain = _plain(value)
        if name in _PYTHON_ONLY and not value:
            continue
        if name in NESTED:
            comment = _comment(SETTINGS[name].description)
            entries = "".join(_entry(option, each) for option, each in vars(value).items())
            tables.append(f"{comment}[{name}]\n{entries}")
        elif isinstance(plain, dict):
            tables.append(_entry(name, plain))
        else:
            values.append(_entry(name, plain))
    return "\n".join([*values, *tables])


def _entry(name: str, value: Any) -> str:
    """Write one setting below its description, as a comment if it is not set."""
    comment = _comment(SETTINGS[name].description) if name in SETTINGS else ""
    return comment + (f"# {name} is not set\n" if value is None else tomli_w.dumps({name: value}))


def _given(values: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are not None, nor tables that need not be written."""
    fields = {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}
    return {
        name: value
        for name, value in fields.items()
        if value is not None and (value or name not in _PYTHON_ONLY)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {named(name): weight for name, weight in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, (str, int, float, NoneType)) else str(value)


def _renamed(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the tag of an alternative the name of the setting; options keep theirs."""
    tag = NESTED[name].tag
    return {name if option == tag else option: value for option, value in options.items()}


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")
    return "".join(f"{line}\n" for line in lines)
