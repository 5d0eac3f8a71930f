"""What of the position in the window is in a model's routing, and in what its routers see."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from trained_models.corpus import Windows
from trained_models.measuring import capture
from trained_models.store import Job, Store

import isingmoe as im

__all__ = ["inside", "measured_of"]

# Of the repetitions of each control, and of the tokens that are probed.
_SHUFFLES, _TOKENS = 4, 20_000


def inside(windows: Windows) -> np.ndarray:
    """Windows (window, position) that do not begin a speech: there the words tell the position.

    All of them, where fewer than two are left.
    """
    is_inside = windows.offset > 0
    return windows.token_id[is_inside] if is_inside.sum() > 1 else windows.token_id


def measured_of(store: Store, job: Job) -> xr.Dataset:
    """Rates over position, probes, coupling and perplexity of one model."""
    windows = inside(store.text.held_out)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "traces.nc"
        capture(store.model(job), windows, path, record=("hidden_state",))
        traces = im.open_traces(path)
        rates = im.activation(traces)
        probed = im.probe(
            traces,
            inputs=("hidden_state", "expert_index"),
            block_length=store.size.context // 8,
            splits=("sequence",),
            n_folds=min(3, len(windows)),
            n_shuffles=_SHUFFLES,
            max_tokens=_TOKENS,
        ).data
        traces.close()
    known = store.measured(job)
    loss = known["loss"].mean("window")
    probed = probed.squeeze("split", drop=True).drop_vars("block_length")
    names = ["accuracy", "majority", "control_accuracy", "control_low", "control_high", "p_value"]
    shares = (rates["uniformity_q_value"] < 0.05).mean("expert")
    result = xr.Dataset(
        {
            "perplexity": np.exp(loss).assign_attrs(long_name="held-out perplexity", units="1"),
            "rate": rates["rate"],
            "drift_bits": rates["layer_drift_bits"],
            "drift_bits_null": rates["layer_drift_bits_null"],
            "drift_p_value": rates["layer_drift_p_value"],
            "drifting": shares.assign_attrs(
                long_name="share of experts whose rate drifts, false discovery rate 5 %", units="1"
            ),
            **{name: probed[name] for name in names},
            "self_coupling": known["self_coupling"],
        }
    )
    return result.drop_vars(["recipe", "seed"], errors="ignore")
