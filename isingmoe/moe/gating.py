"""How a model makes weights of its router logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from isingmoe._schema import trace_name, validate_structure

__all__ = ["GateLaw", "mean_gate_weight"]

# Relative to the largest weight; in the dtypes of half the size, roundings are as large.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
_ROUGH = 2e-2


@dataclass(frozen=True)
class GateLaw:
    """Weights of chosen experts out of the logits of all.

    Attributes
    ----------
    kind : {"softmax", "sigmoid"}
        Of a score.
    is_normalised : bool
        Whether the scores of the chosen experts are divided by their sum.
    scale : float
        What they are multiplied with at last.
    """

    kind: Literal["softmax", "sigmoid"]
    is_normalised: bool
    scale: float

    @staticmethod
    def found(logit: Tensor, index: Tensor, weight: Tensor, label: str) -> GateLaw:
        """The law that gives what the model gave.

        Parameters
        ----------
        logit : Tensor (row, expert)
        index, weight : Tensor (row, rank)
        label : str
            Of the place, for an error.

        Raises
        ------
        ValueError
            If there is none, or these tokens do not tell which.
        """
        expected = weight.reshape(index.shape).double()
        fits: list[tuple[float, float, GateLaw]] = []
        for kind in ("softmax", "sigmoid"):
            for is_normalised in (False, True):
                plain = GateLaw(kind, is_normalised, 1.0).weight(logit.double(), index)
                scale = float(expected.sum() / plain.sum())
                scale = 1.0 if abs(scale - 1) < 1e-4 else scale
                error = float((scale * plain - expected).abs().max() / expected.abs().max())
                fits.append((error, abs(scale - 1), GateLaw(kind, is_normalised, scale)))
        tolerance = _TOLERANCE.get(weight.dtype, _ROUGH)
        fitting = [fit for fit in fits if fit[0] < tolerance]
        if not fitting:
            raise ValueError(
                f"{label}: expected weights that are softmax or sigmoid scores of the router "
                "logits, got others; give numbers for weights"
            )
        unscaled = [fit for fit in fitting if fit[1] <= 1e-3]
        if not unscaled and len(fitting) > 1:
            # Any scale fits a single token.
            raise ValueError(
                f"{label}: expected tokens that tell whether weights are normalised before they "
                f"are scaled, got {len(index)}; call the model with a text of several tokens first"
            )
        # Where all logits are equal, several fit: the plainest is meant.
        return min(unscaled or fitting, key=lambda fit: fit[0])[2]

    def score(self, logit: Tensor) -> Tensor:
        """Scores (.., expert), in float32 or float64."""
        logit = logit.to(torch.promote_types(logit.dtype, torch.float32))
        return logit.softmax(-1) if self.kind == "softmax" else logit.sigmoid()

    def weight(self, logit: Tensor, index: Tensor) -> Tensor:
        """Weights (row, rank) of the experts `index`."""
        chosen = self.score(logit).gather(-1, index)
        if self.is_normalised:
            chosen = chosen / chosen.sum(-1, keepdim=True).clamp(min=torch.finfo(chosen.dtype).tiny)
        return self.scale * chosen


def mean_gate_weight(traces: xr.Dataset) -> xr.DataArray:
    """Mean weight of each expert when it is chosen.

    Parameters
    ----------
    traces : Dataset
        With `gate_weight`.

    Returns
    -------
    DataArray (layer, expert)
        An expert that is never chosen has the mean of its layer.

    Raises
    ------
    ValueError
        If there are no weights.
    """
    validate_structure(traces)
    if "gate_weight" not in traces:
        raise ValueError(
            f"{trace_name(traces)}: gate_weight: expected weights, got none; capture them"
        )
    n_experts = int(traces.attrs["num_experts"])
    rows = []
    for place in range(traces.sizes["layer"]):
        index = traces["expert_index"].values[place].reshape(-1)
        weight = traces["gate_weight"].values[place].reshape(-1)
        index, weight = index[index >= 0], weight[index >= 0].astype(float)
        total = np.bincount(index, weight, n_experts)
        n = np.bincount(index, minlength=n_experts)
        rows.append(np.where(n > 0, total / np.maximum(n, 1), weight.mean()))
    return xr.DataArray(
        np.stack(rows),
        dims=("layer", "expert"),
        coords={"layer": traces["layer"].values},
        name="mean_gate_weight",
        attrs={"long_name": "mean weight of an expert that is chosen", "units": "1"},
    )
