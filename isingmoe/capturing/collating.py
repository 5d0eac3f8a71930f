"""Calls of expert modules, put together as one recording for each sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isingmoe._kernels.ranking import TOO_LARGE, rank_experts
from isingmoe.capturing.offloading import Offload, offload
from isingmoe.capturing.recording import Call
from isingmoe.capturing.sites import Site
from isingmoe.recorded import Recording

__all__ = ["Collated", "Layout", "Stack", "collate", "stacks_of"]

_UNCOMPILED = (
    "hooks of a model that was compiled are not called: capture it before torch.compile, or its "
    "_orig_mod"
)


@dataclass(frozen=True)
class Layout:
    """Which rows of the calls are tokens to record.

    Attributes
    ----------
    n_columns : int
        Positions that were fed to the modules for each sequence, pads included.
    columns : list of slice
        Of each sequence, those to record.
    token_id : list of int32 ndarray (token,)
        The tokens in them.
    start_position : list of int
        Place of the first of them among the tokens that were read.
    """

    n_columns: int
    columns: list[slice]
    token_id: list[NDArray[np.int32]]
    start_position: list[int]


@dataclass(frozen=True)
class Stack:
    """Layers that make one trace, and what their modules show.

    Attributes
    ----------
    name : str
    sites : tuple of Site
        In rising order of their layers.
    n_ranks : tuple of int
        Of each site, ids that a call gives for a token.
    weighted : bool
        Whether every site shows the weights of its experts.
    logit_dtype : str
        float16 where it holds all that the routers give, else float32.
    n_features : tuple of int
        Of each site, size of its hidden states; empty where they were not asked for.
    hidden_dtype : str
        float16 where they are that, else float32.
    """

    name: str
    sites: tuple[Site, ...]
    n_ranks: tuple[int, ...]
    weighted: bool
    logit_dtype: str
    n_features: tuple[int, ...]
    hidden_dtype: str = "float32"

    @property
    def layers(self) -> list[int]:
        """The model's own numbers."""
        return [site.layer for site in self.sites]

    @property
    def num_experts(self) -> list[int]:
        """Experts of each layer."""
        return [site.num_experts for site in self.sites]


def stacks_of(calls: Sequence[Call], sites: Sequence[Site]) -> list[Stack]:
    """The stacks that recorded something, from the calls of any one forward pass.

    Raises
    ------
    ValueError
        If some layers of a stack recorded and others did not.
    """
    first: dict[str, Call] = {}
    for call in calls:
        first.setdefault(call.site.label, call)
    stacks = []
    for name in dict.fromkeys(call.site.stack for call in first.values()):
        members = sorted((s for s in sites if s.stack == name), key=lambda site: site.layer)
        silent = [site.label for site in members if site.label not in first]
        if silent:
            raise ValueError(
                f"{silent[0]}: expected a call of every layer's experts, got none of "
                f"{len(silent)} of {len(members)}; {_UNCOMPILED}"
            )
        seen = [first[site.label] for site in members]
        wide = any(
            call.router_logit is not None and call.router_logit.dtype.itemsize > 2 for call in seen
        )
        halves = [call.hidden.dtype == torch.float16 for call in seen if call.hidden is not None]
        stacks.append(
            Stack(
                name,
                tuple(members),
                tuple(call.expert_index.shape[-1] for call in seen),
                all(call.gate_weight is not None for call in seen),
                "float32" if wide else "float16",
                tuple(c.hidden.shape[-1] for c in seen if c.hidden is not None),
                "float16" if halves and all(halves) else "float32",
            )
        )
    return stacks


class Collated:
    """The recordings of a batch, on their way to the host; made by `collate`."""

    def __init__(
        self,
        stack: Stack,
        layout: Layout,
        parts: Mapping[str, Offload],
        keep_weights: bool,
    ) -> None:
        self._stack, self._layout, self._parts = stack, layout, parts
        self._keep_weights = keep_weights

    def recordings(self) -> tuple[list[Recording], list[list[NDArray[np.floating]]]]:
        """Wait for the records.

        Returns
        -------
        recordings : list of Recording
            In the order of the batch.
        hidden : list of list of ndarray (token, feature)
            For each sequence, for each layer; empty lists where hidden states were not kept.

        Raises
        ------
        ValueError
            If a weight is not a finite number, or an id is none of an expert.
        """
        host = {
            name: [tensor.numpy() for tensor in part.wait()] for name, part in self._parts.items()
        }
        index, weight = self._ranked(host["index"], host.get("weight"))
        logit = None
        if "logit" in host:
            logit = _joined(host["logit"], max(self._stack.num_experts), np.nan)
        recordings, hidden = [], []
        layout = self._layout
        for row, columns in enumerate(layout.columns):
            recordings.append(
                Recording(
                    index[row, columns],
                    weight[row, columns] if weight is not None and self._keep_weights else None,
                    None if logit is None else logit[row, columns],
                    layout.token_id[row],
                    layout.start_position[row],
                )
            )
            hidden.append([states[row, columns] for states in host.get("hidden", [])])
        return recordings, hidden

    def _ranked(
        self, index: list[NDArray[np.int16]], weight: list[NDArray[np.float32]] | None
    ) -> tuple[NDArray[np.int16], NDArray[np.float32] | None]:
        """Ids and weights (sequence, position, layer, rank), each expert of a token once."""
        n_ranks = max(self._stack.n_ranks)
        ids = _joined(index, n_ranks, -1)
        weights = (
            np.empty((0, 0, 0, 0), np.float32)
            if weight is None
            else _joined(weight, n_ranks, np.nan)
        )
        columns = self._layout.columns
        faults = rank_experts(
            ids,
            weights,
            np.array([c.start for c in columns]),
            np.array([c.stop for c in columns]),
            np.array(self._stack.num_experts),
        )
        for fault, (row, position, place, _) in enumerate(faults.tolist()):
            if row < 0:
                continue
            site = self._stack.sites[place]
            if fault == TOO_LARGE:
                raise ValueError(
                    f"{site.label}: expected ids below {site.num_experts}, its number of experts, "
                    f"got {ids[row, position, place].max()}; register an adapter for "
                    f"{type(site.module).__name__} with capture_adapter"
                )
            used = ids[row, position, place] >= 0
            raise ValueError(
                f"{site.label}: expected finite weights, got "
                f"{weights[row, position, place][used].tolist()} at token "
                f"{position - columns[row].start} of a sequence; the model overflows, load it in "
                "bfloat16 or float32"
            )
        return ids, None if weight is None else weights


def collate(
    calls: Sequence[Call],
    stack: Stack,
    layout: Layout,
    *,
    weights: bool,
) -> Collated:
    """Take the calls of a stack together, and begin to copy them to the host.

    Parameters
    ----------
    calls : sequence of Call
        Of one batch: one for each site, or several that follow each other along the text.
    stack : Stack
    layout : Layout
    weights : bool
        Whether the recordings keep the weights; their order is put into the ranks in any case.

    Returns
    -------
    Collated

    Raises
    ------
    ValueError
        If a site was called with other rows than the tokens that were fed.
    """
    of_site: dict[str, list[Call]] = {site.label: [] for site in stack.sites}
    for call in calls:
        if call.site.stack == stack.name:
            of_site[call.site.label].append(call)
    rows = _Rows(len(layout.columns), layout.n_columns)
    index, weight, logit, hidden = [], [], [], []
    for label, made in of_site.items():
        ids = rows.joined(label, made, lambda call: call.expert_index)
        if stack.weighted:
            gate = rows.joined(label, made, lambda call: call.gate_weight)
            weight.append(gate.float())
        index.append(ids.to(torch.int16))
        if made[0].router_logit is not None:
            found = rows.joined(label, made, lambda call: call.router_logit)
            logit.append(found.to(getattr(torch, stack.logit_dtype)))
        if made[0].hidden is not None:
            states = rows.joined(label, made, lambda call: call.hidden)
            hidden.append(states if states.dtype == torch.float16 else states.float())
    parts = {"index": index, "weight": weight, "logit": logit, "hidden": hidden}
    copied = {name: offload(tensors) for name, tensors in parts.items() if tensors}
    return Collated(stack, layout, copied, weights)


@dataclass(frozen=True)
class _Rows:
    """Rows of calls as (sequence, position)."""

    n_sequences: int
    n_columns: int

    def joined(
        self, label: str, calls: Sequence[Call], part: Callable[[Call], Tensor | None]
    ) -> Tensor:
        """A part of all calls of a site, one after another along the text."""
        tensors = [value for call in calls if (value := part(call)) is not None]
        n_rows = sum(map(len, tensors))
        expected = self.n_sequences * self.n_columns
        if n_rows != expected or any(len(tensor) % self.n_sequences for tensor in tensors):
            raise ValueError(
                f"{label}: expected {expected} rows, {self.n_columns} of each of "
                f"{self.n_sequences} sequences, got {n_rows} in {len(tensors)} calls; "
                + (
                    "the model reads its tokens in another way, record it with hooks of your own"
                    if n_rows
                    else _UNCOMPILED
                )
            )
        columns = [tensor.view(self.n_sequences, -1, tensor.shape[-1]) for tensor in tensors]
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)


def _joined(parts: list[NDArray], size: int, nothing: float) -> NDArray:
    """Arrays (sequence, position, x) of layers as one (sequence, position, layer, size)."""
    whole = np.full((*parts[0].shape[:2], len(parts), size), nothing, parts[0].dtype)
    for place, part in enumerate(parts):
        whole[:, :, place, : part.shape[-1]] = part
    return whole
