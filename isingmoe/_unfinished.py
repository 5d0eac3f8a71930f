"""What an unfinished trace is: its variables, its chunks, and the capture it belongs to."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from isingmoe._growing import UNFINISHED, GrowingStore
from isingmoe._storage import check_output, check_suffix
from isingmoe._text import plain
from isingmoe.recorded import Recording

__all__ = [
    "OPTIONAL",
    "belonging",
    "blank",
    "check_attributes",
    "check_belonging",
    "check_free",
    "partial_store",
    "rows_of_a_chunk",
]

OPTIONAL = ("gate_weight", "router_logit", "token_id", "start_position")
# At most, of a chunk in all layers and variables together.
_CHUNK_TOKENS = 1 << 17
_CHUNK_BYTES = 1 << 27


def partial_store(path: str | os.PathLike[str]) -> Path:
    """Where a trace is while it is captured: `traces.partial.zarr` for `traces.nc`."""
    path = Path(path)
    return path.with_name(f"{path.stem}.partial.zarr")


def check_free(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """A path that a trace can be written to, or that one is being written to already.

    An output that exists beside an unfinished capture of it was given up when that was begun.

    Raises
    ------
    ValueError
        If it has another ending.
    OSError
        If it exists, or cannot be written.
    """
    path = check_suffix(Path(path))
    return check_output(path, overwrite or partial_store(path).exists())


def blank(
    n_layers: int,
    num_experts: int | Sequence[int],
    top_k: int | Sequence[int],
    n_positions: int,
    variables: Collection[str],
    logit_dtype: str,
) -> Recording:
    """A sequence of tokens that were sent nowhere, with the given variables."""
    unknown = set(variables) - set(OPTIONAL)
    if unknown:
        raise ValueError(f"variables: expected some of {', '.join(OPTIONAL)}, got {min(unknown)!r}")
    if logit_dtype not in ("float16", "float32"):
        raise ValueError(f"logit_dtype: expected float16 or float32, got {logit_dtype!r}")
    for name, least in (("n_positions", n_positions), ("top_k", np.min(top_k))):
        if least < 1:
            raise ValueError(f"{name}: expected at least 1, got {least}")
    index = np.full((n_positions, n_layers, np.max(top_k)), -1, np.int16)
    logit = np.full((*index.shape[:2], np.max(num_experts)), np.nan, logit_dtype)
    values: dict[str, Any] = {
        "gate_weight": np.full(index.shape, np.nan, np.float32),
        "router_logit": logit,
        "token_id": np.full(n_positions, -1, np.int32),
        # One that is 0 is not stored.
        "start_position": 1,
    }
    return Recording(index, **{name: values[name] for name in variables})


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Raise where NetCDF could not hold a value: that would be seen only at the end."""
    for name, value in attributes.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError(
                f"attribute {name}: expected text or a number, got {type(value).__name__}"
            )


def rows_of_a_chunk(one: xr.Dataset) -> int:
    """Sequences that make a chunk, of a trace of one of full length."""
    size = sum(v.nbytes for v in one.data_vars.values() if "sequence" in v.dims)
    return max(1, min(_CHUNK_TOKENS // one.sizes["position"], _CHUNK_BYTES // size))


def belonging(output: str, identity: Mapping[str, Any] | None) -> str:
    """The name of the output and what decides its content, as JSON."""
    return json.dumps({"output": output, "identity": identity or {}}, sort_keys=True)


def check_belonging(store: GrowingStore, asked: str) -> None:
    """Raise a ValueError where a store belongs to another output or another capture.

    Parameters
    ----------
    store : GrowingStore
    asked : str
        As `belonging` gives it.
    """
    kept, given = (
        {**entry["identity"], "output": entry["output"]}
        for entry in map(json.loads, (store.attributes[UNFINISHED], asked))
    )
    for name in sorted(kept.keys() | given.keys()):
        one, other = (entry.get(name, "nothing") for entry in (kept, given))
        if one != other:
            raise ValueError(
                f"{store.folder}: {plain(name)}: expected {plain(one)}, with which this capture "
                f"was begun, got {plain(other)}; repeat it, say --overwrite to begin anew, or "
                "name another output"
            )
