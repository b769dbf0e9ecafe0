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
from jax.sharding import PartitionSpec
from numpy.testing import assert_allclose

from jaxstyle import Config, ConfigError, stylize
from jaxstyle.engine.fitting import spreadable
from jaxstyle.engine.sharding import pick_devices, row_mesh, shardings, sharing
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
from jaxstyle.engine import lanes
from tests.conftest import SHALLOW, picture, random_params
config = SHALLOW.replace(evaluations=4, style_statistics=("gram", "wasserstein"))
configs = [config.replace(style_weight=weight) for weight in (10.0, 100.0, 1000.0)]
arguments = picture(96, 80, 0), picture(64, 72, 1), configs, random_params()
one = stylize_batch(*arguments, devices=jax.devices()[:1], lanes=1)
sizes = []
fit = lanes.fitting_program
def spy(*a):
    program = fit(*a)
    sizes.append((program.mesh.shape["lanes"], program.mesh.shape["space"]))
    return program
lanes.fitting_program = spy
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
    assert row_mesh(jax.devices()[:1], 97).size == 1


def test_what_has_rows_is_sharded() -> None:
    mesh = jax.sharding.AbstractMesh((4,), ("space",))
    image = (96, 80, 3)
    tree = {
        "image": np.zeros(image),
        "history": np.zeros((21, 96 * 80 * 3)),
        "kernel": np.zeros((3, 3, 4, 8)),
        "loss": np.zeros(()),
    }
    specs = {name: each.spec for name, each in shardings(tree, image, mesh).items()}  # pyright: ignore[reportArgumentType]
    assert specs == {
        "image": PartitionSpec("space"),
        "history": PartitionSpec(None, "space"),
        "kernel": PartitionSpec(),
        "loss": PartitionSpec(),
    }


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
