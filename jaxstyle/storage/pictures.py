"""Access to the image files of a grid, inspected once and decoded lazily."""

import functools
from pathlib import PurePath
from typing import Any, Literal

import numpy as np

from jaxstyle.config import Config, ImageError
from jaxstyle.engine import GuideSource, Source
from jaxstyle.imaging import fit_shape, images, nearest_shape
from jaxstyle.objective import Guide, Guides, parse_guide, regions, style_shares
from jaxstyle.storage.cells import GridCell

_GUIDES_KEPT = 32
"""Number of guides cached at a time, at one byte per pixel."""


class Pictures:
    """The image files of a grid, each inspected once and decoded when needed."""

    def __init__(self, aspect: Literal["nearest", "own"]) -> None:
        self._aspect = aspect
        self.digests: dict[str, str] = {}
        """Digest of each file that was looked at, by its path."""
        self.look = functools.cache(self._look)
        """Return the digest and shape of the file at a path."""
        self._sources: dict[tuple[Any, ...], Source] = {}
        self._guides: dict[tuple[Any, ...], GuideSource] = {}
        self._guide = functools.lru_cache(_GUIDES_KEPT)(self._read_guide)
        self._with_alpha: set[str] = set()
        self.understood: dict[str, str] = {}
        """What was understood of the guide at each path."""

    def _look(self, path: str) -> images.Glance:
        glance = images.glance(path)
        self.digests[path] = glance.sha256
        return glance

    def shape(self, path: str, config: Config) -> tuple[int, int]:
        """Return the shape of the content at `path` in the grid."""
        shape = self.look(path).shape
        if self._aspect == "own" or config.size == "original":
            return fit_shape(shape, config.size)
        return nearest_shape(shape, config.size)

    def content(self, path: str, config: Config) -> Source:
        """Return the content at `path`, at its size and shape in the grid."""
        shape = self.shape(path, config)
        source = Source(shape, lambda: self._read_content(path, config).pixels)
        return self._sources.setdefault((path, shape), source)

    def style(self, path: str) -> Source:
        """Return the style at `path`, at its own size."""
        shape = self.look(path).shape
        return self._sources.setdefault((path,), Source(shape, lambda: self._read(path).pixels))

    def content_guide(self, cell: GridCell) -> GuideSource | None:
        """Return the guide of the cell's content, cropped like the content, or None."""
        if cell.content_guide is None:
            return None
        path, shape = cell.content_guide, self.shape(cell.content, cell.config)
        source = GuideSource(lambda: self._guide(path).cropped(shape))
        return self._guides.setdefault((path, shape), source)

    def style_guide(self, path: str) -> GuideSource:
        """Return the guide of a style at `path`."""
        source = GuideSource(functools.partial(self._guide, path))
        return self._guides.setdefault((path,), source)

    def check_guides(self, cell: GridCell) -> None:
        """Raise `ImageError` if the cell's guides are invalid or do not fit its pictures."""
        if cell.content_guide is None:
            return
        whole = Guides(self._guide(cell.content_guide), tuple(map(self._guide, cell.style_guides)))
        styles = [self.look(style).shape for style in cell.styles]
        regions.check_aspects(whole, self.look(cell.content).shape, styles)
        regions.assign(whole, style_shares(len(cell.styles), cell.config))

    def _read_guide(self, path: str) -> Guide:
        picture = self._read(path)
        guide = parse_guide(picture.pixels, picture.alpha, PurePath(path).name)
        self.understood[path] = str(guide)
        return guide

    def alpha(self, path: str, config: Config) -> np.ndarray | None:
        """Return the alpha channel of the content at `path`, or None."""
        if path not in self._with_alpha:
            return None
        return self._read_content(path, config).alpha

    def _read_content(self, path: str, config: Config) -> images.Picture:
        shape = self.shape(path, config)
        whole = shape == fit_shape(self.look(path).shape, config.size)
        return self._read(path, config.size if whole else shape)

    def _read(
        self, path: str, size: int | Literal["original"] | tuple[int, int] | None = None
    ) -> images.Picture:
        picture = images.read_picture(path, size)
        if picture.sha256 != self.look(path).sha256:
            raise ImageError(f"{path}: has changed since the grid was started")
        if picture.alpha is not None:
            self._with_alpha.add(path)
        return picture
