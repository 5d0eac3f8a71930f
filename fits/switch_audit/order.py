"""Is it the order in which places are filled that makes couplings?"""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr
from arms import ARMS
from trained_models.measuring import couplings
from trained_models.store import Job, Store, in_parallel

import isingmoe as im

__all__ = ["by_order", "filled"]


def by_order(store: Store) -> xr.DataArray:
    """Self-coupling (seed, kind, stack, layer) of the arm with the fewest places.

    Kinds: what was `chosen`, the same with the places filled `in order`, and as often by tokens
    `at random` in the text; the tokens of each text `shuffled`, which have no neighbours, and
    with the places filled in their new order.
    """
    found = in_parallel(partial(_of_seed, store), list(range(store.size.n_seeds)))
    return xr.concat(found, "seed")


def filled(chosen: np.ndarray, places: int) -> np.ndarray:
    """Choices (.., position), and -1 where as many before chose the same as there are places."""
    same = chosen[..., :, None] == chosen[..., None, :]
    before = np.tril(same, -1).sum(-1)
    return np.where(before < places, chosen, -1)


def _of_seed(store: Store, seed: int) -> xr.DataArray:
    arm, rng = ARMS[-1], np.random.default_rng(seed)
    places = arm.capacity(store.size)
    windows = store.text.held_out.token_id
    stacks = arm.traces(store.model(Job(arm, seed)), windows, record=("router_logit",))
    rows = []
    for traces in stacks.values():
        chosen = traces["router_logit"].values.argmax(-1)
        order = np.argsort(rng.random(chosen.shape), -1)
        shuffled = np.take_along_axis(chosen, order, -1)
        refilled = filled(shuffled, places)
        at_random = np.take_along_axis(refilled, np.argsort(order, -1), -1)
        kinds = {
            "chosen": chosen,
            "filled in order": filled(chosen, places),
            "filled at random": at_random,
            "shuffled": shuffled,
            "shuffled, filled in order": refilled,
        }
        found = [_self_coupling(traces, one) for one in kinds.values()]
        rows.append(xr.concat(found, xr.IndexVariable("kind", list(kinds))))
    return xr.concat(rows, xr.IndexVariable("stack", list(stacks))).assign_coords(seed=seed)


def _self_coupling(like: xr.Dataset, index: np.ndarray) -> xr.DataArray:
    traces = im.traces_from_arrays(
        index[..., None].astype(np.int16),
        num_experts=int(like.attrs["num_experts"]),
        layer=like["layer"].values,
    )
    return couplings(traces).data["self_coupling"]
