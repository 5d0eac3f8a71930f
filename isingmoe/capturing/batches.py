"""Sequences in batches of a bounded size, and their pads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["SORTED_BATCHES", "Padded", "accepts", "batching", "pad", "plan_batches"]

# Sequences of so many batches are sorted by length at a time: few pads, and little waits to
# be written in the order of the texts.
SORTED_BATCHES = 8
# Their experts look at all rows of a batch together.
_ALONE = ("doge",)
# Blocks of their attention begin at the first column, pad or not.
_FROM_THE_LEFT = ("deepseek_v4", "minimax_m3_vl", "minimax_m3_vl_text")


@dataclass(frozen=True)
class Padded:
    """Token ids of several sequences as one rectangle.

    Attributes
    ----------
    token_id : int64 Tensor (sequence, position)
    mask : int64 Tensor (sequence, position) or None
        1 at tokens, 0 at pads; None where there are no pads.
    start : list of int
        Column of the first token of each sequence.
    """

    token_id: Tensor
    mask: Tensor | None
    start: list[int]

    def on(self, device: torch.device, *, masked: bool = False) -> dict[str, Tensor]:
        """Arguments of a model on a device, with a mask where there are pads, or always."""
        mask = torch.ones_like(self.token_id) if masked and self.mask is None else self.mask
        given = {"input_ids": self.token_id, "attention_mask": mask}
        return {name: value.to(device) for name, value in given.items() if value is not None}


def accepts(model: nn.Module, name: str) -> bool:
    """Whether the forward pass of a model has a parameter of a name."""
    # The class's, as libraries wrap the instance's.
    return name in inspect.signature(type(model).forward).parameters


def batching(model: nn.Module, batch_tokens: int, *, writes: bool, paired: bool) -> dict[str, Any]:
    """How the sequences of a model may be together, as arguments of `plan_batches`.

    Parameters
    ----------
    model : Module
    batch_tokens : int
        Tokens of a batch at most.
    writes : bool
        Whether it goes on from them.
    paired : bool
        Whether its decoder reads targets, whose lengths are others.

    Returns
    -------
    dict
        `batch_tokens` and `equal`.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", "")
    # Pads take places of experts with a capacity, and are tokens where there is no mask.
    has_capacity = bool(getattr(config, "expert_capacity", None))
    equal = has_capacity or not accepts(model, "attention_mask")
    equal = equal or (writes and kind in _FROM_THE_LEFT)
    alone = kind in _ALONE or (equal and paired)
    return {"batch_tokens": 1 if alone else batch_tokens, "equal": equal}


def plan_batches(
    length: NDArray[np.int64],
    batch_tokens: int,
    *,
    equal: bool = False,
    n_sorted: int = SORTED_BATCHES,
) -> Iterator[NDArray[np.int64]]:
    """Put sequences in batches; the same ones for the same lengths.

    Parameters
    ----------
    length : int ndarray (sequence,)
    batch_tokens : int
        Tokens of a batch at most, pads included; a longer sequence is a batch of its own.
    equal : bool
        Whether only sequences of equal length may be together, so that there are no pads.
    n_sorted : int
        Sequences of so many batches are sorted at a time; their records wait for each other.

    Yields
    ------
    int64 ndarray
        Numbers of the sequences of a batch. Batches that together hold the sequences between
        two numbers follow each other.
    """
    total = np.append(0, np.cumsum(length))
    begin = 0
    while begin < len(length):
        limit = total[begin] + n_sorted * batch_tokens
        end = max(int(np.searchsorted(total, limit, "right")) - 1, begin + 1)
        order = begin + np.argsort(-length[begin:end], kind="stable")
        first = 0
        for place in range(1, len(order) + 1):
            # The first of a batch is its longest.
            longest = length[order[first]]
            full = (place - first + 1) * longest > batch_tokens
            if place == len(order) or full or (equal and length[order[place]] != longest):
                yield order[first:place]
                first = place
        begin = end


def pad(sequences: Sequence[NDArray[np.int32]], pad_id: int, *, left: bool = False) -> Padded:
    """Fill up sequences to the length of the longest.

    Parameters
    ----------
    sequences : sequence of int ndarray (token,)
    pad_id : int
    left : bool
        Whether pads come before the tokens, so that all sequences end together.
    """
    longest = max(map(len, sequences))
    token_id = np.full((len(sequences), longest), pad_id, np.int64)
    mask = np.zeros_like(token_id)
    start = []
    for row, ids in enumerate(sequences):
        begin = longest - len(ids) if left else 0
        token_id[row, begin : begin + len(ids)] = ids
        mask[row, begin : begin + len(ids)] = 1
        start.append(begin)
    whole = bool(mask.all())
    return Padded(torch.from_numpy(token_id), None if whole else torch.from_numpy(mask), start)
