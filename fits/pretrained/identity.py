"""How much of a token's experts its id settles, and how much the tokens before it change.

Every token is compared with another occurrence of its id, in another text. If the id were all
that the router sees, the two would have the same experts, whatever stands before them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.folds import ratio_error

__all__ = ["ALIKE", "same_id_overlap"]

# How many ids, counted back from the token, the other occurrence has in common with it; the
# one before those differs, so that no prompt is compared with a copy of itself.
ALIKE = {"no id": 0, "the id": 1, "two ids": 2, "three ids": 3}
_TRIES = 200
_DIMS = {
    "same_id": ("layer", "alike"),
    "same_id_error": ("layer", "alike"),
    "neighbours": ("layer", "which"),
    "neighbours_error": ("layer", "which"),
}

Ints = NDArray[np.integer]


def same_id_overlap(traces: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Overlap of tokens with other occurrences of their ids, and of neighbours so replaced.

    Parameters
    ----------
    traces : Dataset
        With token ids.
    seed : int
        Of the occurrences that are drawn.

    Returns
    -------
    Dataset
        `same_id` (layer, alike): share of the experts that a token has in common with one of
        another text which is alike so far back; `neighbours` (layer, which): overlap of two
        neighbours as they are, and with both replaced by others of their ids, that stand after
        other tokens. Each with a standard error over texts.
    """
    rng = np.random.default_rng(seed)
    history, text, place = _tokens(traces)
    other = {
        name: _others(
            history[:, :n],
            lambda i, j, n=n: (text[i] != text[j]) & (history[i, n] != history[j, n]),
            rng,
        )
        for name, n in ALIKE.items()
    }
    of_id = other["the id"]
    first = np.flatnonzero((np.diff(place) == 1) & (np.diff(text) == 0))
    first = first[(of_id[first] >= 0) & (of_id[first + 1] >= 0)]
    rows: dict[str, list[list[float]]] = {name: [] for name in _DIMS}
    for layer in range(traces.sizes["layer"]):
        chosen = _one_hot(traces.isel(layer=layer), text, place)
        found = []
        for chosen_of in other.values():
            token = np.flatnonzero(chosen_of >= 0)
            found.append(_overlap(chosen, token, chosen_of[token], text[token]))
        pairs = [
            _overlap(chosen, first, first + 1, text[first]),
            _overlap(chosen, of_id[first], of_id[first + 1], text[first]),
        ]
        for name, values in (("same_id", found), ("neighbours", pairs)):
            rows[name].append([value for value, _ in values])
            rows[f"{name}_error"].append([error for _, error in values])
    return xr.Dataset(
        {name: (dims, rows[name]) for name, dims in _DIMS.items()},
        coords={
            "layer": traces["layer"],
            "alike": list(ALIKE),
            "which": ["data", "replaced"],
            "share_of_tokens": ("alike", [float((found >= 0).mean()) for found in other.values()]),
        },
    )


def _tokens(traces: xr.Dataset) -> tuple[Ints, Ints, Ints]:
    """Ids of every token and of the three before it, its text and its position."""
    longest = max(ALIKE.values())
    text, place = np.nonzero(np.arange(traces.sizes["position"]) < traces["length"].values[:, None])
    text, place = text[place >= longest], place[place >= longest]
    ids = traces["token_id"].transpose("sequence", "position").values
    return np.stack([ids[text, place - n] for n in range(longest + 1)], 1), text, place


def _others(
    keys: Ints, accepts: Callable[[Ints, Ints], NDArray[np.bool_]], rng: np.random.Generator
) -> Ints:
    """For each token a random one with the same key that is accepted; -1 where none was."""
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(group.max() + 2))
    found, todo = np.full(len(keys), -1), np.arange(len(keys))
    for _ in range(_TRIES):
        drawn = order[rng.integers(edges[group[todo]], edges[group[todo] + 1])]
        good = accepts(todo, drawn)
        found[todo[good]] = drawn[good]
        todo = todo[~good]
    return found


def _one_hot(traces: xr.Dataset, text: Ints, place: Ints) -> NDArray[np.bool_]:
    experts = traces["expert_index"].transpose("sequence", "position", "rank").values[text, place]
    chosen = np.zeros((len(experts), traces.attrs["num_experts"]), bool)
    token, rank = np.nonzero(experts >= 0)
    chosen[token, experts[token, rank]] = True
    return chosen


def _overlap(chosen: NDArray[np.bool_], a: Ints, b: Ints, text: Ints) -> tuple[float, float]:
    """Mean share of experts in common, with its standard error over texts."""
    _, unit = np.unique(text, return_inverse=True)
    shared = np.bincount(unit, (chosen[a] & chosen[b]).sum(1))
    could = np.bincount(unit, chosen[a].sum(1))
    return float(shared.sum() / could.sum()), ratio_error(shared, could)
