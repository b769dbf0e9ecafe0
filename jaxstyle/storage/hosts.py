"""Coordination of several processes that share one grid."""

import hashlib
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxstyle.config import ConfigError, brief


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
            f"JAX_NUM_PROCESSES and JAX_PROCESS_ID (a grid can do with --shard I/N)"
        ) from None
    return jax.process_index(), jax.process_count()


def agree(names: Sequence[str]) -> None:
    """Check that every process has the same cells, then leave the cluster.

    From then on each process works alone, so that one that dies does not end the others.

    Raises:
        ConfigError: the processes have different cells.
    """
    digest = np.frombuffer(hashlib.sha256("\n".join(names).encode()).digest(), np.uint8)
    everyone = np.reshape(multihost_utils.process_allgather(digest), (-1, digest.size))
    jax.distributed.shutdown()
    if (everyone != digest).any():
        raise ConfigError(
            "the hosts see different grids; give them the same command, files and settings"
        )
