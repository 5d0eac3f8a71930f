"""How the models attend, from the token itself alone to all that came before."""

from __future__ import annotations

import xarray as xr
from trained_models.attending import ALIBI, Attending
from trained_models.recipes import Recipe

__all__ = ["ARMS", "LABELS", "WINDOWS", "labels_of"]

ARMS = (
    Attending("window-0", window=0),
    Attending("window-1", window=1),
    Attending("window-4", window=4),
    ALIBI,
    Attending("window-16", window=16),
    Attending("power-law-1", decay="power-law", rate=1.0),
    Recipe(),
)
LABELS = {
    "window-0": "itself alone",
    "window-1": "1 before",
    "window-4": "4 before",
    "window-16": "16 before",
    "power-law-1": "(d + 1)^-1",
    "alibi": "ALiBi",
    "olmoe": "all before",
}
WINDOWS = {
    one.name: one.window for one in ARMS if isinstance(one, Attending) and one.window is not None
}


def labels_of(data: xr.Dataset | xr.DataArray) -> dict[str, str]:
    """Labels of the arms that are in the data, from the shortest range to the longest."""
    there = set(data["recipe"].values.tolist())
    return {name: label for name, label in LABELS.items() if name in there}
