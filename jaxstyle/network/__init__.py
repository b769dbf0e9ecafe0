"""Networks, from images to named activations.

What the other packages know of a network, the VGG networks in Flax with their convolution
algorithms, and their weights: fetched, verified, converted from other formats, and loaded.
"""

from jaxstyle.network import vgg, weights
from jaxstyle.network.arrays import Features, Params
from jaxstyle.network.extractors import (
    FeatureExtractor,
    FunctionExtractor,
    check_size,
    extract,
)
from jaxstyle.network.vgg import common_network, extract_features, network_of
from jaxstyle.network.weights import load_weights, locate, read, to_params

__all__ = [
    "FeatureExtractor",
    "Features",
    "FunctionExtractor",
    "Params",
    "check_size",
    "common_network",
    "extract",
    "extract_features",
    "load_weights",
    "locate",
    "network_of",
    "read",
    "to_params",
    "vgg",
    "weights",
]
