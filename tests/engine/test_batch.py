"""Lanes and batches: what comes out is what `stylize` makes, whatever else is in the batch."""

import functools
import gc
import threading
import time
import warnings
from collections.abc import Callable

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxstyle import (
    Config,
    ConfigError,
    ImageError,
    Record,
    Result,
    stylize,
    stylize_batch,
)
from jaxstyle.engine import layout, loop, targets
from jaxstyle.engine.layout import Layout
from jaxstyle.engine.loop import Job
from jaxstyle.engine.stylize import stylize_cells
from jaxstyle.engine.targets import Cell, Source
from jaxstyle.imaging.arrays import Image
from jaxstyle.network.arrays import Params
from tests.conftest import SHALLOW, picture

CONTENT, OTHER, STYLE, STYLE2 = (
    picture(32, 48, 0),
    picture(32, 48, 3),
    picture(40, 36, 1),
    picture(30, 44, 2),
)
QUICK = SHALLOW.replace(evaluations=20, style_weight=1.0, tv_weight=1e-5)


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


@pytest.mark.parametrize(
    ("optimizer", "per_device"), [("lbfgs", None), ("lbfgs", 1), ("lbfgs", 4), ("adam", None)]
)
def test_a_lane_equals_a_single_run(
    small_params: Params, optimizer: str, per_device: int | None
) -> None:
    # Few evaluations: each makes what rounding sets apart some ten times as much.
    base = QUICK.replace(optimizer=optimizer, evaluations=12)
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


def test_a_lane_starts_from_the_style_as_it_is_compared_with(small_params: Params) -> None:
    config = QUICK.replace(init="style", preserve_color="match", scales=2, evaluations=3)
    (found,) = stylize_batch(CONTENT, 0.3 * STYLE, config, small_params)
    assert_same_runs(found, stylize(CONTENT, 0.3 * STYLE, config, small_params))


def test_a_small_style_fits_layers_that_only_the_content_has(small_params: Params) -> None:
    config = QUICK.replace(
        content_layers=("relu5_1",), style_layers=("relu1_1", "relu2_1"), evaluations=2
    )
    (found,) = stylize_batch(CONTENT, picture(12, 12, 1), config, small_params)
    assert_same_runs(found, stylize(CONTENT, picture(12, 12, 1), config, small_params))


def test_a_content_that_vanishes_fails_alone(small_params: Params) -> None:
    loads: list[int] = []

    def load() -> Image:
        loads.append(1)
        if len(loads) > 1:
            raise ImageError("gone")
        return CONTENT

    style, config = Source(STYLE.shape, lambda: STYLE), QUICK.replace(preserve_color="luminance")
    contents = Source(CONTENT.shape, lambda: CONTENT), Source(CONTENT.shape, load)
    cells = [Cell(content, (style,), config.replace(evaluations=2)) for content in contents]
    outcomes = dict(stylize_cells(cells, small_params))
    assert isinstance(outcomes[0], Result)
    assert str(outcomes[1]) == "gone"


def test_what_is_shared_is_computed_once(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        genuine = getattr(targets.Targets, name)

        def count(*arguments: object) -> object:
            calls.append(name)
            return genuine(*arguments)

        return count

    for name in ("_compute_content", "_compute_style"):
        monkeypatch.setattr(targets.Targets, name, counted(name))
    pairs = [(c, s, w) for c in (CONTENT, OTHER) for s in (STYLE, STYLE2) for w in (1.0, 2.0)]
    contents, styles, weights = zip(*pairs, strict=True)
    configs = [QUICK.replace(style_weight=weight, evaluations=1) for weight in weights]
    stylize_batch(contents, styles, configs, small_params)
    assert calls.count("_compute_content") == 2
    assert calls.count("_compute_style") == 2


def test_blends_in_a_batch_are_those_of_single_runs(small_params: Params) -> None:
    pictures = {id(p): Source(p.shape, lambda p=p: p) for p in (CONTENT, STYLE, STYLE2)}
    content, *both = (pictures[id(p)] for p in (CONTENT, STYLE, STYLE2))
    layers = {"relu1_1": 2.0, "relu2_1": 0.0, "relu3_1": 0.5}
    cells = [
        Cell(content, styles, QUICK.replace(evaluations=8, **changes))
        for styles, changes in (
            (tuple(both), {"style_weights": (0.2, 0.8), "style_blend": "loss"}),
            (tuple(both), {"style_weights": (0.2, 0.8), "style_layers": layers}),
            ((both[0],), {"style_blend": "loss"}),
            ((both[1],), {}),
        )
    ]
    before = layout._compiled.cache_info().misses
    found = dict(stylize_cells(cells, small_params))
    # Two targets a lane, and one: whatever the weights are, and for either blend of one style.
    assert layout._compiled.cache_info().misses <= before + 3
    for index, cell in enumerate(cells):
        styles = [style.load() for style in cell.styles]
        alone = stylize(CONTENT, styles, cell.config, small_params)
        outcome = found[index]
        assert isinstance(outcome, Result)
        assert_allclose(outcome.loss, alone.loss, rtol=1e-3)


def test_one_program_a_shape_whatever_the_values(small_params: Params) -> None:
    configs = [QUICK.replace(seed=i, init="noise", style_weight=i + 1.0) for i in range(4)]
    configs += [QUICK.replace(evaluations=3)] * 4
    before = layout._compiled.cache_info().misses
    stylize_batch([picture(33, 47, 0)] * 8, STYLE, configs, small_params, lanes=2)
    assert layout._compiled.cache_info().misses == before + 1


def test_lanes_of_cpus_are_read_without_a_program(
    small_params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    with jax.log_compiles():
        stylize_batch([picture(34, 42, seed) for seed in range(3)], STYLE, SHALLOW, small_params)
    assert "XLA compilation of jit(init)" in caplog.text
    assert "dynamic_index" not in caplog.text


def test_learning_rates_share_lanes(small_params: Params) -> None:
    adam = QUICK.replace(optimizer="adam", learning_rate_schedule="cosine", evaluations=6)
    configs = [
        adam,
        adam.replace(learning_rate=0.1),
        adam.replace(learning_rate=0.01, evaluations=4),
    ]
    before = layout._compiled.cache_info().misses
    found = stylize_batch(CONTENT, STYLE, configs, small_params, lanes=3)
    assert layout._compiled.cache_info().misses == before + 1
    for run, config in zip(found, configs, strict=True):
        assert isinstance(run, Result)
        assert_same_runs(run, stylize(CONTENT, STYLE, config, small_params))


@pytest.mark.slow
def test_scales_shapes_and_structures_go_together(small_params: Params) -> None:
    contents: list[Image] = [CONTENT, picture(40, 40, 5), CONTENT, OTHER]
    configs = [
        QUICK.replace(scales=2, coarse_evaluations=4, evaluations=6),
        QUICK.replace(evaluations=5, pooling="average"),
        QUICK.replace(evaluations=5, size=40),
        QUICK.replace(scales=2, coarse_evaluations=3, evaluations=2, style_shape="content"),
    ]
    found = stylize_batch(contents, STYLE, configs, small_params)
    for run, content, config in zip(found, contents, configs, strict=True):
        assert_same_runs(run, stylize(content, STYLE, config, small_params))


def test_a_lane_that_fails_disturbs_no_other(small_params: Params) -> None:
    good = QUICK.replace(evaluations=10)
    # Overflows where it starts: never finite.
    bad = good.replace(tv_weight=1e38)
    alone = stylize_batch([CONTENT] * 2, STYLE, [good, good.replace(tv_weight=1.0)], small_params)
    configs = [bad, good, bad, good.replace(tv_weight=1.0), bad]
    found = stylize_batch([CONTENT] * 5, STYLE, configs, small_params, lanes=2)
    assert [run.reason for run in found] == ["not finite", "budget"] * 2 + ["not finite"]
    assert len(found[0].history) == 1
    for run, expected in zip(found[1::2], alone, strict=True):
        # In another lane sums are added in another order.
        assert_allclose(run.image, expected.image, atol=1e-5)
        losses = [[record.loss for record in each.history] for each in (run, expected)]
        assert_allclose(*losses, rtol=1e-5)


def test_a_picture_that_cannot_be_used_fails_alone(small_params: Params) -> None:
    def missing() -> Image:
        raise ImageError("gone")

    good, tiny = (Source((32, 48), lambda: CONTENT), Source((3, 3), lambda: picture(3, 3, 0)))
    gone = Source((32, 48), missing)
    style = Source((40, 36), lambda: STYLE)
    config = QUICK.replace(evaluations=2)
    cells = [Cell(c, (s,), config) for c, s in [(gone, style), (good, tiny), (good, style)] * 2]
    outcomes = dict(stylize_cells(cells, small_params, lanes=2))
    assert sorted(outcomes) == list(range(6))
    assert [isinstance(outcomes[i], Result) for i in range(6)] == [False, False, True] * 2
    assert str(outcomes[0]) == "gone"
    assert "too small" in str(outcomes[1])


def test_cells_that_are_done_count_for_the_lanes_of_the_others(small_params: Params) -> None:
    content, style = Source((32, 48), lambda: CONTENT), Source((40, 36), lambda: STYLE)
    cells = [
        Cell(content, (style,), QUICK.replace(evaluations=6, style_weight=weight))
        for weight in (1.0, 2.0, 3.0, 4.0)
    ]
    whole = dict(stylize_cells(cells, small_params, lanes=4))
    rest = dict(stylize_cells(cells, small_params, lanes=4, skip={0, 2, 3}))
    assert list(rest) == [1]
    one, other = whole[1], rest[1]
    assert isinstance(one, Result)
    assert isinstance(other, Result)
    assert_array_equal(one.image, other.image)


def test_memory_running_out_halves_the_lanes(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = layout._compiled
    asked: list[int] = []

    def limited(layout: Layout, *arguments: object) -> object:
        if threading.current_thread() is threading.main_thread():
            asked.append(layout.lanes)
        if layout.lanes > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return genuine(layout, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(layout, "_compiled", limited)
    configs = [QUICK.replace(evaluations=3, style_weight=w) for w in (1.0, 2.0, 3.0, 4.0, 5.0)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = stylize_batch(CONTENT, STYLE, configs, small_params, lanes=5)
    assert asked == [5, 2]
    assert "2" in str(caught[0].message)
    for run, config in zip(found, configs, strict=True):
        assert_same_runs(run, stylize(CONTENT, STYLE, config, small_params))


@pytest.mark.parametrize("fails", [1, 3, 5, 6, 9])
def test_memory_running_out_midway_loses_nothing(
    fails: int, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = layout._compiled
    calls = 0

    def failing_later(*arguments: object) -> object:
        executable = genuine(*arguments)  # pyright: ignore[reportArgumentType]

        def update(*inputs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == fails:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return executable.update(*inputs)

        return executable._replace(update=update)

    monkeypatch.setattr(layout, "_compiled", failing_later)
    content, style = Source((32, 48), lambda: CONTENT), Source((40, 36), lambda: STYLE)
    configs = [QUICK.replace(evaluations=4, style_weight=float(w)) for w in range(1, 6)]
    cells = [Cell(content, (style,), config) for config in configs]
    with pytest.warns(UserWarning, match="continuing with 1"):
        outcomes = list(stylize_cells(cells, small_params, lanes=2))
    assert sorted(index for index, _ in outcomes) == list(range(5))
    for index, outcome in outcomes:
        assert isinstance(outcome, Result)
        assert_same_runs(outcome, stylize(CONTENT, STYLE, configs[index], small_params))


def test_what_is_too_large_even_alone_fails_alone(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = layout._compiled

    def limited(*arguments: object) -> object:
        if (24, 24, 3) in [leaf[0] for leaf in arguments[3].leaves]:  # pyright: ignore[reportAttributeAccessIssue]
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return genuine(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(layout, "_compiled", limited)
    small, large = (Source(p.shape, lambda p=p: p) for p in (CONTENT, picture(24, 24, 0)))
    style = Source((40, 36), lambda: STYLE)
    config = QUICK.replace(evaluations=2)
    cells = [Cell(content, (style,), config) for content in (large, small, large)]
    outcomes = dict(stylize_cells(cells, small_params, lanes=1))
    assert [isinstance(outcomes[i], Result) for i in range(3)] == [False, True, False]
    assert "out of memory" in str(outcomes[0])


def test_memory_running_out_for_a_content_loses_no_other(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, calls = targets.Targets._compute_content, 0

    def failing_once(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return genuine(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(targets.Targets, "_compute_content", failing_once)
    contents = [picture(32, 48, seed) for seed in range(4)]
    config = QUICK.replace(evaluations=2)
    found = stylize_batch(contents, STYLE, config, small_params, lanes=2)
    for result, content in zip(found, contents, strict=True):
        assert_same_runs(result, stylize(content, STYLE, config, small_params))


def test_memory_running_out_for_a_content_beside_others_ends_none(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with one lane a device: what is made beside those under way is then made alone."""
    made: list[str] = []
    job = Job(None, CONTENT, 1)  # pyright: ignore[reportArgumentType]

    def maker(name: str) -> Job:
        if name == "large" and work.active:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        made.append(name)
        return job

    names = ["a", "b", "large", "c"]
    work = loop._Work([functools.partial(maker, name) for name in names])
    for slot in range(2):
        lane = work.take(slot, 2)
        assert lane is not None
        work.active[slot] = lane
    with pytest.raises(jax.errors.JaxRuntimeError):
        work.take(0, 2)
    assert work.making is not None
    work.first_alone()
    assert not work.active
    assert [index for index, _ in work.waiting] == [2, 0, 1, 3]
    assert work.look() is job
    assert work.making is None
    assert made == ["a", "b", "large"]


def test_double_precision_elsewhere_changes_nothing(small_params: Params) -> None:
    config = QUICK.replace(evaluations=2, init="noise")
    expected = stylize_batch([CONTENT] * 2, STYLE, config, small_params)
    with jax.enable_x64(True):
        found = stylize_batch([CONTENT] * 2, STYLE, config, small_params)
    assert_allclose(found[0].image, expected[0].image, atol=1e-5)


def test_times_are_those_of_the_loop(small_params: Params) -> None:
    def slow() -> Image:
        time.sleep(1.0)
        return CONTENT.copy()

    style = Source((40, 36), lambda: STYLE)
    cells = [Cell(Source((32, 48), slow), (style,), QUICK.replace(evaluations=1)) for _ in range(3)]
    outcomes = dict(stylize_cells(cells, small_params, lanes=3))
    seconds = [outcome.seconds for outcome in outcomes.values() if isinstance(outcome, Result)]
    assert len(seconds) == 3
    assert max(seconds) < 1.0


@pytest.mark.slow
def test_lanes_are_as_many_as_fit(small_params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    config = QUICK.replace(evaluations=1, history_size=5)
    asked: list[int] = []
    genuine = layout._compiled

    def noted(layout: Layout, *arguments: object) -> object:
        if threading.current_thread() is threading.main_thread():
            asked.append(layout.lanes)
        return genuine(layout, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(layout, "_compiled", noted)
    stylize_batch([CONTENT] * 8, STYLE, config, small_params)
    assert asked == [8]
    monkeypatch.setattr(layout, "device_memory", lambda device: 3_000_000)
    asked.clear()
    found = stylize_batch([CONTENT] * 8, STYLE, config, small_params)
    assert len(found) == 8
    assert asked[0] == 8
    assert 1 < asked[-1] < 8
    monkeypatch.setattr(layout, "device_memory", lambda device: 1)
    stylize_batch([CONTENT] * 8, STYLE, config, small_params)
    assert asked[-1] == 1


TWICE = ("relu1_1", "block1_conv1")


@pytest.mark.parametrize(
    ("contents", "styles", "configs", "message"),
    [
        ([CONTENT] * 2, [STYLE] * 3, QUICK, "2 contents"),
        ([CONTENT], STYLE, QUICK.replace(style_layers=("relu9_1",)), "unknown layer"),
        ([CONTENT], STYLE, [QUICK] * 2 + [QUICK.replace(content_layers=TWICE)], "twice"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    small_params: Params,
    contents: list[Image],
    styles: Image | list[Image],
    configs: Config | list[Config],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        stylize_batch(contents, styles, configs, small_params)
    with pytest.raises(ConfigError, match="lanes must be at least 1"):
        stylize_batch(CONTENT, STYLE, QUICK, small_params, lanes=0)
    with pytest.raises(ConfigError, match="lanes must be at least 1"):
        stylize_batch(CONTENT, STYLE, QUICK.replace(scales=2), small_params, lanes=-1)
    with pytest.raises(ConfigError, match=r"cannot be shared by 4096 devices: there (is|are) \d+$"):
        stylize_batch(CONTENT, STYLE, QUICK, small_params, space=4096)


def test_failures_are_in_their_places(small_params: Params) -> None:
    contents = [CONTENT * np.nan, CONTENT, picture(3, 3, 0), OTHER]
    config = QUICK.replace(evaluations=2)
    found = stylize_batch(contents, STYLE, config, small_params)
    kinds = [type(outcome) for outcome in found]
    assert kinds == [ImageError, Result, ImageError, Result]
    assert "finite" in str(found[0])
    assert "too small" in str(found[2])


@pytest.mark.parametrize("scales", [1, 2])
def test_callbacks_see_and_end_each_run(small_params: Params, scales: int) -> None:
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}

    def callback(index: int, record: Record) -> bool:
        seen[index].append(record.evaluation)
        return index == 1 and record.evaluation == 3

    config = QUICK.replace(evaluations=6).replace(scales=scales)
    found = stylize_batch([CONTENT] * 3, STYLE, config, small_params, callback, lanes=3)
    spent = 6 * scales
    assert seen == {0: list(range(1, spent + 1)), 1: [1, 2, 3], 2: list(range(1, spent + 1))}
    assert [run.reason for run in found] == ["budget", "stopped", "budget"]
    stopped = found[1]
    alone = stylize(CONTENT, STYLE, config, small_params, lambda record: record.evaluation == 3)
    assert_same_runs(stopped, alone)


def test_no_contents_are_no_results(small_params: Params) -> None:
    assert stylize_batch([], STYLE, QUICK, small_params) == []


def test_arrays_are_freed_with_the_last_reference_to_them(small_params: Params) -> None:
    config = QUICK.replace(evaluations=1, scales=2, scale_factor=1.3)

    def arrays_left() -> int:
        stylize(CONTENT, STYLE, config, small_params)
        return len(jax.live_arrays())

    gc.collect()
    gc.disable()  # as far as a run of large images gets before the next collection
    try:
        assert arrays_left() == arrays_left() == arrays_left()
    finally:
        gc.enable()
