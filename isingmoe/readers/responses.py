"""Saved answers of OpenAI-compatible servers: their choices, and what they say of the tokens."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe._text import plain
from isingmoe.readers.lines import files_of, first_json, json_values
from isingmoe.readers.nested import array_of
from isingmoe.recorded import Recording

__all__ = [
    "Completion",
    "NamedModel",
    "alike_in_tokens",
    "answers_of",
    "check_one_kind",
    "completions_of",
    "decoded",
    "first_answer",
    "token_ids",
]

SUFFIXES = (".json", ".jsonl", ".ndjson")
# What is long in an answer.
_ARRAYS = ("prompt_routed_experts", "routed_experts", "prompt_token_ids", "token_ids", "output_ids")


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt.

    Attributes
    ----------
    where : str
        For an error: file, line and choice.
    answer, choice : dict
        The same one, where what was saved has no choices.
    is_first : bool
        Of the answer's choices.
    prompt_id, new_id : int32 ndarray (token,), optional
        Token ids of the prompt and of what follows, as far as they are there.
    n_prompt, n_new : int, optional
        How many there are.
    n_choices : int
        Of the answer.
    n_prompts : int, optional
        How many different prompts they have; None where a choice does not say its own.
    repeats : bool
        Whether a choice before it has the same prompt.
    """

    where: str
    answer: dict[str, Any]
    choice: dict[str, Any]
    is_first: bool
    prompt_id: NDArray[np.int32] | None
    new_id: NDArray[np.int32] | None
    n_prompt: int | None
    n_new: int | None
    n_choices: int = 1
    n_prompts: int | None = 1
    repeats: bool = False

    def check_prompts(self, counted: bool = False) -> None:
        """Raise where there are several choices, and nothing says which share a prompt.

        Parameters
        ----------
        counted : bool
            Whether the number of new tokens has to be known too.

        Raises
        ------
        ValueError
            With what to ask the server for.
        """
        if self.n_choices > 1 and (self.n_prompts is None or (counted and self.n_new is None)):
            raise ValueError(
                f"{self.where}: prompt_token_ids, token_ids: expected in each of "
                f"{self.n_choices} choices, to tell which share a prompt, got none; ask the "
                "server with return_token_ids, or for one choice to a request (n = 1)"
            )

    def tokens(self, start: int, n_tokens: int) -> NDArray[np.int32] | None:
        """Ids of so many tokens from a position on, where all are known.

        Raises
        ------
        ValueError
            If there are fewer.
        """
        if self.prompt_id is None or self.new_id is None:
            return None
        ids = np.concatenate([self.prompt_id, self.new_id])
        if len(ids) < start + n_tokens:
            raise ValueError(
                f"{self.where}: routed_experts: expected rows for at most {len(ids)} tokens, those "
                f"with ids, got {n_tokens} from position {start} on; ask the server again"
            )
        return ids[start : start + n_tokens]


def answers_of(source: Path) -> Iterator[tuple[str, Any]]:
    """Answers in a JSON or JSONL file or a folder of them, each with its place; lists opened."""
    for file in files_of(source, SUFFIXES):
        for where, value in json_values(file, _ARRAYS):
            if not isinstance(value, list):
                yield where, value
                continue
            for place, item in enumerate(value):
                yield f"{where}: item {place}", item


def check_one_kind(source: Path, suffixes: Sequence[str]) -> None:
    """Raise where a folder has answers, and files with other suffixes too.

    Raises
    ------
    ValueError
        With one of each.
    """
    names = sorted(file.name for file in source.iterdir()) if source.is_dir() else []
    answers = [name for name in names if name.endswith(SUFFIXES)]
    others = [name for name in names if name.endswith(tuple(suffixes))]
    if answers and others:
        raise ValueError(
            f"{source}: expected files of one kind, got {others[0]} and {answers[0]}; put each "
            "kind into a folder of its own, or name a file"
        )


def first_answer(path: Path) -> dict[str, Any]:
    """The first answer of a file or folder, to tell formats apart; empty where there is none."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        return first_answer(files[0]) if files else {}
    value = first_json(path)
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) else {}


def completions_of(answers: Iterable[tuple[str, Any]]) -> Iterator[Completion]:
    """The continuations in answers.

    Raises
    ------
    ValueError
        If an answer is no object, or its choices are no list of objects.
    """
    for where, answer in answers:
        if not isinstance(answer, dict):
            raise ValueError(f"{where}: expected an answer, an object, got {plain(answer, 40)!r}")
        if isinstance(answer.get("error"), dict | str) and "choices" not in answer:
            raise ValueError(
                f"{where}: expected an answer, got the error {plain(answer['error'], 80)!r}; "
                "leave it out, or ask the server again"
            )
        choices = answer.get("choices", answer.get("outputs", [answer]))
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise ValueError(
                f"{where}: choices: expected a list of objects, got {plain(choices, 40)!r}"
            )
        if not choices:
            raise ValueError(f"{where}: choices: expected some, got none; leave the answer out")
        several = len(choices) > 1
        named = [f"{where}: choice {place}" if several else where for place in range(len(choices))]
        prompts = list(_prompts(answer, choices, named))
        known = {prompt.tobytes() for prompt in prompts if prompt is not None}
        is_told = all(prompt is not None for prompt in prompts)
        seen: set[bytes] = set()
        for place, (choice, prompt) in enumerate(zip(choices, prompts, strict=True)):
            found = _completion(named[place], answer, choice, place, len(choices), prompt)
            key = None if prompt is None else prompt.tobytes()
            yield replace(found, n_prompts=len(known) if is_told else None, repeats=key in seen)
            if key is not None:
                seen.add(key)


def _prompts(
    answer: dict[str, Any], choices: list[dict[str, Any]], named: list[str]
) -> Iterator[NDArray[np.int32] | None]:
    """Token ids of the prompt of each choice, its own or the answer's."""
    names = ("prompt_token_ids", "input_ids")
    common = None if choices[0] is answer else _first(answer, *names)
    shared = None if common is None else token_ids(common, named[0])
    for choice, where in zip(choices, named, strict=True):
        own = _first(choice, *names)
        yield shared if own is None else token_ids(own, where)


def _completion(
    where: str,
    answer: dict[str, Any],
    choice: dict[str, Any],
    place: int,
    n_choices: int,
    prompt_id: NDArray[np.int32] | None,
) -> Completion:
    new = _first(choice, "token_ids", "output_ids")
    if new is None and n_choices == 1:
        new = _first(answer, "token_ids", "output_ids")
    new_id = None if new is None else token_ids(new, where)
    told = [choice.get("meta_info"), answer.get("meta_info")]
    if n_choices == 1:
        # Of several choices the numbers are sums.
        told.append(answer.get("usage"))
    counts = [part for part in told if isinstance(part, dict)]

    def number(ids: NDArray[np.int32] | None, name: str) -> int | None:
        if ids is not None:
            return len(ids)
        return next((part[name] for part in counts if type(part.get(name)) is int), None)

    return Completion(
        where,
        answer,
        choice,
        place == 0,
        prompt_id,
        new_id,
        number(prompt_id, "prompt_tokens"),
        number(new_id, "completion_tokens"),
        n_choices,
    )


def _first(part: dict[str, Any], *names: str) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), None)


def token_ids(values: Any, where: str) -> NDArray[np.int32]:
    """Token ids out of a list.

    Raises
    ------
    ValueError
        If they are no list of whole numbers from 0 up.
    """
    try:
        ids = array_of(values) if isinstance(values, list | tuple | np.ndarray) else np.array("")
    except ValueError:
        ids = np.array("")
    if ids.size == 0 and ids.ndim == 1:
        return np.zeros(0, np.int32)
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or ids.min() < 0 or ids.max() >= 2**31:
        raise ValueError(
            f"{where}: token ids: expected a list of whole numbers from 0 up, got "
            f"{plain(values, 40)!r}"
        )
    return ids.astype(np.int32)


def decoded(text: str, where: str, name: str = "routed_experts") -> bytes:
    """The bytes of a base64 text.

    Raises
    ------
    ValueError
        If it is not base64, or has been cut.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{where}: {name}: expected base64, got {plain(text, 20)!r} of {len(text)} characters "
            f"({error}); it may have been cut"
        ) from None


class NamedModel:
    """The model of answers that are read: as given, else the name in them.

    Parameters
    ----------
    given : str, optional

    Attributes
    ----------
    name : str or None
        None until an answer has named one.
    """

    def __init__(self, given: str | None = None) -> None:
        self.name, self._given = given, given

    def seen(self, answers: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """The answers, as they are read.

        Raises
        ------
        ValueError
            If they name different models, and none is given.
        """
        for where, answer in answers:
            found = answer.get("model") if isinstance(answer, dict) else None
            name = plain(found) if isinstance(found, str) and found else None
            if self._given is None and name is not None:
                if self.name not in (None, name):
                    raise ValueError(
                        f"{where}: model: expected {self.name!r} as in the answers before, got "
                        f"{name!r}; import the answers of each model by themselves, or give model "
                        "(--model) if they are one"
                    )
                self.name = name
            yield where, answer


def alike_in_tokens(recordings: Iterable[Recording]) -> list[Recording]:
    """Recordings with token ids where all have them, without where some have none."""
    found = list(recordings)
    if any(recording.token_id is None for recording in found):
        return [replace(recording, token_id=None) for recording in found]
    return found
