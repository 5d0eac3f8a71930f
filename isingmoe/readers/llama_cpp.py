"""The CSV of llama.cpp's moe-trace: `layer,expert`, a line for each routed activation."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.readers.activations import Activations, is_header, read_activations
from isingmoe.readers.batches import Batches, find_batches
from isingmoe.readers.cutting import check_cut, tokens_to_a_sequence
from isingmoe.readers.lines import files_of
from isingmoe.readers.options import needed, order_of_ranks
from isingmoe.readers.top_k import check_strides, find_top_k
from isingmoe.recorded import Recording, assemble

__all__ = ["CANNOT_KNOW", "DESCRIPTION", "NAME", "looks_like", "read"]

NAME = "llama.cpp"
DESCRIPTION = "CSV of llama.cpp's moe-trace"
CANNOT_KNOW = (
    "the number of experts; where sequences start; whether the ranks are in the order of the "
    "weights; which tokens of a batch the last layer was computed for, where not for all"
)


def looks_like(path: Path) -> bool:
    """Whether the first lines are of two whole numbers; of every CSV file of a folder."""
    if path.is_dir():
        files = [file for file in path.glob("*.csv") if file.is_file()]
        return bool(files) and all(map(looks_like, files))
    with path.open("rb") as stream:
        start = stream.read(4096)
    whole, _, _ = start.rpartition(b"\n")
    lines = whole.decode("utf-8-sig", "replace").split()
    if lines and is_header(lines[0]):
        return True
    pairs = [line.split(",") for line in lines]
    return bool(pairs) and all(
        len(pair) == 2 and all(entry.isascii() and entry.isdigit() for entry in pair)
        for pair in pairs
    )


def read(
    source: Path,
    *,
    num_experts: int | None = None,
    ranked: bool | None = None,
    top_k: int | None = None,
    single_sequence: bool | None = None,
    sequence_length: int | None = None,
    model: str = "unnamed",
) -> xr.Dataset:
    """Read the traces of a file, or of the CSV files of a folder in the order of their names.

    Parameters
    ----------
    source : Path
    num_experts : int
        Number of routed experts, E.
    ranked : bool
        Whether the ids of a token are in the order of their weights: they are in the order of
        the scores that select, which for some models have a bias that the weights have not.
    top_k : int, optional
        Experts per token, k; by default found by the lines, asked for where these do not tell.
    single_sequence : bool, optional
        All tokens of a file are of one sequence.
    sequence_length : int, optional
        Every so many tokens are one.
    model : str

    Returns
    -------
    Dataset
        Traces. Where the last layer was computed for some tokens of a batch only, no token of
        the batch has experts there (-1).

    Raises
    ------
    ValueError
        If an option is missing, the lines are not of whole batches, or the tracer has read the
        ids wrongly; with the line.

    Warns
    -----
    UserWarning
        Where the last layer lacks tokens.

    Notes
    -----
    A batch of tokens comes layer by layer: the experts of its first token in the first layer,
    of its second one there, and so on, then those of the next layer.
    """
    check_cut(single_sequence, sequence_length, source)
    lines = [read_activations(path) for path in files_of(source, [".csv"])]
    largest = max(int(found.expert.max()) for found in lines)
    experts: int = needed(
        num_experts,
        "num_experts",
        "the number of routed experts",
        source,
        f"its largest id is {largest}",
    )
    for found in lines:
        _check_experts(found, experts)
    files = [(found, find_batches(found)) for found in lines]
    top_k = find_top_k(files, experts, top_k, source)
    layers = files[0][1].layers
    order = order_of_ranks(ranked, top_k, source)
    recordings: list[Recording] = []
    for found, batches in files:
        check_strides(found, batches, experts, top_k)
        if not np.array_equal(layers, batches.layers):
            raise ValueError(
                f"{found.path}: layer: expected {layers.tolist()} as in {lines[0].path.name}, got "
                f"{batches.layers.tolist()}; import them one by one"
            )
        n_tokens = int(batches.size.sum()) // top_k
        size = tokens_to_a_sequence(n_tokens, single_sequence, sequence_length, found.path)
        index = _by_token(found, batches, top_k)
        recordings += [Recording(index[i : i + size]) for i in range(0, len(index), size)]
    return assemble(
        recordings,
        layers=layers.tolist(),
        num_experts=experts,
        ranked=order,
        model=model,
        attributes={},
        where=str(source),
        top_k=top_k,
    )


def _check_experts(found: Activations, num_experts: int) -> None:
    """Raise for the first id that is past the number of experts."""
    bad = found.expert >= num_experts
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{found.where(row)}: expert: expected 0 to {num_experts - 1}, got "
            f"{found.expert[row]}; correct num_experts or the ids"
        )


def _by_token(found: Activations, batches: Batches, top_k: int) -> NDArray[np.int16]:
    """The experts of each token of a file, (token, layer, rank)."""
    n_layers = len(batches.layers)
    tokens = batches.size // top_k
    whole = np.full((int(tokens.sum()), n_layers, top_k), -1, np.int16)
    # Batches of one form that follow one another, as those of decoding do, go together.
    form = np.stack([batches.size, batches.last_size])
    new = np.flatnonzero((np.diff(form) != 0).any(0)) + 1
    done = 0
    for group in np.split(np.arange(len(tokens)), new):
        first = group[0]
        size, last_size, n = batches.size[first], batches.last_size[first], tokens[first]
        before = size * (n_layers - 1) if n_layers > 1 else 0
        last = last_size if n_layers > 1 else size
        start = batches.first[first]
        rows = found.expert[start : start + len(group) * (before + last)]
        rows = rows.reshape(len(group), before + last)
        mine = whole[done : done + len(group) * n].reshape(len(group), n, n_layers, top_k)
        if n_layers > 1:
            layered = rows[:, :before].reshape(len(group), n_layers - 1, n, top_k)
            mine[:, :, :-1] = layered.swapaxes(1, 2)
        if last == size:
            mine[:, :, -1] = rows[:, before:].reshape(len(group), n, top_k)
        done += len(group) * int(n)
    _warn_left_out(found, batches, tokens)
    return whole


def _warn_left_out(found: Activations, batches: Batches, tokens: NDArray[np.int64]) -> None:
    """Say where the last layer was computed for fewer tokens than the others."""
    few = (batches.last_size < batches.size) & (len(batches.layers) > 1)
    if few.any():
        warnings.warn(
            f"{found.path}: layer {batches.layers[-1]}: left out for some of "
            f"{int(tokens[few].sum())} tokens in {int(few.sum())} batches, the file does not say "
            "for which: none of them has experts there (-1); llama.cpp computes its last layer "
            "only where logits are asked for",
            UserWarning,
            stacklevel=2,
        )
