"""TensorBoard logs of a run's numbers and pictures."""

import importlib.util
from typing import TYPE_CHECKING

from etils import epath

from jaxstyle.config import ConfigError
from jaxstyle.imaging import Image, files, to_uint8

if TYPE_CHECKING:  # reports and plots do not wait for JAX
    from jaxstyle.engine import Record


def check_tensorboard(folder: epath.PathLike) -> None:
    """Raise an error if `TensorBoard` could not write to `folder`, which need not exist yet.

    Raises:
        ConfigError: tensorboardX is not installed.
        FileError: the folder cannot be written to.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError("--tensorboard needs pip install 'jaxstyle[tensorboard]'")
    files.check_folder(folder)


class TensorBoard:
    """A writer of TensorBoard event files."""

    def __init__(self, folder: epath.PathLike, after: int = 0) -> None:
        """Open `folder` and discard everything logged after the evaluation `after`.

        Raises:
            ConfigError, FileError: see `check_tensorboard`.
        """
        check_tensorboard(folder)
        import tensorboardX

        try:
            self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=after + 1)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written to ({error.strerror})") from None

    def numbers(self, record: "Record") -> None:
        """Add the record of one evaluation."""
        shown = ("loss", "gradient_norm", "step_size", "accepted", "seconds")
        scalars = {name: getattr(record, name) for name in shown}
        scalars |= {f"terms/{name}": value for name, value in record.terms.items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), record.evaluation)

    def picture(self, evaluation: int, image: Image) -> None:
        """Add the best image so far."""
        pixels = to_uint8(image)
        self._writer.add_image("image", pixels, evaluation, dataformats="HWC")

    def close(self) -> None:
        """Write everything still pending and close the writer."""
        self._writer.close()
