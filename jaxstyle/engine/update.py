"""One update of the optimizer loop, for any pytree and any optax optimizer."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from jaxstyle.objective import Scalar
from jaxstyle.optim import NOT_FINITE, RUNNING, AverageState, StepInfo, find


class State(NamedTuple):
    """The optimizer loop's state between two updates."""

    image: PyTree[Array]
    """The trial, which the next update evaluates."""
    optimizer: optax.OptState
    best_image: PyTree[Array]
    best_loss: Scalar


class Info(NamedTuple):
    """Measurements of one update."""

    loss: Scalar
    terms: dict[str, Scalar]
    gradient_norm: Scalar
    step: StepInfo
    """With the size of the step that led to the trial; 0 for the starting point."""


@functools.partial(jax.jit, static_argnums=0)
def init(optimizer: optax.GradientTransformation, image: PyTree[Array]) -> State:
    """Return the state before the first evaluation."""
    dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(image)))
    # Copies, because the state's memory is donated and the caller's must not be. In the dtypes that
    # updates return: weak types would cause a second compilation.
    return State(
        image=jax.tree.map(jnp.array, image),
        optimizer=jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype), optimizer.init(image)),
        best_image=jax.tree.map(jnp.array, image),
        best_loss=jnp.full((), jnp.inf, dtype),
    )


def state_shapes(optimizer: optax.GradientTransformation, image: PyTree) -> State:
    """Return the state for `image`, of arrays or shapes, with shapes in place of arrays."""
    return jax.eval_shape(functools.partial(init, optimizer), image)


def update(
    optimizer: optax.GradientTransformation,
    objective: Callable[..., Any],
    state: State,
    **hyperparameters: Any,
) -> tuple[State, Info]:
    """Evaluate the objective once and apply the optimizer's update; pure and vmappable.

    Args:
        optimizer: any optax transformation. It is also given the loss and the objective, which
            line searches ask for.
        objective: returns a loss, or a loss and a dictionary of its terms.
        state: from `init` or the update before.
        hyperparameters: extra arguments of the optimizer.
    """

    def loss_and_terms(image: PyTree[Array]) -> tuple[Scalar, dict[str, Scalar]]:
        found = objective(image)
        return found if isinstance(found, tuple) else (found, {})

    (loss, terms), grad = jax.value_and_grad(loss_and_terms, has_aux=True)(state.image)
    updates, optimizer_state = optax.with_extra_args_support(optimizer).update(
        grad,
        state.optimizer,
        state.image,
        value=loss,
        grad=grad,
        value_fn=lambda image: loss_and_terms(image)[0],
        **hyperparameters,
    )
    judged, step = (find(each, StepInfo) for each in (state.optimizer, optimizer_state))
    if judged is None or step is None:
        step = _unjudged(loss)
    else:
        step = step._replace(step_size=judged.step_size)
    info = Info(
        loss=loss,
        terms=terms,
        gradient_norm=optax.tree.norm(grad),
        step=step,
    )
    better = loss < state.best_loss
    advanced = State(
        image=optax.apply_updates(state.image, updates),
        optimizer=optimizer_state,
        best_image=jax.tree.map(
            functools.partial(jnp.where, better), state.image, state.best_image
        ),
        best_loss=jnp.where(better, loss, state.best_loss),
    )
    return advanced, info


def _unjudged(loss: Scalar) -> StepInfo:
    """Return the step information of an optimizer that reports none."""
    finite = jnp.isfinite(loss)
    unknown = jnp.full((), jnp.nan, loss.dtype)
    return StepInfo(unknown, finite, jnp.where(finite, RUNNING, NOT_FINITE))


def outcome(state: State) -> PyTree[Array]:
    """Return a run's image: the mean of the iterates if one is kept, else the best image."""
    mean = find(state.optimizer, AverageState)
    return state.best_image if mean is None else mean.average
