"""A small random network in place of VGG19's weights, for tests of the command line."""

import functools
from pathlib import Path
from typing import Any
from unittest import mock

from tests.conftest import random_params

_params = functools.cache(random_params)

REPLACED: dict[str, Any] = {
    "locate": lambda *_, **__: Path("random"),
    "read": lambda *_: mock.Mock(sha256="0" * 64),
    "load_weights": lambda *_, **__: _params(),
    "to_params": lambda _: _params(),
}
"""Functions of `jaxstyle.network.weights` by name."""


def use() -> None:
    """Replace them in this process for good."""
    from jaxstyle.network import weights

    for name, function in REPLACED.items():
        setattr(weights, name, function)
