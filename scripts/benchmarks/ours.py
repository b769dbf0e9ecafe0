"""The jaxstyle worker: drives it as a user's program would, and keeps problems by key."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from benchmarks.judge import judge
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
from jaxstyle.config import flat
from jaxstyle.engine.optimizers import make_optimizer
from jaxstyle.engine.pyramid import levels
from jaxstyle.imaging import Image
from jaxstyle.network import Params
from jaxstyle.network.vgg import PRECISIONS
from jaxstyle.objective import GREY_LEVELS
from measuring.tables import Row
from measuring.worker import Trace, peak_resident, seconds_of

_CALL = 20


class Problem(NamedTuple):
    """An objective ready to be evaluated, and its inputs."""

    params: Params
    content: Image
    style: Image
    config: Config
    objective: Objective
    evaluate: Callable[[Image], tuple[jax.Array, jax.Array]]
    """Compiled function from an image to loss and gradient."""
    image: Image
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
    with np.load(path) as stored:
        return jax.tree.map(jnp.asarray, unflatten_dict(dict(stored), sep="/"))


def prepare(
    key: str,
    pictures: str,
    weights: str,
    objective: str,
    gradient: str | None = None,
    precision: str = "float32",
    convolution: str = "auto",
) -> Row:
    """Build and compile a preset's objective at one scale; write its gradient to `gradient`."""
    config = preset(objective).replace(scales=1)
    config = config.replace(precision=precision, convolution=convolution)
    with np.load(pictures) as stored:
        content, style, start = stored["content"], stored["style"], stored["image"]
    params = read_weights(weights)
    built = build_objective(params, content, style, config)
    image = jnp.asarray(start)
    began = time.perf_counter()
    compiled = _evaluate.lower(built, image).compile()
    compile_seconds = time.perf_counter() - began
    evaluate = functools.partial(compiled, built)
    began = time.perf_counter()
    loss, grad = jax.block_until_ready(evaluate(image))
    first_seconds = time.perf_counter() - began
    _problems[key] = Problem(
        params, content, style, config, built, evaluate, image, compile_seconds
    )
    if gradient is not None:
        np.save(gradient, np.asarray(grad))
    return {
        "loss": float(loss),
        "compile_seconds": compile_seconds,
        "first_seconds": first_seconds,
    }


def forget() -> None:
    """Free the memory of all problems."""
    _problems.clear()


def evaluation(key: str, count: int) -> float:
    """Return the mean seconds of one value and gradient over `count` in a row."""
    problem = _problems[key]
    return seconds_of(lambda: jax.block_until_ready(problem.evaluate(problem.image)), count)


def matmul(size: int, precision: str) -> float:
    """Return the FLOP/s of a product of two `size`² matrices, the best of five."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=PRECISIONS[precision]))
    seconds = [seconds_of(lambda: jax.block_until_ready(product(a, a))) for _ in range(6)]
    return 2 * size**3 / min(seconds[1:])


def loop(key: str, evaluations: int) -> float:
    """Return the seconds per evaluation in the optimizer's loop, compilation excluded."""
    problem = _problems[key]
    optimizer = make_optimizer(problem.config)
    result = optimize(problem.objective, problem.content, optimizer, evaluations)
    return result.seconds / result.evaluations


def grid(key: str, cells: int, lanes: int, evaluations: int) -> float:
    """Return the seconds for `cells` with different weights, `lanes` at a time on each device."""
    params, content, style, *_ = problem = _problems[key]
    configs = _cell_configs(problem, cells, evaluations)
    return seconds_of(lambda: stylize_batch(content, style, configs, params, lanes=lanes))


def one_by_one(key: str, cells: int, evaluations: int) -> float:
    """Return the seconds for the same cells as separate runs, one after another."""
    params, content, style, *_ = problem = _problems[key]
    configs = iter(_cell_configs(problem, cells, evaluations))
    return cells * seconds_of(lambda: stylize(content, style, next(configs), params), cells)


def _cell_configs(problem: Problem, cells: int, evaluations: int) -> list[Config]:
    base = problem.config.replace(evaluations=evaluations)
    return [base.replace(style_weight=base.style_weight * (1 + cell / 8)) for cell in range(cells)]


def curve(key: str, settings: Row) -> Row:
    """Run from the content and return the last scale's losses with their evaluations and seconds.

    Evaluations at coarser scales count by their share of pixels, and `seconds` include them.
    A warm-up run of one update per scale precedes it, as for the peers.
    """
    params, content, style, base, *_ = _problems[key]
    config = base.replace(**settings)
    shortest = _with_budgets(config, lambda _: 1)
    warm = seconds_of(lambda: stylize(content, style, shortest, params))
    result = stylize(content, style, config, params)
    scales = levels(config, content.shape)
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


def scipy_curve(key: str, evaluations: int) -> Row:
    """Run SciPy's L-BFGS-B as the Keras example does and return the same as `curve`.

    It is begun anew every 20 evaluations; the vector is flat, float64 and in grey levels.
    """
    from scipy.optimize import fmin_l_bfgs_b

    problem, trace = _problems[key], Trace()

    def loss_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        image = (x / GREY_LEVELS).reshape(problem.content.shape)
        loss, grad = problem.evaluate(jnp.asarray(image, jnp.float32))
        if len(trace.losses) < evaluations:  # a line search may go over the budget
            trace.add(float(loss))
        return float(loss), np.asarray(grad, np.float64).ravel() / GREY_LEVELS

    x = problem.content.astype(np.float64).ravel() * GREY_LEVELS
    while len(trace.losses) < evaluations:
        before = len(trace.losses)
        x, _, _ = fmin_l_bfgs_b(loss_and_gradient, x, maxfun=min(_CALL, evaluations - before))
        if len(trace.losses) - before < 2:  # converged: it would evaluate the same point forever
            break
    return trace.told(problem.compile_seconds)


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


def optax_curve(key: str, evaluations: int) -> Row:
    """Run `optax.lbfgs` and return the same as `curve`, with one loss for each line search.

    A line search takes several evaluations, so the last one may go over the budget.
    """
    problem = _problems[key]
    image = jnp.asarray(problem.content)
    state = jax.jit(_OPTAX.init)(image)
    update = functools.partial(_optax_update, problem.objective)
    warm = seconds_of(lambda: jax.block_until_ready(update(image, state)))
    trace = Trace()
    spent = 1  # at the start; later searches begin with the last value of the one before
    while sum(trace.evaluations[-1:]) < evaluations:
        image, state = update(image, state)
        searched = int(optax.tree.get(state, "num_linesearch_steps"))
        trace.add(float(optax.tree.get(state, "value")), spent + searched)
        spent = 0
    return trace.told(warm)


def loss_of(key: str, picture: str) -> float:
    """Return the objective's loss for a picture file."""
    return float(_problems[key].evaluate(jnp.asarray(load_image(picture)))[0])


def at_cost(config: Config, shape: tuple[int, ...], evaluations: int) -> Config:
    """Return `config` with its budgets scaled to the cost of `evaluations` at the full `shape`."""
    cost = sum(level.ratio**2 * level.evaluations for level in levels(config, shape))

    return _with_budgets(config, lambda budget: max(1, round(budget * evaluations / cost)))


def _with_budgets(config: Config, change: Callable[[int], int]) -> Config:
    budgets = ("evaluations", "coarse_evaluations", "first_evaluations")
    given = {name: budget for name, budget in flat(config).items() if name in budgets}
    return config.replace(**{name: change(budget) for name, budget in given.items()})


def render(
    content: str, style: str, weights: str, name: str, evaluations: int, output: str
) -> float:
    """Write a preset's picture, made at the cost of `evaluations` of the full size.

    Return the seconds, without compilation.
    """
    picture = load_image(content)
    config = at_cost(preset(name), picture.shape, evaluations)
    result = stylize(picture, load_image(style), config, read_weights(weights))
    save_image(output, result.image)
    return result.seconds


def judge_picture(content: str, style: str, weights: str, picture: str) -> Row:
    """Return the judgement of a picture file."""
    pictures = (load_image(file) for file in (picture, content, style))
    return judge(read_weights(weights), *pictures)._asdict()


def peak_memory() -> dict[str, int]:
    """Return the peak memory of this process, and the peak in use on its device, in bytes."""
    stats = jax.devices()[0].memory_stats() or {}
    return {"process": peak_resident(), "device": int(stats.get("peak_bytes_in_use", 0))}
