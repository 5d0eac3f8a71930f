"""Where a correlation comes from: coupling, texts that differ in load, drift with position."""

from __future__ import annotations

import math
from typing import NamedTuple

import xarray as xr

from isingmoe.reports.findings import Findings

__all__ = ["origin_sentences"]

# A correlation is seen above so many of its errors; a share is known to as many.
_SEEN = 2
# A part is named above so large a share.
_PART = 0.2
_COUPLING = "coupling, or topics that change inside the texts"
_TEXTS, _DRIFT = "a difference between texts", "a drift along the text"


class _Share(NamedTuple):
    """Part of C(d) that is left about another mean, and its standard error."""

    value: float
    error: float

    @property
    def lost(self) -> float:
        return 1 - min(max(self.value, 0.0), 1.0)


def origin_sentences(found: Findings, data: xr.Dataset) -> list[str]:
    """How much of the correlation is left without texts' loads, and without drift.

    Parameters
    ----------
    found : Findings
    data : Dataset
        Of the comparison, of one layer.
    """
    if "sequence" not in data["centre"]:
        return []
    near = _kept(data, "sequence", 1)
    if near is None:
        return ["No correlation of neighbouring tokens is seen above its error."]
    if found.n_texts < 2:
        return [f"Coupling or {_DRIFT}: with one text they cannot be told apart."]
    by_position = _kept(data, "position", 1)
    line = (
        f"With the load of each text taken off, {_text(near)} of the correlation of neighbours is "
        "left"
    )
    if by_position is not None:
        line += f"; with the mean of each position taken off, {_text(by_position)}"
    lines = [f"{line}: {_origin(near, by_position)}."]
    for d in (32, 16, 8):
        far = _kept(data, "sequence", d)
        if far is not None:
            by_position = _kept(data, "position", d)
            both = _text(far) if by_position is None else f"{_text(far)} and {_text(by_position)}"
            lines.append(f"At d = {d} it is {both}: {_origin(far, by_position)}.")
            break
    return lines


def _kept(data: xr.Dataset, centre: str, distance: int) -> _Share | None:
    """Share of C(d) that is left about a mean, where C(d) is seen and was measured about it."""
    if centre not in data["centre"] or distance not in data["distance"]:
        return None
    whole, within = (data.sel(centre=name, distance=distance) for name in ("global", centre))
    value, error = float(whole["measured"]), float(whole["measured_error"])
    if not abs(value) > _SEEN * error:
        return None
    share = float(within["measured"]) / value
    return (
        None if math.isnan(share) else _Share(share, float(within["measured_error"] / abs(value)))
    )


def _origin(within: _Share, by_position: _Share | None) -> str:
    """What most of it is: a sum of coupling, of what goes with the texts, and with the drift."""
    if by_position is None:
        if within.lost - _SEEN * within.error > 0.5:
            return f"mostly {_TEXTS}"
        return f"coupling or {_DRIFT}"
    rest = 1 - within.lost - by_position.lost
    parts = (
        (_COUPLING, rest, math.hypot(within.error, by_position.error)),
        (_TEXTS, within.lost, within.error),
        (_DRIFT, by_position.lost, by_position.error),
    )
    for name, share, error in parts:
        if share - _SEEN * error > 0.5:
            return f"mostly {name}"
    possible = [name for name, share, error in parts if share + _SEEN * error > 0.5]
    if len(possible) > 1:
        return f"{_listed(possible, 'or')}, undecided"
    if possible:
        return f"perhaps mostly {_listed(possible, 'or')}"
    large = [name for name, share, _ in parts if share > _PART]
    return f"{_listed(large, 'and')}, none of them above one half"


def _listed(names: list[str], word: str) -> str:
    *others, last = (name.partition(",")[0] for name in names)
    return f"{', '.join(others)} {word} {last}" if others else last


def _text(share: _Share) -> str:
    if share.value <= 0:
        return "none"
    return "all" if share.value >= 0.995 else f"{100 * share.value:.0f} %"
