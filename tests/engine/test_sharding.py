"""One image over several devices, and lanes of such images: the numbers of one device."""

import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle import Config, ConfigError, stylize, stylize_batch
from jaxstyle.engine.fitting import for_space
from jaxstyle.engine.layout import Layout
from jaxstyle.engine.stylize import pick_devices
from tests.conftest import picture

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "evaluations": 4,
    "scales": 2,
    "style_statistics": ["gram", "wasserstein"],
    "guided": True,
}


def start(devices: int, output: Path, **variables: str) -> subprocess.Popen[str]:
    """`spread_run`, whose image of 97×80 has rows that no number of devices divides."""
    command = [sys.executable, "-m", "tests.spread_run", str(devices), str(output)]
    return subprocess.Popen(
        [*command, json.dumps(SETTINGS)],
        cwd=ROOT,
        env=os.environ | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def run_code(code: str) -> None:
    """Run Python code in a process of its own, whose number of devices it may set."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("alone") / "one.npz"
    finish(start(1, output))
    return dict(np.load(output))


def assert_same(output: Path, alone: dict[str, Any]) -> None:
    found = np.load(output)
    assert_allclose(found["losses"], alone["losses"], rtol=1e-4)
    assert_allclose(found["image"], alone["image"], atol=5e-3)


@pytest.mark.slow
def test_eight_devices(tmp_path: Path, alone: dict[str, Any]) -> None:
    finish(start(8, tmp_path / "eight.npz"))
    assert_same(tmp_path / "eight.npz", alone)


@pytest.mark.slow
def test_two_processes(tmp_path: Path, alone: dict[str, Any]) -> None:
    output = tmp_path / "two.npz"
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    cluster = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    processes = [start(4, output, JAX_PROCESS_ID=str(i), **cluster) for i in range(2)]
    for process in processes:
        finish(process)
    assert_same(output, alone)


@pytest.mark.slow
def test_lanes_and_rows(tmp_path: Path) -> None:
    """A mesh of 2 by 4, whose lanes' histories are shared out, beside one device."""
    code = """
import sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from jaxstyle import stylize_batch
from jaxstyle.engine import loop
from tests.conftest import SHALLOW, picture, random_params
config = SHALLOW.replace(evaluations=4, style_statistics=("gram", "wasserstein"))
configs = [config.replace(style_weight=weight) for weight in (10.0, 100.0, 1000.0)]
arguments = picture(97, 80, 0), picture(64, 72, 1), configs, random_params()
one = stylize_batch(*arguments, devices=jax.devices()[:1], lanes=1)
sizes = []
Program = loop.Program
def spy(*a, **k):
    program = Program(*a, **k)
    sizes.append((program.layout.groups, program.layout.space))
    return program
loop.Program = spy
mesh = stylize_batch(*arguments, lanes=2, space=4)
assert set(sizes) == {(2, 4)}, sizes
for a, b in zip(one, mesh, strict=True):
    np.testing.assert_allclose([r.loss for r in b.history], [r.loss for r in a.history], rtol=1e-4)
    np.testing.assert_allclose(b.image, a.image, atol=1e-3)
"""
    run_code(code)


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices() -> None:
    """An uneven number of rows is padded, but only for the devices that there are."""
    code = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from jaxstyle import stylize
from tests.conftest import SHALLOW, picture, random_params
class Kept:
    def __init__(self): self.kept = {}
    def wants(self, evaluation): return evaluation == 3
    def keep(self, progress): self.kept[3] = jax.device_get(progress)
    def save(self, progress): pass
arguments = picture(49, 40, 0), picture(40, 40, 1), SHALLOW.replace(evaluations=6), random_params()
whole = stylize(*arguments)
three, eight = jax.devices()[:3], jax.devices()
first = Kept()
undisturbed = stylize(*arguments, devices=three, keeper=first)
assert first.kept[3].state.image.shape == (49, 40, 3)
again = stylize(*arguments, devices=three, progress=first.kept[3])
assert np.array_equal(again.image, undisturbed.image)
other = stylize(*arguments, devices=eight, progress=first.kept[3])
for result in (undisturbed, other):
    losses = [[record.loss for record in each.history] for each in (result, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    np.testing.assert_allclose(result.image, whole.image, atol=1e-3)
"""
    run_code(code)


@pytest.mark.slow
@pytest.mark.parametrize("statistic", ["gram", "covariance", "wasserstein"])
def test_no_activation_is_gathered(statistic: str) -> None:
    """At any height, devices exchange neighbouring rows and sums only."""
    code = f"""
import dataclasses, re, jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 8)
from jaxstyle import Config, build_objective
from jaxstyle.engine.layout import Layout, compile_update
from jaxstyle.engine.optimizers import make_optimizer
from tests.conftest import picture, random_params
config = Config(convolution="direct", style_statistics=("{statistic}",))
params = random_params()
layout = Layout(tuple(jax.devices()), space=8)
for rows in (96, 97):
    objective = build_objective(params, picture(rows, 80, 0), [picture(64, 72, 1)], config)
    objective = dataclasses.replace(objective, params=None, shared=True)
    optimizer = make_optimizer(config, (rows, layout.padded_rows(rows)))
    image = jax.ShapeDtypeStruct((rows, 80, 3), jnp.float32)
    program = compile_update(layout, optimizer, objective, image, params)[1].program
    text = program.as_text()
    assert "collective-permute" in text and "all-reduce" in text
    assert not re.findall("= .* all-gather", text)
"""
    run_code(code)


def test_padding_of_rows() -> None:
    layout = Layout(tuple(jax.devices()[:1] * 4), space=4)
    assert [layout.padded_rows(rows) for rows in (96, 97, 3)] == [96, 100, 4]
    image = np.ones((5, 2, 3), np.float32)
    padded = layout.padded(image)
    assert padded.shape == (8, 2, 3)
    assert padded.sum() == image.sum()
    assert padded[:5].all()


def test_lanes_are_shared_out_evenly() -> None:
    devices = jax.devices()[:1] * 4
    layouts = [Layout.of(devices, lanes=most, space=2, jobs=50) for most in (42, 10, 1)]
    assert [(each.lanes, each.groups) for each in layouts] == [(25, 2), (9, 2), (1, 2)]
    one = Layout.of(devices, lanes=4, jobs=3)
    assert (one.lanes, one.groups, one.space) == (1, 3, 1)


@pytest.mark.slow
def test_what_has_rows_is_sharded() -> None:
    """The image and what is like it, a history's flat images, content targets and guides."""
    code = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from jaxstyle import Guides, build_objective
from jaxstyle.engine.layout import Layout, _objective_rows
from jaxstyle.engine.optimizers import make_optimizer
from tests.conftest import SHALLOW, picture, random_params
content, style = picture(96, 80, 0), picture(64, 72, 1)
layout = Layout(tuple(jax.devices()), space=4)
for config in (SHALLOW, SHALLOW.replace(optimizer="adam", ema=0.9)):
    state = layout.start(make_optimizer(config), content)
    for leaf in jax.tree.leaves(state):
        assert (leaf.addressable_shards[0].data.size < leaf.size) == (leaf.size >= content.size)
halves = np.zeros_like(content)
halves[48:] = 1
guides = Guides.of(halves)
objective = build_objective(random_params(), content, [style, style], SHALLOW, guides)
rows = _objective_rows(layout, objective)
assert [tuple(axes) for axes in jax.tree.leaves(rows.content_targets)] == [("space",)]
assert {tuple(axes) for axes in jax.tree.leaves([p.guides for p in rows.parts])} == {("space",)}
assert {tuple(axes) for axes in jax.tree.leaves((rows.params, rows.style_weights))} == {()}
"""
    run_code(code)


def test_what_has_no_meaning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (Config(tile=256), Config(activations="tiled"), Config(convolution="winograd")):
        with pytest.raises(
            ConfigError, match="cannot be used for an image that several devices share"
        ):
            for_space(config, 2)
    with pytest.raises(ConfigError, match=r"cannot be shared by 4096 devices: there (is|are) \d+$"):
        pick_devices(4096)
    elsewhere = [types.SimpleNamespace(process_index=index) for index in range(2)]
    with pytest.raises(ConfigError, match=r"several processes .* space must be 2, not 1"):
        stylize_batch(picture(48, 48, 0), picture(48, 48, 1), devices=elsewhere)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        ConfigError, match=r"leaves some processes without one; share it among all \d+$"
    ):
        pick_devices(1)
    with pytest.raises(ConfigError, match="several devices share"):
        stylize(
            picture(48, 48, 0),
            picture(48, 48, 1),
            Config(tile=32),
            {},
            devices=jax.devices() * 2,
        )
