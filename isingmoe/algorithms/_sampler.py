"""What `simulate` asks of an algorithm."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Algorithm", "Sampler", "label_dtype"]


class Sampler(Protocol):
    """An algorithm made ready for one chain: its tables, and nothing that changes.

    Attributes
    ----------
    lanes : int
        Replicas advanced together: 64 where they share the bits of a word, else 1.
    is_independent : bool
        Whether successive states are independent draws.
    offset : float
        Log-weight of the bonds of a state less the mean count of the bonds placed on it,
        where `advance` returns that count.
    """

    @property
    def lanes(self) -> int: ...

    @property
    def is_independent(self) -> bool: ...

    @property
    def offset(self) -> float: ...

    def start(self, words: NDArray[np.uint64]) -> NDArray:
        """A random state.

        Parameters
        ----------
        words : uint64 array (4,)
            The generator, advanced in place.

        Returns
        -------
        ndarray
            Labels (site,); sorted sets (site, rank) where a site holds several; words
            (site,) of uint64 with a replica in each bit where `lanes` is 64.
        """
        ...

    def advance(
        self, state: NDArray, words: NDArray[np.uint64], out: NDArray, n_sweeps: int
    ) -> NDArray[np.int64] | None:
        """Sweep on, and leave a state in each row of `out`, `n_sweeps` sweeps apart.

        Parameters
        ----------
        state : ndarray
            As `start` made it; advanced in place, to the last row or a sweep beyond it.
        words : uint64 array (4,)
            Advanced in place.
        out : ndarray (sample, *state.shape)
            Of the state's dtype.
        n_sweeps : int
            At least 1.

        Returns
        -------
        int64 array (sample,) or None
            Bonds placed on the state of each row, from which the energy follows where
            that is quicker than summing all pairs.
        """
        ...


@runtime_checkable
class Algorithm(Protocol):
    """A way to sample chains."""

    def prepare(self, chain: Any) -> Sampler:
        """Make the tables for a chain.

        Raises
        ------
        ValueError
            If the algorithm cannot sample this chain; says which one can.
        """
        ...


def label_dtype(n_states: int) -> type[np.unsignedinteger]:
    """The smallest type that holds labels 0..n_states-1."""
    return np.uint8 if n_states <= 1 << 8 else np.uint16
