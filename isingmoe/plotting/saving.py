"""How figures are written."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from isingmoe._storage import check_output, replace_whole

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


def save_figure(figure: Figure, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a figure; the ending of the name says in which format.

    Raises
    ------
    OSError
        If the file exists and `overwrite` is false, or it cannot be written.
    ValueError
        If the ending is not a format that matplotlib knows.
    """
    path = check_figure(path, overwrite)
    return replace_whole(path, lambda part: figure.savefig(part, dpi=160))
