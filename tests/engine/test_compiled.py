"""What compiled programs consist of, and that JAX's transformations apply to an objective."""

import dataclasses
import functools
import re
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstyle import build_objective
from jaxstyle.config.presets import PRESETS
from jaxstyle.config.settings import Statistic
from jaxstyle.engine.layout import Layout, Program
from jaxstyle.engine.optimizers import make_optimizer, state_like
from jaxstyle.engine.update import update
from jaxstyle.network.arrays import Params
from jaxstyle.objective.targets import prepare_params, style_targets
from tests.conftest import SHALLOW, picture

STATISTICS = get_args(Statistic)
CONFIGS = {name: config.replace(convolution="direct") for name, config in PRESETS.items()} | {
    kind: SHALLOW.replace(style_statistics=(kind,), convolution="direct") for kind in STATISTICS
}
CONTENT, STYLE = picture(32, 48, 0), picture(40, 32, 1)


def blocking_calls(compiled: Any) -> list[str]:
    """Custom calls of LAPACK or BLAS, which wait in XLA's thread pool for work queued behind."""
    return re.findall(r'custom_call_target="[^"]*(?:lapack|blas)[^"]*"', compiled.as_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_no_program_of_the_loop_blocks(name: str, small_params: Params) -> None:
    config = CONFIGS[name]
    params = prepare_params(small_params, config)
    objective = build_objective(params, CONTENT, STYLE, config)
    optimizer = make_optimizer(config)
    single = jax.jit(functools.partial(update, optimizer))
    state = state_like(CONTENT.shape, config)
    assert not blocking_calls(single.lower(objective, state).compile())
    layout = Layout(tuple(jax.local_devices()[:1]), lanes=2)
    lane = dataclasses.replace(objective, params=None)
    program = Program(layout, optimizer, lane, CONTENT, params)
    assert not blocking_calls(program._executable.program)


@pytest.mark.parametrize("name", STATISTICS)
def test_no_targets_block(name: str, small_params: Params) -> None:
    config = CONFIGS[name]

    def targets(style: Any) -> Any:
        return style_targets(small_params, style, config, CONTENT.shape)

    styles = jnp.stack([STYLE, 1 - STYLE])
    assert not blocking_calls(jax.jit(jax.vmap(targets)).lower(styles).compile())


@pytest.mark.parametrize("shape", [(24, 32, 3), (25, 31, 3)])
def test_the_optimizer_needs_no_indexed_memory(shape: tuple[int, ...]) -> None:
    """Accelerators wait longer for Fourier transforms, scatters and gathers than for products."""
    optimizer = make_optimizer(SHALLOW)
    image, loss = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    state = state_like(shape, SHALLOW).optimizer
    lowered = jax.jit(lambda *of: optimizer.update(of[0], of[1], of[2], value=of[3]))
    text = lowered.lower(image, state, image, loss).as_text()
    assert "dot_general" in text
    assert not re.findall(r"stablehlo\.(?:fft|scatter|gather|while|sort)", text)


def test_a_blocking_call_would_be_seen() -> None:
    matrices = jnp.ones((2, 4, 4))
    assert blocking_calls(jax.jit(jax.vmap(jnp.linalg.eigh)).lower(matrices).compile())


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("convolution", ["direct", "winograd"])
@pytest.mark.parametrize("kind", STATISTICS)
def test_transformations_apply(kind: str, convolution: Any, small_params: Params) -> None:
    config = SHALLOW.replace(
        style_statistics=(kind,), convolution=convolution, pooling="average", tv_weight=0.0
    )
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), small_params)
    content, style = np.float64(CONTENT), np.float64(STYLE)
    # Winograd's convolution is otherwise only chosen for wide layers.
    objective = build_objective(params, content, style, config)
    rng = np.random.default_rng(0)
    image, along, other = (jnp.asarray(rng.uniform(size=CONTENT.shape)) for _ in range(3))

    def loss(image: Any) -> Any:
        return objective(image)[0]

    gradient = jax.jit(jax.grad(loss))
    slope = jax.jit(lambda x: jax.jvp(loss, (x,), (along,)))(image)[1]
    np.testing.assert_allclose(slope, jnp.vdot(gradient(image), along), rtol=1e-6)
    step = 1e-6
    difference = (loss(image + step * along) - loss(image - step * along)) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-4)

    def curved(x: Any, direction: Any) -> Any:
        return jax.jvp(gradient, (x,), (direction,))[1]

    curvature = jax.jit(curved)(image, along)
    # Hessians are symmetric.
    np.testing.assert_allclose(
        jnp.vdot(curvature, other), jnp.vdot(jax.jit(curved)(image, other), along), rtol=1e-6
    )
    images = jnp.stack([image, other])
    for lane, alone in zip(jax.vmap(gradient)(images), images, strict=True):
        np.testing.assert_allclose(lane, gradient(alone), rtol=1e-6, atol=1e-9)
    lanes = jax.vmap(curved, in_axes=(0, None))(images, along)
    np.testing.assert_allclose(lanes[0], curvature, rtol=1e-5, atol=1e-7)
