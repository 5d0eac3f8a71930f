"""Grids as they are typed: `0:2:41`, `log:0.1:10:21`, `0,0.1,0.5`, `1`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["parse_grid"]

_FORMS = "expected start:stop:count, log:start:stop:count, or values with commas between"

# Floats hold whole numbers up to it.
_LARGEST = 1 << 53


@dataclass(frozen=True)
class _Range:
    """What was typed; its values are not made before it is known how many they are."""

    name: str
    count: int
    is_log: bool = False
    ends: tuple[float, float] = (0.0, 0.0)
    listed: tuple[float, ...] | None = None

    def values(self, whole: bool) -> NDArray[np.float64]:
        if self.listed is not None:
            return np.array(self.listed)
        if not self.is_log:
            return np.linspace(*self.ends, self.count)
        values = np.geomspace(*self.ends, self.count)
        return np.rint(values) if whole else values


def parse_grid(
    texts: Mapping[str, str | None], whole: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Parameters with one value, and those with several.

    Parameters
    ----------
    texts : dict
        What was typed for each parameter; None where nothing was.
    whole : tuple of str
        Parameters that are whole numbers.

    Returns
    -------
    single : dict of str to float
    swept : dict of str to ndarray

    Raises
    ------
    ValueError
        If a text is no range and no list, or the grid has too many points.
    """
    from isingmoe._grids import check_size

    ranges = {name: _parse(name, text) for name, text in texts.items() if text is not None}
    for name, r in ranges.items():
        if name in whole:
            _check_whole(name, r)
    several = {name: r for name, r in ranges.items() if r.count > 1 or r.listed is None}
    check_size({name: r.count for name, r in several.items()})
    single = {
        name: _one(r.values(name in whole)[0], name, whole)
        for name, r in ranges.items()
        if name not in several
    }
    return single, {name: r.values(name in whole) for name, r in several.items()}


def _one(value: float, name: str, whole: tuple[str, ...]) -> float:
    if name in whole:
        return int(value)
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value:g}")
    return float(value)


def _check_whole(name: str, given: _Range) -> None:
    """Raise a ValueError where a number that has to be whole is not, or is too large."""
    what = "a whole number" if given.count == 1 else "whole numbers"
    for value in given.listed or given.ends:
        if not math.isfinite(value):
            remedy = "; leave it out for the infinite chain" if name == "n_sites" else ""
            raise ValueError(f"{name}: expected {what}, got {value:g}{remedy}")
        if not (given.is_log or value.is_integer()):
            raise ValueError(f"{name}: expected {what}, got {value:g}; round it")
        if abs(value) > _LARGEST:
            raise ValueError(f"{name}: expected {what} of at most 2^53, got {value:g}")


def _parse(name: str, text: str) -> _Range:
    if ":" not in text:
        listed = tuple(_number(name, text, part) for part in text.split(","))
        return _Range(name, len(listed), listed=listed)
    kind, _, rest = text.partition(":")
    is_log = kind.strip() == "log"
    parts = (rest if is_log else text).split(":")
    if len(parts) != 3:
        raise ValueError(f"{name}: {_FORMS}; got {text!r}")
    first, last = (_number(name, text, part) for part in parts[:2])
    try:
        count = int(parts[2])
    except ValueError:
        raise ValueError(
            f"{name}: expected a whole number of values, got {parts[2]!r} in {text!r}"
        ) from None
    if count < 1:
        raise ValueError(f"{name}: expected at least one value, got {count} in {text!r}")
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"{name}: expected finite ends, got {text!r}")
    if not math.isfinite(last - first):
        raise ValueError(f"{name}: expected ends that a finite number lies between, got {text!r}")
    if is_log and not (first > 0 and last > 0):
        raise ValueError(f"{name}: expected positive ends of a log range, got {text!r}")
    return _Range(name, count, is_log, (first, last))


def _number(name: str, text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        got = f"{part!r} in {text!r}" if part.strip() else f"{text!r}"
        raise ValueError(f"{name}: {_FORMS}; got {got}") from None
