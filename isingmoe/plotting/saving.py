"""How figures are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from numpy.typing import NDArray

from isingmoe._storage import check_output, replace_whole
from isingmoe.plotting.style import figure_of

__all__ = ["check_figure", "save_figure"]


def check_figure(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """A path that a figure can be written to.

    Raises
    ------
    OSError
        As `save_figure` does.
    ValueError
        If the ending is not a format that matplotlib knows.
    """
    path = check_output(path, overwrite)
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ValueError(f"{path}: expected an ending of {', '.join(sorted(known))}")
    return path


def save_figure(
    figure: Figure | Axes | NDArray[Any],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a figure; the ending of the name says in which format.

    Parameters
    ----------
    figure : Figure, Axes or ndarray of Axes
        What a plot function returned.
    path : path
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OSError
        If the file exists and `overwrite` is false, or it cannot be written.
    ValueError
        If the ending is not a format that matplotlib knows.
    """
    path = check_figure(path, overwrite)
    whole = figure_of(figure)
    return replace_whole(path, lambda part: whole.savefig(part, dpi=160))
