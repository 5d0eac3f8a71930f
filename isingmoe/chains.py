"""The chains: parameters, energy and geometry; no algorithm and no random numbers.

Every chain says the same of itself: `bond` (1 or reach, q, q) and `site` (1 or n_sites, q),
the negative energy of a bond and of a site over the temperature, and `strength` (reach,),
what the bond is multiplied with at each distance. Whatever solves or samples a chain works
on these and never asks for the chain's type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isingmoe._spins import Spins, short, whole

__all__ = ["Chain", "IsingChain", "PottsChain"]


@runtime_checkable
class Chain(Protocol):
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
        """Negative energy of a bond over the temperature, (1 or reach, q, q)."""
        ...

    @property
    def strength(self) -> NDArray[np.float64]:
        """Factor of the bond at each distance, (reach,)."""
        ...

    @property
    def site(self) -> NDArray[np.float64]:
        """Negative energy of a site over the temperature, (1 or n_sites, q)."""
        ...

    @property
    def observable(self) -> NDArray[np.float64]:
        """What is measured on each label, (observable, q): a spin, or each occupancy."""
        ...

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
class PottsChain(Spins):
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
        sizes = {
            name: np.shape(getattr(self, name))[-1]
            for name in ("J", "h")
            if np.ndim(getattr(self, name))
        }
        if self.n_experts is not None:
            sizes["n_experts"] = whole("n_experts", self.n_experts)
        if not sizes:
            raise ValueError("n_experts: expected the number of states, got None")
        if len(set(sizes.values())) > 1:
            got = ", ".join(f"{name} of {size}" for name, size in sizes.items())
            raise ValueError(f"n_experts: expected one number of states, got {got}")
        q = next(iter(sizes.values()))
        if q < 2:
            raise ValueError(f"n_experts: expected at least 2, got {q}")
        shape = np.shape(self.J)
        if len(shape) > 3 or 0 in shape or (len(shape) > 1 and shape[-2:] != (q, q)):
            raise ValueError(
                f"J: expected a number, ({q},), ({q}, {q}) or (reach, {q}, {q}), got shape {shape}"
            )
        if len(shape) == 3:
            if self.decay is not None:
                raise ValueError(
                    "decay: expected none beside a coupling for each distance, got "
                    f"{short(self.decay)}"
                )
            self._check_reach("J", shape[0])
        if np.ndim(self.h) > 2:
            raise ValueError(
                f"h: expected a number, ({q},) or (n_sites, {q}), got shape {np.shape(self.h)}"
            )
        self._check_field((q,), "(n_sites, q)")
        if not 1 <= whole("top_k", self.top_k) < q:
            raise ValueError(
                f"top_k: expected 1 to {q - 1} of {q} experts for each site, got {self.top_k}"
            )
        object.__setattr__(self, "n_experts", q)

    @property
    def n_states(self) -> int:
        """Number of labels q."""
        return int(self.n_experts)  # type: ignore[arg-type]

    def _distances(self) -> int:
        return len(self.J) if np.ndim(self.J) == 3 else super()._distances()

    @property
    def bond(self) -> NDArray[np.float64]:
        """Negative energy of a bond over the temperature, (1 or reach, q, q)."""
        J = np.asarray(self.J)
        matrices = J if J.ndim >= 2 else np.eye(self.n_states) * J
        return np.reshape(matrices / self.temperature, (-1, self.n_states, self.n_states))

    @property
    def site(self) -> NDArray[np.float64]:
        """Negative energy of a site over the temperature, (1 or n_sites, q)."""
        h = np.atleast_2d(np.asarray(self.h) / self.temperature)
        return np.broadcast_to(h, (len(h), self.n_states)).copy()

    @property
    def observable(self) -> NDArray[np.float64]:
        """The occupancy of each expert, (q, q)."""
        return np.eye(self.n_states)
