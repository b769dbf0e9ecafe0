"""What is chosen for a device's memory, and how near the estimates are to compiled programs."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from jaxstyle import Config, ConfigError, build_objective, preset, stylize, stylize_batch
from jaxstyle.engine import fitting, memory as memory_module
from jaxstyle.engine.compiling import thrifty_options
from jaxstyle.engine.fitting import fit, fit_targets
from jaxstyle.engine.optimizers import make_optimizer, state_like
from jaxstyle.engine.update import update
from jaxstyle.network.arrays import Params
from jaxstyle.objective.targets import prepare_params
from tests.conftest import SHALLOW, picture, random_params

# Halves, but in VGG19's proportions: what a pixel needs depends on the first block.
WIDTHS = (32, 64, 128, 256, 256)
LARGE = (3072, 4096, 3)


@pytest.fixture(scope="module")
def half_params() -> Params:
    return random_params(WIDTHS)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how many bytes the device has."""
    return lambda size: monkeypatch.setattr(memory_module, "device_memory", lambda _: int(size))


@pytest.mark.parametrize(
    "settings",
    [
        {"activations": "kept"},
        {"activations": "tiled", "tile": 96},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                {"activations": "recomputed"},
                {"activations": "kept", "precision": "bfloat16"},
                {"activations": "tiled", "tile": 96, "history_precision": "bfloat16"},
            )
        ),
    ],
)
def test_estimates_are_near_compiled_programs(half_params: Params, settings: Any) -> None:
    config = Config(style_layers=("relu1_1", "relu2_1", "relu3_1")).replace(**settings)
    config = config.replace(content_layers=("relu3_1",), convolution="direct")
    params = prepare_params(half_params, config)
    content = picture(256, 320, 0)
    objective = build_objective(params, content, picture(64, 64, 1), config)
    optimizer = make_optimizer(config)
    state = state_like(content.shape, config)
    step = jax.jit(functools.partial(update, optimizer), donate_argnums=1)
    options = None if config.activations == "kept" else thrifty_options()
    usage = step.lower(objective, state).compile(options).memory_analysis()
    assert usage is not None
    need = usage.argument_size_in_bytes + usage.temp_size_in_bytes
    assert 0.7 < fitting.estimate(config, content.shape, params) / need < 1.8


def test_the_first_that_fits(half_params: Params) -> None:
    config = Config(convolution="direct")
    memories = (64 * 10**9, 28 * 10**9, 16 * 10**9, 12 * 10**9)
    runs = [fit(config, LARGE, half_params, memory) for memory in memories]
    assert [run.activations for run in runs] == ["kept", "recomputed", "tiled", "tiled"]
    assert runs[2].tile > runs[3].tile >= 256  # pyright: ignore[reportOptionalOperand]
    run = fit(config.replace(tile=300), LARGE, half_params, memories[-1])
    assert (run.activations, run.tile) == ("tiled", 300)


def test_nothing_fits(half_params: Params) -> None:
    memory = 2 * 10**9
    with pytest.raises(ConfigError, match=r"4096×3072 pixels.* need about .* size \d+ would fit"):
        fit(Config(), LARGE, half_params, memory)
    with pytest.raises(ConfigError, match=r"activations kept .* leave activations"):
        fit(Config(activations="kept"), LARGE, half_params, memory)
    # Which is true: that size does.
    with pytest.raises(ConfigError) as raised:
        fit(Config(), LARGE, half_params, memory)
    assert "leave activations" not in str(raised.value)
    size = int(str(raised.value).split("size ")[1].split()[0])
    assert fit(Config(), (size * 3 // 4, size, 3), half_params, memory).activations == "tiled"


def test_devices_share_what_one_has_no_room_for(half_params: Params) -> None:
    memory = 8 * 10**9
    with pytest.raises(ConfigError, match="would fit"):
        fit(Config(), LARGE, half_params, memory)
    assert fit(Config(), LARGE, half_params, memory, 8).activations in ("kept", "recomputed")


def test_content_targets_of_uneven_rows_are_whole_on_every_device(half_params: Params) -> None:
    sizes = [fitting._sizes(Config(), LARGE, half_params, devices) for devices in (1, 8, 5)]
    whole = (3072 // 8) * (4096 // 8) * WIDTHS[3]
    assert [(each.content, each.replicated) for each in sizes] == [
        (whole, 0),
        (whole, 0),
        (0, whole),
    ]


def test_targets_take_what_they_take_and_are_never_refused(half_params: Params) -> None:
    memories = (32 * 10**9, 12 * 10**9, 2 * 10**9, 1)
    found = [fit_targets(Config(), LARGE, half_params, memory) for memory in memories]
    assert [each.activations for each in found] == ["kept", "tiled", "tiled", "tiled"]
    assert found[1].tile > found[2].tile > found[3].tile == 256  # pyright: ignore[reportOptionalOperand]
    sliced = Config(style_statistics=("sliced",))
    assert fit_targets(sliced, LARGE, half_params, 1).activations == "kept"
    assert fit_targets(Config(tile=300), LARGE, half_params, 1).tile == 300


@pytest.mark.slow
def test_a_large_style_refuses_no_small_content(small_params: Params, memory: Any) -> None:
    """Whether it is shrunk to the content's shape or looked at in tiles."""
    content, style = picture(48, 64, 0), picture(1200, 1600, 1)
    memory(6e7)
    for config in (preset("seed"), preset("gatys").replace(style_size="original")):
        config = config.replace(scales=1, evaluations=1, init="content")
        with pytest.raises(ConfigError, match="would fit"):
            fit(config.replace(activations="kept"), style.shape, small_params, 6 * 10**7)
        single = stylize(content, style, config, small_params)
        (lane,) = stylize_batch(content, style, config, small_params)
        assert lane.loss == pytest.approx(single.loss, rel=1e-4)


def test_sliced_is_never_tiled(half_params: Params) -> None:
    with pytest.raises(ConfigError, match="activations recomputed need about"):
        fit(Config(style_statistics=("sliced",)), LARGE, half_params, 8 * 10**9)


def test_a_run_says_how_it_fitted(small_params: Params, memory: Any) -> None:
    content, style = picture(256, 256, 0), picture(32, 32, 1)
    config = Config(evaluations=1, style_layers=("relu1_1",), content_layers=("relu1_2",))
    run = functools.partial(stylize, content, style, params=small_params)
    assert run(config).activations == "kept"
    assert run(config.replace(activations="recomputed")).activations == "recomputed"
    told: list[Any] = []
    memory(2**20)
    with pytest.raises(ConfigError, match="would fit"):
        run(config, callback=told.append)
    assert not told


def test_recomputing_changes_nothing(small_params: Params) -> None:
    content, style = picture(64, 64, 0), picture(48, 48, 1)
    config = SHALLOW.replace(convolution="direct")
    configs = [config.replace(activations=each) for each in ("kept", "recomputed")]
    gradients = [
        jax.jit(jax.grad(build_objective(small_params, content, style, config), has_aux=True))(
            content + np.float32(0.1)
        )[0]
        for config in configs
    ]
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)
