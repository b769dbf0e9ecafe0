"""The objectives that systems are compared on."""

from jaxstyle import Config, preset


def objective_config(name: str) -> Config:
    """`seed`, or `gatys-code` at one scale: the notebook's objective without its second pass."""
    return preset(name).vary({"scales": 1})


OBJECTIVES = ("seed", "gatys-code")
