"""The chains: parameters, energy and gauge; no algorithm and no random numbers.

Every chain can say the same two things of itself, `bond` (reach, q, q) and `site` (1, q):
the negative energy of a bond and of a site over the temperature. Whatever solves or
samples a chain works on these and never asks for the chain's type.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Chain", "IsingChain", "PottsChain", "zero_sum"]

BOUNDARIES = ("open", "periodic")

# Beyond this the weights of a bond and a field leave the range of a double.
_STRONGEST = 150


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
        """Number of states of a site."""
        ...

    @property
    def bond(self) -> NDArray[np.float64]:
        """Negative energy of a bond over the temperature, (reach, q, q)."""
        ...

    @property
    def site(self) -> NDArray[np.float64]:
        """Negative energy of a site over the temperature, (1, q)."""
        ...

    @property
    def observable(self) -> NDArray[np.float64]:
        """What is measured on each state, (observable, q): a spin, or each occupancy."""
        ...

    def energy(self, state: ArrayLike) -> NDArray[np.float64]:
        """Energy of states 0..q-1."""
        ...


def zero_sum(
    J: ArrayLike, h: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Couplings and fields of the same chain in the zero-sum gauge.

    Parameters
    ----------
    J : array_like (..., q, q)
        Coupling J[a, b] of state a at site i and state b at site i + 1.
    h : array_like (..., q), optional
        Field; zero if absent.

    Returns
    -------
    J : ndarray (..., q, q)
        Every row and every column sums to zero.
    h : ndarray (..., q)
        Sums to zero. The row and column means of J have gone into it: on a periodic or
        infinite chain every site is once the left and once the right end of a bond, so
        that the probabilities are unchanged.

    Raises
    ------
    ValueError
        If J is not square.
    """
    coupling = np.asarray(J, float)
    if coupling.ndim < 2 or coupling.shape[-1] != coupling.shape[-2]:
        raise ValueError(f"J: expected square matrices (..., q, q), got shape {coupling.shape}")
    row = coupling.mean(-1, keepdims=True)
    column = coupling.mean(-2, keepdims=True)
    grand = coupling.mean((-1, -2), keepdims=True)
    shift = row[..., 0] + column[..., 0, :] - 2 * grand[..., 0]
    field_ = shift if h is None else np.asarray(h, float) + shift
    return coupling - row - column + grand, field_ - field_.mean(-1, keepdims=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class _NearestNeighbour:
    """What Ising and Potts chains share: the geometry, the temperature and the checks."""

    J: Any
    h: Any = 0.0
    n_sites: int | None = None
    boundary: str = "open"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary: expected 'open' or 'periodic', got {self.boundary!r}")
        temperature = _frozen_numbers("temperature", self.temperature)
        if np.ndim(temperature) or temperature <= 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature!r}")
        if self.n_sites is not None:
            _whole("n_sites", self.n_sites)
            shortest = 3 if self.boundary == "periodic" else 1
            if self.n_sites < shortest:
                raise ValueError(
                    f"n_sites: expected at least {shortest} on a chain with "
                    f"{self.boundary} ends, got {self.n_sites}"
                )
        for name in ("J", "h"):
            value = _frozen_numbers(name, getattr(self, name))
            object.__setattr__(self, name, value)
            strongest = float(np.max(np.abs(value), initial=0)) / self.temperature
            if strongest > _STRONGEST:
                raise ValueError(
                    f"{name}: expected |{name}| / temperature of at most {_STRONGEST}, got "
                    f"{strongest:.3g}; raise the temperature"
                )

    def __repr__(self) -> str:
        parts = [f"{f.name}={_short(getattr(self, f.name))}" for f in fields(self)]
        return f"{type(self).__name__}({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    def energy(self, state: ArrayLike) -> NDArray[np.float64]:
        """Energy of states 0..q-1.

        Parameters
        ----------
        state : array_like of int (..., site)

        Returns
        -------
        ndarray (...)
            In units of the couplings.

        Raises
        ------
        ValueError
            If a state is out of range, or the chain is not `n_sites` long.
        """
        s = np.asarray(state)
        q = self.n_states  # type: ignore[attr-defined]
        if self.n_sites is not None and s.shape[-1] != self.n_sites:
            raise ValueError(f"state: expected {self.n_sites} sites, got {s.shape[-1]}")
        if s.size and (s.min() < 0 or s.max() >= q):
            raise ValueError(f"state: expected labels 0..{q - 1}, got {s.min()}..{s.max()}")
        bond = self.bond[0]  # type: ignore[attr-defined]
        site = self.site[0]  # type: ignore[attr-defined]
        weight = bond[s[..., :-1], s[..., 1:]].sum(-1) + site[s].sum(-1)
        if self.boundary == "periodic":
            weight = weight + bond[s[..., -1], s[..., 0]]
        return -self.temperature * weight


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class IsingChain(_NearestNeighbour):
    """Spins s = -1, +1 with energy -J sum s_i s_{i+1} - h sum s_i.

    Parameters
    ----------
    J : float
        Coupling of neighbours; positive favours equal ones.
    h : float
        Field.
    n_sites : int or None
        Length; None is the infinite chain.
    boundary : {"open", "periodic"}
        What joins the ends of a finite chain.
    temperature : float
        In units of the couplings (k_B = 1).

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
        for name in ("J", "h"):
            value = getattr(self, name)
            if np.ndim(value) != 0:
                raise ValueError(f"{name}: expected a number, got shape {np.shape(value)}")

    @property
    def n_states(self) -> int:
        """Number of states of a site."""
        return 2

    @property
    def bond(self) -> NDArray[np.float64]:
        """Negative energy of a bond over the temperature, (reach, q, q)."""
        return (self.J / self.temperature * np.outer(self.spin, self.spin))[None]

    @property
    def site(self) -> NDArray[np.float64]:
        """Negative energy of a site over the temperature, (1, q)."""
        return (self.h / self.temperature * self.spin)[None]

    @property
    def observable(self) -> NDArray[np.float64]:
        """The spin of each state, (1, q)."""
        return self.spin[None]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PottsChain(_NearestNeighbour):
    """Labels 0..q-1, one for each expert, with any coupling matrix and field.

    Parameters
    ----------
    J : float, array (q,) or array (q, q)
        A number couples equal neighbours with J, a vector couples equal neighbours in
        state a with J[a], a matrix is used as it is: J[a, b] with a at site i and b at
        site i + 1. It need not be symmetric.
    h : float or array (q,)
        Field on each state.
    n_experts : int, optional
        Number of states q; taken from the shape of J or h if absent.
    n_sites : int or None
        Length; None is the infinite chain.
    boundary : {"open", "periodic"}
        What joins the ends of a finite chain.
    temperature : float
        In units of the couplings (k_B = 1).

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

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = {
            name: np.shape(getattr(self, name))[-1]
            for name in ("J", "h")
            if np.ndim(getattr(self, name))
        }
        if self.n_experts is not None:
            sizes["n_experts"] = _whole("n_experts", self.n_experts)
        if not sizes:
            raise ValueError("n_experts: expected the number of states, got None")
        if len(set(sizes.values())) > 1:
            got = ", ".join(f"{name} of {size}" for name, size in sizes.items())
            raise ValueError(f"n_experts: expected one number of states, got {got}")
        q = next(iter(sizes.values()))
        if q < 2:
            raise ValueError(f"n_experts: expected at least 2, got {q}")
        if np.ndim(self.J) > 2 or (np.ndim(self.J) == 2 and np.shape(self.J) != (q, q)):
            raise ValueError(
                f"J: expected a number, ({q},) or ({q}, {q}), got shape {np.shape(self.J)}"
            )
        if np.ndim(self.h) > 1:
            raise ValueError(f"h: expected a number or ({q},), got shape {np.shape(self.h)}")
        object.__setattr__(self, "n_experts", q)

    @property
    def n_states(self) -> int:
        """Number of states of a site."""
        return int(self.n_experts)  # type: ignore[arg-type]

    @property
    def bond(self) -> NDArray[np.float64]:
        """Negative energy of a bond over the temperature, (reach, q, q)."""
        J = np.asarray(self.J)
        matrix = J if J.ndim == 2 else np.eye(self.n_states) * J
        return (matrix / self.temperature)[None]

    @property
    def site(self) -> NDArray[np.float64]:
        """Negative energy of a site over the temperature, (1, q)."""
        return np.broadcast_to(np.asarray(self.h) / self.temperature, (1, self.n_states)).copy()

    @property
    def observable(self) -> NDArray[np.float64]:
        """The occupancy of each expert, (q, q)."""
        return np.eye(self.n_states)


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer or None, got {value!r}")
    return int(value)


def _frozen_numbers(name: str, value: Any) -> Any:
    """A float, or an array of floats that cannot be written to."""
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected numbers, got {value!r}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {_short(array)}")
    if array.ndim == 0:
        return float(array)
    array.setflags(write=False)
    return array


def _short(value: Any) -> str:
    """A value in a repr: arrays by their shape and range."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"array{value.shape} in [{np.min(value):.3g}, {np.max(value):.3g}]"
    return repr(value.tolist()) if isinstance(value, np.ndarray) else repr(value)
