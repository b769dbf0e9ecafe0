"""Identification of a stored result by its inputs, so that it is not taken for another."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jaxstyle import Config
from jaxstyle.imaging.files import read_bytes


def settings_of(config: Config, pictures: Sequence[Path], *others: object) -> str:
    """Return a text that is equal for equal settings, file contents and `others`.

    Raises:
        ImageError: a file cannot be read.
    """
    digests = [hashlib.sha256(read_bytes(path)).hexdigest() for path in pictures]
    return repr((sorted(dataclasses.asdict(config).items()), digests, others))
