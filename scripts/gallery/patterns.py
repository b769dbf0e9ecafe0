"""Procedural styles, which need no files: glass, dots and woodcut."""

import numpy as np

from jaxstyle.imaging import Image


def glass(size: int = 512, panes: int = 140) -> Image:
    """Draw stained glass: Voronoi cells of warm and cold colours with dark leading."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0, size, (panes, 2))
    hues = np.array(
        [
            [0.80, 0.12, 0.10],
            [0.95, 0.65, 0.08],
            [0.08, 0.30, 0.65],
            [0.10, 0.50, 0.32],
            [0.45, 0.12, 0.42],
        ]
    )
    colors = hues[rng.integers(0, len(hues), panes)] * rng.uniform(0.7, 1.15, (panes, 1))
    y, x = np.mgrid[:size, :size]
    distances = np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1])
    nearest = np.sort(distances, axis=2)[..., :2]
    glow = 1.1 - 0.5 * nearest[..., :1] / nearest[..., :1].max()
    lead = np.clip((nearest[..., 1:] - nearest[..., :1] - 3) / 4, 0, 1)
    return np.clip(colors[distances.argmin(axis=2)] * glow * lead + 0.04, 0, 1).astype(np.float32)


def dots(size: int = 512, count: int = 9000) -> Image:
    """Draw a pointillist picture: round dabs of drifting colours on a cream ground."""
    rng = np.random.default_rng(2)
    canvas = np.broadcast_to(np.array([0.93, 0.89, 0.78]), (size, size, 3)).copy()
    hues = np.array([[0.85, 0.35, 0.2], [0.2, 0.45, 0.7], [0.9, 0.75, 0.25], [0.25, 0.5, 0.3]])
    for top, left, radius, chance in zip(
        *rng.uniform(0, size, (2, count)),
        rng.uniform(3, 6, count),
        rng.uniform(size=count),
        strict=True,
    ):
        drift = 2 + 2 * np.sin(top / 90) * np.cos(left / 70) + chance * 1.5 - 0.75
        color = hues[int(drift) % len(hues)] * (0.8 + 0.35 * chance)
        rows = slice(max(0, int(top - radius)), int(top + radius) + 1)
        columns = slice(max(0, int(left - radius)), int(left + radius) + 1)
        y, x = np.ogrid[rows, columns]
        patch = canvas[rows, columns]
        y, x = y[: patch.shape[0]], x[:, : patch.shape[1]]
        inside = (y - top) ** 2 + (x - left) ** 2 < radius**2
        patch[inside] = color
    return np.clip(canvas, 0, 1).astype(np.float32)


def woodcut(size: int = 512) -> Image:
    """Draw a woodcut: dark wavy lines of varying width on tinted paper."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    bend = 30 * np.sin(x / 85) + 18 * np.sin((x + 2 * y) / 60)
    tone = 0.5 + 0.45 * np.sin(y / 110 + 1.2 * np.cos(x / 140))
    phase = np.sin((y + bend) * 2 * np.pi / 11)
    ink = np.clip((phase - (2 * tone - 1)) * 3, 0, 1)[..., None]
    paper, line = np.array([0.92, 0.85, 0.70]), np.array([0.13, 0.12, 0.20])
    return (paper * (1 - ink) + line * ink).astype(np.float32)


PATTERNS = {"glass": glass, "dots": dots, "woodcut": woodcut}
