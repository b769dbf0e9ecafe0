"""The jaxstyle worker: drives it as a user's program would, and keeps problems by key."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import seed_recipe
from benchmarks.objectives import objective_config
from benchmarks.resident import peak_resident
from gallery.judge import judge
from gallery.presets import at_cost
from jaxstyle import (
    Config,
    Objective,
    build_objective,
    load_image,
    optimize,
    preset,
    save_image,
    stylize,
    stylize_batch,
)
from jaxstyle.engine.pyramid import levels
from jaxstyle.imaging.arrays import Image
from jaxstyle.network.arrays import Params
from jaxstyle.network.vgg import PRECISIONS


class Problem(NamedTuple):
    """An objective ready to be evaluated, and its inputs."""

    params: Params
    content: Image
    style: Image
    config: Config
    objective: Objective
    image: jax.Array
    evaluate: Any
    """Compiled function from `(objective, image)` to loss and gradient."""
    compile_seconds: float


_problems: dict[str, Problem] = {}


@jax.jit
def _evaluate(objective: Objective, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    (loss, _), grad = jax.value_and_grad(objective, has_aux=True)(image)
    return loss, grad


def describe() -> dict[str, str]:
    """Describe the device that JAX computes on."""
    device = jax.devices()[0]
    return {"platform": device.platform, "kind": device.device_kind}


def read_weights(path: str) -> Params:
    """Read parameters from a file of `problems.write_weights`."""
    params: dict[str, Any] = {}
    with np.load(path) as stored:
        for name, array in stored.items():
            conv, _, kind = name.partition("/")
            if kind:
                params.setdefault(conv, {})[kind] = jnp.asarray(array)
            else:
                params[conv] = jnp.asarray(array)
    return params


def prepare(
    key: str,
    pictures: str,
    weights: str,
    objective: str,
    gradient: str | None = None,
    precision: str = "float32",
    convolution: str = "auto",
) -> dict[str, Any]:
    """Build and compile the objective; write its gradient to the file `gradient`."""
    config = objective_config(objective).replace(precision=precision, convolution=convolution)
    with np.load(pictures) as stored:
        content, style, start = stored["content"], stored["style"], stored["image"]
    params = read_weights(weights)
    built = build_objective(params, content, style, config)
    image = jnp.asarray(start)
    began = time.perf_counter()
    evaluate = _evaluate.lower(built, image).compile()
    compiled = time.perf_counter()
    loss, grad = jax.block_until_ready(evaluate(built, image))
    warm = time.perf_counter()
    _problems[key] = Problem(
        params, content, style, config, built, image, evaluate, compiled - began
    )
    if gradient is not None:
        np.save(gradient, np.asarray(grad))
    return {
        "loss": float(loss),
        "convolution": built.network.convolution,
        "compile_seconds": compiled - began,
        "first_seconds": warm - compiled,
    }


def forget() -> None:
    """Free the memory of all problems."""
    _problems.clear()


def evaluation(key: str, count: int) -> float:
    """Return the mean seconds of one value and gradient over `count` in a row."""
    problem = _problems[key]
    started = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(problem.evaluate(problem.objective, problem.image))
    return (time.perf_counter() - started) / count


def matmul(size: int, precision: str) -> float:
    """Return the FLOP/s of a product of two `size`² matrices, the best of five."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=PRECISIONS[precision]))
    jax.block_until_ready(product(a, a))
    seconds: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def loop(key: str, evaluations: int) -> float:
    """Return the seconds per evaluation in the optimizer's loop, compilation excluded."""
    problem = _problems[key]
    config = problem.config.replace(evaluations=evaluations)
    result = optimize(problem.objective, problem.content, config)
    return result.seconds / result.evaluations


def grid(key: str, cells: int, lanes: int, evaluations: int) -> float:
    """Return the seconds for `cells` with different weights, `lanes` at a time on each device."""
    problem = _problems[key]
    given = problem.content, problem.style, _cell_configs(problem, cells, evaluations)
    started = time.perf_counter()
    stylize_batch(*given, problem.params, lanes=lanes)
    return time.perf_counter() - started


def one_by_one(key: str, cells: int, evaluations: int) -> float:
    """Return the seconds for the same cells as separate runs, one after another."""
    problem = _problems[key]
    started = time.perf_counter()
    for config in _cell_configs(problem, cells, evaluations):
        stylize(problem.content, problem.style, config, problem.params)
    return time.perf_counter() - started


def _cell_configs(problem: Problem, cells: int, evaluations: int) -> list[Config]:
    base = problem.config.replace(evaluations=evaluations)
    return [base.replace(style_weight=base.style_weight * (1 + cell / 8)) for cell in range(cells)]


def curve(key: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Run from the content and return the last scale's losses with their evaluations and seconds.

    Evaluations at coarser scales count by their share of pixels, and `seconds` include them.
    A warm-up run of one update per scale precedes it, as for the peers.
    """
    problem = _problems[key]
    config = problem.config.replace(**settings)
    inputs = problem.content, problem.style
    began = time.perf_counter()
    stylize(*inputs, config.replace(evaluations=1, coarse_evaluations=None), problem.params)
    warm = time.perf_counter() - began
    result = stylize(*inputs, config, problem.params)
    scales = levels(config, problem.content.shape)
    finest = len(scales) - 1
    coarse = [record for record in result.history if record.scale < finest]
    spent = sum(scales[record.scale].ratio ** 2 for record in coarse)
    last = [record for record in result.history if record.scale == finest]
    return {
        "losses": [record.loss for record in last],
        "evaluations": [record.evaluation - len(coarse) + spent for record in last],
        "seconds": [record.seconds for record in last],
        "compile_seconds": warm + result.compile_seconds,
    }


def scipy_curve(key: str, evaluations: int) -> dict[str, Any]:
    """Run SciPy's L-BFGS-B as the Keras example does and return the same as `curve`."""
    problem = _problems[key]

    def evaluate(image: Image) -> tuple[float, np.ndarray]:
        loss, grad = problem.evaluate(problem.objective, jnp.asarray(image))
        return float(loss), np.asarray(grad)

    losses, seconds = seed_recipe.minimize(evaluate, problem.content, evaluations)
    return {
        "losses": losses,
        "evaluations": list(range(1, len(losses) + 1)),
        "seconds": seconds,
        "compile_seconds": problem.compile_seconds,
    }


_OPTAX = optax.lbfgs(memory_size=20)


@jax.jit
def _optax_update(
    objective: Objective, image: optax.Params, state: optax.OptState
) -> tuple[optax.Params, optax.OptState]:
    def loss(image: jax.Array) -> jax.Array:
        return objective(image)[0]

    value, grad = optax.value_and_grad_from_state(loss)(image, state=state)
    updates, state = _OPTAX.update(grad, state, image, value=value, grad=grad, value_fn=loss)
    return optax.apply_updates(image, updates), state


def optax_curve(key: str, evaluations: int) -> dict[str, Any]:
    """Run `optax.lbfgs` and return the same as `curve`, with one loss for each line search.

    A line search takes several evaluations, so the last one may go over the budget.
    """
    problem = _problems[key]
    image = jnp.asarray(problem.content)
    state = jax.jit(_OPTAX.init)(image)
    began = time.perf_counter()
    jax.block_until_ready(_optax_update(problem.objective, image, state))
    warm = time.perf_counter() - began
    losses: list[float] = []
    counts: list[int] = []
    seconds: list[float] = []
    spent = 1  # at the start; later searches begin with the last value of the one before
    began = time.perf_counter()
    while spent < evaluations:
        image, state = _optax_update(problem.objective, image, state)
        spent += int(optax.tree.get(state, "num_linesearch_steps"))
        losses.append(float(optax.tree.get(state, "value")))
        counts.append(spent)
        seconds.append(time.perf_counter() - began)
    return {
        "losses": losses,
        "evaluations": counts,
        "seconds": seconds,
        "compile_seconds": warm,
    }


def loss_of(key: str, picture: str) -> float:
    """Return the objective's loss for a picture file."""
    problem = _problems[key]
    return float(problem.evaluate(problem.objective, jnp.asarray(load_image(picture)))[0])


def render(
    content: str, style: str, weights: str, name: str, evaluations: int, output: str
) -> dict[str, float]:
    """Write a preset's picture, made at the cost of `evaluations` full-size evaluations."""
    picture = load_image(content)
    config = at_cost(preset(name), picture.shape, evaluations)
    result = stylize(picture, load_image(style), config, read_weights(weights))
    save_image(output, result.image)
    return {"seconds": result.seconds, "compile_seconds": result.compile_seconds}


def judge_pictures(content: str, style: str, weights: str, pictures: Sequence[str]) -> list[Any]:
    """Return a judgement, as a dictionary, for each picture file."""
    params = read_weights(weights)
    wanted = load_image(content), load_image(style)
    return [judge(params, load_image(picture), *wanted)._asdict() for picture in pictures]


def peak_memory() -> dict[str, int]:
    """Return the peak memory of this process, and the peak in use on its device, in bytes."""
    stats = jax.devices()[0].memory_stats() or {}
    return {"process": peak_resident(), "device": int(stats.get("peak_bytes_in_use", 0))}
