"""Named recipes: this project's own and those of other programs and papers."""

import difflib
from collections.abc import Mapping

from jaxstyle.config.errors import ConfigError
from jaxstyle.config.settings import Adam, AutoPyramid, Config, Pyramid
from jaxstyle.config.validation import equal

_RELU_1 = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
_QUARTERED = {layer: 4.0**-power for power, layer in enumerate(_RELU_1)}

PRESETS: Mapping[str, Config] = {
    # Crowson's objective, adapted to this project's network and optimizer, with about twice the
    # style weight; the weights are in other units. docs/options.md explains the choice.
    "default": Config(
        evaluations=200,
        content_weight=1.0,
        style_weight=150.0,
        tv_weight=5.0,
        style_layers=_QUARTERED,
        style_statistics=equal("wasserstein"),
        tv="nine-point",
        scales=AutoPyramid(),
    ),
    # The Keras example, following its code: ten SciPy calls of 20 evaluations at height 400.
    "seed": Config(
        evaluations=200,
        content_weight=0.025,
        style_weight=1.0,
        tv_weight=1e-4,
        content_layers=equal("block5_conv2"),
        style_layers=equal(*(f"block{block}_conv1" for block in range(1, 6))),
        content_normalization="sum",
        style_normalization="seed",
        tv="seed",
        style_shape="content",
        padding="zero",
    ),
    # Gatys, Ecker, Bethge, CVPR 2016. Its "conv4_2" means the rectified responses.
    "gatys": Config(
        evaluations=1000,
        content_weight=1.0,
        style_weight=1e3,
        tv_weight=0.0,
        content_normalization="half-sum",
        style_normalization="gatys",
        init="noise",
        pooling="average",
        padding="zero",
    ),
    # Gatys' PyTorch notebook: 500 iterations at 512 pixels, then 200 at 800.
    "gatys-code": Config(
        evaluations=200,
        content_weight=1.0,
        style_weight=1e3,
        tv_weight=0.0,
        content_normalization="mean",
        style_normalization="mean",
        padding="zero",
        scales=Pyramid(2, scale_factor=800 / 512, coarse_evaluations=500, coarse_aspect="own"),
    ),
    # jcjohnson/neural-style and its PyTorch port.
    "neural-style": Config(
        evaluations=1000,
        content_weight=5.0,
        style_weight=100.0,
        tv_weight=1e-3,
        content_normalization="mean",
        style_normalization="mean",
        tv="l2",
        init="noise",
        padding="zero",
    ),
    # crowsonkb/style-transfer-pytorch. Its network (torchvision's) takes the image divided by
    # 0.226, Keras' takes grey levels: features are 57.6 times larger here, and the terms computed
    # from them 57.6² times. Their weights are divided by 57.6² to balance the total variation.
    "crowson": Config(
        evaluations=500,
        content_weight=0.015 / 57.6**2,
        style_weight=1 / 57.6**2,
        tv_weight=2 / 255**2,
        style_layers={layer: weight * 256 / 341 for layer, weight in _QUARTERED.items()},
        style_statistics=equal("wasserstein"),
        tv="nine-point",
        padding="replicate-first",
        optimizer=Adam(learning_rate=0.02, adam_beta2=0.99, ema=0.99),
        scales=Pyramid(
            5,
            scale_factor=2**0.5,
            coarse_evaluations=500,
            first_evaluations=1000,
            coarse_aspect="own",
        ),
    ),
}
"""Recipes by name."""

SUMMARIES: Mapping[str, str] = {
    "default": "made for this project; docs/options.md has the reasons",
    "seed": "the Keras example that the project starts from",
    "gatys": "Gatys, Ecker and Bethge, CVPR 2016",
    "gatys-code": "Gatys' notebook: two scales, started from the content",
    "neural-style": "jcjohnson/neural-style and its PyTorch port",
    "crowson": "crowsonkb/style-transfer-pytorch: Adam, Wasserstein distances, five scales",
}
"""What each preset is, in a line."""


def preset(name: str) -> Config:
    """Return the settings of the preset `name`.

    Raises:
        ConfigError: the preset is unknown; the message lists the known ones.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the presets are {', '.join(PRESETS)}"
        raise ConfigError(f"unknown preset {name!r}; {hint}")
    return PRESETS[name]
