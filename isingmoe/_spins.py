"""What chains share: length, ends, temperature, reach, experts, and the checks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isingmoe.couplings import Exponential, PowerLaw

__all__ = ["BOUNDARIES", "Checked", "Experts", "Spins", "short", "whole"]

BOUNDARIES = ("open", "periodic")

# Beyond these the weights of a bond and a field leave the range of a double.
_STRONGEST = {"J": 150, "h": 500}

# Beyond this a number of sites is no longer exact as a double.
_LONGEST = 2**53

# Left out of a repr where they are as by default.
_QUIET = ("decay", "top_k")


class Checked:
    """Parameters that are checked and cannot be changed; chains are compared by them."""

    J: Any
    h: Any
    n_sites: int | None
    boundary: Any
    temperature: float
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def _check_numbers(self, shortest: int) -> None:
        """Of the parameters that all chains have; `shortest` is the least of `n_sites`."""
        temperature = _frozen_numbers("temperature", self.temperature)
        if np.ndim(temperature) or temperature <= 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature!r}")
        object.__setattr__(self, "temperature", temperature)
        if self.n_sites is not None:
            if whole("n_sites", self.n_sites) > _LONGEST:
                raise ValueError(f"n_sites: expected at most 2^53, got {self.n_sites}")
            if self.n_sites < shortest:
                raise ValueError(
                    f"n_sites: expected at least {shortest} on a chain with "
                    f"{self.boundary} ends, got {self.n_sites}"
                )
        for name, strongest in _STRONGEST.items():
            value = _frozen_numbers(name, getattr(self, name))
            object.__setattr__(self, name, value)
            largest = float(np.max(np.abs(value), initial=0)) / self.temperature
            if largest > strongest:
                raise ValueError(
                    f"{name}: expected |{name}| / temperature of at most {strongest}, got "
                    f"{largest:.3g}; raise the temperature"
                )

    def _check_field(self, shape: tuple[int, ...], dims: str) -> None:
        """Of a field with a value for each site: `shape` without and `dims` with the site."""
        got = np.shape(self.h)
        if len(got) != len(shape) + 1:
            return
        if self.n_sites is None or self.boundary == "periodic":
            raise ValueError(
                f"h: expected one field for all sites of a chain that is a ring or infinite, got "
                f"shape {got}; a field for each site needs open ends and n_sites"
            )
        if got != (self.n_sites, *shape):
            raise ValueError(f"h: expected {dims} with n_sites = {self.n_sites}, got shape {got}")

    def __repr__(self) -> str:
        shown = [f for f in fields(self) if f.name not in _QUIET or not self._is_default(f)]
        parts = [f"{f.name}={short(getattr(self, f.name))}" for f in shown]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _is_default(self, field_: Any) -> bool:
        value = getattr(self, field_.name)
        return not isinstance(value, np.ndarray) and value == field_.default

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    def _checked_state(self, state: ArrayLike) -> NDArray[np.integer]:
        """States as (..., site, rank)."""
        s = np.asarray(state)
        if s.dtype.kind not in "iu":
            raise TypeError(f"state: expected integers, got {s.dtype} {state!r:.60}")
        q, k = self.n_states, self.top_k  # type: ignore[attr-defined]
        if k == 1:
            s = s[..., None]
        elif s.ndim < 2 or s.shape[-1] != k or (np.diff(np.sort(s), axis=-1) == 0).any():
            raise ValueError(
                f"state: expected {k} different labels for each site, got shape {s.shape}"
                if s.ndim < 2 or s.shape[-1] != k
                else f"state: expected {k} different labels for each site, got one twice"
            )
        if self.n_sites is not None and s.shape[-2] != self.n_sites:
            raise ValueError(f"state: expected {self.n_sites} sites, got {s.shape[-2]}")
        if s.size and (s.min() < 0 or s.max() >= q):
            raise ValueError(f"state: expected labels 0..{q - 1}, got {s.min()}..{s.max()}")
        return s


class Experts(Checked):
    """What chains of experts share: the number of labels, and tables of couplings and fields."""

    n_experts: int | None
    top_k: Any

    def _check_experts(self, n_spare: int) -> None:
        """Shapes and numbers of experts; a site leaves out at least `n_spare` of them."""
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
        if np.ndim(self.h) > 2:
            raise ValueError(
                f"h: expected a number, ({q},) or (n_sites, {q}), got shape {np.shape(self.h)}"
            )
        self._check_field((q,), "(n_sites, q)")
        if not 1 <= whole("top_k", self.top_k) <= q - n_spare:
            raise ValueError(
                f"top_k: expected 1 to {q - n_spare} of {q} experts for each site, got {self.top_k}"
            )
        object.__setattr__(self, "n_experts", q)

    @property
    def n_states(self) -> int:
        """Number of labels q."""
        return int(self.n_experts)  # type: ignore[arg-type]

    @property
    def bond(self) -> NDArray[np.float64]:
        """Log-weight of a bond, over the temperature, (1 or reach, q, q)."""
        J = np.asarray(self.J)
        matrices = J if J.ndim >= 2 else np.eye(self.n_states) * J
        return np.reshape(matrices / self.temperature, (-1, self.n_states, self.n_states))

    @property
    def site(self) -> NDArray[np.float64]:
        """Log-weight of a site, over the temperature, (1 or n_sites, q)."""
        h = np.atleast_2d(np.asarray(self.h) / self.temperature)
        return np.broadcast_to(h, (len(h), self.n_states)).copy()

    @property
    def observable(self) -> NDArray[np.float64]:
        """The occupancy of each expert, (q, q)."""
        return np.eye(self.n_states)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Spins(Checked):
    """What Ising and Potts chains share: the geometry, the temperature and the checks."""

    J: Any
    h: Any = 0.0
    n_sites: int | None = None
    boundary: str = "open"
    temperature: float = 1.0
    decay: Any = None

    def __post_init__(self) -> None:
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary: expected 'open' or 'periodic', got {self.boundary!r}")
        self._check_numbers(shortest=3 if self.boundary == "periodic" else 1)
        self._check_decay()

    def _check_decay(self) -> None:
        decay = self.decay
        if decay is None:
            decay = np.ones(1)
        elif not isinstance(decay, PowerLaw | Exponential):
            decay = _frozen_numbers("decay", decay)
            if np.ndim(decay) != 1 or not len(decay) or decay[0] != 1:
                raise ValueError(
                    "decay: expected power_law(alpha), exponential(length) or an array (reach,) "
                    f"that starts with 1, got {short(decay)}"
                )
            object.__setattr__(self, "decay", decay)
        self._check_reach("decay", 0 if callable(decay) else len(decay))

    def _check_reach(self, name: str, reach: int) -> None:
        if self.boundary == "periodic" and self.n_sites is not None and self.n_sites <= 2 * reach:
            raise ValueError(
                f"{name}: expected a reach below n_sites / 2 on a ring of {self.n_sites} sites, "
                f"got {reach}; use a longer chain"
            )

    @property
    def top_k(self) -> int:
        """Number of different labels that a site holds."""
        return 1

    def _distances(self) -> int:
        """How far a decay or a list of couplings says that bonds reach."""
        return 1 if self.decay is None else len(self.decay)

    @property
    def strength(self) -> NDArray[np.float64]:
        """Factor of the bond at each distance, (reach,).

        Every site i has a bond with i + r for every r up to the reach: on an even ring a
        power law joins the antipodes from both sides, with half the strength each.

        Raises
        ------
        ValueError
            If the couplings reach through an infinite chain.
        """
        n = self.n_sites
        if isinstance(self.decay, PowerLaw | Exponential):
            if n is None:
                raise ValueError(
                    f"decay: {self.decay!r} has no end on an infinite chain; give n_sites"
                )
            reach = n // 2 if self.boundary == "periodic" else n - 1
            strength = self.decay(reach)
            if self.boundary == "periodic" and n % 2 == 0:
                strength[-1] /= 2
            return strength
        strength = np.ones(self._distances()) if self.decay is None else np.array(self.decay)
        return strength if n is None else strength[: n - 1]

    def energy(self, state: ArrayLike) -> NDArray[np.float64]:
        """Energy of states 0..q-1.

        Parameters
        ----------
        state : array_like of int (..., site), or (..., site, rank) of a chain with top_k > 1

        Returns
        -------
        ndarray (...)
            In units of the couplings.

        Raises
        ------
        ValueError
            If a state is out of range, the chain is not `n_sites` long, or a site does not
            hold `top_k` different labels.
        """
        s = self._checked_state(state)
        bond, site = self.bond, self.site  # type: ignore[attr-defined]
        n = s.shape[-2]
        weight = site[np.arange(n)[:, None] % len(site), s].sum((-2, -1))
        strength = self.strength
        for r in range(1, len(strength) + 1):
            J = bond[min(r, len(bond)) - 1]
            right = np.roll(s, -r, -2) if self.boundary == "periodic" else s[..., r:, :]
            left = s[..., : right.shape[-2], :]
            pairs = J[left[..., :, None], right[..., None, :]].sum((-3, -2, -1))
            weight = weight + strength[r - 1] * pairs
        return -self.temperature * weight


def whole(name: str, value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer or None, got {value!r}")
    return int(value)


def _frozen_numbers(name: str, value: Any) -> Any:
    """A float, or an array of floats that cannot be written to."""
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "iuf":
            raise TypeError
        array = np.array(given, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected numbers, got {value!r}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {short(array)}")
    if array.ndim == 0:
        return float(array)
    array.setflags(write=False)
    return array


def short(value: Any) -> str:
    """A value in a repr: arrays by their shape and range."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"array{value.shape} in [{np.min(value):.3g}, {np.max(value):.3g}]"
    return repr(value.tolist()) if isinstance(value, np.ndarray) else repr(value)
