"""Numbers inside sentences."""

from __future__ import annotations

import math

import numpy as np

from isingmoe._text import number, p_text

__all__ = ["amount", "digits", "p_words", "span"]

# Numbers beyond are written with a power of ten.
_LARGE, _SMALL = 1e4, 1e-3


def p_words(p: float, smallest: float = 0.0) -> str:
    """A p-value in a sentence; as a bound, where so few simulations could give no smaller one."""
    if math.isnan(p):
        return "p not known"
    text = p_text(p, smallest)
    return f"p {text}" if text[0] in "≤<" else f"p = {text}"


def digits(value: float, n: int) -> str:
    """A number to so many digits."""
    if not math.isfinite(value):
        return number(value)
    if value and not _SMALL <= abs(value) < _LARGE:
        return f"{value:.{n - 1}e}"
    return np.format_float_positional(float(f"{value:.{n}g}"), trim="-")


def amount(value: float, decimals: int) -> str:
    """A number to so many decimals; a large one to three digits."""
    return digits(value, 3) if _LARGE <= abs(value) < math.inf else number(value, decimals)


def span(value: float, low: float, high: float, decimals: int = 1) -> str:
    """A value and its 95 % interval."""
    if math.isnan(low):
        return amount(value, decimals)
    return f"{amount(value, decimals)} [{amount(low, decimals)}..{amount(high, decimals)}]"
