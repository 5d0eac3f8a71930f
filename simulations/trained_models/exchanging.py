"""Experts exchanged between tokens of one id: what is left is what the ids alone carry."""

from __future__ import annotations

import numpy as np
import xarray as xr

__all__ = ["exchanged"]


def exchanged(traces: xr.Dataset, seed: int) -> xr.Dataset:
    """Traces in which tokens of one id have exchanged their experts.

    Which id stands where stays, and how often an id has which experts; what the experts of a
    token owe to its position and to the tokens before it goes. Of a model whose router sees the
    token alone, nothing changes, and nothing for an id that occurs once.

    Parameters
    ----------
    traces : Dataset
        With token ids. Tokens without one keep their experts.
    seed : int
        Of the exchange, which is the same in all layers.

    Returns
    -------
    Dataset
        Without weights and logits, which would not go with the experts.
    """
    token_id = traces["token_id"].values.ravel()
    known = np.flatnonzero(token_id >= 0)
    # Ties in the order of the ids are broken once by place, once by chance.
    place = np.lexsort((known, token_id[known]))
    drawn = np.lexsort((np.random.default_rng(seed).random(len(known)), token_id[known]))
    experts = traces["expert_index"].values
    flat = experts.reshape(len(experts), -1, experts.shape[-1]).copy()
    flat[:, known[place]] = flat[:, known[drawn]]
    kept = traces.drop_vars(["gate_weight", "router_logit"], errors="ignore")
    return kept.assign(expert_index=kept["expert_index"].copy(data=flat.reshape(experts.shape)))
