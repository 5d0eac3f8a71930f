"""The token's id decides which experts it goes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from isingmoe._schema import trace_name, validate_structure
from isingmoe._seeds import seed_sequence
from isingmoe.moe.routers import Router, Tokens, check_layer, check_sets, enough

__all__ = ["HashRouter"]

Ids = NDArray[np.integer]


class HashRouter(Router):
    """The token's id decides, by a hash: each id has the same experts everywhere.

    Hash layers (Roller et al., arXiv:2106.04426).

    Parameters
    ----------
    seed : int
        Of the hash.
    tables : mapping of int to int array (token_id, rank), optional
        For each layer, experts of ids that are known, the best first; -1 for those that are
        hashed. `from_traces` makes them.
    num_experts : int, optional
        That tables are for; needed with them.

    Raises
    ------
    TypeError
        If the seed is no whole number.
    ValueError
        If it is negative, or there are tables of ids out of range, twice in a set, or of
        nobody knows how many experts.
    """

    def __init__(
        self,
        seed: int = 0,
        tables: Mapping[int, Ids] | None = None,
        *,
        num_experts: int | None = None,
    ) -> None:
        if not isinstance(seed, int | np.integer):
            raise TypeError(f"seed: expected a whole number, got {type(seed).__name__}")
        seed_sequence(seed)
        self._seed, self._num_experts = int(seed), num_experts
        self._tables = {n: np.asarray(table, np.int64) for n, table in (tables or {}).items()}
        if self._tables and num_experts is None:
            raise ValueError("num_experts: expected the number of experts of the tables, got None")
        for layer, table in self._tables.items():
            known = table[table[:, 0] >= 0]
            check_sets(f"tables: layer {layer}", known, num_experts or 0)
        self.is_by_layer = bool(self._tables)

    @classmethod
    def from_traces(cls, traces: xr.Dataset, *, seed: int = 0) -> Self:
        """The experts that each token id was sent to most often.

        Parameters
        ----------
        traces : Dataset
            With `token_id`.
        seed : int
            Of the hash of ids that are not there.

        Returns
        -------
        HashRouter

        Raises
        ------
        ValueError
            If there are no token ids.
        """
        validate_structure(traces)
        if "token_id" not in traces:
            raise ValueError(
                f"{trace_name(traces)}: token_id: expected token ids, got none; capture them"
            )
        ids, top_k = traces["token_id"].values, int(traces.attrs["top_k"])
        n_experts = int(traces.attrs["num_experts"])
        tables = {}
        for place, layer in enumerate(traces["layer"].values.tolist()):
            index = traces["expert_index"].values[place]
            here = (index >= 0) & (ids >= 0)[..., None]
            counts = np.zeros((int(ids.max(initial=0)) + 1, n_experts), np.int64)
            np.add.at(counts, (np.broadcast_to(ids[..., None], index.shape)[here], index[here]), 1)
            best = np.argsort(-counts, axis=1, kind="stable")[:, :top_k]
            tables[layer] = np.where(counts.any(1, keepdims=True), best, -1)
        return cls(seed, tables, num_experts=n_experts)

    def check(self, layer: int, num_experts: int) -> None:
        """As `Router.check`."""
        if self._num_experts is not None:
            check_layer(layer, num_experts, dict.fromkeys(self._tables, self._num_experts))

    def choose(self, tokens: Tokens) -> Tensor:
        """As `Router.choose`.

        Raises
        ------
        ValueError
            If there are no token ids.
        """
        if tokens.token_id is None:
            raise ValueError("input_ids: expected token ids to hash, got embeddings alone")
        ids = tokens.token_id.cpu().numpy()
        known, place = np.unique(ids, return_inverse=True)
        made = self._hashed(known, tokens)
        table = self._tables.get(tokens.layer)
        if table is not None:
            table = enough(table, tokens.top_k, "tables")
            rows = table[np.minimum(known, len(table) - 1)]
            is_known = (known < len(table)) & (rows[:, 0] >= 0)
            made = np.where(is_known[:, None], rows, made)
        return torch.from_numpy(made[place.reshape(ids.shape)]).to(tokens.token_id.device)

    def _hashed(self, ids: Ids, tokens: Tokens) -> Ids:
        """Experts (id, rank) whose numbers, hashed with the id and the layer, are largest."""
        salt = np.random.SeedSequence([self._seed, tokens.layer]).generate_state(1, np.uint64)
        expert = np.arange(tokens.num_experts, dtype=np.uint64)
        word = ids.astype(np.uint64)[:, None] * np.uint64(tokens.num_experts) + expert
        return np.argsort(_mixed(word ^ salt), axis=1)[:, : tokens.top_k]


def _mixed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits of 64-bit words, mixed (the finaliser of splitmix64, Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        word = word + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return word ^ (word >> np.uint64(31))
