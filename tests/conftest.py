"""Shared material: pictures by formula, a small random network, the real weights."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pil

from jaxstyle import Config, load_weights
from jaxstyle.network.arrays import Params
from jaxstyle.network.vgg import VGG19, VGGExtractor

# Here and in the processes that tests start: what is compiled once is not compiled again.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Compilation is what the suite waits for. These make it several times as fast, and programs that
# take longer to run. The slow tests of the command start processes without them: they run what
# users run.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    if jax.__version_info__ < (0, 12):  # later ones have no other emitters
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *flags)).strip()
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update(
    "jax_persistent_cache_min_compile_time_secs",
    float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]),
)

SMALL_CHANNELS = (4, 6, 8, 8, 8)

SHALLOW = Config(content_layers=("relu3_1",), style_layers=("relu1_1", "relu2_1", "relu3_1"))
"""Five convolutions instead of thirteen: compilation is what tests of a run's logic wait for."""


def pattern(height: int, width: int, seed: int) -> np.ndarray:
    """The uint8 RGB picture that the reference numbers were computed on."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = [
        127.5
        + 127.5
        * np.sin((seed + 1) * 0.07 * x + 0.05 * (c + 1) * y + seed)
        * np.cos(0.03 * (seed + c + 1) * y - 0.02 * x)
        for c in range(3)
    ]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """`pattern` as float32 in 0–1."""
    return pattern(height, width, seed).astype(np.float32) / 255


def random_params(
    channels: tuple[int, ...] = SMALL_CHANNELS, seed: int = 0, network: VGGExtractor = VGG19
) -> Params:
    """A VGG of any width with He-normal kernels and small random biases, in float32."""
    rng = np.random.default_rng(seed)
    params: dict[str, object] = {"mean": jnp.asarray([0.48, 0.45, 0.4], jnp.float32)}
    inputs = 3
    for conv in network.convolutions:
        outputs = channels[int(conv[4]) - 1]
        kernel = rng.normal(size=(3, 3, inputs, outputs)) * np.sqrt(2 / (9 * inputs))
        bias = 0.1 * rng.normal(size=outputs)
        params[conv] = {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.asarray(bias, jnp.float32),
        }
        inputs = outputs
    return params


evaluate = jax.jit(lambda objective, image: jax.value_and_grad(objective, has_aux=True)(image))
"""`((loss, terms), gradient)`; the objective is an argument, or each would be compiled anew."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a content and a style picture, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    Pil.fromarray(pattern(48, 64, 0)).save("content.png")
    Pil.fromarray(pattern(56, 40, 1)).save("style.png")
    return tmp_path


@pytest.fixture(scope="session")
def small_params() -> Params:
    return random_params()


@pytest.fixture(scope="session")
def imagenet() -> Params:
    """The real weights, fetched once; a machine that cannot fetch them fails the test."""
    return load_weights()


@pytest.fixture
def x64():
    """Float64 arithmetic for one test."""
    with jax.enable_x64(True):
        yield
