"""Programs as users write them are what type checkers expect."""

import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = """
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

# optax has no stubs, and says so itself.
CALLS = """
# pyright: strict, reportMissingTypeStubs=false
import dataclasses
from pathlib import Path

import jax
import numpy as np
import optax
from PIL import Image

import jaxstyle
from jaxstyle import Config, Guides, JaxstyleError, Record, Result

content = jaxstyle.load_image("content.png", size=512)
config: Config = jaxstyle.preset("default").replace(evaluations=5, style_weight=500.0)


def show(record: Record) -> bool:
    print(record.evaluation, record.terms["content"])
    return record.loss < 1.0


params = jaxstyle.load_weights()
result: Result = jaxstyle.stylize(content, ["a.png", Path("b.png")], config, params, show)
result = jaxstyle.stylize(Image.open("a.png"), np.zeros((9, 9, 3), np.uint8), guides="mask.png")
guides = Guides.of("mask.png", [np.zeros((9, 9), bool)])
shares: tuple[float, ...] = guides.content.shares
print(result.loss, result.reason, result.history[-1].step_size, guides)
jaxstyle.save_image("out.png", result.image, bits=16)
Image.fromarray(result.to_uint8()).save("out.gif")

for outcome in jaxstyle.stylize_batch(["a.png", "b.png"], "style.png", [config, config]):
    if isinstance(outcome, JaxstyleError):
        print(outcome)
    else:
        print(outcome.evaluations)


def own(start: jax.Array) -> jax.Array:
    objective = jaxstyle.build_objective(params, content, "style.png", config)
    loss, terms = objective(start)
    features = jaxstyle.extract_features(params, content, ["relu4_2"])
    return terms["content"] + loss + features["relu4_2"].mean()


def features(params: object, image: jax.Array) -> dict[str, jax.Array]:
    return {"colors": image, "halves": image[::2, ::2]}


@dataclasses.dataclass(frozen=True)
class Halves(jaxstyle.FeatureExtractor):
    layers = ("halves",)

    def stride(self, layer: str) -> int:
        return 2

    def __call__(
        self, params: object, image: jax.Array, layers: tuple[str, ...]
    ) -> dict[str, jax.Array]:
        return {"halves": image[::2, ::2]}


def darkness(image: jax.Array) -> jax.Array:
    return 1 - image.mean()


network = jaxstyle.FunctionExtractor(features, {"colors": 1, "halves": 2}, rounds_up=True)
mine = Config(network=network, style_layers=["halves"], extra_terms={darkness: 2})
for each in (mine, Config(network=Halves()), Config(network="vgg16", extra_terms=[darkness])):
    jaxstyle.stylize(content, "style.png", each, params={})


def squares(x: jax.Array) -> jax.Array:
    return (x**2).sum()


def least(start: jax.Array) -> list[Result]:
    optimizers = (optax.adam(0.1), jaxstyle.lbfgs(memory_size=5))
    return [jaxstyle.optimize(squares, start, optimizer, steps=3) for optimizer in optimizers]


jaxstyle.stylize("content.png")
jaxstyle.stylize("content.png", 3)
jaxstyle.save_image("out.png", result)
print(result.losses)
"""


@pytest.mark.parametrize("text", [SETTINGS, CALLS], ids=["settings", "calls"])
def test_a_users_program_has_the_right_types(text: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(text)
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = text.splitlines()
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines() if " error: " in line]
    # Only the mistakes at the end are told.
    assert [lines[number - 1] for number in dict.fromkeys(found)] == lines[-4:], done.stdout
