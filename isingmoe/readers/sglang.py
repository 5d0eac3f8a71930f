"""What SGLang returns for `return_routed_experts`, saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from isingmoe._text import plain
from isingmoe.readers import sglang_recorder
from isingmoe.readers.options import (
    LayerColumns,
    check_one_rank,
    layer_columns,
    needed,
    order_of_ranks,
)
from isingmoe.readers.responses import (
    Completion,
    NamedModel,
    alike_in_tokens,
    answers_of,
    check_one_kind,
    completions_of,
    decoded,
    first_answer,
)
from isingmoe.recorded import Recording, assemble, expert_ids

__all__ = ["CANNOT_KNOW", "DESCRIPTION", "NAME", "looks_like", "payload_of", "read", "recordings"]

NAME = "sglang"
DESCRIPTION = "SGLang return_routed_experts or expert distribution recorder"
CANNOT_KNOW = (
    "the number of experts, of layers and of experts per token; which layers have experts; "
    "whether the ranks are in the order of the weights; experts of the last token, which is "
    "never read; in a recorder's dump, which of several requests a generated token belongs to"
)
_BYTES = 4
# Where versions and interfaces put it.
_PARTS = ("sgl_ext", "sglext", "meta_info")


def looks_like(path: Path) -> bool:
    """Whether a first answer has SGLang's names, or a dump the recorder's."""
    if sglang_recorder.looks_like(path):
        return True
    answer = first_answer(path)
    choices = answer.get("choices")
    wholes = [answer, *(choices if isinstance(choices, list) else [])]
    parts = (w.get(name) for w in wholes if isinstance(w, dict) for name in _PARTS)
    return any(isinstance(part, dict) and "routed_experts" in part for part in parts)


def read(
    source: Path,
    *,
    num_experts: int | None = None,
    num_layers: int | None = None,
    top_k: int | None = None,
    layers: Sequence[int] | None = None,
    ranked: bool | None = None,
    start_position: int | None = None,
    requests: str | None = None,
    model: str | None = None,
) -> xr.Dataset:
    """Read answers (JSON, JSONL) or dumps of the recorder (pt), or a folder of them.

    Parameters
    ----------
    source : Path
    num_experts : int
        Number of routed experts, E. A dump says it.
    num_layers : int
        Layers of the arrays: all those of the model, also the ones without experts. Of answers.
    top_k : int
        Experts per token, k. Of answers.
    layers : sequence of int
        The model's numbers of its layers with experts. A dump says it.
    ranked : bool
        Whether the experts of a token are in the order of their weights.
    start_position : int, optional
        `routed_experts_start_len` of the requests, where the answers do not tell.
    requests : {"one", "many"}, optional
        Of a dump: whether one request ran at a time, so that what is generated follows its
        prompt; or several, whose prompts alone are then read.
    model : str, optional
        By default what the first answer names.

    Returns
    -------
    Dataset
        Traces, a sequence for each choice, or request. Token ids where all have them.

    Raises
    ------
    ValueError
        If an option is missing, or an answer is not as it should be; with file and line.
    ImportError
        If a dump is given and torch is not installed.
    """
    check_one_kind(source, (".pt",))
    if sglang_recorder.has_dumps(source):
        return sglang_recorder.read(
            source, num_experts=num_experts, ranked=ranked, requests=requests, model=model
        )
    where = str(source)
    n_experts = needed(num_experts, "num_experts", "the number of routed experts", where)
    k = needed(top_k, "top_k", "the number of experts per token", where)
    n_layers = needed(
        num_layers,
        "num_layers",
        "the number of layers in the arrays, all those of the model, with experts or without",
        where,
    )
    if k < 1 or n_layers < 1:
        raise ValueError(f"{where}: top_k, num_layers: expected at least 1, got {k} and {n_layers}")
    columns = layer_columns(layers, n_layers, where)
    order = order_of_ranks(ranked, k, where)
    named = NamedModel(model)
    kept = alike_in_tokens(
        recordings(
            named.seen(answers_of(source)),
            num_experts=n_experts,
            num_layers=n_layers,
            top_k=k,
            columns=columns,
            start_position=start_position,
        )
    )
    check_one_rank((one.expert_index for one in kept), columns.numbers, where)
    return assemble(
        kept,
        layers=columns.numbers,
        num_experts=n_experts,
        ranked=order,
        model=named.name or "unnamed",
        attributes={},
        where=where,
        top_k=k,
    )


def recordings(
    answers: Iterable[tuple[str, Any]],
    *,
    num_experts: int,
    num_layers: int,
    top_k: int,
    columns: LayerColumns,
    start_position: int | None = None,
) -> Iterator[Recording]:
    """The sequences in answers.

    Parameters
    ----------
    answers : iterable of (str, dict)
        Each with what an error calls it.
    num_experts, num_layers, top_k, start_position
        As for `read`.
    columns : LayerColumns
        The layers with experts.

    Raises
    ------
    ValueError
        If an answer is not as it should be.
    """
    shape = (-1, num_layers, top_k)
    for completion in completions_of(answers):
        where = completion.where
        text, said = payload_of(completion)
        if not isinstance(text, str):
            raise ValueError(
                f"{where}: routed_experts: expected base64, got {plain(text, 20)!r}; serve with "
                "--enable-return-routed-experts and ask with return_routed_experts, or leave "
                "the answer out"
            )
        content = decoded(text, where)
        if not content or len(content) % (_BYTES * math.prod(shape[1:])):
            raise ValueError(
                f"{where}: routed_experts: expected a multiple of {num_layers} layers x {top_k} "
                f"experts x {_BYTES} bytes, got {len(content)}; correct num_layers or top_k, or "
                "the text has been cut"
            )
        completion.check_prompts(counted=True)
        ids = np.frombuffer(content, "<i4").reshape(shape)
        start = _start_of(completion, len(ids), said, start_position)
        shared = (completion.n_prompt or 0) - start if completion.repeats else 0
        if shared > 0:
            # The prompt is in a choice before.
            ids, start = ids[shared:], start + shared
        yield Recording(
            expert_ids(
                columns.of(ids, where),
                num_experts=num_experts,
                where=where,
                name="routed_experts",
            ),
            token_id=completion.tokens(start, len(ids)),
            start_position=start,
        )


def payload_of(completion: Completion) -> tuple[Any, int | None]:
    """What an answer has of experts, wherever its version puts it, and where that begins."""
    choice, answer = completion.choice, completion.answer
    places = [
        part
        for whole in ((choice, answer) if completion.is_first else (choice,))
        for part in map(whole.get, _PARTS)
        if isinstance(part, dict)
    ]
    text = next((p["routed_experts"] for p in places if p.get("routed_experts") is not None), None)
    name = "routed_experts_start_len"
    told = (part[name] for part in (*places, choice, answer) if type(part.get(name)) is int)
    return text, next(told, None)


def _start_of(completion: Completion, n_rows: int, said: int | None, given: int | None) -> int:
    """The position of the first row: rows end with the last token that was read."""
    where, n_prompt, n_new = completion.where, completion.n_prompt, completion.n_new
    start = given if given is not None else said
    if n_prompt is None or n_new is None:
        return 0 if start is None else start
    first = n_prompt + n_new - 1 - n_rows
    # Some versions do not heed where they were told to begin.
    if first < 0 or (start is not None and first not in (0, start)):
        raise ValueError(
            f"{where}: routed_experts: expected {n_prompt + n_new - 1 - (start or 0)} rows, for "
            f"{n_prompt} tokens and {n_new} new ones but the last, from position {start or 0} on, "
            f"got {n_rows}; correct num_layers, top_k or start_position"
        )
    if start is None and first:
        return needed(
            None,
            "start_position",
            "routed_experts_start_len, the position of the first row",
            where,
            f"{n_rows} rows, which end at position {n_rows + first - 1} if that is {first}",
        )
    return first
