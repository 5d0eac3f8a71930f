"""Local updates: heat bath and Metropolis, at any reach and in any field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels import local, multispin, sets
from isingmoe._kernels.random import random_labels
from isingmoe.algorithms import _conditionals
from isingmoe.algorithms._sampler import label_dtype
from isingmoe.chains import Chain

__all__ = ["HeatBath", "Metropolis"]

# A table of all conditional distributions is to stay near the core.
_LARGEST_TABLE = 4 << 20


@dataclass(frozen=True)
class LocalSampler:
    """Local updates made ready for one chain.

    Attributes
    ----------
    kernel : callable
        Advances a state; called with it, the words, `out`, `n_sweeps` and `arguments`.
    arguments : tuple
    fill : callable
        Makes a state random; called with it, the words and `fill_arguments`.
    fill_arguments : tuple
    shape : tuple of int
        Of a state.
    dtype : type
        Of a state.
    lanes : int
    """

    kernel: Callable[..., None]
    arguments: tuple[Any, ...]
    fill: Callable[..., None]
    fill_arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: type[np.unsignedinteger]
    lanes: int = 1

    is_independent = False
    offset = 0.0

    def start(self, words: NDArray[np.uint64]) -> NDArray:
        """A state that is uniform over all there are."""
        state = np.empty(self.shape, self.dtype)
        self.fill(state, words, *self.fill_arguments)
        return state

    def advance(
        self, state: NDArray, words: NDArray[np.uint64], out: NDArray, n_sweeps: int
    ) -> None:
        """Sweep on, and leave a state in each row of `out` after every `n_sweeps` sweeps."""
        self.kernel(state, words, out, n_sweeps, *self.arguments)


@dataclass(frozen=True)
class HeatBath:
    """Every label drawn anew from its distribution given all others.

    Parameters
    ----------
    order : {"checkerboard", "sequential", "random"}
        In which a sweep visits the sites. "checkerboard" takes every (reach + 1)-th site,
        then the next ones, so that neighbours are never updated in a row; where the
        couplings reach through the chain this is the sequential order. "random" draws each
        site.

    Raises
    ------
    ValueError
        If `order` is none of these.

    Notes
    -----
    Where a site holds a set of several labels, the whole set is drawn at once.

    References
    ----------
    M. Creutz, Phys. Rev. D 21, 2308 (1980).
    """

    order: str = "checkerboard"

    def __post_init__(self) -> None:
        _check_order(self.order, ("checkerboard", "sequential", "random"))

    def prepare(self, chain: Chain) -> LocalSampler:
        """Make the tables for a chain.

        Parameters
        ----------
        chain : Chain
            Finite.

        Returns
        -------
        LocalSampler

        Raises
        ------
        ValueError
            If the chain is infinite.
        """
        n_sublattices = _n_sublattices(chain, self.order)
        q = chain.n_states
        if _has_two_states_and_one_field(chain):
            return _two_state_sampler(chain, _conditionals.drawn, n_sublattices)
        if _has_one_table(chain) and 8 * (q + 1) ** 2 * q <= _LARGEST_TABLE:
            table = _conditionals.heat_bath_entries(chain)
            arguments = (table, q, chain.boundary == "periodic", n_sublattices)
            return _label_sampler(chain, local.alias_sweeps, arguments)
        return _field_sampler(
            chain, local.heat_bath_sweeps, sets.heat_bath_set_sweeps, n_sublattices
        )

    def prepare_many(self, chain: Chain) -> LocalSampler:
        """Make the tables for many replicas: 64 advanced at once, where the chain allows.

        It does with two labels, nearest neighbours and one field for all sites.

        Parameters
        ----------
        chain : Chain
            Finite.

        Returns
        -------
        LocalSampler

        Raises
        ------
        ValueError
            If the chain is infinite.
        """
        n_sublattices = _n_sublattices(chain, self.order)
        if _has_two_states_and_one_field(chain):
            return _lane_sampler(chain, _conditionals.drawn, n_sublattices)
        return self.prepare(chain)


@dataclass(frozen=True)
class Metropolis:
    """A label proposed at random, and taken with the smaller of 1 and the ratio of weights.

    Parameters
    ----------
    order : {"random", "checkerboard"}
        In which a sweep visits the sites; as for `HeatBath`. There is no sequential order.

    Raises
    ------
    ValueError
        If `order` is none of these.

    Notes
    -----
    The present label is proposed as often as any other: a move that costs nothing is made
    with probability 1 - 1/q. Were it always made, a sweep through the chain in order would
    push domain walls along instead of letting them meet. Where a site holds a set, a random
    member is proposed to give way to a random other label.

    References
    ----------
    N. Metropolis et al., J. Chem. Phys. 21, 1087 (1953).
    """

    order: str = "random"

    def __post_init__(self) -> None:
        _check_order(self.order, ("random", "checkerboard"))

    def prepare(self, chain: Chain) -> LocalSampler:
        """Make the tables for a chain.

        Parameters
        ----------
        chain : Chain
            Finite; shorter than half of it must be the reach of its couplings for
            checkerboard order.

        Returns
        -------
        LocalSampler

        Raises
        ------
        ValueError
            If the chain is infinite, or its couplings reach too far.
        """
        n_sublattices = self._n_sublattices(chain)
        if _has_two_states_and_one_field(chain):
            return _two_state_sampler(chain, _conditionals.accepted, n_sublattices)
        return _field_sampler(
            chain, local.metropolis_sweeps, sets.metropolis_set_sweeps, n_sublattices
        )

    def prepare_many(self, chain: Chain) -> LocalSampler:
        """Make the tables for many replicas; as for `HeatBath`."""
        n_sublattices = self._n_sublattices(chain)
        if _has_two_states_and_one_field(chain):
            return _lane_sampler(chain, _conditionals.accepted, n_sublattices)
        return self.prepare(chain)

    def _n_sublattices(self, chain: Chain) -> int:
        n_sublattices = _n_sublattices(chain, self.order)
        if n_sublattices > 2 and 2 * n_sublattices > _length(chain):
            raise ValueError(
                "order: expected 'random' where couplings reach half the chain or further, got "
                f"{self.order!r}; give order='random' or take HeatBath()"
            )
        return n_sublattices


def _check_order(order: str, orders: tuple[str, ...]) -> None:
    if order not in orders:
        raise ValueError(f"order: expected one of {', '.join(map(repr, orders))}, got {order!r}")


def _length(chain: Chain) -> int:
    if chain.n_sites is None:
        raise ValueError(
            "n_sites: expected a finite chain for local updates, got None; give n_sites"
        )
    return chain.n_sites


def _n_sublattices(chain: Chain, order: str) -> int:
    """Number of sublattices of an order; 0 for random sites."""
    _length(chain)
    if order == "random":
        return 0
    if order == "sequential":
        return 1
    return len(_conditionals.couplings(chain)[1]) + 1


def _has_one_table(chain: Chain) -> bool:
    """Whether all sites between the same two neighbours are alike."""
    reach = len(_conditionals.couplings(chain)[1])
    return chain.top_k == 1 and reach <= 1 and len(chain.site) == 1


def _has_two_states_and_one_field(chain: Chain) -> bool:
    return chain.n_states == 2 and _has_one_table(chain)


def _label_sampler(chain: Chain, kernel: Callable, arguments: tuple) -> LocalSampler:
    q = chain.n_states
    return LocalSampler(kernel, arguments, random_labels, (q,), (_length(chain),), label_dtype(q))


def _two_state_sampler(chain: Chain, rule: Callable, n_sublattices: int) -> LocalSampler:
    threshold = _two_state_thresholds(chain, rule).ravel()
    arguments = (threshold, chain.boundary == "periodic", n_sublattices)
    return _label_sampler(chain, local.two_state_sweeps, arguments)


def _lane_sampler(chain: Chain, rule: Callable, n_sublattices: int) -> LocalSampler:
    threshold = _two_state_thresholds(chain, rule)
    uses_own = bool((threshold[..., 0] != threshold[..., 1]).any())
    arguments = (
        _conditionals.lane_terms(threshold),
        uses_own,
        chain.boundary == "periodic",
        n_sublattices,
    )
    return LocalSampler(
        multispin.multi_spin_sweeps,
        arguments,
        multispin.random_lanes,
        (),
        (_length(chain),),
        np.uint64,
        lanes=64,
    )


def _two_state_thresholds(chain: Chain, rule: Callable) -> NDArray[np.uint64]:
    field = _conditionals.neighbour_fields(chain)
    return _conditionals.thresholds(rule(field[..., 1] - field[..., 0]))


def _field_sampler(
    chain: Chain, kernel: Callable, set_kernel: Callable, n_sublattices: int
) -> LocalSampler:
    arguments = (_conditionals.field_model(chain), n_sublattices)
    if chain.top_k == 1:
        return _label_sampler(chain, kernel, arguments)
    q, n = chain.n_states, _length(chain)
    return LocalSampler(
        set_kernel, arguments, sets.random_sets, (q,), (n, chain.top_k), label_dtype(q)
    )
