"""Settings as users write them are what type checkers expect."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from jaxstyle import LBFGS, Adam, AutoPyramid, Config, Pyramid

Config()
Config(512, optimizer="adam", scales="auto", style_layers=("relu1_1", "relu2_1=0.5"))
Config(optimizer=Adam(ema=0.9), scales=3, style_layers=["relu1_1"], style_weights=[1, 0.5])
Config(optimizer={"name": "lbfgs"}, scales=Pyramid(2), content_layers={"relu4_2": 1})
Config(scales=AutoPyramid(), style_statistics={"gram": 1, "moments": 0.5})

config = Config(style_statistics=["gram"])
optimizer: LBFGS | Adam = config.optimizer
weight: float = config.style_layers["relu1_1"]
weights: tuple[float, ...] = config.style_weights

Config(optimizer="sgd")
Config(scales="many")
Config(style_layers=3)
Config(size="big")
"""


def test_a_users_program_has_the_right_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = PROGRAM.splitlines()
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines() if " error: " in line]
    assert [lines[number - 1] for number in found] == lines[-4:], done.stdout
