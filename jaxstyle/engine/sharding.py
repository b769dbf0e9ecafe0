"""One image over several devices: its rows are sharded, the compiler exchanges what they share.

Programs stay as they are. XLA's partitioner sees which arrays have the image's rows and works out
halos of convolutions and sums of Gram matrices by itself (Xu et al. 2021).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxstyle.config import ConfigError
from jaxstyle.engine.memory import Device

AXIS = "space"
"""Name of the mesh axis that rows are sharded over."""

_LAYERED = ("content_targets", "guides")
"""Fields of an objective whose arrays have a layer's rows."""


def pick_devices(count: int) -> tuple[Device, ...]:
    """The first `count` devices, of all processes.

    Raises:
        ConfigError: there are fewer, or a process has none of them.
    """
    if not 1 <= count <= jax.device_count():
        raise ConfigError(f"space must be from 1 to the {jax.device_count()} devices, not {count}")
    chosen = tuple(jax.devices()[:count])
    if len({device.process_index for device in chosen}) < jax.process_count():
        raise ConfigError(f"space {count} leaves processes without a device; without it all have")
    return chosen


def sharing(rows: int, devices: int) -> int:
    """How many of `devices` can share so many rows evenly."""
    return max(count for count in range(1, devices + 1) if rows % count == 0)


def row_mesh(devices: Sequence[Device], rows: int) -> Mesh:
    """As many of `devices` as can share `rows` evenly, equally many of each process.

    Where not even one of each can, every process works for itself with its own.
    """
    processes: dict[int, list[Device]] = {}
    for device in devices:
        processes.setdefault(device.process_index, []).append(device)
    if rows % len(processes) == 0:
        count = sharing(rows // len(processes), min(map(len, processes.values())))
        chosen = [device for here in processes.values() for device in here[:count]]
    else:
        here = processes[jax.process_index()]
        chosen = here[: sharing(rows, len(here))]
    return Mesh(np.asarray(chosen), (AXIS,))


def shardings(tree: Any, image: tuple[int, ...], mesh: Mesh, *lead: str) -> Any:
    """How the arrays of a state or an objective for images of `image`'s shape lie on `mesh`.

    What has the image's or a layer's rows is sharded along them, if they can be shared evenly;
    everything else is on every device.

    Args:
        tree: arrays or their shapes.
        image: `(height, width, channels)`.
        mesh: with the axis `space`, or nothing has rows to share.
        lead: axes that come before the arrays' own.
    """
    count = mesh.shape.get(AXIS, 1)

    def spec(path: Any, leaf: Any) -> NamedSharding:
        shape = leaf.shape[len(lead) :]
        names = {getattr(entry, "name", None) for entry in path}
        own: tuple[str | None, ...] = ()
        layered = bool(names & set(_LAYERED)) and shape[0] % count == 0
        if count == 1:
            pass
        elif layered or shape == image:
            own = (AXIS,)
        elif len(shape) == 2 and shape[1] == np.prod(image):  # a history's flat images
            own = (None, AXIS)
        return NamedSharding(mesh, PartitionSpec(*lead, *own))

    return jax.tree_util.tree_map_with_path(spec, tree)


def spread(tree: Any, image: tuple[int, ...], mesh: Mesh) -> Any:
    """A state, an objective or an image as `shardings` wants it."""

    def placed(leaf: Any, where: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(where, leaf.ndim):
            return leaf
        # Through the host: a process may hold what is going to be spread over several.
        return jax.device_put(np.asarray(leaf), where)

    return jax.tree.map(placed, tree, shardings(tree, image, mesh))


def fetch(array: jax.Array) -> np.ndarray:
    """The whole of an array, wherever its parts are; all of its processes have to ask."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
