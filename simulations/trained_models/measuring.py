"""What is measured on every model: perplexity, load, couplings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn.functional import cross_entropy

import isingmoe as im

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trained_models.recipes import Recipe

__all__ = [
    "EVERYTHING",
    "capture",
    "couplings",
    "follow",
    "is_silent",
    "measure",
    "quietly_fitted",
    "routing",
    "scores",
]


# What a capture into a file records.
EVERYTHING = ("gate_weight", "router_logit", "hidden_state")


def is_silent() -> bool:
    """Whether nobody looks at a progress bar."""
    return not sys.stderr.isatty()


@torch.no_grad()
def scores(
    model: nn.Module,
    windows: np.ndarray,
    batch_size: int = 16,
    *,
    targets: np.ndarray | None = None,
) -> np.ndarray:
    """Cross-entropy in nats of each window, (window,), its first token given.

    With targets (window, position), of those, all of the window given.
    """
    device, parts = next(model.parameters()).device, []
    for start in range(0, len(windows), batch_size):
        rows = slice(start, start + batch_size)
        token_id = torch.from_numpy(windows[rows].astype(np.int64)).to(device)
        if targets is None:
            logits, written = model(input_ids=token_id).logits[:, :-1], token_id[:, 1:]
        else:
            written = torch.from_numpy(targets[rows].astype(np.int64)).to(device).contiguous()
            logits = model(input_ids=token_id, labels=written).logits
        loss = cross_entropy(logits.transpose(1, 2).float(), written, reduction="none")
        parts.append(loss.mean(1).cpu().numpy())
    return np.concatenate(parts)


def capture(
    model: nn.Module,
    windows: np.ndarray,
    output: Path | None = None,
    *,
    targets: np.ndarray | None = None,
    record: Collection[str] | None = None,
) -> Any:
    """Traces of windows (window, position), of what the experts received.

    A Dataset, and a dict of one for each stack where the model has several. Beside the experts
    they have their weights, and everything where they are written; or what `record` says.
    """
    return im.capture(
        model,
        windows,
        targets=targets,
        max_tokens=windows.shape[1],
        output=output,
        overwrite=True,
        record=record or (("gate_weight",) if output is None else EVERYTHING),
        progress=False,
    )


def couplings(traces: xr.Dataset, reach: int = 1, coupling: str = "full") -> im.Fit:
    """Kinetic chains, with a random field for each text, so that topics are no couplings."""
    return quietly_fitted(traces, field="expert+sequence", reach=reach, coupling=coupling)


def quietly_fitted(traces: xr.Dataset, **settings: Any) -> im.Fit:
    """Kinetic chains without errors, which the seeds give.

    That experts are never chosen, or that texts are few, is what some models are like.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", im.DegenerateTraceWarning)
        warnings.simplefilter("ignore", im.ShortTraceWarning)
        return im.fit(traces, chain="kinetic", uncertainty="none", **settings)


def follow(recipe: Recipe, model: PreTrainedModel, windows: np.ndarray) -> xr.Dataset:
    """Cross-entropy, and load and coupling of each layer, on a few windows."""
    loss = recipe.scores(model, windows)
    return _of_stacks(recipe.traces(model, windows)).assign(
        loss=((), loss.mean(), {"long_name": "held-out cross-entropy", "units": "nat per token"})
    )


def measure(recipe: Recipe, model: PreTrainedModel, windows: np.ndarray) -> xr.Dataset:
    """The same on all windows, with the loss of each."""
    loss = recipe.scores(model, windows)
    return _of_stacks(recipe.traces(model, windows)).assign(
        loss=("window", loss, {"long_name": "held-out cross-entropy", "units": "nat per token"})
    )


def _of_stacks(traces: xr.Dataset | dict[str, xr.Dataset]) -> xr.Dataset:
    """Of each layer, and of each stack where there are several."""
    if isinstance(traces, xr.Dataset):
        return routing(traces)
    stacks = [routing(one).expand_dims(stack=[name]) for name, one in traces.items()]
    return xr.concat(stacks, "stack", join="outer")


def routing(traces: xr.Dataset) -> xr.Dataset:
    """Load and coupling of each layer."""
    load = im.load_balance(traces)["load"]
    n_experts = int(traces.attrs["num_experts"])
    entropy = -(load * np.log(load.where(load > 0, 1))).sum("expert") / np.log(n_experts)
    # Where all tokens that have one before them have the same set, there is nothing to couple.
    sets = np.sort(traces["expert_index"].values, -1)
    served = (sets >= 0).all(-1)
    pairs = served[..., :-1] & served[..., 1:]
    later = [one[:, 1:][both] for one, both in zip(sets, pairs, strict=True)]
    varies = [bool((one != one[:1]).any()) for one in later]
    nothing = xr.DataArray(np.full(len(varies), np.nan), {"layer": traces["layer"].values})
    itself = gain = nothing
    if any(varies):
        part = traces.isel(layer=np.flatnonzero(varies))
        fit, bare = couplings(part).data, couplings(part, coupling="none").data
        itself = fit["self_coupling"].reindex_like(nothing)
        gain = (bare["bits_per_token"] - fit["bits_per_token"]).reindex_like(nothing)
    overlap = im.neighbour_overlap(traces, n_shuffles=2).isel(distance=0, drop=True)
    return xr.Dataset(
        {
            "load_entropy": entropy.assign_attrs(
                long_name="entropy of the load over that of equal load", units="1"
            ),
            "largest_load": (load.max("expert") * n_experts).assign_attrs(
                long_name="load of the busiest expert over equal load", units="1"
            ),
            "n_unused": (load < 0.01 / n_experts)
            .sum("expert")
            .assign_attrs(long_name="experts with less than a hundredth of equal load", units="1"),
            "self_coupling": itself,
            "gain_bits": gain.assign_attrs(
                long_name="what couplings know beyond the load of each text", units="bit per token"
            ),
            "overlap": overlap["overlap"],
            "overlap_shuffled": overlap["overlap_shuffled"],
        },
        {"layer": traces["layer"]},
    )
