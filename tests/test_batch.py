"""Lanes and batches: what comes out is what `stylize` makes, whatever else is in the batch."""

import pytest
from numpy.testing import assert_allclose

from jaxstyle import Config, Result, stylize, stylize_batch
from jaxstyle.types import Params
from tests.conftest import picture

CONTENT, OTHER, STYLE, STYLE2 = (
    picture(32, 48, 0),
    picture(32, 48, 3),
    picture(40, 36, 1),
    picture(30, 44, 2),
)
QUICK = Config(evaluations=20, style_weight=1.0, tv_weight=1e-5)


def assert_same_runs(found: Result, expected: Result, rtol: float = 1e-4) -> None:
    assert len(found.history) == len(expected.history)
    losses = [[record.loss for record in run.history] for run in (found, expected)]
    assert_allclose(losses[0], losses[1], rtol=rtol)
    assert found.image.shape == expected.image.shape
    assert_allclose(found.image, expected.image, atol=1e-3)
    assert found.reason == expected.reason
    assert [r.scale for r in found.history] == [r.scale for r in expected.history]
    assert [r.evaluation for r in found.history] == [r.evaluation for r in expected.history]
    assert_allclose(list(found.terms.values()), list(expected.terms.values()), rtol=1e-3)


@pytest.mark.parametrize("per_device", [None, 1, 4])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_lane_equals_a_single_run(
    small_params: Params, optimizer: str, per_device: int | None
) -> None:
    base = QUICK.replace(optimizer=optimizer)
    configs = [
        base,
        base.replace(style_weight=10.0, init="noise", seed=1),
        base.replace(style_weight=0.1, init="noise", seed=2),
        base.replace(content_weight=0.5, tv_weight=1e-3, evaluations=7),
        base.replace(init="noise", seed=3, tv_weight=0.0),
        base.replace(content_weight=0.0, init="style"),
    ]
    contents, styles = [CONTENT, OTHER] * 3, [STYLE, STYLE2, STYLE] * 2
    found = stylize_batch(contents, styles, configs, small_params, lanes=per_device)
    for run, content, style, config in zip(found, contents, styles, configs, strict=True):
        assert_same_runs(run, stylize(content, style, config, small_params))
