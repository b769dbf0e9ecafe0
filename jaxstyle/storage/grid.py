"""Grids on disk: cells from files, each computed once, by one process or many.

    OUT/cells/NAME.png    a cell's image
    OUT/cells/NAME.json   its row, written after the image: a cell that has one is done
    OUT/cells/NAME/       the checkpoint of a cell that takes long, until it is done; with `runs`,
                          its folder in the form of a run's, to keep
    OUT/grid.jsonl        the rows of the whole grid, in its order
    OUT/sheet….jpg        contact sheets

NAME consists of the files' names and a hash of everything that determines the cell. Processes
share nothing but the folder: the last one to finish finds every row and writes the last two.
"""

import collections
import contextlib
import functools
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from jaxstyle.config import (
    INITS,
    ConfigError,
    FileError,
    ImageError,
    JaxstyleError,
    brief,
    flat,
)
from jaxstyle.engine import (
    Cell,
    Progress,
    Record,
    Result,
    as_used,
    state_at,
    stylize_cells,
)
from jaxstyle.imaging import colored_result, contact_sheet, files, images, to_json
from jaxstyle.network import Params, common_network, locate, read, to_params
from jaxstyle.storage.cell_progress import CellProgress, CellRun
from jaxstyle.storage.cells import GridCell
from jaxstyle.storage.entries import Entry, Rows, shared_out
from jaxstyle.storage.pace import Schedule
from jaxstyle.storage.pictures import Pictures
from jaxstyle.storage.runs import Identity, Run, summarize
from jaxstyle.storage.sheets import sheet_pages

_MOST_WAITING = 64
"""Number of images in memory that wait to be written."""

_ABANDONED = 3600.0
"""Age in seconds of temporary files that no process is still writing."""


OnCell = Callable[[Entry, str | None], None]
"""Callback for each cell that ends, with its problem, if any."""


class Summary(NamedTuple):
    """The number of cells of the whole grid in each state."""

    done: int
    failed: int
    missing: int


class Grid:
    """A grid of cells, with the digests and shapes of their files, and its output folder."""

    def __init__(
        self,
        cells: Sequence[GridCell],
        output: epath.PathLike,
        *,
        weights_sha256: str,
        aspect: Literal["nearest", "own"] = "nearest",
    ) -> None:
        """Inspect every file.

        Args:
            cells: the cells; duplicates count once.
            output: the folder, local or `gs://`.
            weights_sha256: digest of the weights file, on which every cell depends.
            aspect: `nearest` crops contents to the nearest common aspect ratio, so that few
                programs serve many photographs; `own` keeps the shape of every picture.
        """
        self.output = epath.Path(output)
        self._pictures = Pictures(aspect)
        self._weights_sha256 = weights_sha256
        entries = [self._entry(cell, aspect) for cell in dict.fromkeys(cells)]
        # The same picture under the same name in two folders is one cell.
        self.entries = list({entry.name: entry for entry in reversed(entries)}.values())[::-1]

    @property
    def guides(self) -> Mapping[str, str]:
        """What was understood of each guide, by its path."""
        return self._pictures.understood

    @property
    def identity(self) -> Mapping[str, str]:
        """The digest of every file that can be read, by its path, and of the names of the cells."""
        names = "\n".join(entry.name for entry in self.entries)
        cells = {"the cells or their settings": hashlib.sha256(names.encode()).hexdigest()}
        return self._pictures.digests | {"the weights": self._weights_sha256} | cells

    def _entry(self, cell: GridCell, aspect: str) -> Entry:
        sha256: dict[str, list[str]] = {}
        shape, problem = (0, 0), None
        init = [] if cell.config.init in INITS else [cell.config.init]
        roles = {"content": [cell.content], "style": list(cell.styles), "init": init}
        if cell.content_guide is not None:
            roles |= {"content_guide": [cell.content_guide], "style_guide": cell.style_guides}
        try:
            for role, paths in roles.items():
                sha256[role] = [self._pictures.look(path).sha256 for path in paths]
            shape = self._pictures.shape(cell.content, cell.config)
            self._pictures.check_guides(cell)
        except JaxstyleError as error:
            problem = str(error)
            sha256 = {role: list(paths) for role, paths in roles.items()}
        sha256["weights"] = [self._weights_sha256]
        # Files are identified by their content, not by their path.
        settings = flat(cell.config) | ({"init": "file"} if init else {})
        identity = json.dumps([settings, sha256, aspect], sort_keys=True)
        digest = hashlib.sha256(identity.encode())
        stems = "_".join(_stem(path) for path in (cell.content, *cell.styles[:1]))
        return Entry(cell, f"{stems}_{digest.hexdigest()[:16]}", sha256, shape, problem)

    def row(self, entry: Entry) -> dict[str, Any] | None:
        """Return the row of `entry`, or None if missing or damaged."""
        path = self._folder / f"{entry.name}.json"
        try:
            row = json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except Exception as error:  # whatever a storage client raises; the cell may be done
            raise FileError(f"{path}: cannot be read ({brief(error)})") from None
        if not isinstance(row, dict):
            return None
        has = {name for name in ("image", "reason") if isinstance(row.get(name), str)}
        shown = {"done": "image", "failed": "reason"}
        return row if shown.get(str(row.get("status"))) in has else None

    def rows(self, entries: Sequence[Entry] | None = None) -> Rows:
        """Read the rows of `entries`, by default all, once for several queries."""
        chosen = self.entries if entries is None else entries
        return {entry.name: self.row(entry) for entry in chosen}

    def rows_of_all(self, seconds: float) -> Rows:
        """Read all rows; where some are missing, look again for them for `seconds`.

        Network file systems show what other hosts wrote late, and the last one to finish must see
        all of it.
        """
        rows, until = dict(self.rows()), time.monotonic() + seconds
        while missing := [entry for entry in self.entries if rows[entry.name] is None]:
            if time.monotonic() >= until:
                break
            time.sleep(min(1.0, seconds / 10))
            rows |= self.rows(missing)
        return rows

    def is_done(self, entry: Entry, rows: Rows | None = None) -> bool:
        """Return whether the row of `entry`, from `rows` if given, says so and its image exists."""
        row = self.row(entry) if rows is None else rows[entry.name]
        return row is not None and row["status"] == "done" and (self.output / row["image"]).exists()

    @property
    def _folder(self) -> epath.Path:
        return self.output / "cells"

    def run(
        self,
        params: Params,
        *,
        shard: tuple[int, int] = (0, 1),
        lanes: int | None = None,
        space: int = 1,
        on_cell: OnCell = lambda *_: None,
        checkpoint_seconds: float = 45.0,
        runs: Schedule | None = None,
        on_evaluations: Callable[[int], None] | None = None,
        rows: Rows | None = None,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compute the cells of this shard that are not done.

        Args:
            params: from `load_weights`.
            shard: `(index, count)`: the index of the part of the grid and the number of parts.
                Parts have about equal cost and are the same in every process.
            lanes: see `stylize_cells`.
            space: see `stylize_cells`.
            checkpoint_seconds: time between checkpoints of a cell, more if saving takes long. A
                grid that was killed continues from them, and its images are bit for bit those of
                one that was not, as long as devices, lanes and shards are the same.
            runs: by default no folders stay but those of runs that were begun. With a schedule of
                snapshots, which may be empty, each cell keeps its folder in the form of a run's:
                metrics, inputs, last checkpoint.
            on_evaluations: see `stylize_cells`, also called for evaluations resumed from.
            on_cell: see `OnCell`.
            rows: rows of the shard's cells, if already read.
            is_interrupted: called after each evaluation; once it is true, the cells under way save
                their progress, and the grid ends.

        Raises:
            KeyboardInterrupt: the grid was interrupted.
            ConfigError: a setting is not allowed in a batch.
            FileError: the folder cannot be written to.
        """
        if any(not entry.cell.styles for entry in self.entries):
            raise ConfigError("a cell has no style")
        files.make_folder(self._folder)
        files.remove_leftovers(self._folder, _ABANDONED)
        todo: list[Entry] = []
        for entry in self.share(shard):
            if entry.problem is None:
                todo.append(entry)
            else:
                self._finish(entry, ImageError(entry.problem), on_cell)
        skip = {i for i, entry in enumerate(todo) if self.is_done(entry, rows)}
        cells = [
            Cell(
                self._pictures.content(entry.cell.content, entry.cell.config),
                tuple(map(self._pictures.style, entry.cell.styles)),
                entry.cell.config,
                self._pictures.content_guide(entry.cell),
                tuple(map(self._pictures.style_guide, entry.cell.style_guides)),
            )
            for entry in todo
        ]
        begun = {path.name for path in self._folder.iterdir()}
        keepers: dict[int, CellProgress | CellRun] = {}
        stopping = False
        for i, entry in enumerate(todo):
            folder = self._folder / entry.name
            like = functools.partial(state_at, entry.cell.config, entry.shape)
            progress = CellProgress(folder, like, checkpoint_seconds, lambda: stopping)
            is_run = entry.name in begun and (folder / "config.toml").exists()
            if i in skip:
                if entry.name in begun and not is_run:  # killed between the row and this
                    progress.remove()
            elif is_run or runs is not None:
                snapshots = runs or Schedule()
                options = {"checkpoint_seconds": checkpoint_seconds, "snapshots": snapshots}
                enter = functools.partial(self._enter, entry, cells[i], options)
                keepers[i] = CellRun(folder, enter, like)
            else:
                keepers[i] = progress

        def record(index: int, record: Record) -> bool:
            keepers[index].record(record)
            return stopping

        def evaluated(count: int) -> None:
            nonlocal stopping
            # Between evaluations, so that all cells under way stop after the same one.
            stopping = stopping or is_interrupted()
            if on_evaluations is not None:
                on_evaluations(count)

        def resumed(index: int) -> Progress | None:
            found = keepers[index].restore() if todo[index].name in begun else None
            if found is not None and on_evaluations is not None:
                on_evaluations(found.evaluations)
            return found

        def finish(index: int, outcome: Result | JaxstyleError) -> None:
            self._finish(todo[index], outcome, on_cell, keepers[index])
            keepers[index].remove()

        # Images are encoded and written while the devices compute the next cells.
        with contextlib.ExitStack() as stack:
            for keeper in keepers.values():
                stack.callback(keeper.close)
            writer = stack.enter_context(ThreadPoolExecutor(1))
            writing: collections.deque[Future[None]] = collections.deque()
            outcomes = stylize_cells(
                cells,
                params,
                skip=skip,
                callback=record,
                keepers=keepers.get,
                progress=resumed,
                lanes=lanes,
                space=space,
                on_evaluations=evaluated,
            )
            for index, outcome in outcomes:
                if isinstance(outcome, Result) and outcome.reason == "stopped":
                    raise KeyboardInterrupt
                writing.append(writer.submit(finish, index, outcome))
                while len(writing) > _MOST_WAITING or (writing and writing[0].done()):
                    writing.popleft().result()
            for written in writing:
                written.result()

    def share(self, shard: tuple[int, int]) -> list[Entry]:
        """Return the entries of one shard, with those of the same program adjacent."""
        return shared_out(self.entries, *shard)

    def _enter(
        self, entry: Entry, cell: Cell, options: Mapping[str, Any], folder: epath.Path
    ) -> Run:
        """Open the folder of a cell's run."""
        config, content = cell.config, cell.content.load()
        shown = as_used(content, [style.load() for style in cell.styles], config)
        as_result = lambda image: colored_result(image, cell.content.load(), config)  # noqa: E731
        identity = Identity(
            config,
            entry.sha256,
            content=entry.cell.content,
            styles=entry.cell.styles,
            content_guide=entry.cell.content_guide,
            style_guides=entry.cell.style_guides,
        )
        with contextlib.ExitStack() as stack:
            run = Run(folder, checkpoints=Schedule(), as_result=as_result, **options)
            stack.enter_context(run)
            # The folder's name tells that it is this run; what is there may be damaged.
            run.record_identity(identity)
            run.show_inputs(*shown)
            stack.pop_all()
        return run

    def _finish(
        self,
        entry: Entry,
        outcome: Result | JaxstyleError,
        on_cell: OnCell,
        keeper: CellProgress | CellRun | None = None,
    ) -> None:
        try:
            if isinstance(outcome, JaxstyleError):
                raise outcome
            if not np.isfinite(outcome.loss):
                raise ImageError("the loss was never finite; try smaller weights")
            alpha = self._pictures.alpha(entry.cell.content, entry.cell.config)
        except JaxstyleError as error:
            row = {"status": "failed", "reason": str(error)}
        else:
            summary = summarize(entry.cell.config, entry.sha256, outcome)
            if keeper is not None:
                keeper.finish(outcome, summary, alpha)
            row = self._write_image(entry, outcome, summary, alpha)
        self._write_row(entry, row)
        on_cell(entry, row.get("reason"))

    def _write_image(
        self,
        entry: Entry,
        result: Result,
        summary: Mapping[str, Any],
        alpha: np.ndarray | None,
    ) -> dict[str, Any]:
        path = self._folder / f"{entry.name}.png"
        images.save_image(path, result.image, alpha=alpha, metadata=json.dumps(summary))
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
            "activations": result.activations,
            "device": summary["device"],
            "jaxstyle": summary["versions"]["jaxstyle"],
            "losses": [record.loss for record in result.history],
        }

    def _write_row(self, entry: Entry, outcome: dict[str, Any]) -> None:
        cell = entry.cell
        settings = flat(cell.config)
        row = {
            "cell": entry.name,
            "content": cell.content,
            "styles": list(cell.styles),
            **({"content_guide": cell.content_guide} if cell.content_guide else {}),
            **({"style_guides": list(cell.style_guides)} if cell.style_guides else {}),
            "sha256": entry.sha256,
            "config": settings,
            **outcome,
        }
        path = self._folder / f"{entry.name}.json"
        files.write_atomically(path, to_json(row).encode())

    def summary(self, rows: Rows | None = None) -> Summary:
        """Count the cells of the whole grid by state, from the `rows` of all if already read."""
        rows = self.rows() if rows is None else rows
        states = [(row or {}).get("status", "missing") for row in rows.values()]
        return Summary(*(states.count(state) for state in ("done", "failed", "missing")))

    def collect(self, rows: Rows | None = None) -> list[epath.Path]:
        """Write `grid.jsonl` and the contact sheets of the cells available so far.

        Args:
            rows: rows of all cells, if already read.

        Returns:
            The paths of the sheets, at least one for each setting.
        """
        files.make_folder(self.output)
        files.remove_leftovers(self.output, _ABANDONED)
        rows = self.rows() if rows is None else rows
        lines = [json.dumps(row) + "\n" for row in rows.values() if row is not None]
        files.write_atomically(self.output / "grid.jsonl", "".join(lines).encode())
        pages = list(sheet_pages(self.entries, rows, self.output))
        sheets: list[epath.Path] = []
        for number, page in enumerate(pages, 1):
            name = "sheet.jpg" if len(pages) == 1 else f"sheet-{number:03}.jpg"
            sheets.append(self.output / name)
            images.save_image(sheets[-1], contact_sheet(**page))
        return sheets


def run_grid(
    cells: Sequence[GridCell],
    output: epath.PathLike,
    *,
    weights: epath.PathLike | None = None,
    aspect: Literal["nearest", "own"] = "nearest",
    shard: tuple[int, int] = (0, 1),
    lanes: int | None = None,
    space: int = 1,
    runs: Schedule | None = None,
) -> Summary:
    """Compute the missing cells of a grid, and write its sheets once it is complete.

    Args:
        cells: from `cells.product` or `cells.read_cells`, or made by hand.
        output: the folder, local or `gs://`.
        weights: the weights file; the default one is fetched if necessary.
        aspect: see `Grid`.
        shard: see `Grid.run`.
        lanes: see `stylize_batch`.
        space: see `stylize_batch`.
        runs: see `Grid.run`.

    Raises:
        JaxstyleError: a problem that affects every cell.
    """
    network = common_network(cell.config for cell in cells)
    checkpoint = read(locate(weights, network=network))
    grid = Grid(cells, output, weights_sha256=checkpoint.sha256, aspect=aspect)
    grid.run(to_params(checkpoint), shard=shard, lanes=lanes, space=space, runs=runs)
    rows = grid.rows()
    summary = grid.summary(rows)
    if not summary.missing:
        grid.collect(rows)
    return summary


def _stem(path: str) -> str:
    """Return the stem of `path`, reduced to characters valid in file names everywhere."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", PurePath(path).stem)[:40].strip("-") or "picture"
