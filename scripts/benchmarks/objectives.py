"""The objectives that systems are compared on."""

from jaxstyle import Config, preset


def objective_config(name: str) -> Config:
    """`seed`, or `gatys-code` at one scale: the notebook's objective without its second pass."""
    config = preset(name)
    return config.replace(scales=1, coarse_evaluations=None)


OBJECTIVES = ("seed", "gatys-code")
