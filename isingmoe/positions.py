"""How a field may change along the text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isingmoe._numbers import check_integer

__all__ = ["Blocks", "Cosines", "Shape"]

Array = NDArray[np.floating]

# Blocks that a smooth change is drawn with.
_GRID = 64


@dataclass(frozen=True)
class Blocks:
    """A field of its own for each of so many blocks of equal length.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If it is out of range.
    """

    n: int

    def __post_init__(self) -> None:
        check_integer("n", self.n, 1)

    @property
    def n_blocks(self) -> int:
        """Blocks that positions are divided into."""
        return self.n

    @property
    def shapes(self) -> Array | None:
        """Orthonormal columns over the blocks that sum to zero; None for any."""
        return None


@dataclass(frozen=True)
class Cosines:
    """A field that changes as a sum of so many cosines over the longest text.

    Parameters
    ----------
    n : int
        The m-th has m half waves; none is a field that stays.

    Raises
    ------
    TypeError, ValueError
        If it is out of range.
    """

    n: int = 4

    def __post_init__(self) -> None:
        check_integer("n", self.n, 0)
        if self.n >= _GRID:
            raise ValueError(f"n: expected less than {_GRID} cosines, got {self.n}")

    @property
    def n_blocks(self) -> int:
        """Blocks that positions are divided into."""
        return _GRID

    @property
    def shapes(self) -> Array | None:
        """Orthonormal columns over the blocks that sum to zero."""
        n = self.n_blocks
        middle = (np.arange(n) + 0.5) / n
        return np.sqrt(2 / n) * np.cos(np.pi * np.outer(middle, np.arange(1, self.n + 1)))


Shape = Blocks | Cosines
