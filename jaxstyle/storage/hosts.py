"""Coordination of the processes of a cluster: what all must have, know or decide alike."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxstyle.config import ConfigError, JaxstyleError, brief

T = TypeVar("T")

_CHUNK = 2**26
"""Bytes sent at a time, so that little memory is needed on the devices they go through."""

_TOLD = 3
"""Number of differences named in a message."""


def join_cluster() -> tuple[int, int]:
    """Join the other processes and return `(index, count)`.

    On TPU pod slices, Slurm, Open MPI and Kubernetes, JAX detects them by itself; elsewhere set
    `$JAX_COORDINATOR_ADDRESS`, `$JAX_NUM_PROCESSES` and `$JAX_PROCESS_ID`.

    Raises:
        ConfigError: no cluster was found, or not all of its processes joined.
    """
    count, index = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=int(count) if count else None, process_id=int(index) if index else None
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed found no cluster ({brief(error)}); set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID (a grid can use --shard I/N instead, without a "
            "cluster)"
        ) from None
    return jax.process_index(), jax.process_count()


def leave_cluster() -> None:
    """Wait for the other processes, then be independent of them."""
    jax.distributed.shutdown()


def agree(prepare: Callable[[], T], identity: Callable[[T], Mapping[str, str]]) -> T:
    """Prepare something on every process, and check that all have the same.

    Args:
        prepare: returns what this process has; a `JaxstyleError` or `OSError` of one ends all.
        identity: returns what must be the same everywhere, by names for messages.

    Raises:
        ConfigError: another process failed, or has something else. All have left the cluster then.
    """
    try:
        prepared = prepare()
        mine = {"identity": dict(identity(prepared))}
    except (JaxstyleError, OSError) as error:
        _problem({"problem": str(error)})
        leave_cluster()
        raise
    problem = _problem(mine)
    if problem is not None:
        leave_cluster()
        raise ConfigError(problem)
    return prepared


def _problem(mine: Mapping[str, Any]) -> str | None:
    """Describe what keeps the processes from working together, which all must ask."""
    everyone = [json.loads(text) for text in _gather(json.dumps(mine))]
    for host, theirs in enumerate(everyone):
        if "problem" in theirs:
            return f"host {host}: {theirs['problem']}"
    first = everyone[0]["identity"]
    for host, theirs in enumerate(everyone):
        other = theirs["identity"]
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
            return f"host {host} differs from host 0 in: {', '.join(names[:_TOLD])}{more}"
    return None


def _gather(text: str) -> list[str]:
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(data.size)).reshape(-1)
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def broadcast(arrays: Mapping[str, np.ndarray], meta: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Return the first process's `arrays` and JSON-serializable `meta`."""
    kinds = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    kinds, meta = json.loads(_gather(json.dumps([kinds, meta]))[0])
    received: dict[str, np.ndarray] = {}
    for name, (shape, dtype) in kinds.items():
        array = arrays[name] if name in arrays else np.empty(shape, dtype)
        # As bytes, since the sum that a broadcast is would lose the signs of zeros.
        data = np.ravel(array).view(np.uint8)
        parts = np.split(data, range(_CHUNK, data.size, _CHUNK))
        parts = [multihost_utils.broadcast_one_to_all(part) for part in parts]
        received[name] = np.concatenate(parts).view(array.dtype).reshape(shape)
    return received, meta


class Decision:
    """Numbers that all processes learn while devices compute: for each, the largest proposed."""

    def __init__(self, count: int) -> None:
        """Start with `count` zeros."""
        devices = {device.process_index: device for device in reversed(jax.devices())}
        mesh = Mesh(np.array([devices[index] for index in sorted(devices)]), ("processes",))
        self._proposals = NamedSharding(mesh, PartitionSpec("processes"))
        self._largest = jax.jit(
            lambda proposals: jnp.max(proposals, axis=0),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
        )
        self._latest: jax.Array | None = None
        self._count = count

    def latest(self) -> list[int]:
        """Return the numbers that the last proposals led to."""
        if self._latest is None:
            return [0] * self._count
        return np.asarray(self._latest.addressable_data(0)).tolist()

    def propose(self, *numbers: int) -> None:
        """Propose numbers; every process must make the same number of calls. Does not block."""
        mine = np.array([numbers], np.int32)
        self._latest = self._largest(jax.make_array_from_process_local_data(self._proposals, mine))
