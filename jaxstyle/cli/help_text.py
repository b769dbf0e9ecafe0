"""Help texts of commands, from the docstrings of their fields."""

import ast
import dataclasses
import functools
import inspect
import itertools
import sys
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
    texts = _docstrings(cls.__module__)[cls.__name__]
    for field in (each for each in dataclasses.fields(made) if each.name in texts):
        shown = arg(help=texts[field.name], help_behavior_hint=_hint(field))
        made.__annotations__[field.name] = Annotated[field.type, shown]
    return made


def _hint(field: dataclasses.Field[Any]) -> str | None:
    """Return what follows the text of a field; None stands for its default."""
    if field.default is field.default_factory is dataclasses.MISSING:
        return "(required)"
    return "" if any(field.default is each for each in _NOTHING) else None


@functools.cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return the docstrings of fields by the classes of a module, which is parsed once for all."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found: dict[str, dict[str, str]] = {}
    for definition in (each for each in tree.body if isinstance(each, ast.ClassDef)):
        texts = found[definition.name] = {}
        for field, text in itertools.pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(words))):
                    texts[name] = " ".join(words.split())
    return found
