"""A chain of any reach as one of nearest neighbours: its windows.

Bonds that reach over R sites join a site to the R before it. The states of R successive
sites are a window, and a chain of windows has nearest neighbours only: windows follow each
other where they agree on the sites they share.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isingmoe.chains import AnyChain, Chain
from isingmoe.couplings import gain_of_equal

__all__ = ["MOST_WINDOWS", "Windows"]

Array = NDArray[np.floating]

MOST_WINDOWS = 4096
_LONGEST_NUMBER = 10**15


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of a chain and the log-weights between them.

    A site holds one of the Q letters of an alphabet: a label, or a set of `top_k` labels.
    Window x = 0..S-1 with S = Q**reach is the number s_{i-reach+1} .. s_i in base Q, the last
    site its lowest digit. The letter b after it leads to the window `after(x, b)`.

    Attributes
    ----------
    members : int ndarray (Q, top_k)
        Labels of each letter, rising.
    reach : int
        Sites of a window, at least 1.
    bonds : ndarray (0 to reach, Q, Q)
        Log-weight of the letters a at site i and b at site i + r, at index r - 1.
    site : ndarray (1 or n_sites, Q)
        Log-weight of a letter alone.
    observable : ndarray (k, Q)
        What is measured on each letter.
    held : ndarray (q, Q)
        1 where a letter has the label as a member, 0 elsewhere.
    """

    members: NDArray[np.int64]
    reach: int
    bonds: Array
    site: Array
    observable: Array
    held: Array

    @classmethod
    def of(cls, chain: AnyChain) -> Windows:
        """The windows of a chain.

        Raises
        ------
        ValueError
            If there are more than 4096 windows, or the couplings reach through an infinite
            chain.
        """
        strength = chain.strength
        reach = max(1, len(strength))
        q, k = chain.n_states, chain.top_k
        alphabet = math.comb(q, k)
        # A logarithm first: the number itself can have thousands of digits.
        if reach * math.log(alphabet) > 64 or alphabet**reach > MOST_WINDOWS:
            raise ValueError(_too_many(chain, alphabet, reach))
        members = np.array(list(itertools.combinations(range(q), k)), np.int64).reshape(-1, k)
        held = np.zeros((q, alphabet))
        held[members.T, np.arange(alphabet)] = 1
        bond, site, observable = chain.bond, chain.site, chain.observable
        if k > 1:
            bond, site, observable = held.T @ bond @ held, site @ held, observable @ held
        which = np.minimum(np.arange(len(strength)), len(bond) - 1)
        bonds = strength[:, None, None] * bond[which]
        return cls(members, reach, bonds, site, observable, held)

    @property
    def n_letters(self) -> int:
        """Size Q of the alphabet of a site."""
        return self.site.shape[1]

    @property
    def n_windows(self) -> int:
        """Number S of windows."""
        return self.n_letters**self.reach

    def after(self, window: NDArray[np.int64], letter: NDArray[np.int64]) -> NDArray[np.int64]:
        """The window that a letter leads to."""
        rest = self.n_windows // self.n_letters
        return window % rest * self.n_letters + letter

    def letter(self, r: int) -> NDArray[np.int64]:
        """Letter of every window at its r-th site from the end, 1 the last."""
        return np.arange(self.n_windows) // self.n_letters ** (r - 1) % self.n_letters

    @cached_property
    def step(self) -> Array:
        """Log-weight of the bonds between the sites of a window and the site after it, (S, Q).

        The site's own log-weight is not in it.
        """
        return self.step_after(self.reach)

    def step_after(self, n_before: int) -> Array:
        """As `step`, for a site that has only so many sites before it, (S, Q).

        The digits of a window that stand for sites before the first are not looked at; by
        convention they are zero, and the chain begins from window 0.
        """
        weight = np.zeros((self.n_windows, self.n_letters))
        for r in range(1, min(n_before, len(self.bonds)) + 1):
            weight += self.bonds[r - 1][self.letter(r)]
        return weight

    @cached_property
    def first(self) -> Array:
        """Log-weight of the bonds inside a window, (S,); of its sites nothing."""
        weight = np.zeros(self.n_windows)
        for right in range(1, self.reach):
            for r in range(1, min(self.reach - right, len(self.bonds)) + 1):
                weight += self.bonds[r - 1][self.letter(right + r), self.letter(right)]
        return weight


def _too_many(chain: AnyChain, alphabet: int, reach: int) -> str:
    letters = f"{alphabet}" if alphabet < _LONGEST_NUMBER else f"C({chain.n_states},{chain.top_k})"
    is_short = reach * math.log(alphabet) < math.log(_LONGEST_NUMBER)
    count = f"{alphabet**reach}" if is_short else f"{letters}^{reach}"
    if not isinstance(chain, Chain):
        algorithm = "Exact"
    else:
        algorithm = "SwendsenWang" if _has_clusters(chain) else "HeatBath"
    return (
        f"chain: {count} transfer states, more than the {MOST_WINDOWS} that can be solved; "
        f"sample it with simulate(chain, {algorithm}())"
    )


def _has_clusters(chain: Chain) -> bool:
    """Whether every bond only tells equal labels from different ones, and favours equal ones."""
    if chain.top_k > 1:
        return False
    found = gain_of_equal(chain.bond, chain.strength)
    return found is not None and bool((found[0] >= 0).all())
