"""Grids on disk: cells from files, done once each, by one process or by many.

    OUT/cells/NAME.png    a cell's image
    OUT/cells/NAME.json   its row, written after the image: a cell that has one is done
    OUT/grid.jsonl        the rows of the whole grid, in its order
    OUT/sheet….jpg        contact sheets

NAME ends in the hash of all that makes the cell what it is. Processes share nothing but the
folder: whichever finishes last finds every row there and writes the last two.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from etils import epath

from jaxstyle import images, pyramid
from jaxstyle.batch import Cell, Source, program_of, stylize_cells
from jaxstyle.cells import GridCell
from jaxstyle.config import Config
from jaxstyle.errors import ImageError, JaxstyleError
from jaxstyle.files import make_folder, write_atomically
from jaxstyle.loop import Result
from jaxstyle.sheet import contact_sheet
from jaxstyle.transfer import fitted_shape
from jaxstyle.types import Device, Image, Params
from jaxstyle.weights import locate, read, to_params

_INITS = ("content", "noise", "style")


class Entry(NamedTuple):
    """A cell whose files were looked at: its name, and what is wrong with it, if anything."""

    cell: GridCell
    name: str
    sha256: dict[str, list[str]]
    shape: tuple[int, int]
    """Of the image to make; (0, 0) if that cannot be known."""
    problem: str | None

    @property
    def cost(self) -> int:
        """Pixels times evaluations, over all scales."""
        levels = pyramid.levels(self.cell.config)
        pixels = self.shape[0] * self.shape[1]
        return round(sum(pixels * level.ratio**2 * level.evaluations for level in levels))


OnCell = Callable[[Entry, str | None], None]
"""Called when a cell ends, with what was wrong with it, if anything."""


class Summary(NamedTuple):
    """How many cells of the whole grid are in which state."""

    done: int
    failed: int
    missing: int


class _Pictures:
    """The files of a grid, each looked at once; decoded when needed."""

    def __init__(self, aspect: Literal["nearest", "own"]) -> None:
        self._aspect = aspect
        self._looked: dict[str, images.Glance | ImageError] = {}
        self._sources: dict[tuple[Any, ...], Source] = {}
        self.alpha: dict[tuple[str, tuple[int, int]], np.ndarray | None] = {}

    def look(self, path: str) -> images.Glance:
        """The digest and shape of the file at `path`."""
        if path not in self._looked:
            try:
                self._looked[path] = images.glance(path)
            except ImageError as error:
                self._looked[path] = error
        found = self._looked[path]
        if isinstance(found, ImageError):
            raise found
        return found

    def shape(self, path: str, config: Config) -> tuple[int, int]:
        """The shape that the content at `path` is given."""
        shape = self.look(path).shape
        if self._aspect == "own" or config.size == "original":
            return fitted_shape(shape, config)
        return images.nearest_shape(shape, config.size)

    def content(self, path: str, config: Config) -> Source:
        """The picture at `path`, at the size and shape it has in the grid."""
        shape = self.shape(path, config)
        whole = shape == fitted_shape(self.look(path).shape, config)

        def load() -> Image:
            found = images.read_picture(path, config.size if whole else shape)
            self.alpha[path, shape] = found.alpha
            return found.pixels

        return self._sources.setdefault((path, shape), Source(shape, load))

    def style(self, path: str) -> Source:
        """The picture at `path`, as it is."""
        shape = self.look(path).shape
        return self._sources.setdefault((path,), Source(shape, lambda: images.load_image(path)))


class Grid:
    """Cells, what their files say, and the folder that they go to."""

    def __init__(
        self,
        cells: Sequence[GridCell],
        output: epath.PathLike,
        *,
        weights_sha256: str,
        aspect: Literal["nearest", "own"] = "nearest",
    ) -> None:
        """Look at every file.

        Args:
            cells: equal ones count once.
            output: the folder, local or `gs://`.
            weights_sha256: digest of the weights' file, which every cell depends on.
            aspect: `nearest` crops contents to the nearest common aspect ratio, so that few
                programs serve many photographs; `own` leaves every picture its shape.
        """
        self.output = epath.Path(output)
        self._pictures = _Pictures(aspect)
        self._weights_sha256 = weights_sha256
        self.entries = [self._entry(cell, aspect) for cell in dict.fromkeys(cells)]

    def _entry(self, cell: GridCell, aspect: str) -> Entry:
        sha256: dict[str, list[str]] = {}
        shape, problem = (0, 0), None
        init = [] if cell.config.init in _INITS else [cell.config.init]
        roles = {"content": [cell.content], "style": list(cell.styles), "init": init}
        try:
            for role, paths in roles.items():
                sha256[role] = [self._pictures.look(path).sha256 for path in paths]
            shape = self._pictures.shape(cell.content, cell.config)
        except ImageError as error:
            problem = str(error)
            sha256 = {role: list(paths) for role, paths in roles.items()}
        sha256["weights"] = [self._weights_sha256]
        # Files count by what is in them, wherever they are.
        settings = dataclasses.asdict(cell.config) | ({"init": "file"} if init else {})
        identity = json.dumps([settings, sha256, aspect], sort_keys=True)
        digest = hashlib.sha256(identity.encode())
        stems = "_".join(_stem(path) for path in (cell.content, *cell.styles[:1]))
        return Entry(cell, f"{stems}_{digest.hexdigest()[:16]}", sha256, shape, problem)

    def row(self, entry: Entry) -> dict[str, Any] | None:
        """The row of `entry` if it is there."""
        try:
            return json.loads((self._folder / f"{entry.name}.json").read_text())
        except (OSError, ValueError):
            return None

    def is_done(self, entry: Entry) -> bool:
        """Whether the image of `entry` is there."""
        row = self.row(entry)
        return row is not None and row["status"] == "done"

    @property
    def _folder(self) -> epath.Path:
        return self.output / "cells"

    def run(
        self,
        params: Params,
        *,
        shard: tuple[int, int] = (0, 1),
        lanes: int | None = None,
        devices: Sequence[Device] | None = None,
        on_cell: OnCell = lambda *_: None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Do the cells of this shard that are not done.

        Args:
            params: from `load_weights`.
            shard: `(index, count)`: which part of the grid, of how many. Parts are of about
                equal cost, and the same whoever asks.
            lanes: see `optimize_lanes`.
            devices: see `optimize_lanes`.
            on_cell: see `OnCell`.
            progress: see `optimize_lanes`.

        Raises:
            ConfigError: a setting that no batch can have.
            ImageError: the folder cannot be written to.
        """
        make_folder(self._folder, ImageError)
        todo: list[Entry] = []
        for entry in self.share(shard):
            if entry.problem is None:
                todo.append(entry)
            else:
                self._write_row(entry, {"status": "failed", "reason": entry.problem})
                on_cell(entry, entry.problem)
        skip = {
            i for i, entry in enumerate(todo) if (self.row(entry) or {}).get("status") == "done"
        }
        cells = [
            Cell(
                self._pictures.content(entry.cell.content, entry.cell.config),
                tuple(map(self._pictures.style, entry.cell.styles)),
                entry.cell.config,
            )
            for entry in todo
        ]
        # Encoding and writing go on while the devices work on the next cells.
        with ThreadPoolExecutor(1) as writer:
            writing: list[Future[str | None]] = []
            outcomes = stylize_cells(
                cells, params, skip=skip, lanes=lanes, devices=devices, progress=progress
            )
            for index, outcome in outcomes:
                writing.append(writer.submit(self._finish, todo[index], outcome, on_cell))
                for written in [future for future in writing if future.done()]:
                    writing.remove(written)
                    written.result()
            for written in writing:
                written.result()

    def share(self, shard: tuple[int, int]) -> list[Entry]:
        """The entries of one shard, those with the same program together."""
        index, count = shard
        keys = {
            entry.name: (entry.shape, repr(program_of(entry.cell.config)), position)
            for position, entry in enumerate(self.entries)
        }
        ordered = sorted(self.entries, key=lambda entry: keys[entry.name])
        costs = np.array([entry.cost for entry in ordered], np.float64) + 1
        middles = np.cumsum(costs) - costs / 2
        owners = np.floor(middles / costs.sum() * count)
        return [entry for entry, owner in zip(ordered, owners, strict=True) if owner == index]

    def _finish(
        self,
        entry: Entry,
        outcome: Result | JaxstyleError,
        on_cell: OnCell,
    ) -> None:
        if isinstance(outcome, JaxstyleError):
            row = {"status": "failed", "reason": str(outcome)}
        else:
            row = self._write_image(entry, outcome)
        self._write_row(entry, row)
        on_cell(entry, row.get("reason") if row["status"] == "failed" else None)

    def _write_image(self, entry: Entry, result: Result) -> dict[str, Any]:
        if not np.isfinite(result.loss):
            return {"status": "failed", "reason": "the loss was never finite; try smaller weights"}
        path = self._folder / f"{entry.name}.png"
        alpha = self._pictures.alpha.get((entry.cell.content, entry.shape))
        images.save_image(path, result.image, alpha=alpha)
        device = jax.local_devices()[0]
        return {
            "status": "done",
            "image": f"cells/{path.name}",
            "loss": result.loss,
            "terms": result.terms,
            "evaluations": result.evaluations,
            "ended_by": result.reason,
            "seconds": result.seconds,
            "compile_seconds": result.compile_seconds,
            "convolution": result.convolution,
            "device": f"{device.platform} {device.device_kind}",
            "jaxstyle": importlib.metadata.version("jaxstyle"),
            "losses": [record.loss for record in result.history],
        }

    def _write_row(self, entry: Entry, outcome: dict[str, Any]) -> None:
        cell = entry.cell
        settings = {k: v for k, v in dataclasses.asdict(cell.config).items() if v is not None}
        row = {
            "cell": entry.name,
            "content": cell.content,
            "styles": list(cell.styles),
            "sha256": entry.sha256,
            "config": settings,
            **outcome,
        }
        text = json.dumps(_finite(row))
        write_atomically(self._folder / f"{entry.name}.json", text.encode(), ImageError)

    def summary(self) -> Summary:
        """Count the cells of the whole grid that are there."""
        states = [(self.row(entry) or {}).get("status", "missing") for entry in self.entries]
        return Summary(*(states.count(state) for state in ("done", "failed", "missing")))

    def collect(self) -> list[epath.Path]:
        """Write `grid.jsonl` and the contact sheets of whatever cells are there.

        Returns:
            The sheets, one for each setting.
        """
        make_folder(self.output, ImageError)
        rows = [self.row(entry) for entry in self.entries]
        lines = [json.dumps(row) + "\n" for row in rows if row is not None]
        write_atomically(self.output / "grid.jsonl", "".join(lines).encode(), ImageError)
        settings = list(dict.fromkeys(entry.cell.config for entry in self.entries))
        sheets: list[epath.Path] = []
        for number, config in enumerate(settings, 1):
            page = [
                (entry, row)
                for entry, row in zip(self.entries, rows, strict=True)
                if entry.cell.config == config
            ]
            name = "sheet.jpg" if len(settings) == 1 else f"sheet-{number:03}.jpg"
            sheet = contact_sheet(
                rows=list(dict.fromkeys(entry.cell.content for entry, _ in page)),
                columns=list(dict.fromkeys(entry.cell.styles for entry, _ in page)),
                cells={
                    (entry.cell.content, entry.cell.styles): self._shown(row) for entry, row in page
                },
                caption=_differences(config, settings),
            )
            sheets.append(self.output / name)
            images.save_image(sheets[-1], sheet)
        return sheets

    def _shown(self, row: dict[str, Any] | None) -> epath.Path | str:
        """The file of a row's image, or why there is none."""
        if row is None:
            return "not done yet"
        if row["status"] == "failed":
            return f"failed: {row['reason']}"
        return self.output / row["image"]


def run_grid(
    cells: Sequence[GridCell],
    output: epath.PathLike,
    *,
    weights: epath.PathLike | None = None,
    aspect: Literal["nearest", "own"] = "nearest",
    shard: tuple[int, int] = (0, 1),
    lanes: int | None = None,
) -> Summary:
    """Do what is missing of a grid, and write its sheets once all of it is there.

    Args:
        cells: from `cells.product` or `cells.read_cells`, or made by hand.
        output: the folder, local or `gs://`.
        weights: their file, if not the default one, which is fetched if need be.
        aspect: see `Grid`.
        shard: see `Grid.run`.
        lanes: see `optimize_lanes`.

    Raises:
        ConfigError, ImageError, WeightsError: what no cell could be done with.
    """
    checkpoint = read(locate(weights))
    grid = Grid(cells, output, weights_sha256=checkpoint.sha256, aspect=aspect)
    grid.run(to_params(checkpoint), shard=shard, lanes=lanes)
    summary = grid.summary()
    if not summary.missing:
        grid.collect()
    return summary


def _stem(path: str) -> str:
    """What of a path can be part of a file's name anywhere."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", PurePath(path).stem)[:40].strip("-") or "picture"


def _finite(value: Any) -> Any:
    """`value` with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _differences(config: Config, others: Sequence[Config]) -> str:
    """What sets `config` apart from the other settings."""
    return ", ".join(
        f"{field.name} = {getattr(config, field.name)}"
        for field in dataclasses.fields(config)
        if len({getattr(other, field.name) for other in others}) > 1
    )
