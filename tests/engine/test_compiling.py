"""Programs are compiled once, ahead of their use, and found again by later processes."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstyle import Config, Guides, stylize, stylize_batch
from jaxstyle.engine import layout, memory, scales, stored, structure_of, targets
from jaxstyle.engine.ahead import Ahead
from jaxstyle.engine.compiling import Signature, cached, quick_options
from jaxstyle.engine.fitting import estimate
from jaxstyle.network.arrays import Params
from jaxstyle.objective.targets import prepare_params
from tests.conftest import SHALLOW, picture
from tests.engine.test_own_statistic import Means, of
from tests.own_networks import BLURRED, NNX, POOLED_PARAMS

CONTENT, STYLE = picture(48, 64, 0), picture(40, 36, 1)
TWO_SCALES = SHALLOW.replace(evaluations=3, scales=2, scale_factor=1.5)


def test_a_value_is_computed_once_however_many_threads_ask() -> None:
    begun, release, calls = threading.Event(), threading.Event(), []

    @cached(4)
    def square(number: int) -> int:
        calls.append(number)
        begun.set()
        assert release.wait(60)
        return number**2

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(square(3))) for _ in range(4)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(60)
    assert results == [9] * 4
    assert calls == [3]
    assert square(2) == 4


def test_what_failed_is_computed_again() -> None:
    calls: list[int] = []

    @cached(4)
    def fails_once(number: int) -> int:
        calls.append(number)
        if len(calls) == 1:
            raise ValueError("not yet")
        return number

    with pytest.raises(ValueError, match="not yet"):
        fails_once(3)
    assert fails_once(3) == fails_once(3) == 3
    assert calls == [3, 3]


def test_values_are_prepared_once_in_the_settings_of_the_thread_that_asks() -> None:
    def prepare(key: int) -> Any:
        if key == 2:
            raise ValueError
        return jnp.zeros(key).dtype

    with jax.enable_x64(True), Ahead(prepare, [1, 2]) as ahead:
        assert ahead.take(1) == np.float64
        assert ahead.take(1) is None
        assert ahead.take(2) is None  # for the caller to meet the error
        assert ahead.take(3) is None


def test_programs_are_compiled_in_a_thread_before_their_targets_are_there(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, threads = scales.compile_update, []

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return genuine(*arguments, **options)

    monkeypatch.setattr(scales, "compile_update", noted)
    before = layout._compiled.cache_info().misses
    run = stylize(picture(50, 64, 0), STYLE, TWO_SCALES, small_params)
    assert [record.scale for record in run.history] == [0] * 3 + [1] * 3
    assert len(threads) == 2
    assert all(name.startswith("jaxstyle-ahead") for name in threads)
    # Those that were compiled ahead are those that run.
    assert layout._compiled.cache_info().misses == before + 2


def test_a_failure_ahead_is_no_failure(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stylize(CONTENT, STYLE, TWO_SCALES, small_params)

    def fails(*arguments: Any, **options: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(scales, "compile_update", fails)
    again = stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    np.testing.assert_array_equal(again.image, whole.image)


def test_nothing_is_prepared_where_memory_is_for_one(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    genuine = targets.Targets.objective

    def noted(*arguments: Any) -> Any:
        computed.append(threading.current_thread().name)
        return genuine(*arguments)

    monkeypatch.setattr(targets.Targets, "objective", noted)
    params = prepare_params(small_params, TWO_SCALES)
    need = estimate(TWO_SCALES.replace(activations="kept"), CONTENT.shape, params)
    monkeypatch.setattr(memory, "device_memory", lambda device: int(1.9 * need))
    stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    assert not [name for name in computed if name.startswith("jaxstyle-ahead")]
    monkeypatch.setattr(memory, "device_memory", lambda device: int(2.1 * need))
    stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    assert len([name for name in computed if name.startswith("jaxstyle-ahead")]) == 1


def test_waiting_for_other_threads_counts_as_compilation(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = targets.Targets.objective

    def slow(*arguments: Any) -> Any:
        if threading.current_thread().name.startswith("jaxstyle-ahead"):
            time.sleep(3)
        return genuine(*arguments)

    stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    monkeypatch.setattr(targets.Targets, "objective", slow)
    started = time.perf_counter()
    run = stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    # However slow the machine is: what is no evaluation and no waiting is at most the first scale.
    first = run.history[2]
    assert run.history[3].compile_seconds - first.compile_seconds > 1 or first.seconds > 1
    assert run.compile_seconds < time.perf_counter() - started


MASK = np.repeat((np.indices((48, 64))[1] > 24)[..., None], 3, axis=2).astype(np.float32)


@pytest.mark.parametrize(
    ("config", "styles", "guided"),
    [
        (TWO_SCALES, 1, False),
        (TWO_SCALES, 1, True),
        (TWO_SCALES, 2, True),
        (TWO_SCALES, 2, False),
        (TWO_SCALES.replace(style_blend="loss"), 2, False),
        (TWO_SCALES.replace(style_shape="content"), 1, False),
        (TWO_SCALES.replace(style_statistics=("wasserstein",)), 1, False),
        (TWO_SCALES.replace(style_statistics=("sliced", "moments")), 1, False),
        (TWO_SCALES.replace(preserve_color="luminance"), 1, False),
        (TWO_SCALES.replace(activations="tiled", tile=32), 1, False),
        (TWO_SCALES.replace(precision="bfloat16"), 1, False),
    ],
)
def test_an_outline_has_the_form_of_its_objective(
    config: Config, styles: int, guided: bool, small_params: Params
) -> None:
    def source(image: Any, load: Any) -> targets.Source:
        return targets.Source(image.shape, load)

    def cell(load: Any) -> targets.Cell:
        guides = Guides.of(MASK) if guided else None
        return targets.Cell(
            source(CONTENT, lambda: load(CONTENT)),
            (source(STYLE, lambda: load(STYLE)),) * styles,
            config,
            None if guides is None else targets.GuideSource(lambda: guides.content),
        )

    def never(image: Any) -> Any:
        raise AssertionError("a picture was loaded")

    made = targets.Targets(small_params, structure_of(config), jax.local_devices()[:1], 1, 1)
    for ratio in (1.0, 1 / 1.5):
        outline = made.outline(cell(never), ratio)
        objective = made.objective(cell(lambda image: image), ratio)
        assert Signature.of(outline) == Signature.of(objective)


def test_contents_are_computed_once_a_scale(
    small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, shapes = targets.Targets._compute_content, []

    def noted(*arguments: Any) -> Any:
        content, target = genuine(*arguments)
        shapes.append(content.shape[:2])
        return content, target

    monkeypatch.setattr(targets.Targets, "_compute_content", noted)
    config = TWO_SCALES.replace(scales=3)
    configs = [config, config.replace(style_weight=2.0)]
    stylize_batch(CONTENT, STYLE, configs, small_params, lanes=1)
    assert sorted(shapes) == [(21, 28), (32, 43), (48, 64)]


def test_a_device_that_is_not_the_first(small_params: Params) -> None:
    code = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from jaxstyle import stylize
from tests.conftest import SHALLOW, picture, random_params
config = SHALLOW.replace(evaluations=2)
pictures = picture(48, 64, 0), picture(40, 36, 1)
first, second = jax.devices()
params = random_params()
one = stylize(*pictures, config, params)
other = stylize(*pictures, config, jax.device_put(params, second), devices=[second])
np.testing.assert_array_equal(one.image, other.image)
with jax.default_device(second):
    again = stylize(*pictures, config, params)
np.testing.assert_array_equal(one.image, again.image)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """A compilation cache of its own, and no program in memory."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "exported"
    jax.config.update("jax_compilation_cache_dir", before)


def forget() -> None:
    """Forget compiled programs, as a new process would."""
    layout._compiled.cache_clear()
    targets._lowered.cache_clear()
    targets._compiled.cache_clear()
    jax.clear_caches()


def test_stored_programs_need_no_tracing_and_give_the_same_bits(
    folder: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    forget()
    plain = stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    jax.config.update("jax_compilation_cache_dir", str(folder.parent))
    forget()
    first = stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    assert len(list(folder.iterdir())) == 6
    monkeypatch.setattr(stored, "_store", lambda *_: pytest.fail("traced again"))
    forget()
    second = stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    for run in (first, second):
        np.testing.assert_array_equal(run.image, plain.image)
        assert [record.loss for record in run.history] == [record.loss for record in plain.history]


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_programs_are_stored_again(
    damage: bytes | None, folder: Path, small_params: Params
) -> None:
    forget()
    first = stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    paths = set(folder.iterdir())
    for path in paths:
        path.write_bytes(path.read_bytes()[:-10] if damage is None else damage)
    forget()
    second = stylize(CONTENT, STYLE, TWO_SCALES, small_params)
    np.testing.assert_array_equal(second.image, first.image)
    assert set(folder.iterdir()) == paths
    assert all(stored._read(str(path)) is not None for path in paths)


def test_programs_of_other_settings_are_others(folder: Path, small_params: Params) -> None:
    forget()
    one_scale = SHALLOW.replace(evaluations=2)
    files: set[Path] = set()
    for changes in (
        {},
        {"tv": "l1"},
        {"history_size": 5},
        {"optimizer": "adam"},
        {"optimizer": "adam", "learning_rate_schedule": "cosine"},
        {"optimizer": "adam", "ema": 0.9},
        {"pooling": "average"},
    ):
        stylize(CONTENT, STYLE, one_scale.replace(**changes), small_params)
        new = set(folder.iterdir()) - files
        assert new, changes
        files |= new
    same = {"optimizer": "adam", "learning_rate": 0.3, "ema": 0.5}
    for changes in ({"style_weight": 3.0}, {"evaluations": 1}, same):
        stylize(CONTENT, STYLE, one_scale.replace(**changes), small_params)
    assert set(folder.iterdir()) == files


def shade(image: jax.Array) -> jax.Array:
    return jnp.mean(image)


OF_ONES_OWN = {
    "statistic": of(Means()),
    "term": SHALLOW.replace(extra_terms=(shade,), evaluations=1),
    "network": BLURRED,
    "function": NNX,
}


@pytest.mark.parametrize("kind", OF_ONES_OWN)
def test_what_is_of_ones_own_is_not_stored(kind: str, folder: Path, small_params: Params) -> None:
    forget()
    params = {"network": {}, "function": POOLED_PARAMS}.get(kind, small_params)
    stylize(CONTENT, STYLE, OF_ONES_OWN[kind], params)
    assert not folder.exists()


def test_programs_unused_for_longest_make_room(
    folder: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_scale = SHALLOW.replace(evaluations=1)
    forget()
    stylize(CONTENT, STYLE, one_scale, small_params)
    used = set(folder.iterdir())
    stylize(CONTENT, STYLE, one_scale.replace(pooling="average"), small_params)
    other = set(folder.iterdir()) - used
    assert len(used) == len(other) == 3
    for path in (*used, *other):
        os.utime(path, (0, 0))
    forget()
    stylize(CONTENT, STYLE, one_scale, small_params)
    monkeypatch.setattr(stored, "_KEPT", 6)
    stylize(CONTENT, STYLE, one_scale.replace(tv="l1"), small_params)
    left = set(folder.iterdir())
    assert used < left
    assert len(left) == 6
    assert not other <= left


def test_flags_of_the_environment_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    assert "xla_backend_optimization_level" not in quick_options()
    monkeypatch.delenv("XLA_FLAGS")
    assert quick_options()["xla_backend_optimization_level"] == "1"
