"""matplotlib as the stages use it: no screen, and no settings of the user's, which would change the bytes."""

from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure

matplotlib.rcdefaults()
matplotlib.use("Agg")

__all__ = ["pyplot", "save_figure"]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG whose bytes depend on what it shows alone, and close it."""
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
