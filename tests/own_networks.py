"""Networks of a user's own, small and with random weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx

from jaxstyle import FeatureExtractor, FunctionExtractor
from tests.conftest import SHALLOW


class Strided(nn.Module):
    """Strides by convolutions, whose padding keeps what does not fill a stride."""

    width: int = 1

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        early = nn.relu(nn.Conv(6 * self.width, (3, 3))(image - 0.5))
        middle = nn.relu(nn.Conv(8 * self.width, (3, 3), strides=(2, 2))(early))
        late = nn.tanh(nn.Conv(10 * self.width, (5, 5))(middle))
        return {"early": early, "middle": middle, "late": late}


class Pooled(nnx.Module):
    """Strides by pooling, which drops it; one of 3."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.second = nnx.Conv(8, 12, (3, 3), rngs=rngs)

    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        early = nnx.relu(self.first(image))
        late = nnx.gelu(self.second(nnx.max_pool(early, (3, 3), (3, 3))))
        return {"early": early, "late": late}


@dataclasses.dataclass(frozen=True)
class Blurred(FeatureExtractor):
    """No parameters, no reach: the picture and what it is without its mean."""

    contrast: float = 2.0
    layers = ("colors", "centred")

    def stride(self, layer: str) -> int:
        return 1

    def __call__(self, params: Any, image: jax.Array, layers: tuple[str, ...]) -> Any:
        centred = self.contrast * (image - jnp.mean(image, axis=(0, 1)))
        return {"colors": image, "centred": jnp.tanh(centred)}


STRIDED = Strided()
STRIDED_PARAMS = STRIDED.init(jax.random.key(0), jnp.zeros((16, 16, 3)))
OF_LINEN = FunctionExtractor(
    STRIDED.apply,
    {"early": 1, "middle": 2, "late": 2},
    {"early": 1, "middle": 2, "late": 6},
    rounds_up=True,
)

_POOLED, POOLED_PARAMS = nnx.split(Pooled(nnx.Rngs(0)))


def pooled(state: Any, image: jax.Array) -> dict[str, jax.Array]:
    return nnx.merge(_POOLED, state)(image)


OF_NNX = FunctionExtractor(pooled, {"early": 1, "late": 3}, {"early": 1, "late": 4})

LINEN = SHALLOW.replace(
    network=OF_LINEN,
    evaluations=5,
    content_layers=("late",),
    style_layers=("early", "middle", "late"),
)
NNX = SHALLOW.replace(
    network=OF_NNX, evaluations=5, content_layers=("late",), style_layers=("early", "late")
)
BLURRED = SHALLOW.replace(
    network=Blurred(), evaluations=5, content_layers=("colors",), style_layers=("centred",)
)
