"""The decay laws: what they are called, and which describes a layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from isingmoe.reports.calls import LEVEL
from isingmoe.reports.words import digits, p_words

__all__ = ["Reading", "law_sentences", "read_law"]

# A law whose weight is above has the others behind it.
_AHEAD = 0.9
# A law that falls by less over all that was fitted is a constant.
_FLAT = 0.05


@dataclass(frozen=True)
class _Name:
    """In a table, in a sentence, and the parameters that give its shape."""

    short: str
    words: str
    shape: tuple[tuple[str, str], ...]


_NAMES = {
    "exponential": _Name("exponential", "an exponential", (("length", "ξ"),)),
    "power-law": _Name("power", "a power law", (("exponent", "α"),)),
    "stretched": _Name(
        "stretched", "a stretched exponential", (("length", "ξ"), ("exponent", "β"))
    ),
    "exponential+constant": _Name(
        "exp. + const.", "an exponential and a constant", (("length", "ξ"),)
    ),
    "two-exponentials": _Name(
        "2 exp.", "the sum of two exponentials", (("length", "ξ"), ("length_2", "ξ₂"))
    ),
}


@dataclass(frozen=True)
class Reading:
    """The likeliest law of a layer, and how good it is.

    Attributes
    ----------
    short, words : str
        What it is called in a table and in a sentence.
    weight, p_value : float
    none_fits : bool
        Whether every law that could be tested is rejected.
    no_decay : str
        Why what was fitted is no decay of this form; empty, where it is.
    shape : str
        Its parameters with their errors.
    """

    short: str
    words: str
    weight: float
    p_value: float
    none_fits: bool
    no_decay: str
    shape: str

    @property
    def fails(self) -> bool:
        """Whether the law does not describe the decay."""
        return self.p_value <= LEVEL or bool(self.no_decay)


def read_law(data: xr.Dataset) -> Reading | None:
    """The likeliest decay law of a layer; none, where none could be fitted.

    Parameters
    ----------
    data : Dataset
        Of the comparison, of one layer.
    """
    if "law_weight" not in data:
        return None
    weight = np.nan_to_num(data["law_weight"].values)
    best = int(weight.argmax())
    if not weight[best] > 0:
        return None
    row = data.isel(law=best)
    law = str(row["law"].item())
    known = _NAMES.get(law, _Name(law, law, ()))
    p = data["law_p_value"].values.astype(float)
    tested = p[~np.isnan(p)]
    short, words = known.short, known.words
    if _is_flat(law, row):
        short, words = "constant", "a constant"
    return Reading(
        short,
        words,
        float(weight[best]),
        float(p[best]),
        bool(tested.size) and bool(tested.max() <= LEVEL),
        _no_decay(law, row),
        "; ".join(_shown(row, name, symbol) for name, symbol in known.shape),
    )


def law_sentences(data: xr.Dataset) -> Iterator[str]:
    """Which of the laws describes the decay of a layer."""
    reading = read_law(data)
    if reading is None:
        return
    where = f"from d = {int(data['law_first'])} to {int(data['law_last'])}"
    weight = f"weight {reading.weight:.2f}"
    if reading.none_fits:
        p = float(np.nanmax(data["law_p_value"].values))
        yield (
            f"None of the {_COUNT.get(data.sizes['law'], data.sizes['law'])} decay laws describes "
            f"what is measured {where} ({p_words(p)} at best)."
        )
    says = "is ahead of the others" if reading.weight > _AHEAD else "is the likeliest"
    start = "Of them" if reading.none_fits else "Of the decay laws"
    where = "" if reading.none_fits else f" {where}"
    if reading.no_decay:
        yield (
            f"{start}, {reading.words} {says}{where} ({weight}), but with {reading.no_decay}: "
            "not a decay by any of these laws."
        )
    else:
        shape = f"; {reading.shape}" if reading.shape else ""
        yield f"{start}, {reading.words} {says}{where} ({weight}{shape})."
    if reading.none_fits:
        return
    if math.isnan(reading.p_value):
        yield "Whether it describes the decay is not known: texts or distances are too few."
    elif reading.p_value <= LEVEL:
        yield f"It does not describe the decay ({p_words(reading.p_value)})."


_COUNT = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}


def _of(row: xr.Dataset, name: str) -> tuple[float, float]:
    """A parameter and its error; NaN of one that is not there."""
    if name not in row["parameter"].values:
        return math.nan, math.nan
    return (
        float(row["law_parameter"].sel(parameter=name)),
        float(row["law_parameter_error"].sel(parameter=name)),
    )


def _shown(row: xr.Dataset, name: str, symbol: str) -> str:
    value, error = _of(row, name)
    if math.isnan(error):
        return f"{symbol} = {digits(value, 3)}, at the end of its range or not determined"
    return f"{symbol} = {digits(value, 3)} ± {digits(error, 2)}"


def _is_flat(law: str, row: xr.Dataset) -> bool:
    """Whether a law that can fall does not, or not for sure."""
    first, last = float(row["law_first"]), float(row["law_last"])
    if law == "power-law":
        exponent, error = _of(row, "exponent")
        # A comparison with NaN is false.
        return exponent * math.log(last / first) < _FLAT or exponent < 2 * error
    if law == "exponential":
        return (last - first) / max(_of(row, "length")[0], 1e-9) < _FLAT
    return False


def _no_decay(law: str, row: xr.Dataset) -> str:
    """Why two exponentials are not two lengths."""
    if law != "two-exponentials":
        return ""
    (one, _), (other, _) = _of(row, "amplitude"), _of(row, "amplitude_2")
    if one * other < 0:
        return "amplitudes of opposite sign"
    if any(math.isnan(_of(row, name)[1]) for name in ("length", "length_2")):
        return "a length at the end of its range or not determined"
    return ""
