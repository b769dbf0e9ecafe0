"""Memory over many runs in one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MEASURED = """
import ctypes, gc, sys, tempfile
from pathlib import Path
import jax
from jaxstyle import save_image, stylize
from jaxstyle.storage.cells import product
from jaxstyle.storage.grid import Grid
from tests.conftest import SHALLOW, picture, random_params

params = random_params()
config = SHALLOW.replace(size="original", evaluations=2, style_weight=1.0)
folder = Path(tempfile.mkdtemp())
shapes = [(32, 40), (36, 40), (40, 32)]
for number, shape in enumerate(shapes):
    save_image(folder / f"{number}.png", picture(*shape, number))

def one(number):
    stylize(picture(*shapes[number % 3], number % 5), picture(36, 36, 1), config, params)

def grid(number):
    contents = [str(folder / f"{each % 3}.png") for each in (number, number + 1)]
    cells = product(contents, [str(folder / "0.png")], [config])
    Grid(cells, folder / f"out{number}", weights_sha256="w", aspect="own").run(params)

def level():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, len(jax.live_arrays()), len(gc.get_objects())

run, times = {"one": one, "grid": grid}[sys.argv[1]], int(sys.argv[2])
levels = []
for number in range(2 * times):
    run(number)
    if number + 1 in (times, 2 * times):
        levels.append(level())
before, after = levels
print(levels)
assert after[0] - before[0] < 8, levels
assert after[1] <= before[1], levels
assert after[2] - before[2] < 2000, levels
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "times"), [("one", 100), ("grid", 25)])
def test_memory_is_level(kind: str, times: int) -> None:
    """The second half of so many runs of three shapes leaves nothing behind.

    With one arena and no freed pages of malloc's, whose number varies with the timing of threads.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, kind, str(times)],
        cwd=ROOT,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
