"""One image over several devices, and lanes of such images: the numbers of one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle import Config, ConfigError, stylize
from jaxstyle.engine.fitting import spreadable
from jaxstyle.engine.layout import Layout, sharing
from jaxstyle.engine.stylize import _tell_of_idle_devices, pick_devices
from tests.conftest import picture

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "evaluations": 4,
    "scales": 2,
    "style_statistics": ["gram", "wasserstein"],
    "guided": True,
}


def start(devices: int, output: Path, **variables: str) -> subprocess.Popen[str]:
    """`spread_run`, whose image is 96×80 and has 68 rows at its coarse scale."""
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
    """68 rows go to two devices of each, 96 to all four."""
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
arguments = picture(96, 80, 0), picture(64, 72, 1), configs, random_params()
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
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_rows_are_shared_evenly() -> None:
    assert [sharing(rows, 8) for rows in (96, 68, 7, 1)] == [8, 4, 7, 1]
    assert Layout.of(jax.devices()[:1], 97, space=1).space == 1


def test_idle_devices_are_told_of() -> None:
    devices = jax.devices()[:1] * 2
    both = (
        "2 devices cannot share 49 rows evenly; 1 will. Multiples of 32 are best: .* 32 or 64 rows"
    )
    with pytest.warns(UserWarning, match=both):
        _tell_of_idle_devices(49, devices, 2)
    with pytest.warns(UserWarning, match="to 32 rows$"):
        _tell_of_idle_devices(31, devices, 2)
    _tell_of_idle_devices(50, devices, 2)


@pytest.mark.slow
def test_a_run_tells_of_idle_devices_once() -> None:
    code = """
import jax, warnings
jax.config.update("jax_num_cpu_devices", 2)
from jaxstyle import stylize
from tests.conftest import SHALLOW, picture, random_params
config = SHALLOW.replace(evaluations=1, scales=2, scale_factor=1.3)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    stylize(picture(49, 40, 0), picture(40, 40, 1), config, random_params(), devices=jax.devices())
assert ["cannot share 49 rows" in str(each.message) for each in told] == [True], told
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_lanes_are_shared_out_evenly() -> None:
    devices = jax.devices()[:1] * 4
    layouts = [Layout.of(devices, 96, lanes=most, space=2, jobs=50) for most in (42, 10, 1)]
    assert [(each.lanes, each.groups) for each in layouts] == [(25, 2), (9, 2), (1, 2)]
    one = Layout.of(devices, 97, lanes=4, space=2, jobs=3)
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
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_what_has_no_meaning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (Config(tile=256), Config(activations="tiled"), Config(convolution="winograd")):
        with pytest.raises(ConfigError, match="no meaning for an image that devices share"):
            spreadable(config)
    with pytest.raises(ConfigError, match=r"space must be from 1 to the \d+ devices, not 4096"):
        pick_devices(4096)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="leaves processes without a device"):
        pick_devices(1)
    with pytest.raises(ConfigError, match="devices share"):
        stylize(
            picture(48, 48, 0),
            picture(48, 48, 1),
            Config(tile=32),
            {},
            devices=jax.devices() * 2,
        )
