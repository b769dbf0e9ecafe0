"""Reports, plots, animations and TensorBoard logs of the folders of runs and grids."""

from jaxstyle.reporting.animation import write_animation
from jaxstyle.reporting.plot import plot_runs
from jaxstyle.reporting.report import write_report
from jaxstyle.reporting.tensorboard import TensorBoard, check_tensorboard

__all__ = ["TensorBoard", "check_tensorboard", "plot_runs", "write_animation", "write_report"]
