"""Implementation of `jaxstyle grid`: cells, shards and summary."""

import itertools
import re

from jaxstyle.cli.backend import share_out_cpu, start_jax
from jaxstyle.cli.commands import RenderGrid, base_settings
from jaxstyle.cli.imports import quick_imports
from jaxstyle.cli.process import EXIT_CELLS_FAILED, Interrupt
from jaxstyle.cli.terminal import cells_progress, say, silence_libtiff
from jaxstyle.config import ConfigError, counted
from jaxstyle.imaging import files
from jaxstyle.storage import Schedule, cells

_LATE = 30.0
"""Seconds after which files of other hosts should be seen: network file systems cache names."""


def render_grid(command: RenderGrid, interrupted: Interrupt) -> int:
    """Run the command and return the exit code; a user error is a `JaxstyleError`."""
    output, shard = command.output, _shard(command.shard)
    if output is None:
        raise ConfigError("name the folder to write to: -o OUTDIR")
    if command.distributed + command.collect + (command.shard is not None) > 1:
        raise ConfigError("--distributed, --shard and --collect exclude each other")
    if command.lanes is not None and command.lanes < 1:
        raise ConfigError(f"--lanes must be at least 1, not {command.lanes}")
    if command.space < 1:
        raise ConfigError(f"--space must be at least 1, not {command.space}")
    if not command.checkpoint_seconds > 0:
        raise ConfigError(
            f"--checkpoint-seconds must be greater than 0, not {command.checkpoint_seconds:g}"
        )
    snapshots = Schedule.parse(command.snapshots, "--snapshots")
    if not command.distributed:  # else the other hosts would wait
        _check_paths(command, output)
    wanted = grid_cells(command)
    with quick_imports():
        start_jax(deterministic=command.deterministic)
        from jaxstyle.engine import check_cell, for_space, pick_devices
        from jaxstyle.network import common_network, weights
        from jaxstyle.storage import grid, hosts

    silence_libtiff()
    if command.collect and not files.open_path(output).is_dir():
        raise ConfigError(f"{output}: no such folder; nothing to collect")
    for cell in wanted:
        check_cell(cell.config, len(cell.styles))
        for_space(cell.config, command.space)
    share_out_cpu()
    if command.distributed:
        shard = hosts.join_cluster()
    elif not command.collect:
        pick_devices(command.space)

    def prepare() -> tuple[grid.Grid, weights.Checkpoint]:
        if command.distributed:
            _check_paths(command, output)
        path = weights.locate(
            command.weights,
            network=common_network(cell.config for cell in wanted),
            offline=command.offline or None,
            quiet=command.quiet,
        )
        checkpoint = weights.read(path)
        sha256, aspect = checkpoint.sha256, command.aspect
        return grid.Grid(wanted, output, weights_sha256=sha256, aspect=aspect), checkpoint

    if command.distributed:
        whole, checkpoint = hosts.agree(prepare, lambda prepared: prepared[0].identity)
        # From now on one that dies does not end the others.
        hosts.leave_cluster()
    else:
        whole, checkpoint = prepare()
    for guide, understood in whole.guides.items():
        say(f"{guide}: {understood}", command.quiet)
    if not command.collect:
        rows = whole.rows(whole.share(shard))

        def is_interrupted() -> bool:
            interrupted.arm()  # from the first evaluation on, there is something to keep
            return interrupted.requested

        todo = [entry for entry in whole.share(shard) if not whole.is_done(entry, rows)]
        with cells_progress(todo, command.quiet, command.progress) as (on_cell, on_evaluations):
            whole.run(
                weights.to_params(checkpoint),
                shard=shard,
                lanes=command.lanes,
                space=command.space,
                on_cell=on_cell,
                checkpoint_seconds=command.checkpoint_seconds,
                runs=snapshots if command.runs or command.snapshots is not None else None,
                on_evaluations=on_evaluations,
                rows=rows,
                is_interrupted=is_interrupted,
            )
        interrupted.disarm()
    rows = whole.rows_of_all(0 if command.collect or shard[1] == 1 else _LATE)
    summary = whole.summary(rows)
    missing = f", {summary.missing} not there yet" if summary.missing else ""
    say(
        f"{output}: {counted(summary.done, 'cell')} done, {summary.failed} failed{missing}",
        command.quiet,
    )
    if command.collect or not summary.missing:
        sheets = ", ".join(map(str, whole.collect(rows)))
        say(f"contact sheets: {sheets}", command.quiet)
    mine = [rows[entry.name] for entry in whole.share(shard)]
    failed = [row for row in mine if row is not None and row["status"] == "failed"]
    return EXIT_CELLS_FAILED if failed else 0


def _check_paths(command: RenderGrid, output: str) -> None:
    files.check_folder(output)
    inputs = (command.contents, command.styles, command.content_guides, command.style_guides)
    for path in itertools.chain(*inputs):
        if files.same(path, output):
            raise ConfigError(f"{output} is also an input; name another folder to write to")
        if not files.open_path(path).exists():
            raise ConfigError(f"{path}: no such file or folder")


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    parts = re.fullmatch(r"(\d+)/(\d+)", text)
    if parts is None or int(parts[1]) >= int(parts[2]):
        raise ConfigError(f"--shard must be I/N with I from 0 to N-1, such as 0/4, not {text!r}")
    return int(parts[1]), int(parts[2])


def grid_cells(command: RenderGrid) -> list[cells.GridCell]:
    """Return the cells requested on the command line."""
    base = base_settings(command)
    if command.cells is not None:
        if command.contents or command.styles or command.sweep:
            raise ConfigError("--cells replaces --contents, --styles and --sweep")
        if command.content_guides or command.style_guides:
            raise ConfigError("--cells has guides in its columns content_guide and style_guide")
        return cells.read_cells(command.cells, base)
    if not command.contents or not command.styles:
        raise ConfigError("name what to render and in which styles: --contents and --styles")
    return cells.product(
        cells.list_pictures(command.contents),
        cells.list_pictures(command.styles),
        cells.sweep(base, command.sweep),
        cells.list_pictures(command.content_guides),
        cells.list_pictures(command.style_guides),
    )
