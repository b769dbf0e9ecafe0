"""GPUs and TPUs that need not be there: XLA's compilers only have to be told what they are."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.experimental import topologies

_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
}
platform_name: "CUDA"
runtime_version { major: 12 minor: 9 }
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of device, as its manufacturer describes it."""

    platform: str
    bandwidth: float
    """Bytes a second between the device and its memory."""
    peaks: Mapping[str, float]
    """FLOP/s of products by the precision of settings."""


def _tpu(bandwidth: float, bfloat16: float) -> Chip:
    # Three and six products of bfloat16 stand for one.
    peaks = {"bfloat16": bfloat16, "tf32": bfloat16 / 3, "float32": bfloat16 / 6}
    return Chip("tpu", bandwidth, peaks)


CHIPS = {
    "h100": Chip("cuda", 3.352e12, {"float32": 67e12, "tf32": 494e12, "bfloat16": 989e12}),
    "v5e": _tpu(0.819e12, 197e12),
    "v6e": _tpu(1.64e12, 918e12),
}

_TOPOLOGIES = {1: "2x2", 4: "2x2", 8: "2x4"}
"""Arrangement of TPUs by their number; nothing smaller than four can be described."""


def devices(chip: str, count: int = 1) -> tuple[Any, ...]:
    """Return so many devices to compile for."""
    platform = CHIPS[chip].platform
    if platform == "cuda":
        described = {"topology_name": "", "topology": f"1x1x{count}", "target_config": _H100}
    else:
        described = {"topology_name": f"{chip}:{_TOPOLOGIES[count]}"}
    return tuple(topologies.get_topology_desc(platform=platform, **described).devices[:count])
