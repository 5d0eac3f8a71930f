"""Which layers are called out: tests of many layers, some by few simulations."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr
from scipy.stats import false_discovery_control

__all__ = ["LEVEL", "Call", "called", "controlled"]

# Share of false alarms among the layers that are called out.
LEVEL = 0.05

Call = Literal["rejected", "too few", "open"]


def controlled(part: xr.Dataset | None, name: str) -> dict[int, float]:
    """p-values of the layers with the rate of false discoveries controlled over them.

    Returns
    -------
    dict of int to float
        By layer; those without a p-value are left out.

    References
    ----------
    Y. Benjamini and Y. Hochberg, J. R. Stat. Soc. B 57, 289 (1995).
    """
    if part is None or name not in part:
        return {}
    p = part[name].values.astype(float)
    known = ~np.isnan(p)
    if not known.any():
        return {}
    q = false_discovery_control(p[known])
    return dict(zip(part["layer"].values[known].tolist(), q.tolist(), strict=True))


def called(part: xr.Dataset | None, name: str, n_simulations: int = 0) -> dict[int, Call]:
    """What a test says of every layer.

    Parameters
    ----------
    part : Dataset, optional
    name : str
        The variable of p-values (layer).
    n_simulations : int
        Data sets behind each, so that none is below 1 / (n + 1); 0 of a p-value without a floor.

    Returns
    -------
    dict of int to str
        By layer: "rejected" where the false discovery rate over the layers is below 0.05. "too
        few" where it is not, but no simulation lies as far out, or p is at most 0.05 and even
        the smallest p that can come of so many simulations would not do. "open" elsewhere.
    """
    q = controlled(part, name)
    if part is None or not q:
        return {}
    floor = 1 / (n_simulations + 1) if n_simulations else 0.0
    p = part[name].sel(layer=list(q)).values.astype(float)
    calls: dict[int, Call] = {}
    for i, (layer, value) in enumerate(q.items()):
        if value < LEVEL:
            calls[layer] = "rejected"
        elif p[i] <= floor * (1 + 1e-9) or (p[i] <= LEVEL and not _in_reach(p, i, floor)):
            calls[layer] = "too few"
        else:
            calls[layer] = "open"
    return calls


def _in_reach(p: np.ndarray, place: int, floor: float) -> bool:
    """Whether a layer could have been rejected, those of the others being what they are."""
    p = p.copy()
    p[place] = floor
    return bool(false_discovery_control(p)[place] < LEVEL)
