"""Whether experts that are said to be in the order of their weights can be."""

from __future__ import annotations

from typing import Any

import xarray as xr
from numpy.typing import NDArray

__all__ = ["check_order", "check_ranked"]

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
    if not traces.attrs["ranked"] or "gate_weight" in traces:
        return
    check_order(
        traces["expert_index"].values,
        source,
        "give ranked=False, on the command line --unranked",
    )


def check_order(ids: NDArray[Any], where: object, remedy: str) -> None:
    """Raise where expert ids (.., rank) rise in every one of many tokens.

    Raises
    ------
    ValueError
        With a remedy.
    """
    if ids.shape[-1] < 2:
        return
    n_tokens = int((ids[..., 1] >= 0).sum())
    # What is missing comes last.
    falls = (ids[..., 1:] < ids[..., :-1]) & (ids[..., 1:] >= 0)
    if n_tokens >= _ENOUGH and not falls.any():
        raise ValueError(
            f"{where}: ranked: expected the experts of a token in the order of their weights, "
            f"got them in the order of their ids for all of {n_tokens} tokens, as some engines "
            f"write them; {remedy}"
        )
