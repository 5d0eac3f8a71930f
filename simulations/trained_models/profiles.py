"""Where a model attends: the mean attention weight at each distance."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from transformers import PreTrainedModel

__all__ = ["attention_profile"]


@torch.no_grad()
def attention_profile(
    model: PreTrainedModel, windows: np.ndarray, max_lag: int, batch_size: int = 8
) -> xr.DataArray:
    """Mean attention weight that a token gives to the one `lag` before it, in each layer.

    Parameters
    ----------
    model : PreTrainedModel
    windows : int ndarray (window, position)
    max_lag : int
        Largest distance. Only tokens with as many before them are counted, so that every
        distance is one that all of them could attend to.
    batch_size : int

    Returns
    -------
    DataArray (layer, lag)
        Over heads, windows and tokens; what is missing from a sum of 1 lies further back.
    """
    before = model.config._attn_implementation
    # The only one of transformers' that gives its weights.
    model.set_attn_implementation("eager")
    parts = []
    for start in range(0, len(windows), batch_size):
        batch = torch.from_numpy(windows[start : start + batch_size].astype(np.int64))
        given = model(input_ids=batch.to(model.device), output_attentions=True).attentions
        of_layers = [_by_lag(weights, max_lag).mean((1, 2)) for weights in given]
        parts.append(torch.stack(of_layers, 1).cpu().numpy())
    model.set_attn_implementation(before)
    return xr.DataArray(
        np.concatenate(parts).mean(0, dtype=float),
        dims=("layer", "lag"),
        coords={"layer": np.arange(len(given)), "lag": np.arange(max_lag + 1)},
        attrs={"long_name": "mean attention weight at a distance", "units": "1"},
    )


def _by_lag(weights: torch.Tensor, max_lag: int) -> torch.Tensor:
    """Weights (window, head, query, lag) of those (window, head, query, key)."""
    query = torch.arange(max_lag, weights.shape[-1], device=weights.device)
    lag = torch.arange(max_lag + 1, device=weights.device)
    return weights[:, :, query[:, None], query[:, None] - lag]
