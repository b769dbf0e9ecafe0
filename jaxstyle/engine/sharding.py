"""Sharding the rows of one image over several devices, with communication by the compiler.

Programs stay unchanged: XLA's partitioner sees which arrays have the image's rows and derives the
halos of convolutions and the sums of Gram matrices by itself (Xu et al. 2021).
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
    """Return the first `count` devices of all processes.

    Raises:
        ConfigError: fewer devices exist, or a process has none of them.
    """
    if not 1 <= count <= jax.device_count():
        raise ConfigError(f"space must be from 1 to the {jax.device_count()} devices, not {count}")
    chosen = tuple(jax.devices()[:count])
    if len({device.process_index for device in chosen}) < jax.process_count():
        raise ConfigError(f"space {count} leaves processes without a device; without it all have")
    return chosen


def sharing(rows: int, devices: int) -> int:
    """Return the largest number of devices, up to `devices`, that can share `rows` evenly."""
    return max(count for count in range(1, devices + 1) if rows % count == 0)


def row_mesh(devices: Sequence[Device], rows: int) -> Mesh:
    """Return a mesh of as many of `devices` as share `rows` evenly, equally many per process.

    If not even one device per process can, each process works alone on its own devices.
    """
    processes: dict[int, list[Device]] = {}
    for device in devices:
        processes.setdefault(device.process_index, []).append(device)
    if rows % len(processes) == 0:
        count = sharing(rows // len(processes), min(map(len, processes.values())))
        chosen = [device for members in processes.values() for device in members[:count]]
    else:
        local = processes[jax.process_index()]
        chosen = local[: sharing(rows, len(local))]
    return Mesh(np.asarray(chosen), (AXIS,))


def shardings(tree: Any, image: tuple[int, ...], mesh: Mesh, *lead: str) -> Any:
    """Return the shardings on `mesh` of a state or an objective for images of shape `image`.

    Arrays with the image's or a layer's rows are sharded along them, if they can be shared evenly;
    all others are on every device.

    Args:
        tree: arrays or their shapes.
        image: `(height, width, channels)`.
        mesh: without an axis `space`, no rows are sharded.
        lead: names of mesh axes for the leading axes, before the arrays' own.
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
    """Place a state, an objective or an image on `mesh` as `shardings` specifies."""

    def placed(leaf: Any, where: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(where, leaf.ndim):
            return leaf
        # Through the host: a process may hold an array to be spread over several processes.
        return jax.device_put(np.asarray(leaf), where)

    return jax.tree.map(placed, tree, shardings(tree, image, mesh))


def fetch(array: jax.Array) -> np.ndarray:
    """Gather a whole array, wherever its parts are; all of its processes must call this."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
