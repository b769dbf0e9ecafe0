"""Objectives: functions from an image to a loss and its terms.

`build_objective` computes the targets once from the content and the styles, and returns a pytree
that is called with an image.
"""

from jaxstyle.objective import regions, tiling
from jaxstyle.objective.guides import Guide, Guides, parse_guide
from jaxstyle.objective.losses import Scalar
from jaxstyle.objective.objective import GREY_LEVELS, Objective
from jaxstyle.objective.regions import Region
from jaxstyle.objective.sliced import key_of
from jaxstyle.objective.style_statistics import (
    Covariance,
    Gram,
    Layer,
    Moments,
    SlicedWasserstein,
    StyleStatistic,
    Wasserstein,
    statistics_of,
)
from jaxstyle.objective.targets import (
    Bind,
    Guided,
    StylePart,
    as_styles,
    assemble_objective,
    blend,
    build_objective,
    check_guides,
    check_params,
    check_settings,
    check_shapes,
    content_targets,
    depends_on_shape,
    everywhere_there,
    guided_content,
    guided_targets,
    needs_directions,
    prepare_params,
    style_part,
    style_shares,
    tileable,
)

__all__ = [
    "GREY_LEVELS",
    "Bind",
    "Covariance",
    "Gram",
    "Guide",
    "Guided",
    "Guides",
    "Layer",
    "Moments",
    "Objective",
    "Region",
    "Scalar",
    "SlicedWasserstein",
    "StylePart",
    "StyleStatistic",
    "Wasserstein",
    "as_styles",
    "assemble_objective",
    "blend",
    "build_objective",
    "check_guides",
    "check_params",
    "check_settings",
    "check_shapes",
    "content_targets",
    "depends_on_shape",
    "everywhere_there",
    "guided_content",
    "guided_targets",
    "key_of",
    "needs_directions",
    "parse_guide",
    "prepare_params",
    "regions",
    "statistics_of",
    "style_part",
    "style_shares",
    "tileable",
    "tiling",
]
