"""What a probe reads of each token: the router's input, its logits, or the choice alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.hidden_states import hidden_folder, hidden_offsets, open_hidden
from isingmoe.probe_tokens import Tokens
from isingmoe.traces import check_ids, trace_name

__all__ = ["INPUTS", "Inputs"]

INPUTS = ("hidden_state", "router_logit", "expert_index")

Array = NDArray[np.float32]


class Inputs:
    """The inputs of some traces, read layer by layer.

    Parameters
    ----------
    traces : Dataset
    hidden : path, optional
        The folder of the hidden states; beside the file of the traces by default.
    names : sequence of str, optional
        Those that are wanted; by default those that are there.

    Attributes
    ----------
    names : tuple of str
    source : str
        The file of the traces, to name it in a message.
    folder : Path or None
        Of the hidden states, where they are read.

    Raises
    ------
    FileNotFoundError, ValueError
        If one is not there, or the hidden states do not go with the traces.
    """

    def __init__(
        self,
        traces: xr.Dataset,
        hidden: str | os.PathLike[str] | None,
        names: Sequence[str] | None,
    ) -> None:
        self._traces = traces
        self.source = trace_name(traces)
        unknown = [name for name in names or () if name not in INPUTS]
        if unknown or (names is not None and len(set(names)) != max(len(names), 1)):
            listed = ", ".join(map(str, names or ())) or "none"
            raise ValueError(
                f"inputs: expected different ones of {', '.join(INPUTS)}, got {listed}"
            )
        self._folder = self._found(hidden, names)
        there = {
            "hidden_state": self._folder is not None,
            "router_logit": "router_logit" in traces,
            "expert_index": True,
        }
        if names is not None and "router_logit" in names and not there["router_logit"]:
            raise ValueError(
                f"{self.source}: router_logit: expected router logits, got none; capture with "
                "--router-logits, or open_traces(path, logits=True)"
            )
        self.names = tuple(name for name in INPUTS if there[name] and name in (names or INPUTS))
        self.folder = self._folder if "hidden_state" in self.names else None
        if self.folder is not None:
            self._offset = self._checked_offsets()

    def _found(
        self, hidden: str | os.PathLike[str] | None, names: Sequence[str] | None
    ) -> Path | None:
        """The folder of the hidden states, if it is there or must be."""
        if hidden is not None:
            return Path(hidden)
        source = self._traces.encoding.get("source")
        wanted = names is not None and "hidden_state" in names
        if source is None:
            if wanted:
                raise ValueError(
                    "hidden: expected a folder of hidden states, got none; name it, as the traces "
                    "are of no file"
                )
            return None
        folder = hidden_folder(Path(source))
        if not folder.is_dir():
            if wanted:
                raise FileNotFoundError(
                    f"{folder}: no hidden states are there; capture with --hidden-states, or name "
                    "their folder with --hidden"
                )
            return None
        return folder

    def _checked_offsets(self) -> NDArray[np.int64]:
        offset = hidden_offsets(str(self._folder))
        length = self._traces["length"].values
        if len(offset) != len(length) + 1:
            raise ValueError(
                f"{self._folder}: expected hidden states of {len(length)} sequences, as "
                f"{self.source} has, got {len(offset) - 1}; name the folder that goes with it"
            )
        differ = np.flatnonzero(np.diff(offset) != length)
        if differ.size:
            s = int(differ[0])
            raise ValueError(
                f"{self._folder}: expected {length[s]} tokens in sequence {s}, as {self.source} "
                f"has, got {offset[s + 1] - offset[s]}; name the folder that goes with it"
            )
        return offset

    def layer(self, place: int) -> int:
        """The model's own number of a layer by its place."""
        return int(self._traces["layer"].values[place])

    def served(self, place: int, tokens: Tokens) -> NDArray[np.bool_]:
        """Whether each token was sent anywhere in a layer by its place, (token,)."""
        index = self._traces["expert_index"].values[place]
        return (index[tokens.sequence, tokens.place] >= 0).any(-1)

    def features(self, name: str, place: int, tokens: Tokens) -> Array:
        """What an input says of tokens in a layer by its place.

        Returns
        -------
        float32 ndarray (token, feature)

        Raises
        ------
        FileNotFoundError, ValueError
            If the layer is not there, or a value is not finite.
        """
        layer = self.layer(place)
        if name == "expert_index":
            return self._occupancy(place, tokens)
        if name == "hidden_state":
            where = f"{self._folder}: layer {layer}"
            states = open_hidden(str(self._folder), layer)
            values = states[self._offset[tokens.sequence] + tokens.place]
        else:
            where = f"{self.source}: router_logit: layer {layer}"
            logits = self._traces["router_logit"].isel(layer=place).values
            values = logits[tokens.sequence, tokens.place]
        values = np.asarray(values, np.float32)
        bad = ~np.isfinite(values).all(-1)
        if bad.any():
            first = int(bad.argmax())
            raise ValueError(
                f"{where}: expected finite values, got others in {int(bad.sum())} tokens, first at "
                f"sequence {tokens.sequence[first]}, position {tokens.place[first]}; capture again"
            )
        return values

    def _occupancy(self, place: int, tokens: Tokens) -> Array:
        index = self._traces["expert_index"].values[place][tokens.sequence, tokens.place]
        n_experts = int(self._traces.attrs["num_experts"])
        check_ids(self._traces, place, index)
        on = np.zeros((len(index), n_experts + 1), np.float32)
        # The column past the last expert takes the missing ranks.
        rows: Any = np.arange(len(index))[:, None]
        on[rows, np.where(index < 0, n_experts, index)] = 1
        return on[:, :n_experts]
