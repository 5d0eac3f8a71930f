"""From the answers of a server to recordings, with what only its model's configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe.endpoint_models import Declared
from isingmoe.readers import sglang, vllm
from isingmoe.readers.options import LayerColumns, check_routed, layer_columns
from isingmoe.readers.ranking import check_order
from isingmoe.readers.responses import Completion, completions_of, decoded
from isingmoe.recorded import Recording

__all__ = ["Answer", "Facts", "Layout", "layout_of", "without_experts"]


@dataclass(frozen=True)
class Facts:
    """What a server does not say of its model.

    Attributes
    ----------
    num_experts, top_k : int, optional
        By default what the model's configuration declares.
    num_layers : int, optional
        All layers of the model, with experts or without; by default what its configuration
        declares.
    layers : sequence of int, optional
        The model's numbers of its layers with experts; by default as far as the configuration
        and the answers tell.
    ranked : bool
        Whether the experts of a token come in the order of their weights.
    """

    num_experts: int | None = None
    top_k: int | None = None
    layers: Sequence[int] | None = None
    ranked: bool = False
    num_layers: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a server said to a prompt.

    Attributes
    ----------
    where : str
        What it is, to name it in an error.
    prompt : int32 ndarray (token,)
    content : dict
    """

    where: str
    prompt: NDArray[np.int32]
    content: dict[str, Any]

    def completion(self) -> Completion:
        """Its first continuation.

        Raises
        ------
        ValueError
            If it has none, or is of another prompt.
        """
        found = next(completions_of([(self.where, self.content)]))
        read = found.prompt_id
        if read is not None and not np.array_equal(read, self.prompt):
            raise ValueError(
                f"{self.where}: prompt_token_ids: expected the {len(self.prompt)} tokens that were "
                f"sent, got {len(read)} others; the server cuts or changes prompts: lower "
                "max_tokens (--max-tokens)"
            )
        return found


@dataclass(frozen=True)
class Layout:
    """What all answers of a server have in common.

    Attributes
    ----------
    kind : {"vllm", "sglang"}
        In whose way they hold the experts.
    columns : LayerColumns
        The layers with experts among those in the answers.
    n_columns : int
        Layers in the answers.
    num_experts, top_k : int
    ranked : bool
    """

    kind: str
    columns: LayerColumns
    n_columns: int
    num_experts: int
    top_k: int
    ranked: bool

    def recording(self, answer: Answer, context: int, continued: bool) -> Recording:
        """The sequence in an answer.

        Parameters
        ----------
        answer : Answer
        context : int
            Tokens at the beginning that are left out.
        continued : bool
            Whether what follows the prompt is kept. The last token is never read by the
            model, and has no experts.

        Raises
        ------
        ValueError
            If the answer is not as it should be.
        """
        completion = answer.completion()
        asked: dict[str, Any] = {"num_experts": self.num_experts, "start_position": 0}
        if self.kind == "vllm":
            asked["layers"] = self.columns.numbers
            found = vllm.recordings([(answer.where, answer.content)], **asked)
        else:
            shape = {"num_layers": self.n_columns, "top_k": self.top_k, "columns": self.columns}
            found = sglang.recordings([(answer.where, answer.content)], **shape, **asked)
        index = next(found).expert_index
        if self.ranked:
            check_order(index, answer.where, "leave out ranked (--ranked)")
        n_prompt = len(answer.prompt)
        if len(index) < n_prompt:
            raise ValueError(
                f"{answer.where}: routed_experts: expected rows for the {n_prompt} tokens of the "
                f"prompt, got {len(index)}; see the server's log"
            )
        token = np.full(len(index), -1, np.int32)
        token[:n_prompt] = answer.prompt
        if completion.new_id is not None:
            new = completion.new_id[: len(index) - n_prompt]
            token[n_prompt : n_prompt + len(new)] = new
        kept = slice(context, None if continued else n_prompt)
        return Recording(index[kept], token_id=token[kept], start_position=context)


def without_experts(answer: Answer) -> bool:
    """Whether an answer holds no experts at all."""
    completion = answer.completion()
    names = ("routed_experts", "prompt_routed_experts")
    parts = (completion.choice, completion.answer)
    return sglang.payload_of(completion)[0] is None and all(
        part.get(name) is None for part in parts for name in names
    )


def layout_of(answer: Answer, facts: Facts, declared: Declared, model: str) -> Layout:
    """What the first answer, the user and the configuration of the model tell.

    Parameters
    ----------
    answer : Answer
        With experts.
    facts : Facts
    declared : Declared
    model : str

    Raises
    ------
    ValueError
        If something is missing, with the option that says it; or it does not fit the answer.
    """
    completion = answer.completion()
    text, _ = sglang.payload_of(completion)
    top_k = facts.top_k or declared.top_k
    if text is not None:
        kind = "sglang"
        top_k = _needed(top_k, "top_k", "the number of experts per token", answer, model)
        ids = _flat(answer, completion, text, top_k)
    else:
        kind = "vllm"
        ids, _ = vllm.rows_of(completion, 0)
        if facts.top_k not in (None, ids.shape[2]):
            raise ValueError(
                f"{answer.where}: top_k: expected {ids.shape[2]}, as in the answer, got "
                f"{facts.top_k}; leave it out"
            )
    n_columns, top_k = ids.shape[1:]
    check_routed(ids, answer.where)
    n_layers = facts.num_layers or declared.num_layers
    if kind == "sglang":
        _check_columns(n_columns, n_layers, top_k, facts, answer, model)
    num_experts = _needed(
        facts.num_experts or declared.num_experts,
        "num_experts",
        "the number of routed experts",
        answer,
        model,
        f" (the largest id here is {ids.max() if ids.size else 'none'})",
    )
    numbers = facts.layers
    if numbers is None:
        numbers = _told_layers(ids, n_layers, declared.first_dense)
    numbers = _needed(
        numbers,
        "layers",
        "the model's numbers of its layers with experts, as 0-23",
        answer,
        model,
        f" ({_seen_layers(ids)})",
    )
    columns = layer_columns(numbers, n_columns, answer.where)
    return Layout(kind, columns, n_columns, num_experts, top_k, facts.ranked or top_k == 1)


def _flat(answer: Answer, completion: Completion, text: Any, top_k: int) -> NDArray[np.int32]:
    """SGLang's ids (token, layer, rank): the layers are as many as the tokens leave room for."""
    ids = np.frombuffer(decoded(text, answer.where), "<i4") if isinstance(text, str) else []
    n_new = 1 if completion.n_new is None else completion.n_new
    n_rows = len(answer.prompt) + n_new - 1
    if not len(ids) or len(ids) % (n_rows * top_k):
        raise ValueError(
            f"{answer.where}: routed_experts: expected a multiple of {n_rows} tokens x {top_k} "
            f"experts, got {len(ids)} numbers; correct top_k (--top-k), or see the server's log"
        )
    return np.asarray(ids).reshape(n_rows, -1, top_k)


def _check_columns(
    n_columns: int, n_layers: int | None, top_k: int, facts: Facts, answer: Answer, model: str
) -> None:
    """Raise unless SGLang's numbers, of any k and as many layers as fit, are of the model's."""
    fits = facts.layers is not None and len(facts.layers) == n_columns
    if n_layers is None and not fits:
        _needed(
            None,
            "num_layers",
            "the number of layers of the model, with experts or without",
            answer,
            model,
            f" (with {top_k} experts to a token there are {n_columns})",
        )
    if n_layers is not None and n_columns != n_layers:
        raise ValueError(
            f"{answer.where}: routed_experts: expected the {n_layers} layers of the model, got "
            f"{n_columns} with {top_k} experts to a token; correct top_k (--top-k) or num_layers "
            "(--num-layers)"
        )


def _told_layers(
    ids: NDArray[Any], n_layers: int | None, first_dense: int | None
) -> list[int] | None:
    """The numbers of the layers with experts, where nothing has to be guessed."""
    n_columns, top_k = ids.shape[1:]
    if n_layers is None:
        return None
    if n_columns == n_layers:
        # One without experts is filled with zeros, which no token has in two ranks; with one
        # rank it may as well have sent all tokens to the first expert.
        used = ids.any((0, 2))
        return np.flatnonzero(used).tolist() if top_k > 1 or used.all() else None
    dense = n_layers - n_columns
    return list(range(dense, n_layers)) if dense == first_dense else None


def _seen_layers(ids: NDArray[Any]) -> str:
    """What the answer shows of its layers, for an error."""
    n_columns = ids.shape[1]
    empty = np.flatnonzero(~ids.any((0, 2)))
    if not len(empty):
        return f"there are {n_columns} layers here"
    return f"of {n_columns} layers here {len(empty)} hold nothing but zeros, layer {empty[0]} first"


def _needed(value: Any, name: str, meaning: str, answer: Answer, model: str, seen: str = "") -> Any:
    if value is None:
        raise ValueError(
            f"{answer.where}: {name}: expected {meaning}, which neither the server nor a "
            f"configuration of {model} says{seen}; give {name}, on the command line "
            f"--{name.replace('_', '-')}"
        )
    return value
