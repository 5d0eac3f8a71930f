"""The chains: parameters, energy and geometry; no algorithm and no random numbers.

Every chain says the same of itself: `bond` (1 or reach, q, q) and `site` (1 or n_sites, q),
the log-weight of a bond and of a site, and `strength` (reach,), what the bond is multiplied
with at each distance. An equilibrium chain has an energy, of which these are the terms over
minus the temperature; a kinetic chain has the same terms and normalises them site by site.
Whatever solves or samples a chain works on these and asks for no more of the chain's type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isingmoe._spins import Experts, Spins, short

__all__ = ["AnyChain", "Chain", "IsingChain", "KineticChain", "PottsChain"]


@runtime_checkable
class AnyChain(Protocol):
    """What a verb needs to know of a chain."""

    @property
    def n_sites(self) -> int | None:
        """Length of the chain; None for the infinite chain."""
        ...

    @property
    def boundary(self) -> str:
        """What joins the ends of a finite chain."""
        ...

    @property
    def temperature(self) -> float:
        """In units of the couplings (k_B = 1)."""
        ...

    @property
    def n_states(self) -> int:
        """Number of labels q."""
        ...

    @property
    def top_k(self) -> int:
        """Number of different labels that a site holds."""
        ...

    @property
    def bond(self) -> NDArray[np.float64]:
        """Log-weight of a bond, (1 or reach, q, q)."""
        ...

    @property
    def strength(self) -> NDArray[np.float64]:
        """Factor of the bond at each distance, (reach,)."""
        ...

    @property
    def site(self) -> NDArray[np.float64]:
        """Log-weight of a site, (1 or n_sites, q)."""
        ...

    @property
    def observable(self) -> NDArray[np.float64]:
        """What is measured on each label, (observable, q): a spin, or each occupancy."""
        ...


@runtime_checkable
class Chain(AnyChain, Protocol):
    """An equilibrium chain: the weight of a whole configuration is that of its energy."""

    def energy(self, state: ArrayLike) -> NDArray[np.float64]:
        """Energy of states 0..q-1."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class IsingChain(Spins):
    """Spins s = -1, +1 with energy -J sum_r decay_r sum_i s_i s_{i+r} - sum_i h_i s_i.

    Parameters
    ----------
    J : float
        Coupling of neighbours; positive favours equal ones.
    h : float or array (n_sites,)
        Field; one for each site needs open ends.
    n_sites : int or None
        Length; None is the infinite chain.
    boundary : {"open", "periodic"}
        What joins the ends of a finite chain.
    temperature : float
        In units of the couplings (k_B = 1).
    decay : PowerLaw, Exponential or array (reach,), optional
        Coupling at each distance over that of neighbours, starting with 1. By default
        neighbours alone are coupled. On a ring every pair of sites has one bond, at its
        shorter distance.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    State 0 is spin -1 and state 1 is spin +1.

    References
    ----------
    R. J. Baxter, Exactly Solved Models in Statistical Mechanics (1982), chapter 2.
    """

    spin: ClassVar[NDArray[np.float64]] = np.array([-1.0, 1.0])

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.ndim(self.J) != 0:
            raise ValueError(f"J: expected a number, got shape {np.shape(self.J)}")
        if np.ndim(self.h) > 1:
            raise ValueError(f"h: expected a number or (n_sites,), got shape {np.shape(self.h)}")
        self._check_field((), "(n_sites,)")

    @property
    def n_states(self) -> int:
        """Number of labels q."""
        return 2

    @property
    def bond(self) -> NDArray[np.float64]:
        """Negative energy of a bond over the temperature, (1, q, q)."""
        return (self.J / self.temperature * np.outer(self.spin, self.spin))[None]

    @property
    def site(self) -> NDArray[np.float64]:
        """Negative energy of a site over the temperature, (1 or n_sites, q)."""
        return np.reshape(self.h, (-1, 1)) / self.temperature * self.spin

    @property
    def observable(self) -> NDArray[np.float64]:
        """The spin of each label, (1, q)."""
        return self.spin[None]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PottsChain(Experts, Spins):
    """Labels 0..q-1, one for each expert, with any coupling matrix and field.

    Parameters
    ----------
    J : float, array (q,), (q, q) or (reach, q, q)
        A number couples equal neighbours with J, a vector couples equal neighbours in
        state a with J[a], a matrix is used as it is: J[a, b] with a at site i and b at
        site i + 1. It need not be symmetric. A stack of matrices gives each distance its
        own.
    h : float, array (q,) or (n_sites, q)
        Field on each state; one for each site needs open ends.
    n_experts : int, optional
        Number of states q; taken from the shape of J or h if absent.
    n_sites : int or None
        Length; None is the infinite chain.
    boundary : {"open", "periodic"}
        What joins the ends of a finite chain.
    temperature : float
        In units of the couplings (k_B = 1).
    decay : PowerLaw, Exponential or array (reach,), optional
        Coupling at each distance over that of neighbours, starting with 1. By default
        neighbours alone are coupled. On a ring every pair of sites has one bond, at its
        shorter distance; the antipodes of an even ring with the mean of J and its
        transpose.
    top_k : int
        Experts that a site holds. With more than one both terms of the energy sum over
        the members of the sets.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range or the shapes disagree.

    Notes
    -----
    With q = 2 and coupling J this is the Ising chain with coupling J/2.

    References
    ----------
    F. Y. Wu, The Potts model, Rev. Mod. Phys. 54, 235 (1982).
    """

    n_experts: int | None = field(default=None)
    top_k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_experts(n_spare=1)
        if np.ndim(self.J) == 3:
            if self.decay is not None:
                raise ValueError(
                    "decay: expected none beside a coupling for each distance, got "
                    f"{short(self.decay)}"
                )
            self._check_reach("J", len(self.J))

    def _distances(self) -> int:
        return len(self.J) if np.ndim(self.J) == 3 else super()._distances()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class KineticChain(Experts):
    """Sets of experts, each drawn given those before it.

    P(S_i | S_{i-1}, .., S_{i-R}) = exp(sum over b in S_i of theta_i[b]) / e_k(exp theta_i),
    theta_i[b] = h_i[b] + sum over r and over a in S_{i-r} of J_r[a, b], all over the
    temperature; e_k sums over the sets of exactly k = `top_k` experts.

    Parameters
    ----------
    J : float, array (q,), (q, q) or (reach, q, q)
        A number couples an expert to itself at the next site with J, a vector expert a with
        J[a], a matrix is used as it is: J[a, b] of a at site i and b at site i + 1. A stack
        of matrices gives each distance its own.
    h : float, array (q,) or (n_sites, q)
        Field on each expert; one for each site needs `n_sites`.
    top_k : int
        Experts that a site holds.
    n_experts : int, optional
        Number of experts q; taken from the shape of J or h if absent.
    n_sites : int or None
        Length of a sequence that starts with nothing before it: a site with fewer than R
        before it feels those that exist. None is the infinite chain, which has forgotten how
        it started.
    temperature : float
        In units of the couplings.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range or the shapes disagree.

    Notes
    -----
    There is no energy: every site is normalised given those before it, and what comes after
    does not weigh on it. With `top_k` = 1 and couplings between neighbours the infinite chain
    is the Markov chain that an infinite `PottsChain` is, in another gauge.

    References
    ----------
    Y. Roudi and J. Hertz, Phys. Rev. Lett. 106, 048702 (2011); H. C. Nguyen, R. Zecchina and
    J. Berg, Adv. Phys. 66, 197 (2017).

    Examples
    --------
    >>> import numpy as np
    >>> import isingmoe as im
    >>> turn = np.roll(np.eye(3), 1, axis=1)
    >>> exact = im.solve(im.KineticChain(J=2.0 * turn))
    >>> round(float(exact.entropy_production), 3)
    1.361
    """

    J: Any
    h: Any = 0.0
    top_k: int = 1
    n_experts: int | None = None
    n_sites: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        self._check_numbers(shortest=1)
        if self.n_sites is None and np.ndim(self.h) == 2:
            raise ValueError(
                "h: expected one field for all sites of an infinite chain, got shape "
                f"{np.shape(self.h)}; a field for each site needs n_sites"
            )
        self._check_experts(n_spare=0)

    @property
    def boundary(self) -> str:
        """A sequence begins and ends."""
        return "open"

    @property
    def strength(self) -> NDArray[np.float64]:
        """Factor of the bond at each distance, (reach,): one, as far as the chain is long."""
        reach = len(self.J) if np.ndim(self.J) == 3 else 1
        return np.ones(reach if self.n_sites is None else min(reach, self.n_sites - 1))

    def log_likelihood(self, state: ArrayLike) -> NDArray[np.float64]:
        """Log-probability of states 0..q-1, given that nothing is before them.

        Parameters
        ----------
        state : array_like of int (..., site), or (..., site, rank) of a chain with top_k > 1
            Of any length if the chain is infinite.

        Returns
        -------
        ndarray (...)
            In nats.

        Raises
        ------
        ValueError
            If a state is out of range, the chain is not `n_sites` long, or a site does not
            hold `top_k` different labels.
        """
        s = self._checked_state(state)
        bond, site = self.bond, self.site
        n = s.shape[-2]
        theta = np.broadcast_to(site[np.arange(n) % len(site)], (*s.shape[:-1], self.n_states))
        theta = theta.copy()
        for r in range(1, min(len(bond), n - 1) + 1):
            theta[..., r:, :] += bond[r - 1][s[..., :-r, :]].sum(-2)
        # Logarithms of e_0 .. e_k, one label after the other.
        log_e = np.full((self.top_k + 1, *s.shape[:-1]), -np.inf)
        log_e[0] = 0
        for b in range(self.n_states):
            log_e[1:] = np.logaddexp(log_e[1:], log_e[:-1] + theta[..., b])
        return (np.take_along_axis(theta, s, -1).sum(-1) - log_e[-1]).sum(-1)
