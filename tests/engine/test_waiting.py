"""A device that does not answer is told of once."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstyle.engine import waiting
from jaxstyle.engine.waiting import Reader


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes every array take that many seconds to arrive."""

    def slow(seconds: float) -> None:
        def get(tree: Any) -> Any:
            time.sleep(seconds)
            return jax.tree.map(np.asarray, tree)

        monkeypatch.setattr(waiting, "_is_ready", lambda _: False)
        monkeypatch.setattr(waiting.jax, "device_get", get)

    return slow


def test_a_wait_that_is_too_long_is_told_once(
    device: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_LEAST_SECONDS", 0.1)
    device(0.5)
    reader = Reader()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for number in range(2):
            assert reader.get({"x": jnp.float32(number)}, f"evaluation {number}") == {"x": number}
    (warning,) = told
    assert "no answer from the device" in str(warning.message)
    assert "waiting for evaluation 0" in str(warning.message)


def test_what_is_usual_is_not_told(
    device: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device(0.1)
    reader = Reader()
    reader.get(jnp.ones(3), "anything")
    # Twenty times as long would be unusual now.
    monkeypatch.setattr(waiting, "_LEAST_SECONDS", 0.0)
    device(0.5)
    assert reader.get(jnp.ones(3), "anything").sum() == 3


def test_what_has_arrived_is_not_waited_for() -> None:
    assert Reader().get({"x": np.ones(2), "y": 3}, "nothing on a device")["x"].sum() == 2
