"""A run with its rows spread over all devices of all processes; run by test_space.py.

Arguments: devices of this process, the file to write, settings as JSON. With JAX_PROCESS_ID and its
like set, this is one process of several.
"""

import json
import os
import sys

import jax
import numpy as np

from jaxstyle import Config, Guides, stylize
from jaxstyle.engine.stylize import pick_devices
from jaxstyle.storage import hosts
from tests.conftest import picture, random_params


def main() -> None:
    """Stylize a picture and write its image and losses."""
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    if "JAX_PROCESS_ID" in os.environ:
        hosts.join_cluster()
    settings = json.loads(sys.argv[3])
    guide = np.zeros((97, 80, 3), np.float32)
    guide[:40] = 1
    guides = Guides.of(guide) if settings.pop("guided", False) else None
    result = stylize(
        picture(97, 80, 0),
        picture(64, 72, 1),
        Config(convolution="direct", **settings),
        random_params(),
        guides=guides,
        devices=pick_devices(jax.device_count()),
    )
    if jax.process_index() == 0:
        losses = [record.loss for record in result.history]
        np.savez(sys.argv[2], image=result.image, losses=losses)


if __name__ == "__main__":
    main()
