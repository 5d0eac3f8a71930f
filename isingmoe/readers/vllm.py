"""What vLLM returns with `--enable-return-routed-experts`, saved.

Its versions differ: lists in JSON or an array of NumPy's file format in base64, of the new
tokens with those of the prompt beside them, or of all tokens but the last.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.archives import BROKEN, archive_names, opened, starts_as_archive
from isingmoe.readers.lines import files_of
from isingmoe.readers.nested import array_of
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

__all__ = ["CANNOT_KNOW", "DESCRIPTION", "NAME", "looks_like", "read", "recordings", "rows_of"]

NAME = "vllm"
DESCRIPTION = "vLLM --enable-return-routed-experts"
CANNOT_KNOW = (
    "the number of experts; which layers of the model have experts; whether the ranks are in the "
    "order of the weights; experts of tokens that the prefix cache had (-1), and of the last "
    "token, which is never read"
)

_ARRAYS = re.compile(r"(prompt_routed_experts|routed_experts|prompt_token_ids|token_ids)(.*)")


def looks_like(path: Path) -> bool:
    """Whether a first answer, or an archive of arrays, has vLLM's names."""
    names = archive_names(path)
    if names is not None:
        return any(re.match(r"(prompt_)?routed_experts.*\.npy", name) for name in names)
    answer = first_answer(path)
    choices = answer.get("choices", answer.get("outputs"))
    choice = choices[0] if isinstance(choices, list) and choices else answer
    if not isinstance(choice, dict):
        return False
    is_other = {"sgl_ext", "sglext", "meta_info"} & {*answer, *choice}
    return not is_other and ("routed_experts" in choice or "prompt_routed_experts" in answer)


def read(
    source: Path,
    *,
    num_experts: int | None = None,
    layers: Sequence[int] | None = None,
    ranked: bool | None = None,
    start_position: int | None = None,
    model: str | None = None,
) -> xr.Dataset:
    """Read answers (JSON, JSONL), or arrays (npz, npy), or a folder of such files.

    Parameters
    ----------
    source : Path
        In an archive `routed_experts`, `prompt_routed_experts`, `token_ids` and
        `prompt_token_ids`, the same ending of the names for the same sequence.
    num_experts : int
        Number of routed experts, E.
    layers : sequence of int
        The model's numbers of its layers with experts.
    ranked : bool
        Whether the experts of a token are in the order of their weights.
    start_position : int, optional
        Of the first token of an array without that of its prompt, asked for where the
        numbers of tokens do not tell: 0 where the array begins with the prompt.
    model : str, optional
        By default what the first answer names.

    Returns
    -------
    Dataset
        Traces, a sequence for each choice. The prompt that several choices share is in the
        first; the others begin after it. Token ids where all answers have them.

    Raises
    ------
    ValueError
        If an option is missing, or an answer is not as it should be; with file and line.
    """
    where = str(source)
    n_experts = needed(num_experts, "num_experts", "the number of routed experts", where)
    found, named = _Found(where, ranked), NamedModel(model)
    recorded = recordings(
        named.seen(_answers(source)),
        num_experts=n_experts,
        layers=layers,
        start_position=start_position,
        found=found,
    )
    kept = alike_in_tokens(recorded)
    if found.columns is None:
        raise ValueError(f"{where}: expected answers, got none; the trace would be empty")
    check_one_rank((one.expert_index for one in kept), found.columns.numbers, where)
    return assemble(
        kept,
        layers=found.columns.numbers,
        num_experts=n_experts,
        ranked=found.ranked,
        model=named.name or "unnamed",
        attributes={},
        where=where,
    )


class _Found:
    """What the first answer says of all.

    Parameters
    ----------
    source : str
        For an error.
    ranked : bool, optional
        As for `read`, asked for when there is an answer with several experts to a token.
    """

    def __init__(self, source: str = "", ranked: bool | None = False) -> None:
        self.columns: LayerColumns | None = None
        self.ranked = False
        self._shape: tuple[int, int] = (0, 0)
        self._source, self._asked = source, ranked

    def of(self, ids: NDArray[Any], layers: Sequence[int] | None, where: str) -> NDArray[Any]:
        """The layers with experts of the next answer."""
        n_columns, top_k = ids.shape[1:]
        if self.columns is None:
            if not len(ids):
                raise ValueError(
                    f"{where}: routed_experts: expected rows, got none; leave the answer out"
                )
            self.columns = layer_columns(layers, n_columns, where)
            self.ranked = order_of_ranks(self._asked, top_k, self._source)
            self._shape = n_columns, top_k
        if not len(ids):
            ids = np.zeros((0, *self._shape), np.int16)
        elif (n_columns, top_k) != self._shape:
            raise ValueError(
                f"{where}: routed_experts: expected {self._shape[0]} layers of {self._shape[1]} "
                f"experts to a token as in the answers before, got {n_columns} of {top_k}; import "
                "the answers of each model by themselves"
            )
        return self.columns.of(ids, where)


def recordings(
    answers: Iterable[tuple[str, Any]],
    *,
    num_experts: int,
    layers: Sequence[int] | None,
    start_position: int | None = None,
    found: _Found | None = None,
) -> Iterator[Recording]:
    """The sequences in answers.

    Parameters
    ----------
    answers : iterable of (str, dict)
        Each with what an error calls it.
    num_experts, layers, start_position
        As for `read`.

    Raises
    ------
    ValueError
        If an answer is not as it should be.
    """
    found = _Found() if found is None else found
    for completion in completions_of(answers):
        ids, start = rows_of(completion, start_position)
        chosen = found.of(ids, layers, completion.where)
        yield Recording(
            expert_ids(
                chosen, num_experts=num_experts, where=completion.where, name="routed_experts"
            ),
            token_id=completion.tokens(start, len(ids)),
            start_position=start,
        )


def _answers(source: Path) -> Iterator[tuple[str, Any]]:
    """Answers, or arrays under the names that answers have."""
    suffixes = (".npz", ".npy")
    check_one_kind(source, suffixes)
    is_arrays = source.suffix in suffixes
    if source.is_dir():
        is_arrays = any(file.suffix in suffixes for file in source.iterdir())
    if not is_arrays:
        yield from answers_of(source)
        return
    for file in files_of(source, suffixes):
        if starts_as_archive(file):
            with opened(file) as archive:
                yield from _in_archive(file, archive)
            continue
        try:
            with file.open("rb") as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
        except (ValueError, MemoryError, *BROKEN) as error:
            raise ValueError(f"{file}: expected arrays of numbers ({plain(error, 80)})") from None
        yield str(file), {"routed_experts": array}


def _in_archive(file: Path, archive: Any) -> Iterator[tuple[str, Any]]:
    sequences: dict[str, dict[str, str]] = {}
    for name in archive.files:
        matched = _ARRAYS.fullmatch(name)
        if matched is None:
            raise ValueError(
                f"{file}: {plain(name, 40)}: expected arrays whose names start with "
                "routed_experts, prompt_routed_experts, token_ids or prompt_token_ids; rename it"
            )
        sequences.setdefault(matched[2], {})[matched[1]] = name
    for ending in sorted(sequences, key=lambda e: (len(e), e)):
        arrays = {}
        for part, name in sequences[ending].items():
            try:
                arrays[part] = archive[name]
            except (ValueError, MemoryError) as error:
                raise ValueError(f"{file}: {name}: cannot be read ({plain(error, 80)})") from None
        yield f"{file}: routed_experts{ending}", arrays


def rows_of(completion: Completion, start: int | None) -> tuple[NDArray[Any], int]:
    """Ids (token, layer, rank) of a completion, and the position of the first.

    The rows of a prompt that a choice before has too are left out.
    """
    where = completion.where
    new = _array(completion.choice.get("routed_experts"), where, "routed_experts")
    prompt = _prompt_of(completion)
    if prompt is None:
        if new is None:
            raise ValueError(
                f"{where}: routed_experts: expected lists or base64, got null; serve with "
                "--enable-return-routed-experts, or leave the answer out"
            )
        if isinstance(completion.choice["routed_experts"], str):
            completion.check_prompts(counted=True)
        first = _start_of(completion, len(new), start)
        rows = _without_last(new, completion, first)
        shared = (completion.n_prompt or 0) - first if completion.repeats else 0
        return (rows[shared:], first + shared) if shared > 0 else (rows, first)
    if completion.n_prompt not in (None, len(prompt)):
        raise ValueError(
            f"{where}: prompt_routed_experts: expected {completion.n_prompt} rows, one for each "
            f"token of the prompt, got {len(prompt)}"
        )
    if new is None or not len(new):
        return (prompt[:0], len(prompt)) if completion.repeats else (prompt, 0)
    if new.shape[1:] != prompt.shape[1:]:
        raise ValueError(
            f"{where}: routed_experts: expected the layers and ranks of prompt_routed_experts, "
            f"{prompt.shape[1:]}, got {new.shape[1:]}"
        )
    if completion.n_new is not None and len(new) > completion.n_new:
        raise ValueError(
            f"{where}: routed_experts: expected at most {completion.n_new} rows, one for each "
            f"new token, got {len(new)}"
        )
    new = _without_last(new, completion, len(prompt))
    return (new, len(prompt)) if completion.repeats else (np.concatenate([prompt, new]), 0)


def _prompt_of(completion: Completion) -> NDArray[Any] | None:
    """Rows of the prompt, the choice's own or the answer's."""
    name, answer, choice = "prompt_routed_experts", completion.answer, completion.choice
    own = choice.get(name)
    rows = answer.get(name) if own is None else own
    if rows is None:
        return None
    completion.check_prompts()
    if own is None and completion.n_prompts != 1 and completion.n_choices > 1:
        raise ValueError(
            f"{completion.where}: {name}: expected one prompt, got choices of "
            f"{completion.n_prompts} prompts, and rows of one; send each prompt by itself"
        )
    return _array(rows, completion.where, name)


def _start_of(completion: Completion, n_rows: int, given: int | None) -> int:
    """Where the rows begin, of an array that does not say whether it has the prompt's."""
    n_prompt, n_new, where = completion.n_prompt, completion.n_new, completion.where
    # An array in base64 is of all tokens that were read, unless it has too few rows.
    is_whole = isinstance(completion.choice["routed_experts"], str)
    if is_whole and given is None and (n_prompt is None or n_new is None):
        return 0
    if n_prompt is None or n_new is None:
        why = f"{n_rows} rows, and nothing of how many tokens prompt and answer have"
        return _asked(given, where, why)
    # All tokens but the last are read; it may have a row all the same.
    fitting = {n_prompt + n_new - n_rows - last for last in (1, 0)}
    if given is not None:
        fitting &= {given}
    known = sorted(fitting & {0, n_prompt, given})
    if not known:
        raise ValueError(
            f"{where}: routed_experts: expected rows for a prompt of {n_prompt} tokens and "
            f"{n_new} new ones, or for the new ones, got {n_rows}; ask the server again, or say "
            "where they begin, with start_position (--start-position)"
        )
    if len(known) > 1 and not is_whole:
        return _asked(given, where, f"{n_rows} rows, {n_prompt} tokens before {n_new} new ones")
    return int(known[0])


def _asked(given: int | None, where: str, why: str) -> int:
    return int(
        needed(
            given,
            "start_position",
            "the position of the first row, 0 where the rows begin with the prompt",
            where,
            why,
        )
    )


def _without_last(rows: NDArray[Any], completion: Completion, start: int) -> NDArray[Any]:
    """Rows without one of the last token, where that is what the array was filled with."""
    if completion.n_new is None or not len(rows):
        return rows
    n_prompt = start if completion.n_prompt is None else completion.n_prompt
    has_last = start + len(rows) == n_prompt + completion.n_new
    return rows[:-1] if has_last and not rows[-1].any() else rows


def _array(value: Any, where: str, name: str) -> NDArray[Any] | None:
    """Ids (token, layer, rank) out of lists, an array or base64."""
    if value is None:
        return None
    if isinstance(value, str):
        content = decoded(value, where, name)
        try:
            value = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except (ValueError, MemoryError, *BROKEN) as error:
            raise ValueError(
                f"{where}: {name}: expected an array in NumPy's file format, got "
                f"{len(content)} bytes of something else ({plain(error, 60)})"
            ) from None
    try:
        ids = array_of(value)
    except ValueError:
        raise ValueError(
            f"{where}: {name}: expected as many layers and ranks for each token, got a ragged list"
        ) from None
    if ids.shape == (0,):
        return np.zeros((0, 1, 1), np.int16)
    if ids.ndim != 3 or not ids.shape[1] or not ids.shape[2] or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: {name}: expected whole numbers [tokens, layers, k], got shape "
            f"{list(ids.shape)} of {ids.dtype}"
        )
    return ids
