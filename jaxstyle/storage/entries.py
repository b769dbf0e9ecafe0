"""The cells of a grid once their files were inspected."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxstyle.engine import pyramid, structure_of
from jaxstyle.storage.cells import GridCell


class Entry(NamedTuple):
    """A cell whose files were inspected, with its name and its problem, if any."""

    cell: GridCell
    name: str
    sha256: dict[str, list[str]]
    shape: tuple[int, int]
    """Shape of the resulting image; (0, 0) if unknown."""
    problem: str | None

    @property
    def cost(self) -> int:
        """Pixels times evaluations, summed over all scales; 0 if there is a problem."""
        if self.problem is not None:
            return 0
        levels = pyramid.levels(self.cell.config, self.shape)
        pixels = self.shape[0] * self.shape[1]
        return round(sum(pixels * level.ratio**2 * level.evaluations for level in levels))


Rows = Mapping[str, dict[str, Any] | None]
"""The row of each cell by name, or None if missing."""


def shared_out(entries: Sequence[Entry], index: int, count: int) -> list[Entry]:
    """Return part `index` of `count` of about equal cost, with cells of one program adjacent."""

    def program_and_content(entry: Entry) -> tuple[Any, ...]:
        return repr(structure_of(entry.cell.config)), entry.shape, entry.cell.content

    ordered = sorted(entries, key=program_and_content)
    costs = np.array([entry.cost for entry in ordered], np.float64) + 1
    middles = np.cumsum(costs) - costs / 2
    owners = np.floor(middles / costs.sum() * count)
    return [entry for entry, owner in zip(ordered, owners, strict=True) if owner == index]
