"""Validated frozen dataclasses whose errors are one line each."""

import functools
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from immutabledict import immutabledict
from pydantic import AfterValidator, BeforeValidator, Field

from jaxstyle.config.errors import ConfigError

Count = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Weight = Annotated[float, Field(strict=True, ge=0)]
Decay = Annotated[float, Field(strict=True, gt=0, lt=1)]

_Class = TypeVar("_Class", bound=type)


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
            raise ConfigError(_message(error)) from None

    checked.__init__ = init
    return checked


def descriptions(cls: type) -> dict[str, str]:
    """Return the description of each field of a class made by `settings`."""
    fields: Mapping[str, Any] = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return {name: " ".join((field.description or "").split()) for name, field in fields.items()}


def _message(error: pydantic.ValidationError) -> str:
    """Describe what is wrong with one setting; the alternatives of a union are joined."""
    first, *others = error.errors(include_url=False)
    context = first.get("ctx", {})
    if "error" in context:  # raised by a validator of our own
        return str(context["error"])
    name, message = _setting(first["loc"]), first["msg"]
    if first["type"] == "union_tag_invalid":
        expected = context["expected_tags"].replace(", ", " or ")
        return f"{name} must be {expected}, not {context['tag']!r}"
    if not message.startswith("Input should be "):
        return f"{name}: {message[0].lower()}{message[1:]}"
    wants = [message, *(other["msg"] for other in others if _setting(other["loc"]) == name)]
    words = dict.fromkeys(want.removeprefix("Input should be ") for want in wants)
    return f"{name} must be {' or '.join(words)}, not {first['input']!r}"


def _setting(place: tuple[int | str, ...]) -> str:
    """Return the setting at `place`, which is (field,), (field, item) or (field, kind, setting)."""
    field, last = place[0], place[-1]
    nested = len(place) > 2 and last not in ("name", "number", "[key]")
    return str(last if nested else field)


def weighted(value: Any) -> Any:
    """Convert `["a", "b=0.5"]` to `{"a": 1.0, "b": 0.5}`."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"a list of names or a table of their weights is needed, not {value!r}")
    weights: dict[Any, Any] = {}
    for item in value:
        name, equals, weight = item.partition("=") if isinstance(item, str) else (item, "", "")
        if name in weights:
            raise ConfigError(f"{name} is named twice")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ConfigError(f"{item}: the weight of {name} must be a number") from None
    return weights


def frozen(weights: Mapping[Any, float]) -> immutabledict[Any, float]:
    if weights and not any(weights.values()):
        raise ConfigError(f"the weights of {', '.join(map(str, weights))} must not all be 0")
    return immutabledict(weights)


Weights = Annotated[Mapping[str, Weight], BeforeValidator(weighted), AfterValidator(frozen)]
"""Weights by name; a sequence of names, or of texts like `relu1_1=0.5`, are accepted too."""


def equal(*names: Any) -> Mapping[Any, float]:
    """Return weights of 1 for all `names`."""
    return immutabledict(dict.fromkeys(names, 1.0))
