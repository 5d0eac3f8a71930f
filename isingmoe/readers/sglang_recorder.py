"""The dump of SGLang's expert distribution recorder in the mode `per_token`."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.archives import BROKEN, archive_names
from isingmoe.readers.lines import files_of
from isingmoe.readers.options import needed, order_of_ranks
from isingmoe.recorded import Recording, assemble, expert_ids

__all__ = ["has_dumps", "looks_like", "read"]

_MARK = b"topk_ids_of_layer"
# Numbers of forward modes: of prompts, of one token for each request, of both, of nothing.
_EXTEND, _DECODE, _MIXED, _IDLE = 1, 2, 3, 4


@dataclass(frozen=True)
class _Pass:
    """One forward pass: ids (token, layer, rank), and the tokens' ids and positions."""

    where: str
    ids: NDArray[np.int64]
    token_id: NDArray[np.int32]
    position: NDArray[np.int64]
    mode: int
    lengths: list[int]

    def prompts(self) -> list[Recording]:
        """Those of a pass, or parts of them.

        Where there are generated tokens too, what has one token cannot be told from these.
        """
        if self.mode not in (_EXTEND, _MIXED):
            return []
        least = 2 if self.mode == _MIXED else 1
        ends = np.cumsum(self.lengths)
        return [
            Recording(self.ids[a:b], None, None, self.token_id[a:b], int(self.position[a]))
            for a, b in zip(ends - self.lengths, ends, strict=True)
            if b - a >= least
        ]


def looks_like(path: Path) -> bool:
    """Whether a file, or the first of a folder, is one of torch's with the recorder's names."""
    if path.is_dir():
        files = sorted(path.glob("*.pt"))
        return bool(files) and looks_like(files[0])
    names = archive_names(path) if path.suffix == ".pt" else None
    pickles = [name for name in names or () if name.endswith("/data.pkl")]
    if not pickles:
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_MARK in archive.read(name) for name in pickles)
    except BROKEN:
        return False


def has_dumps(source: Path) -> bool:
    """Whether a file, or a folder's, are torch's by the ending of their names."""
    return source.suffix == ".pt" or (source.is_dir() and any(source.glob("*.pt")))


def read(
    source: Path,
    *,
    num_experts: int | None = None,
    ranked: bool | None = None,
    requests: str | None = None,
    model: str | None = None,
) -> xr.Dataset:
    """Read a dump, or a folder of those of several ranks; options as for SGLang's answers.

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError
        If an option is missing, or a dump is not as it should be.
    """
    if requests not in (None, "one", "many"):
        raise ValueError(f"{source}: requests: expected 'one' or 'many', got {requests!r}")
    where = str(source)
    of_ranks: list[list[_Pass]] = []
    for file in files_of(source, (".pt",)):
        passes, found = _passes(file)
        num_experts = num_experts or found
        if not any(_same(passes, others) for others in of_ranks):
            of_ranks.append(passes)
    n_experts = needed(num_experts, "num_experts", "the number of routed experts", where)
    recordings = [r for passes in of_ranks for r in _requests(passes, requests)]
    if not recordings:
        raise ValueError(f"{where}: expected tokens, got none; the trace would be empty")
    numbers, top_k = _filled(recordings, where)
    order = order_of_ranks(ranked, top_k, where)
    return assemble(
        (
            Recording(
                expert_ids(r.expert_index[:, numbers, :top_k], num_experts=n_experts, where=where),
                None,
                None,
                r.token_id,
                r.start_position,
            )
            for r in recordings
        ),
        layers=numbers,
        num_experts=n_experts,
        ranked=order,
        model=model or "unnamed",
        attributes={},
        where=where,
    )


def _passes(file: Path) -> tuple[list[_Pass], int | None]:
    """The forward passes of a dump, and the number of experts that its map of copies has."""
    content = _loaded(file)
    records = content.get("records") if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise ValueError(
            f"{file}: records: expected a list of forward passes, got none; record with "
            "--expert-distribution-recorder-mode per_token"
        )
    # Experts may have several copies; which copy served is not which expert.
    copies = content.get("last_physical_to_logical_map")
    copies = None if copies is None else np.asarray(copies)
    passes = [_pass(record, f"{file}: records[{i}]") for i, record in enumerate(records)]
    if copies is None:
        return passes, None
    return [_logical(one, copies) for one in passes], int(copies.max()) + 1


def _loaded(file: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{file}: files of torch need it; install it with `pip install 'isingmoe[capture]'`"
        ) from None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Whatever a file of another kind makes its unpickler raise.
        raise ValueError(
            f"{file}: expected a dump of SGLang's recorder ({plain(error, 100)}); dump it again"
        ) from None


def _pass(record: Any, where: str) -> _Pass:
    if not isinstance(record, dict) or "topk_ids_of_layer" not in record:
        raise ValueError(
            f"{where}: topk_ids_of_layer: missing; record with "
            "--expert-distribution-recorder-mode per_token"
        )
    try:
        ids = np.asarray(record["topk_ids_of_layer"]).astype(np.int64).swapaxes(0, 1)
        token_id = np.asarray(record["input_ids"], np.int32).reshape(-1)
        position = np.asarray(record["positions"], np.int64).reshape(-1)
        mode, lengths = int(record["forward_mode"]), record.get("extend_seq_lens")
        lengths = [] if lengths is None else [int(length) for length in lengths]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{where}: expected input_ids, positions, forward_mode, extend_seq_lens and "
            f"topk_ids_of_layer [layers, tokens, k] ({plain(repr(error), 60)})"
        ) from None
    n = len(ids)
    if ids.ndim != 3 or len(token_id) != n or len(position) != n:
        raise ValueError(
            f"{where}: expected as many ids, positions and rows of topk_ids_of_layer, got "
            f"{len(token_id)}, {len(position)} and shape {ids.shape}"
        )
    if mode not in (_EXTEND, _DECODE, _MIXED, _IDLE):
        raise ValueError(
            f"{where}: forward_mode: expected prompts or generated tokens (1 to 4), got {mode}; "
            "record without speculative decoding"
        )
    if mode in (_EXTEND, _MIXED) and sum(lengths) != n:
        raise ValueError(
            f"{where}: extend_seq_lens: expected a sum of {n}, the tokens of the pass, got "
            f"{sum(lengths)}"
        )
    return _Pass(where, ids, token_id, position, mode, lengths)


def _logical(one: _Pass, copies: NDArray[Any]) -> _Pass:
    """A pass with the experts in place of their copies."""
    n_layers, n_copies = copies.shape if copies.ndim == 2 else (-1, 0)
    if n_layers != one.ids.shape[1]:
        raise ValueError(
            f"{one.where}: last_physical_to_logical_map: expected {one.ids.shape[1]} layers, got "
            f"shape {copies.shape}"
        )
    if one.ids.size and not -1 <= one.ids.min() <= one.ids.max() < n_copies:
        bad = one.ids.max() if one.ids.max() >= n_copies else one.ids.min()
        raise ValueError(
            f"{one.where}: topk_ids_of_layer: expected ids of -1 to {n_copies - 1}, got {bad}"
        )
    layer = np.arange(n_layers)[:, None]
    ids = np.where(one.ids < 0, -1, copies[layer, np.maximum(one.ids, 0)])
    return _Pass(one.where, ids, one.token_id, one.position, one.mode, one.lengths)


def _same(passes: list[_Pass], others: list[_Pass]) -> bool:
    """Whether two ranks served the same tokens, as those that share each layer do."""
    return len(passes) == len(others) and all(
        np.array_equal(a.token_id, b.token_id)
        and np.array_equal(a.position, b.position)
        and np.array_equal(a.ids, b.ids)
        for a, b in zip(passes, others, strict=True)
    )


def _requests(passes: list[_Pass], requests: str | None) -> Iterable[Recording]:
    """The sequences of the passes of a rank."""
    passes = [one for one in passes if len(one.ids)]
    generated = next((one for one in passes if one.mode != _EXTEND), None)
    if generated is not None:
        needed(
            requests,
            "requests",
            "'one' (ran at a time: what is generated follows its prompt) or 'many' (prompts alone "
            "are read)",
            generated.where,
            "generated tokens are not marked with their request",
        )
    if requests == "one":
        return _one_by_one(passes)
    found = [prompt for one in passes for prompt in one.prompts()]
    _warn_left_out(passes, found)
    return found


def _warn_left_out(passes: list[_Pass], found: list[Recording]) -> None:
    """Say how many tokens are not in any prompt, and how many prompts do not begin there."""
    if not passes:
        return
    where = passes[0].where.rpartition(": ")[0]
    n_tokens = sum(len(one.ids) for one in passes)
    n_left = n_tokens - sum(len(prompt.expert_index) for prompt in found)
    if n_left:
        warnings.warn(
            f"{where}: {n_left} of {n_tokens} tokens are left out: generated ones, and parts of "
            "prompts that have one token",
            UserWarning,
            stacklevel=2,
        )
    n_later = sum(prompt.start_position > 0 for prompt in found)
    if n_later:
        warnings.warn(
            f"{where}: {n_later} of {len(found)} sequences begin after the first token of their "
            "prompt (start_position): the prompt was read in parts, or its beginning was in the "
            "cache; record with --chunked-prefill-size -1 and --disable-radix-cache to have it "
            "whole",
            UserWarning,
            stacklevel=2,
        )


def _one_by_one(passes: list[_Pass]) -> list[Recording]:
    """Requests that ran one after another, their passes joined."""
    joined: list[list[_Pass]] = []
    for one in passes:
        n_requests = len(one.lengths) if one.mode == _EXTEND else len(one.ids)
        if n_requests != 1:
            raise ValueError(
                f"{one.where}: requests: expected one at a time, got {n_requests}; say 'many'"
            )
        before = joined[-1][-1] if joined else None
        goes_on = before is not None and one.position[0] == before.position[-1] + 1
        if one.mode == _DECODE and not goes_on:
            raise ValueError(
                f"{one.where}: requests: expected a token that follows the one before, got "
                f"position {one.position[0]}; say 'many'"
            )
        # A prompt in several parts goes on; one after generated tokens is another.
        if goes_on and not (one.mode == _EXTEND and before is not None and before.mode == _DECODE):
            joined[-1].append(one)
        else:
            joined.append([one])
    return [
        Recording(
            np.concatenate([one.ids for one in parts]),
            None,
            None,
            np.concatenate([one.token_id for one in parts]),
            int(parts[0].position[0]),
        )
        for parts in joined
    ]


def _filled(recordings: list[Recording], where: str) -> tuple[list[int], int]:
    """Numbers of the layers that have an id, and how many ranks have one."""
    filled = np.any([(r.expert_index >= 0).any(0) for r in recordings], axis=0)
    if not filled.any():
        raise ValueError(f"{where}: topk_ids_of_layer: expected ids, got -1 alone")
    return np.flatnonzero(filled.any(1)).tolist(), int(np.flatnonzero(filled.any(0))[-1]) + 1
