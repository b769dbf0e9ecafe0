"""Peak memory of one whole evaluation, by size and by the setting for activations."""

import sys

import jax
import numpy as np

from jaxstyle import Config, ConfigError, load_weights, optimize
from jaxstyle.engine.fitting import estimate
from jaxstyle.engine.memory import device_memory
from jaxstyle.engine.optimizers import make_optimizer
from jaxstyle.imaging import resize_image
from jaxstyle.objective.targets import build_objective, prepare_params
from measuring.tables import Row, table
from measuring.worker import Worker, peak_resident

SIZES = ("512x384", "1024x768", "2048x1536", "4096x3072")
SETTINGS = ("kept", "recomputed", "tiled 1024", "tiled 512")


def memory(sizes: tuple[str, ...] = SIZES, activations: tuple[str, ...] = SETTINGS) -> None:
    """Print the peak memory of an evaluation by size and activations.

    Args:
        sizes: each is WIDTHxHEIGHT.
        activations: settings of `--activations`; "tiled 512" has tiles of that size.
    """
    rows: list[Row] = []
    for size in sizes:
        width, _, height = size.partition("x")
        if not (width.isdigit() and height.isdigit()):
            raise ConfigError(f"{size!r} is not WIDTHxHEIGHT")
        for setting in activations:
            # Each in a process of its own, because a peak is the whole process's.
            worker = Worker(__name__)
            row = worker.call("measure", width=int(width), height=int(height), setting=setting)
            worker.close()
            rows.append({"size": size.replace("x", "×"), "activations": setting, **row})
            print(*rows[-1].values(), file=sys.stderr, flush=True)
    print(table(rows))


def measure(width: int, height: int, setting: str) -> Row:
    """Return the measurements of one size and setting in this process."""
    way, _, tile = setting.partition(" ")
    config = Config().replace(
        style_statistics=("wasserstein",), activations=way, tile=int(tile) if tile else None
    )
    params = prepare_params(load_weights(), config)
    rest = peak_resident()
    shape = height, width
    needed = estimate(config, shape, params)
    if needed > device_memory(jax.local_devices()[0]):
        return {"peak GB": "exceeds memory", "estimate GB": needed / 1e9}
    coarse = np.random.default_rng(0).uniform(size=(24, 32, 3)).astype(np.float32)
    content = resize_image(coarse, shape)
    style = resize_image(coarse[::-1], (512, 512))
    objective = build_objective(params, content, style, config)
    result = optimize(objective, content, make_optimizer(config), 1)
    return {
        "peak GB": peak_resident() / 1e9,
        "bytes per pixel": (peak_resident() - rest) / (width * height),
        "estimate GB": needed / 1e9,
        "seconds": result.seconds,
    }
