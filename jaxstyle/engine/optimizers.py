"""The optimizers that a config can name, as optax transformations."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxstyle.config import LBFGS, Adam, Config
from jaxstyle.engine.records import Progress
from jaxstyle.engine.update import State, init
from jaxstyle.imaging import Image
from jaxstyle.network import vgg
from jaxstyle.objective import GREY_LEVELS
from jaxstyle.optim import average_iterates, lbfgs, smooth

FIRST_STEP = 4.0 / GREY_LEVELS
"""Root-mean-square change of the first L-BFGS step: large enough for float32 to resolve the
curvature along it."""

_LOSS_NOISE = {"float32": 1e-6, "tf32": 1e-4, "bfloat16": 1e-2}


def make_optimizer(
    config: Config, budget: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return the optax transformation that `config` names; schedules span `budget` evaluations."""
    if isinstance(config.optimizer, Adam):
        return _adam(config.optimizer, budget or config.evaluations if config.scheduled else None)
    precision = vgg.chosen_precision(config.precision, config.convolution)
    return _lbfgs(config.optimizer, _LOSS_NOISE[precision])


def state_like(shape: tuple[int, ...], config: Config) -> State:
    """Return the structure, shapes and dtypes of the state for float32 images of `shape`."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(functools.partial(init, make_optimizer(config)), image)


def begin(image: Image, config: Config) -> Progress:
    """Return the progress of a run before its first evaluation, on the host."""
    image = jnp.asarray(image, jnp.float32)
    return Progress(jax.device_get(init(make_optimizer(config), image)))


# Cached, because compiled updates are looked up by the identity of their functions.
@functools.lru_cache
def _lbfgs(options: LBFGS, noise: float) -> optax.GradientTransformationExtraArgs:
    dtype = jnp.dtype(jnp.bfloat16) if options.history_precision == "bfloat16" else None
    preconditioner = [smooth] if options.preconditioner == "cosine" else []
    return lbfgs(options.history_size, FIRST_STEP, noise, dtype, *preconditioner)


@functools.lru_cache
def _adam(options: Adam, decay_steps: int | None) -> optax.GradientTransformationExtraArgs:
    step = options.learning_rate
    schedule = step if decay_steps is None else optax.cosine_decay_schedule(step, decay_steps)
    adam = optax.adam(schedule, b2=options.adam_beta2)
    if options.ema is not None:
        adam = optax.chain(adam, average_iterates(options.ema))
    return optax.with_extra_args_support(adam)
