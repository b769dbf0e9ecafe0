"""The objectives in PyTorch, built and optimized as in well-maintained peers.

As in neural-style-pt and pastiche, `torch.optim.LBFGS` has a long history and no line search, and
the image is in grey levels. Tensors are channels last; ReLU is in place where nothing else reads
its input.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from measuring.tables import Row
from measuring.worker import Trace, peak_resident, seconds_of

_F = torch.nn.functional
_STYLE_LAYERS = tuple(f"conv{block}_1" for block in range(1, 6))
_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}

Features = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Network:
    """Kernels and biases in the order of the convolutions, and the mean to subtract."""

    layers: dict[str, tuple[torch.Tensor, torch.Tensor]]
    mean: torch.Tensor
    dtype: torch.dtype

    def features(self, image: torch.Tensor) -> Features:
        """Compute activations, after the ReLU, of an image in grey levels."""
        # Not earlier: torch.optim.LBFGS only takes parameters in the default layout.
        x = _last(image / 255 - self.mean).to(self.dtype)
        activations: Features = {}
        for name, (kernel, bias) in self.layers.items():
            if name.endswith("_1") and name != "conv1_1":
                x = _F.max_pool2d(x, 2)
            x = _F.relu_(_F.conv2d(x, kernel, bias, padding=1))
            activations[name] = x
        return activations


@dataclasses.dataclass(frozen=True)
class Objective:
    """An objective of the peers; calling it returns the loss of an image in grey levels."""

    name: str
    network: Network
    target: torch.Tensor
    grams: Features

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the loss."""
        seed = self.name == "seed"
        features = self.network.features(image)
        difference = (features[_content_layer(self.name)] - self.target).float()
        loss = 0.025 * (difference**2).sum() if seed else (difference**2).mean()
        for layer in _STYLE_LAYERS:
            squares = ((_gram(features[layer], image, self.name) - self.grams[layer]) ** 2).sum()
            channels = self.grams[layer].shape[0]
            loss = loss + squares * (1 / (5 * 4 * 9) if seed else 1e3 / channels**4)
        if not seed:
            return loss
        dy = image[:, :, 1:, :-1] - image[:, :, :-1, :-1]
        dx = image[:, :, :-1, 1:] - image[:, :, :-1, :-1]
        return loss + 1e-4 * ((dy**2 + dx**2) ** 1.25).sum()


@dataclasses.dataclass(frozen=True)
class Problem:
    """An objective ready to be evaluated, where runs start and where evaluations are timed."""

    loss: Callable[[torch.Tensor], torch.Tensor]
    content: torch.Tensor
    image: torch.Tensor
    precision: str


_problems: dict[str, Problem] = {}


def describe() -> dict[str, str]:
    """Describe PyTorch's accelerator, if any."""
    available = torch.cuda.is_available()
    return {"kind": torch.cuda.get_device_name()} if available else {}


def prepare(
    key: str,
    pictures: str,
    weights: str,
    objective: str,
    threads: int,
    gradient: str | None = None,
    precision: str = "float32",
    device: str = "cpu",
    compiled: bool = False,
) -> Row:
    """Read pictures and parameters and compute the targets; see `ours.prepare`."""
    torch.set_num_threads(threads)
    _set_precision(precision)
    network = _network(weights, "conv5_2" if objective == "seed" else "conv5_1", precision, device)
    with np.load(pictures) as stored:
        content, style, image = (
            _picture(stored[name]).to(device) for name in ("content", "style", "image")
        )
    with torch.no_grad():
        target = network.features(content)[_content_layer(objective)]
        features = network.features(style)
        grams = {name: _gram(features[name], style, objective) for name in _STYLE_LAYERS}
    loss = Objective(objective, network, target, grams)
    function = torch.compile(loss, dynamic=False) if compiled else loss
    problem = _problems[key] = Problem(function, content, image, precision)
    first, second = (seconds_of(lambda: _evaluate(problem)) for _ in range(2))
    value, grad = _evaluate(problem)
    if gradient is not None:
        np.save(gradient, grad[0].permute(1, 2, 0).cpu().numpy() * 255)
    return {
        "loss": float(value.detach()),
        "compile_seconds": first - second if compiled else 0.0,
        "first_seconds": second if compiled else first,
    }


def forget() -> None:
    """Free the memory of all problems."""
    _problems.clear()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def evaluation(key: str, count: int) -> float:
    """Return the mean seconds of one value and gradient over `count` in a row."""
    problem = _problems[key]
    _set_precision(problem.precision)
    return seconds_of(lambda: _evaluate(problem), count)


def best_threads(key: str, candidates: list[int]) -> int:
    """Return the number of threads with the fastest evaluations."""
    seconds: dict[int, float] = {}
    for threads in candidates:
        torch.set_num_threads(threads)
        evaluation(key, 1)
        seconds[threads] = min(evaluation(key, 1) for _ in range(3))
    return min(candidates, key=lambda threads: seconds[threads])


def matmul(size: int, precision: str, device: str) -> float:
    """Return the FLOP/s of a product of two `size`² matrices, the best of five."""
    _set_precision(precision)
    a = torch.randn(size, size, device=device).to(_DTYPES[precision])
    seconds = [seconds_of(lambda: (torch.matmul(a, a), _wait())) for _ in range(6)]
    return 2 * size**3 / min(seconds[1:])


def curve(key: str, evaluations: int) -> Row:
    """Run L-BFGS from the content and return the same as `ours.curve`."""
    # The first steps include imports and set-up.
    warm = seconds_of(lambda: _minimize(_problems[key], 3))
    return _minimize(_problems[key], evaluations).told(warm)


def one_by_one(key: str, cells: int, evaluations: int) -> float:
    """Return the seconds for `cells`, one after another; their targets were computed before."""
    return cells * seconds_of(lambda: _minimize(_problems[key], evaluations), cells)


def _minimize(problem: Problem, evaluations: int) -> Trace:
    """Run L-BFGS from the content."""
    _set_precision(problem.precision)
    image = problem.content.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([image], lr=1, max_iter=evaluations, max_eval=evaluations,
                                  history_size=100, tolerance_grad=-1,
                                  tolerance_change=-1)  # fmt: skip
    _wait()
    trace = Trace()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = problem.loss(image)
        loss.backward()
        trace.add(float(loss.detach()))
        return loss

    optimizer.step(closure)
    return trace


def peak_memory() -> dict[str, int]:
    """Return the peak memory of this process, and the peak in use on its device, in bytes."""
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"process": peak_resident(), "device": device}


def _set_precision(precision: str) -> None:
    # Losses stay in float32, so beside bfloat16 only TF32 remains to be allowed.
    allowed = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _evaluate(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    image = problem.image.clone().requires_grad_()
    value = problem.loss(image)
    (grad,) = torch.autograd.grad(value, image)
    _wait()
    return value, grad


def _network(weights: str, deepest: str, precision: str, device: str) -> Network:
    dtype = _DTYPES[precision]
    with np.load(weights) as stored:
        arrays = dict(stored)
    names = sorted({name.split("/")[0] for name in arrays if "/" in name})
    layers = {
        name: (
            _last(torch.tensor(arrays[f"{name}/kernel"].transpose(3, 2, 0, 1))).to(device, dtype),
            torch.tensor(arrays[f"{name}/bias"]).to(device, dtype),
        )
        for name in names[: names.index(deepest) + 1]
    }
    return Network(layers, torch.tensor(arrays["mean"])[None, :, None, None].to(device), dtype)


def _last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _picture(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(array.transpose(2, 0, 1)[None])) * 255


def _content_layer(objective: str) -> str:
    return "conv5_2" if objective == "seed" else "conv4_2"


def _gram(features: torch.Tensor, picture: torch.Tensor, objective: str) -> torch.Tensor:
    flat = features[0].permute(1, 2, 0).reshape(-1, features.shape[1]).float()
    pixels = picture.shape[2] * picture.shape[3] if objective == "seed" else flat.shape[0]
    return flat.T @ flat / pixels
