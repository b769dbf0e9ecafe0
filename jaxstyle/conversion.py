"""Reading VGG19 weights from any of the formats they are published in.

Everything is parsed from bytes already in memory and nothing is unpickled: HDF5 by h5py,
`.npz` with pickles disallowed, `.pth` by torch's weights-only loader.
"""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from jaxstyle.errors import WeightsError
from jaxstyle.vgg import BLOCKS, CHANNELS, CONVOLUTIONS

Tensors = dict[str, np.ndarray]
"""`conv1_1.kernel` (HWIO) and `conv1_1.bias` for every convolution."""


class Preprocessing(NamedTuple):
    """What a network expects: `(channels · scale − mean) / std`, in its own channel order."""

    channels: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PREPROCESSINGS: Mapping[str, Preprocessing] = {
    # Keras and the original Caffe model.
    "caffe": Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    # torchvision's VGG19, which is another network: retrained.
    "torch": Preprocessing("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Checkpoint(NamedTuple):
    """A network as read: its tensors and what it expects of its input."""

    tensors: Tensors
    preprocessing: Preprocessing
    metadata: dict[str, str]


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of VGG19's convolutional part, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for conv in CONVOLUTIONS:
        outputs = CHANNELS[int(conv[4]) - 1]
        shapes[f"{conv}.kernel"] = (3, 3, inputs, outputs)
        shapes[f"{conv}.bias"] = (outputs,)
        inputs = outputs
    return shapes


def parse(data: bytes, name: str, preprocessing: str | None = None) -> Checkpoint:
    """Read the weights in `data`, the content of a file called `name`.

    Args:
        data: the whole file.
        name: its suffix says the format: `.safetensors`, `.h5`, `.npz`, `.pth` or `.pt`.
        preprocessing: "caffe" or "torch", for a file that is not what its tensors' names
            suggest (Keras' names: caffe; torchvision's names: torch).

    Raises:
        WeightsError: damaged, wrongly named or wrongly shaped; nothing is half-loaded.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix not in _READERS:
        raise WeightsError(f"{name}: unknown weights format; known are {', '.join(_READERS)}")
    try:
        raw, metadata = _READERS[suffix](data)
    except WeightsError:
        raise
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{name}: damaged or truncated {suffix} file ({reason})") from None
    tensors, family = _rename(raw, name)
    _check_shapes(tensors, name)
    if preprocessing is not None:
        if preprocessing not in PREPROCESSINGS:
            known = ", ".join(PREPROCESSINGS)
            raise WeightsError(f"unknown preprocessing {preprocessing!r}; there are {known}")
        return Checkpoint(tensors, PREPROCESSINGS[preprocessing], metadata)
    if "preprocessing" in metadata:
        return Checkpoint(tensors, _parse_preprocessing(metadata["preprocessing"], name), metadata)
    if family == "jaxstyle":
        raise WeightsError(
            f"{name}: says nothing of its preprocessing; convert it again, naming one"
        )
    return Checkpoint(tensors, PREPROCESSINGS[family], metadata)


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
    }
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__", {})


def _read_h5(data: bytes) -> tuple[Tensors, dict[str, str]]:
    import h5py

    tensors: Tensors = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            tensors[name] = np.asarray(item)

    with h5py.File(io.BytesIO(data), "r") as file:
        file.visititems(visit)
    return tensors, {}


def _read_npz(data: bytes) -> tuple[Tensors, dict[str, str]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}, {}


def _read_pth(data: bytes) -> tuple[Tensors, dict[str, str]]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise WeightsError(
            "reading .pth needs PyTorch: pip install 'jaxstyle[torch]', "
            "or convert the file to .safetensors"
        ) from None
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in state.items()}, {}


_READERS = {
    ".safetensors": _read_safetensors,
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".npz": _read_npz,
    ".pth": _read_pth,
    ".pt": _read_pth,
}

_DAMAGED = (
    safetensors.SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def _torchvision_indices() -> dict[int, str]:
    """Torchvision's number of each convolution in `features`: conv, ReLU, …, pool."""
    names, position = {}, 0
    for block, count in enumerate(BLOCKS, 1):
        for index in range(1, count + 1):
            names[position] = f"conv{block}_{index}"
            position += 2
        position += 1
    return names


def _rename(raw: Tensors, file_name: str) -> tuple[Tensors, str]:
    """`raw` by our names, HWIO; and the family of names it had: jaxstyle, caffe or torch."""
    indices = _torchvision_indices()
    tensors: Tensors = {}
    families: set[str] = set()
    for name, array in raw.items():
        kind = {4: "kernel", 1: "bias"}.get(array.ndim, "?")
        if match := re.fullmatch(r"(conv\d_\d)\.(kernel|bias)", name):
            family, conv, kind = "jaxstyle", match[1], match[2]
        elif match := re.search(r"block(\d)_conv(\d)(?!.*block\d_conv\d)", name):
            family, conv = "caffe", f"conv{match[1]}_{match[2]}"
        elif match := re.fullmatch(r"(?:.*\.)?features\.(\d+)\.(weight|bias)", name):
            family, conv = "torch", indices.get(int(match[1]), f"features.{match[1]}")
            if array.ndim == 4:
                array = array.transpose(2, 3, 1, 0)
        else:
            continue  # a classifier's layers, which style transfer does not use
        families.add(family)
        tensors[f"{conv}.{kind}"] = np.ascontiguousarray(array)
    if len(families) != 1:
        found = ", ".join(sorted(raw)[:3]) or "no tensors"
        raise WeightsError(f"{file_name}: not VGG19 by the names in it (found {found}…)")
    return tensors, families.pop()


def _check_shapes(tensors: Tensors, file_name: str) -> None:
    shapes = expected_shapes()
    if missing := [name for name in shapes if name not in tensors]:
        raise WeightsError(f"{file_name}: incomplete VGG19, {len(missing)} missing: {missing[0]}…")
    if unknown := [name for name in tensors if name not in shapes]:
        raise WeightsError(f"{file_name}: not VGG19: unexpected {unknown[0]}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            found = tensors[name].shape
            raise WeightsError(f"{file_name}: {name} has shape {found}, VGG19 needs {shape}")
        if not np.isfinite(np.asarray(tensors[name], np.float32)).all():
            raise WeightsError(f"{file_name}: {name} has values that are not finite")


def _parse_preprocessing(text: str, file_name: str) -> Preprocessing:
    try:
        fields = json.loads(text)
        (a, b, c), (d, e, f) = fields["mean"], fields["std"]
        mean, std = (float(a), float(b), float(c)), (float(d), float(e), float(f))
        result = Preprocessing(fields["channels"], float(fields["scale"]), mean, std)
        if result.channels not in ("rgb", "bgr"):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise WeightsError(f"{file_name}: cannot read its preprocessing {text!r}") from None
    return result
