"""Help texts of commands, from the docstrings of their fields."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from typing import Annotated, Any, TypeVar, dataclass_transform

from tyro.conf import arg

T = TypeVar("T")

_NOTHING = (None, (), False)
"""Defaults that help is silent about."""


@dataclass_transform(frozen_default=True)
def command(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose fields are explained in paragraphs.

    tyro would break lines where the source does, and show the default of every flag.
    """
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    texts = _docstrings(cls)
    for field in (each for each in dataclasses.fields(made) if each.name in texts):
        shown = arg(help=texts[field.name], help_behavior_hint=_hint(field))
        made.__annotations__[field.name] = Annotated[field.type, shown]
    return made


def _hint(field: dataclasses.Field[Any]) -> str | None:
    """Return what follows the text of a field; None stands for its default."""
    if field.default is field.default_factory is dataclasses.MISSING:
        return "(required)"
    return "" if any(field.default is each for each in _NOTHING) else None


def _docstrings(cls: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in itertools.pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(words))):
                found[name] = " ".join(words.split())
    return found
