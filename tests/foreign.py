"""Writers of the formats of serving and training engines, from their documentation.

vLLM: docs.vllm.ai, routed experts replay (0.21) and routed experts return. SGLang:
docs.sglang.io, OpenAI-compatible completions, and its expert distribution recorder.
Megatron-Core: docs.nvidia.com, core.transformer.moe.router_trace. None is made from a reader.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

LAST_TOKEN = 7


def rows_of(traces: xr.Dataset, sequence: int) -> np.ndarray:
    """Experts of the tokens of a sequence, [tokens, layers, k]."""
    n = int(traces["length"][sequence])
    return traces["expert_index"].values[:, sequence, :n].transpose(1, 0, 2)


def ids_of(traces: xr.Dataset, sequence: int) -> list[int]:
    """Its tokens, and the one that was generated last and never read."""
    n = int(traces["length"][sequence])
    return [*traces["token_id"].values[sequence, :n].tolist(), LAST_TOKEN]


def write_lines(records: Iterator[Any] | list[Any], path: Path) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def _completion(
    ids: list[int], n_prompt: int, choice: dict[str, Any], with_ids: bool, **more: Any
) -> dict[str, Any]:
    choice = {"index": 0, "text": "..", "finish_reason": "length", **choice}
    if with_ids:
        choice |= {"prompt_token_ids": ids[:n_prompt], "token_ids": ids[n_prompt:]}
    n_new = len(ids) - n_prompt
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "a/model",
        "choices": [choice],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_new,
            "total_tokens": len(ids),
        },
        **more,
    }


def vllm_answers(
    traces: xr.Dataset,
    *,
    n_prompt: int = 3,
    form: str = "lists",
    dense: tuple[int, ...] = (),
    with_ids: bool = True,
    filler: bool = False,
) -> list[dict[str, Any]]:
    """Answers to /v1/completions, one sequence each.

    `form` lists: as of 0.21, the prompt's beside the choices. base64: as of later versions,
    an array of all tokens but the last. `dense`: places of layers without experts, filled with
    zeros. `filler`: a row of zeros for the last token, which has none.
    """
    answers = []
    for sequence in range(traces.sizes["sequence"]):
        rows = rows_of(traces, sequence)
        for place in dense:
            rows = np.insert(rows, place, 0, 1)
        ids = ids_of(traces, sequence) if with_ids else [0] * (len(rows) + 1)
        first = min(n_prompt, len(rows))
        after = np.concatenate([rows[first:], 0 * rows[:1]]) if filler else rows[first:]
        if form == "lists":
            answer = _completion(
                ids,
                first,
                {"routed_experts": after.tolist()},
                with_ids,
                prompt_routed_experts=rows[:first].tolist(),
            )
        else:
            stream = io.BytesIO()
            np.save(stream, np.concatenate([rows[:first], after]).astype(np.int16))
            text = base64.b64encode(stream.getvalue()).decode()
            answer = _completion(ids, first, {"routed_experts": text}, with_ids)
        answers.append(answer)
    return answers


def write_vllm_arrays(traces: xr.Dataset, path: Path, n_prompt: int = 3) -> Path:
    """`CompletionOutput.routed_experts` and what goes with it, of each request, in an archive."""
    arrays = {}
    for sequence in range(traces.sizes["sequence"]):
        rows, ids = rows_of(traces, sequence), np.array(ids_of(traces, sequence))
        arrays |= {
            f"prompt_routed_experts_{sequence}": rows[:n_prompt],
            f"routed_experts_{sequence}": rows[n_prompt:],
            f"prompt_token_ids_{sequence}": ids[:n_prompt],
            f"token_ids_{sequence}": ids[n_prompt:],
        }
    np.savez(path, **arrays)
    return path


def sglang_answers(
    traces: xr.Dataset,
    *,
    n_prompt: int = 3,
    form: str = "choice",
    dense: tuple[int, ...] = (),
    start: int = 0,
    said: bool = True,
) -> list[dict[str, Any]]:
    """Answers of SGLang: int32 of [tokens, layers, k] in base64, from `start` on.

    `form`: "choice" and "answer" are where versions of /v1/completions put `sgl_ext`,
    "generate" is the native interface with `meta_info`. `said`: with what was asked for.
    """
    answers = []
    for sequence in range(traces.sizes["sequence"]):
        rows = rows_of(traces, sequence)[start:]
        for place in dense:
            rows = np.insert(rows, place, 0, 1)
        text = base64.b64encode(rows.astype("<i4").tobytes()).decode()
        ids = ids_of(traces, sequence)
        experts: dict[str, Any] = {"routed_experts": text}
        if said and start:
            experts["routed_experts_start_len"] = start
        if form == "generate":
            counts = {"prompt_tokens": n_prompt, "completion_tokens": len(ids) - n_prompt}
            answers.append({"text": "..", "meta_info": {"id": "1", **counts, **experts}})
        elif form == "answer":
            answers.append(_completion(ids, n_prompt, {}, True, sgl_ext=experts))
        else:
            answers.append(_completion(ids, n_prompt, {"sgl_ext": experts}, True))
    return answers


def recorder_passes(
    traces: xr.Dataset, *, n_prompt: int = 3, n_model_layers: int = 12, width: int = 8
) -> list[dict[str, Any]]:
    """Forward passes as SGLang's recorder has them, one request after another.

    A layer that does not tell, and ranks past k, hold -1.
    """
    records = []
    for sequence in range(traces.sizes["sequence"]):
        rows, ids = rows_of(traces, sequence), ids_of(traces, sequence)
        n = len(rows)
        bounds = [0, *range(min(n_prompt, n), n + 1)]
        for begin, end in itertools.pairwise(bounds):
            records.append(
                _pass(
                    traces,
                    rows[begin:end],
                    ids[begin:end],
                    range(begin, end),
                    n_model_layers,
                    width,
                )
            )
            is_prompt = begin == 0
            records[-1] |= {
                "forward_mode": 1 if is_prompt else 2,
                "extend_seq_lens": [end - begin] if is_prompt else None,
            }
    return numbered(records)


def prompts_pass(
    traces: xr.Dataset, *, n_model_layers: int = 12, width: int = 8
) -> list[dict[str, Any]]:
    """One forward pass over all sequences as prompts."""
    n = traces["length"].values.tolist()
    rows = np.concatenate([rows_of(traces, s) for s in range(len(n))])
    ids = [i for s in range(len(n)) for i in ids_of(traces, s)[:-1]]
    positions = [i for length in n for i in range(length)]
    record = _pass(traces, rows, ids, positions, n_model_layers, width)
    return numbered([record | {"forward_mode": 1, "extend_seq_lens": n}])


def _pass(
    traces: xr.Dataset, rows: np.ndarray, ids: list[int], positions: Any, n_layers: int, width: int
) -> dict[str, Any]:
    import torch

    topk = np.full((n_layers, len(rows), width), -1, np.int32)
    topk[traces["layer"].values, :, : rows.shape[2]] = rows.transpose(1, 0, 2)
    return {
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": list(ids),
        "positions": list(positions),
        "topk_ids_of_layer": torch.from_numpy(topk),
        "misc_objects": [],
    }


def numbered(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"forward_pass_id": i, **record} for i, record in enumerate(records)]


def write_recorder(
    records: list[dict[str, Any]], path: Path, num_experts: int, n_model_layers: int = 12
) -> Path:
    """The recorder's dump, every expert with one copy."""
    import torch

    copies = torch.arange(num_experts).repeat(n_model_layers, 1)
    torch.save({"records": records, "last_physical_to_logical_map": copies}, path)
    return path


def megatron_records(
    traces: xr.Dataset,
    size: int,
    *,
    rank: int = 0,
    first_step: int = 0,
    n_before: int = 0,
    more: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """A step for each `size` sequences, which are all of one length.

    The rows of a layer are those of its hidden states [position, sequence, hidden], one after
    another. A layer's number is its place in the list of its pipeline stage, `n_before` layers
    of the model being in stages before.
    """
    records = []
    for step, begin in enumerate(range(0, traces.sizes["sequence"], size), first_step):
        batch = [rows_of(traces, begin + s) for s in range(size)]
        for place, layer in enumerate(traces["layer"].values.tolist()):
            rows = [batch[s][i, place] for i in range(len(batch[0])) for s in range(size)]
            records.append(
                {
                    "step": step,
                    "stage": "pre_dispatch",
                    "block": "decoder",
                    "layer": layer - n_before,
                    "rank": rank,
                    "num_tokens": len(rows),
                    "topk": len(rows[0]),
                    "top_indices": [row.tolist() for row in rows],
                    **(more or {}),
                }
            )
    return records


def with_logits(
    records: list[dict[str, Any]], traces: xr.Dataset, size: int, path: Path
) -> list[dict[str, Any]]:
    """The same records with where their logits are, written to the file beside them."""
    logits, layers = traces["router_logit"].values, traces["layer"].values.tolist()
    written = []
    with path.open("wb") as stream:
        for record in records:
            begin = record["step"] * size
            n = record["num_tokens"] // size
            of_layer = logits[layers.index(record["layer"]), begin : begin + size, :n]
            rows = of_layer.swapaxes(0, 1).reshape(record["num_tokens"], -1)
            content = (rows.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
            place = {
                "logit_offset": stream.tell(),
                "logit_bytes": len(content),
                "logit_shape": list(rows.shape),
            }
            stream.write(content)
            written.append(record | place)
    return written
