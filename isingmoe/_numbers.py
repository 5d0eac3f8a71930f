"""What arguments that are counts have to be."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_integer"]


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise where an argument is no whole number, or too small.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
