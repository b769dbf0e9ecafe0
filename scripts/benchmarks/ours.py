"""jaxstyle, driven as a program of its user's would drive it."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxstyle import (
    Config,
    Objective,
    build_objective,
    load_weights,
    optimize,
    preset,
    stylize,
    stylize_batch,
)
from jaxstyle.loop import Record
from jaxstyle.pyramid import levels

_evaluate = jax.jit(lambda objective, image: jax.value_and_grad(objective, has_aux=True)(image))
_problem: dict[str, Any] = {}


def prepare(pictures: str) -> dict[str, Any]:
    """Build the objective; what compiling takes is not measured here."""
    with np.load(pictures) as stored:
        content, style = stored["content"], stored["style"]
    params = load_weights()
    config = preset("seed")
    objective = build_objective(params, content, style, config)
    image = jnp.asarray(content)
    (loss, _), grad = jax.block_until_ready(_evaluate(objective, image))
    _problem.update(objective=objective, image=image, config=config)
    _problem.update(content=content, style=style, params=params)
    return {
        "loss": float(loss),
        "gradient_norm": float(jnp.linalg.norm(grad)),
        "convolution": objective.network.convolution,
    }


def evaluation(count: int) -> float:
    """Seconds of one value and gradient, of `count` in a row."""
    objective, image = _problem["objective"], _problem["image"]
    started = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(_evaluate(objective, image))
    return (time.perf_counter() - started) / count


def gradient_error() -> float:
    """Relative L2 distance of the gradient to that of the direct convolution, at a noisy image."""
    image = _problem["image"]
    image += 0.05 * jax.random.normal(jax.random.key(0), image.shape)
    config: Config = _problem["config"].replace(convolution="direct")
    direct: Objective = build_objective(
        _problem["params"], _problem["content"], _problem["style"], config
    )
    expected = _evaluate(direct, image)[1]
    found = _evaluate(_problem["objective"], image)[1]
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


def loop(evaluations: int) -> float:
    """Seconds an evaluation of the optimizer's loop takes, compilation excluded."""
    config = _problem["config"].replace(evaluations=evaluations)
    result = optimize(_problem["objective"], _problem["image"], config)
    return result.seconds / result.evaluations


def lanes(count: int, evaluations: int) -> float:
    """Seconds an evaluation of one of `count` lanes takes, compilation excluded."""
    config = _problem["config"].replace(evaluations=evaluations)
    configs = [config.replace(style_weight=1.0 + lane) for lane in range(count)]
    here = count // len(jax.local_devices())
    problem = _problem["content"], _problem["style"], configs, _problem["params"]
    results = stylize_batch(*problem, lanes=here)
    return max(result.seconds for result in results) / evaluations / count


def curve(settings: dict[str, Any], target: float) -> dict[str, Any]:
    """Seconds and evaluations that a run takes until its last scale reaches `target`."""
    config = _problem["config"].replace(**settings)
    finest = len(levels(config, _problem["content"].shape)) - 1

    def callback(record: Record) -> bool:
        return record.scale == finest and record.loss <= target

    arguments = (_problem["content"], _problem["style"], config, _problem["params"])
    result = stylize(*arguments, callback)
    last = [record for record in result.history if record.scale == finest]
    reached = next((record for record in last if record.loss <= target), None)
    return {
        "seconds": reached.seconds if reached else float("inf"),
        "evaluations": reached.evaluation - last[0].evaluation + 1 if reached else len(last),
    }
