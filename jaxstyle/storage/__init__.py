"""Runs and grids on disk.

Run folders with metrics, snapshots and checkpoints; grids, whose cells are named by their content
and computed once; the split of a grid over processes. Names are listed in `__init__.pyi` and
imported on first use, so that the cells of a grid can be read without JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
