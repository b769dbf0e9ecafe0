"""Readers for all formats in which weights of VGG networks are published.

Everything is parsed from bytes already in memory and nothing is unpickled: HDF5 by h5py,
`.npz` with pickles disallowed, `.pth` by torch's weights-only loader.
"""

import hashlib
import io
import json
import math
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from jaxstyle.config import WeightsError, brief
from jaxstyle.network.vgg import CHANNELS, NETWORKS, VGG19, VGGExtractor

Tensors = dict[str, np.ndarray]
"""`conv1_1.kernel` (HWIO) and `conv1_1.bias` for every convolution."""


Family = Literal["caffe", "torch"]


class Preprocessing(NamedTuple):
    """The input a network expects: `(channels · scale − mean) / std`, in its own channel order."""

    channels: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PREPROCESSINGS: Mapping[str, Preprocessing] = {
    # Keras and the original Caffe model.
    "caffe": Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    # torchvision's VGGs, which are other networks, trained separately.
    "torch": Preprocessing("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Checkpoint(NamedTuple):
    """A weights file as read: tensors, expected preprocessing, metadata, and the file's SHA-256."""

    tensors: Tensors
    preprocessing: Preprocessing
    metadata: dict[str, str]
    sha256: str

    @property
    def network(self) -> VGGExtractor:
        """The network that the tensors are of."""
        return network_with(self.tensors)


def network_with(names: Iterable[str]) -> VGGExtractor:
    """Return the smallest network that has tensors of all these names, or else VGG19."""
    wanted = set(names)
    has_all = (each for each in NETWORKS.values() if wanted <= expected_shapes(each).keys())
    return next(has_all, VGG19)


def expected_shapes(network: VGGExtractor) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a network's convolutional part, by name."""
    widths = [
        width for count, width in zip(network.blocks, CHANNELS, strict=True) for _ in range(count)
    ]
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, inputs, outputs in zip(network.convolutions, [3, *widths], widths, strict=False):
        shapes |= {f"{conv}.kernel": (3, 3, inputs, outputs), f"{conv}.bias": (outputs,)}
    return shapes


def parse(data: bytes, name: str, preprocessing: Family | None = None) -> Checkpoint:
    """Read the weights in `data`, the content of a file called `name`.

    Args:
        data: the whole file.
        name: the file's name, whose suffix gives the format: `.safetensors`, `.h5`,
            `.hdf5`, `.npz`, `.pth` or `.pt`.
        preprocessing: "caffe" or "torch", for a file whose tensor names suggest the wrong one
            (Keras' names: caffe; torchvision's names: torch).

    Raises:
        WeightsError: the file is damaged, or names or shapes are wrong; nothing is half-loaded.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix not in _READERS:
        raise WeightsError(f"{name}: unknown weights format; known are {', '.join(_READERS)}")
    try:
        raw, metadata = _READERS[suffix](data)
        tensors, family = _rename(raw, name)
        check_tensors(tensors, name)
    except WeightsError:
        raise
    except MemoryError:
        raise WeightsError(f"{name}: damaged, or too large for this machine's memory") from None
    except Exception as error:  # readers raise anything on damaged files
        raise WeightsError(f"{name}: damaged or truncated {suffix} file ({brief(error)})") from None
    if preprocessing is None and "preprocessing" in metadata:
        expected = _parse_preprocessing(metadata["preprocessing"], name)
    elif preprocessing is None and family == "jaxstyle":
        raise WeightsError(
            f"{name}: does not state its preprocessing; "
            "convert it with --preprocessing caffe or torch"
        )
    else:
        expected = PREPROCESSINGS[preprocessing or family]
    return Checkpoint(tensors, expected, metadata, hashlib.sha256(data).hexdigest())


_SAFETENSORS_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


def _read_safetensors(data: bytes) -> tuple[Tensors, dict[str, str]]:
    # safetensors' own NumPy loader does not know bfloat16.
    tensors = {
        name: np.frombuffer(entry["data"], _SAFETENSORS_TYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in safetensors.deserialize(data)
        if _target(name) and entry["dtype"] in _SAFETENSORS_TYPES
    }
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__", {})


def _read_h5(data: bytes) -> tuple[Tensors, dict[str, str]]:
    import h5py

    tensors: Tensors = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or not _target(name):
            return
        if item.external or item.is_virtual:  # would read other files
            raise WeightsError(f"{name} is kept outside the file")
        if math.prod(item.shape or ()) > _LARGEST:  # a claim without data behind it
            raise WeightsError(f"{name} has shape {item.shape}, which no VGG has")
        tensors[name] = np.asarray(item)

    with h5py.File(io.BytesIO(data), "r") as file:
        file.visititems(visit)
    return tensors, {}


def _read_npz(data: bytes) -> tuple[Tensors, dict[str, str]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        sizes = {
            info.filename.removesuffix(".npy"): info.file_size for info in archive.zip.infolist()
        }
        names = [name for name in archive.files if _target(name)]
        for name in names:
            if sizes[name] > _LARGEST_BYTES:  # may be compressed to next to nothing
                raise WeightsError(f"{name} has {sizes[name]} bytes, more than any of a VGG's")
        return {name: archive[name] for name in names}, {}


def _read_pth(data: bytes) -> tuple[Tensors, dict[str, str]]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise WeightsError(
            "reading .pth needs PyTorch: pip install 'jaxstyle[torch]', "
            "or convert the file to .safetensors"
        ) from None
    # Before 2.6 the weights-only loader could be made to run code (CVE-2025-32434).
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise WeightsError(f"reading .pth safely needs PyTorch 2.6, not {torch.__version__}")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its own message advises unsafe loading
        raise WeightsError("the .pth file is damaged or holds more than tensors") from None
    return {name: state[name].float().numpy() for name in state if _target(name)}, {}


_READERS = {
    ".safetensors": _read_safetensors,
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".npz": _read_npz,
    ".pth": _read_pth,
    ".pt": _read_pth,
}

_LARGEST = 3 * 3 * 512 * 512
_LARGEST_BYTES = 8 * _LARGEST + 4096
"""Size of the largest kernel in float64, with a header."""


_KERAS = r"(?:.*/)?block(\d)_conv(\d)(?:.*[/_.])(kernel|W|bias|b)(?:_\d+)?(?::\d+)?"


def _target(name: str) -> tuple[str, str] | None:
    """Return the family and our name of a file's tensor `name`; None if it is not a VGG's.

    Classifier layers and optimizer slots are not. torchvision's numbers are left as they are.
    """
    if re.fullmatch(r"conv\d_\d\.(kernel|bias)", name):
        return "jaxstyle", name
    if name.startswith("optimizer"):
        return None
    if match := re.fullmatch(_KERAS, name):
        kind = "kernel" if match[3] in ("kernel", "W") else "bias"
        return "caffe", f"conv{match[1]}_{match[2]}.{kind}"
    if match := re.fullmatch(r"(?:.*\.)?(features\.\d+)\.(weight|bias)", name):
        return "torch", f"{match[1]}.{'kernel' if match[2] == 'weight' else 'bias'}"
    return None


def _renumbered(tensors: Tensors) -> Tensors:
    """Return torchvision's tensors under our names; what no network has keeps its own."""

    def renamed(network: VGGExtractor) -> Tensors:
        # torchvision counts every ReLU and pooling.
        names = {
            f"features.{2 * i + int(conv[4]) - 1}": conv
            for i, conv in enumerate(network.convolutions)
        }
        split = {name: name.rpartition(".") for name in tensors}
        return {
            f"{names.get(layer, layer)}.{kind}": tensors[name]
            for name, (layer, _, kind) in split.items()
        }

    several = [renamed(network) for network in NETWORKS.values()]
    whole = (each for each in several if not any(name.startswith("features") for name in each))
    return next(whole, several[-1])


def _rename(raw: Tensors, file_name: str) -> tuple[Tensors, str]:
    """Return `raw` with our names, in HWIO, and its names' family: jaxstyle, caffe or torch."""
    tensors: Tensors = {}
    families: set[str] = set()
    for name, array in raw.items():
        target = _target(name)
        assert target is not None
        family, ours = target
        if ours in tensors:
            raise WeightsError(f"{file_name}: holds {ours} twice")
        if family == "torch" and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        families.add(family)
        tensors[ours] = np.ascontiguousarray(array)
    if len(families) != 1:
        raise WeightsError(f"{file_name}: its tensor names are not those of a VGG network")
    family = families.pop()
    return _renumbered(tensors) if family == "torch" else tensors, family


def check_tensors(tensors: Tensors, file_name: str) -> None:
    """Raise `WeightsError` unless `tensors` have a VGG's names and shapes and finite floats."""
    network = network_with(tensors)
    shapes, title = expected_shapes(network), network.name.upper()
    if missing := [name for name in shapes if name not in tensors]:
        raise WeightsError(
            f"{file_name}: incomplete {title}, {len(missing)} missing: {missing[0]}…"
        )
    if unknown := [name for name in tensors if name not in shapes]:
        raise WeightsError(f"{file_name}: not {title}: unexpected {unknown[0]}")
    for name, shape in shapes.items():
        array = tensors[name]
        if array.shape != shape:
            raise WeightsError(
                f"{file_name}: {name} has shape {array.shape}, {title} needs {shape}"
            )
        if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise WeightsError(f"{file_name}: {name} is {array.dtype}, not floating-point")
        if not np.isfinite(array.astype(np.float32)).all():
            raise WeightsError(f"{file_name}: {name} has values that are not finite")


def _parse_preprocessing(text: str, file_name: str) -> Preprocessing:
    try:
        fields = json.loads(text)
        (a, b, c), (d, e, f) = fields["mean"], fields["std"]
        mean, std = (float(a), float(b), float(c)), (float(d), float(e), float(f))
        result = Preprocessing(fields["channels"], float(fields["scale"]), mean, std)
        if result.channels not in ("rgb", "bgr") or not 0 < result.scale < math.inf:
            raise ValueError
        if not all(math.isfinite(m) and 0 < s < math.inf for m, s in zip(mean, std, strict=True)):
            raise ValueError
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise WeightsError(f"{file_name}: cannot read its preprocessing {text!r}") from None
    return result
