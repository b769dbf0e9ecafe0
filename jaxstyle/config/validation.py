"""Validated frozen dataclasses whose errors are one line each."""

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, dataclass_transform

import pydantic
from immutabledict import immutabledict
from pydantic import AfterValidator, BeforeValidator, Field

from jaxstyle.config.errors import ConfigError, brief

Count = Annotated[int, Field(strict=True, ge=1)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Weight = Annotated[float, Field(strict=True, ge=0)]
Decay = Annotated[float, Field(strict=True, gt=0, lt=1)]

_WORDS = {
    "greater than or equal to": "at least",
    "a valid integer": "a whole number",
    "a valid tuple": "a list",
    "a valid": "a",
}
"""Words of pydantic's messages, and those of this project."""

_Class = TypeVar("_Class", bound=type)
_Kept = TypeVar("_Kept")
_Given = TypeVar("_Given")


class Converted(Generic[_Kept, _Given]):
    """A field with a default that takes a `_Given` and holds a `_Kept`.

    This is for type checkers, which understand descriptors; a validator does the conversion.
    """

    if TYPE_CHECKING:

        def __init__(self, default: _Kept) -> None: ...
        def __get__(self, instance: object, owner: object) -> _Kept: ...
        def __set__(self, instance: object, value: _Given) -> None: ...

    else:

        def __new__(cls, default):
            return default

        def __class_getitem__(cls, types):
            return types[0]


@dataclass_transform(frozen_default=True)
def settings(cls: _Class) -> _Class:
    """Make `cls` a frozen, hashable dataclass that raises `ConfigError` for bad values.

    The docstring below a field is its description, see `descriptions`.
    """
    rules = pydantic.ConfigDict(
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        extra="forbid",
    )
    checked: Any = pydantic.dataclasses.dataclass(frozen=True, config=rules)(cls)
    validate = checked.__init__

    @functools.wraps(validate)
    def init(self: Any, *values: Any, **named: Any) -> None:
        try:
            validate(self, *values, **named)
        except pydantic.ValidationError as error:
            raise ConfigError(_message(error, list(checked.__pydantic_fields__))) from None

    checked.__init__ = init
    return checked


def descriptions(cls: type) -> dict[str, str]:
    """Return the description of each field of a class made by `settings`."""
    fields: Mapping[str, Any] = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return {name: " ".join((field.description or "").split()) for name, field in fields.items()}


def _message(error: pydantic.ValidationError, fields: list[str]) -> str:
    """Describe what is wrong with one of the `fields`; the alternatives of a union are joined."""
    first, *others = error.errors(include_url=False)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    place = first["loc"][0]
    # A positional argument is known by its number.
    name = fields[place] if isinstance(place, int) and place < len(fields) else place
    if cause is not None:
        return f"{name}: {cause}"
    message = first["msg"]
    if not message.startswith("Input should be "):
        return f"{name}: {message[0].lower()}{message[1:]}"
    wants = [message, *(other["msg"] for other in others if other["loc"][0] == place)]
    words = dict.fromkeys(_plain(want.removeprefix("Input should be ")) for want in wants)
    return f"{name} must be {' or '.join(words)}, not {brief(repr(first['input']))}"


def _plain(want: str) -> str:
    """Say what pydantic wants as other messages do."""
    for theirs, ours in _WORDS.items():
        want = want.replace(theirs, ours)
    return want


def check_instance(setting: str, value: Any) -> None:
    """Raise `ConfigError` if `value` is a class instead of an instance."""
    if isinstance(value, type):
        name = value.__name__
        raise ConfigError(
            f"{setting}: expected an instance, as in {name}(...), not the class {name}"
        )


def check_hashable(value: Any) -> None:
    """Raise `ValueError` if `value` has no hash."""
    try:
        hash(value)  # which a frozen dataclass has only if its fields do
    except TypeError:
        raise ValueError(
            f"{brief(str(value))} must be hashable; make it a frozen dataclass of hashable fields"
        ) from None


def weighted(value: Any) -> Any:
    """Convert `["a", "b=0.5"]` to `{"a": 1.0, "b": 0.5}`."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"a list of names or a table of their weights is needed, not {value!r}")
    weights: dict[Any, Any] = {}
    for item in value:
        name, equals, weight = item.partition("=") if isinstance(item, str) else (item, "", "")
        check_hashable(name)
        if name in weights:
            raise ValueError(f"{name} is named twice")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f"the weight of {name} must be a number, not {weight!r}") from None
    return weights


def frozen(weights: Mapping[Any, float]) -> immutabledict[Any, float]:
    if weights and not any(weights.values()):
        raise ValueError("the weights must not all be 0")
    return immutabledict(weights)


Weights = Annotated[Mapping[str, Weight], BeforeValidator(weighted), AfterValidator(frozen)]
"""Weights by name; a sequence of names, or of texts like `relu1_1=0.5`, are accepted too."""


def named(value: Any) -> str:
    """Return the name by which records know a value: a text itself, or a user's own object."""
    return getattr(value, "__name__", None) or str(value)


def equal(*names: Any) -> Mapping[Any, float]:
    """Return weights of 1 for all `names`."""
    return immutabledict(dict.fromkeys(names, 1.0))
