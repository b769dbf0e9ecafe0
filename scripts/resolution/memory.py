"""Peak memory of one whole evaluation, by size and by the setting for activations."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks.resident import peak_resident
from jaxstyle import Config, load_weights
from jaxstyle.engine.fitting import estimate
from jaxstyle.engine.loop import begin, proceed
from jaxstyle.engine.memory import device_memory
from jaxstyle.imaging.resampling import resize_image
from jaxstyle.objective.targets import build_objective, prepare_params


def memory_table(sizes: Sequence[tuple[int, int]], settings: Sequence[str]) -> str:
    """Return a Markdown table with a row per size and setting, each measured in its own process."""
    lines = [
        "| size | activations | peak, GB | bytes per pixel | estimate, GB | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for width, height in sizes:
        for setting in settings:
            command = [sys.executable, "-m", "resolution.memory", str(width), str(height), setting]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            expected = f"{measured['estimate'] / 1e9:.1f}"
            if "peak" in measured:
                bytes_per_pixel = (measured["peak"] - measured["rest"]) / (width * height)
                cells = f"{measured['peak'] / 1e9:.1f} | {bytes_per_pixel:.0f} | {expected}"
                cells += f" | {measured['seconds']:.0f}"
            else:
                cells = f"exceeds memory | | {expected} | "
            lines.append(f"| {width}×{height} | {setting} | {cells} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _measure(width: int, height: int, setting: str) -> dict[str, float]:
    way, _, tile = setting.partition(" ")
    config = Config(
        style_statistics=("wasserstein",),
        activations=way,  # pyright: ignore[reportArgumentType]
        tile=int(tile) if tile else None,
    )
    params = prepare_params(load_weights(), config)
    rest = peak_resident()
    shape = height, width
    needed = estimate(config, shape, params)
    if needed > device_memory(jax.local_devices()[0]):
        return {"estimate": needed}
    coarse = np.random.default_rng(0).uniform(size=(24, 32, 3)).astype(np.float32)
    content = resize_image(coarse, shape)
    style = resize_image(coarse[::-1], (512, 512))
    objective = build_objective(params, content, style, config)
    began = time.perf_counter()
    _, result = proceed(objective, begin(content, config), config, 1)
    seconds = time.perf_counter() - began - result.compile_seconds
    return {"rest": rest, "peak": peak_resident(), "estimate": needed, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
