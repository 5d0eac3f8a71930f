"""Whether experts that are said to be in the order of their weights can be."""

from __future__ import annotations

import xarray as xr

__all__ = ["check_ranked"]

# Tokens from which on it is no chance that the ids of all of them rise.
_ENOUGH = 50


def check_ranked(traces: xr.Dataset, source: object) -> None:
    """Raise where ranks without weights are in the order of the ids instead.

    Parameters
    ----------
    traces : Dataset
    source : path
        What they were read from.

    Raises
    ------
    ValueError
        If the ids of every token rise.
    """
    if not traces.attrs["ranked"] or "gate_weight" in traces or traces.attrs["top_k"] < 2:
        return
    n_tokens = 0
    for layer in traces["expert_index"].values:
        several = layer[..., 1] >= 0
        n_tokens += int(several.sum())
        # What is missing comes last.
        falls = (layer[..., 1:] < layer[..., :-1]) & (layer[..., 1:] >= 0)
        if falls.any():
            return
    if n_tokens >= _ENOUGH:
        raise ValueError(
            f"{source}: ranked: expected the experts of a token in the order of their weights, "
            f"got them in the order of their ids for all of {n_tokens} tokens, as some engines "
            "write them; give ranked=False, on the command line --unranked"
        )
