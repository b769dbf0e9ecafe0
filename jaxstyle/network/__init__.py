"""VGG19, from images to named activations.

The Flax module, its convolution algorithms, and its weights: fetched, verified, converted from
other formats, and loaded.
"""

from jaxstyle.network import vgg, weights
from jaxstyle.network.arrays import Params
from jaxstyle.network.vgg import Features, check_size, extract_features, layer_shape
from jaxstyle.network.weights import load_weights, locate, read, to_params

__all__ = [
    "Features",
    "Params",
    "check_size",
    "extract_features",
    "layer_shape",
    "load_weights",
    "locate",
    "read",
    "to_params",
    "vgg",
    "weights",
]
