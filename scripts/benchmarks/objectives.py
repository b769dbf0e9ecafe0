"""Objectives for comparing systems."""

from jaxstyle import Config, preset


def objective_config(name: str) -> Config:
    """Return the preset `seed` or `gatys-code` at one scale.

    For `gatys-code`, that is the notebook's objective without its second pass.
    """
    return preset(name).vary({"scales": 1})


OBJECTIVES = ("seed", "gatys-code")
