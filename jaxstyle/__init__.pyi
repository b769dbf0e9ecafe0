from .config import (
    LBFGS as LBFGS,
    Adam as Adam,
    AutoPyramid as AutoPyramid,
    Config as Config,
    ConfigError as ConfigError,
    FileError as FileError,
    ImageError as ImageError,
    JaxstyleError as JaxstyleError,
    OutOfMemoryError as OutOfMemoryError,
    Pyramid as Pyramid,
    WeightsError as WeightsError,
    preset as preset,
)
from .engine import (
    Record as Record,
    Result as Result,
    optimize as optimize,
    stylize as stylize,
    stylize_batch as stylize_batch,
)
from .imaging import load_image as load_image, save_image as save_image
from .network import (
    FeatureExtractor as FeatureExtractor,
    FunctionExtractor as FunctionExtractor,
    extract_features as extract_features,
    load_weights as load_weights,
)
from .objective import (
    Guides as Guides,
    Objective as Objective,
    StyleStatistic as StyleStatistic,
    build_objective as build_objective,
)
from .optim import lbfgs as lbfgs
from .storage import run_grid as run_grid

__version__: str
