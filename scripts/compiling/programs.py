"""Updates and targets of presets, compiled for a chip in a process of its own."""

import dataclasses
import functools
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from compiling import texts
from compiling.chips import CHIPS, devices
from jaxstyle.config import Config, Precision
from jaxstyle.config.presets import preset
from jaxstyle.engine.compiling import needed_memory
from jaxstyle.engine.fitting import estimate
from jaxstyle.engine.layout import Layout, compile_update
from jaxstyle.engine.optimizers import hyperparameters, make_optimizer, state_like
from jaxstyle.engine.update import update
from jaxstyle.network import network_of, vgg
from jaxstyle.objective import Objective, targets, tiling
from jaxstyle.objective.regions import Region
from measuring.tables import Row

LAUNCH = 3e-6
"""Seconds that a GPU takes to begin a kernel after the one before it."""


def measure_update(
    chip: str, name: str, size: int, lanes: int, space: int, precision: str, width: float = 1.0
) -> Row:
    """Compile an update of a preset for images of `size`² pixels and return what it consists of.

    Args:
        chip: one of `CHIPS`.
        name: the preset.
        size: height and width of the images.
        lanes: number of images at a time.
        space: number of devices that share each image's rows.
        precision: as in settings.
        width: share of VGG19's channels, for tests.
    """
    config = _config(name, precision)
    params, objective = _objective(config, size, width)
    groups = 1 if space == 1 else lanes
    layout = Layout(devices(chip, groups * space), lanes // groups, space)
    started = time.perf_counter()
    program = _compiled(config, params, objective, size, layout)
    seconds = time.perf_counter() - started
    state = state_like((size, size, 3), config)
    one = jax.jit(functools.partial(update, make_optimizer(config))).lower(objective, state)
    return _row(program, chip, precision, seconds, _flops(one) * lanes / len(layout.devices))


def measure_memory(
    chip: str,
    name: str,
    size: int,
    activations: Literal["kept", "recomputed", "tiled"],
    precision: Precision,
    width: float = 1.0,
) -> Row:
    """Compile an update as `measure_update` does, and compare its memory with the estimate."""
    tile = tiling.SIDE if activations == "tiled" else None
    config = _config(name, precision).replace(activations=activations, tile=tile)
    params, objective = _objective(config, size, width)
    shape = (size, size, 3)
    program = _compiled(config, params, objective, size, Layout(devices(chip)))
    needed = needed_memory(program)
    platform = {"cuda": "gpu"}.get(CHIPS[chip].platform, CHIPS[chip].platform)
    estimated = estimate(config, shape, params, platform)
    usage = program.memory_analysis()
    assert usage is not None
    one = 4 * network_of(config).activations(params, shape, config.layers)
    return {
        "activations": activations,
        "needed GB": needed / 1e9,
        "estimated GB": estimated / 1e9,
        "estimated / needed": estimated / needed,
        "temporary GB": usage.temp_size_in_bytes / 1e9,
        "activations GB": one / 1e9,
    }


def measure_targets(chip: str, name: str, size: int, precision: str, width: float = 1.0) -> Row:
    """Compile the statistics of a style, as `measure_update` does an update."""
    config = _config(name, precision)
    where = SingleDeviceSharding(devices(chip)[0])

    def lowered(sharding: Any) -> Any:
        params, picture = (
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), each)
            for each in (_params(width), jax.ShapeDtypeStruct((size, size, 3), jnp.float32))
        )

        def compute(params: Any, picture: Any) -> Any:
            return targets.style_targets(params, picture, config, picture.shape)

        return jax.jit(compute).lower(params, picture)

    started = time.perf_counter()
    compiled = lowered(where).compile()
    seconds = time.perf_counter() - started
    return _row(compiled, chip, precision, seconds, _flops(lowered(None)))


def _config(name: str, precision: str) -> Config:
    # Sizes are of the pictures here; a style is as large as the image.
    return preset(name).replace(
        scales=1,
        convolution="direct",
        activations="kept",
        precision=precision,
        style_shape="own",
    )


def _params(width: float) -> dict[str, Any]:
    params: dict[str, Any] = {"mean": jax.ShapeDtypeStruct((3,), jnp.float32)}
    inputs = vgg.COLORS
    for conv in vgg.VGG19.convolutions:
        outputs = round(width * vgg.CHANNELS[int(conv[4]) - 1])
        params[conv] = {
            "kernel": jax.ShapeDtypeStruct((3, 3, inputs, outputs), jnp.float32),
            "bias": jax.ShapeDtypeStruct((outputs,), jnp.float32),
        }
        inputs = outputs
    return params


def _objective(config: Config, size: int, width: float) -> tuple[dict[str, Any], Objective]:
    """Return parameters and an objective, with shapes in place of most arrays."""
    params, shape = _params(width), (size, size, 3)
    dtype = jnp.dtype(jnp.float32)
    picture = jax.ShapeDtypeStruct(shape, dtype)

    def measured(params: Any, picture: Any) -> Any:
        content = targets.content_targets(params, picture, config)
        return content, targets.style_targets(params, picture, config, shape)

    content, style = jax.eval_shape(measured, params, picture)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), style)
    blended = targets.blend([zeros], [1.0], config)
    everywhere = Region(None, 1.0, ((0, 1.0),))
    part = targets.style_part(
        everywhere, targets.EVERYWHERE, targets.Guided(blended, {}), config, dtype
    )
    return params, targets.assemble_objective(params, shape, content, [part], config, dtype)


def _compiled(
    config: Config, params: dict[str, Any], objective: Objective, size: int, layout: Layout
) -> jax.stages.Compiled:
    """Compile an update for images of `size`² pixels."""
    _, executable = compile_update(
        layout,
        make_optimizer(config, (size, layout.padded_rows(size))),
        dataclasses.replace(objective, params=None, shared=layout.space > 1),
        jax.ShapeDtypeStruct((size, size, 3), jnp.float32),
        params,
        hyperparameters=hyperparameters(config, config.evaluations),
        keep=False,
    )
    return executable.program


def _flops(lowered: Any) -> float:
    return lowered.cost_analysis()["flops"]


def _row(compiled: Any, chip: str, precision: str, seconds: float, flops: float) -> Row:
    text = compiled.as_text()
    counts = texts.counts(text)
    analysis = compiled.cost_analysis() or {}  # there is none for GPUs that are not there
    accessed = analysis.get("bytes accessed", texts.traffic(text))
    kind = CHIPS[chip]
    bound = max(flops / kind.peaks[precision], accessed / kind.bandwidth)
    if kind.platform == "cuda":
        bound += LAUNCH * counts["kernels"]
    return {
        "compile s": round(seconds),
        **counts,
        "GFLOP": flops / 1e9,
        "GB moved": accessed / 1e9,
        "temporary GB": compiled.memory_analysis().temp_size_in_bytes / 1e9,
        "bound ms": 1e3 * bound,
    }
