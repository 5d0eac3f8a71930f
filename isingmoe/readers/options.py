"""What readers ask for where the files do not say it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe.errors import DegenerateTraceWarning

__all__ = [
    "LayerColumns",
    "check_one_rank",
    "check_routed",
    "layer_columns",
    "layer_numbers",
    "needed",
    "order_of_ranks",
]

# Tokens and layers from which on it is no chance that all have one and the same expert.
_ENOUGH = 50


def needed(value: Any, name: str, meaning: str, where: object, why: str = "") -> Any:
    """An option that was given.

    Parameters
    ----------
    value : object
    name : str
        As in Python.
    meaning : str
        What it is, for the error.
    where : path or str
        The file that does not say it.
    why : str
        More for the error, such as what the file makes of it.

    Raises
    ------
    ValueError
        If it is None, naming the option of Python and of the command line.
    """
    if value is None:
        more = f" ({why})" if why else ""
        raise ValueError(
            f"{where}: {name}: expected {meaning}, which the file does not say{more}; give "
            f"{name}, on the command line --{name.replace('_', '-')}"
        )
    return value


def order_of_ranks(ranked: bool | None, top_k: int, where: object) -> bool:
    """Whether the experts of a token are in the order of their weights; one always is.

    Raises
    ------
    ValueError
        If it is not said.
    """
    if top_k == 1:
        return True
    return bool(
        needed(
            ranked,
            "ranked",
            "whether the experts of a token are in the order of their weights (--ranked or "
            "--unranked)",
            where,
        )
    )


def layer_numbers(layers: Sequence[int] | None, found: int, where: object) -> list[int]:
    """The model's layer numbers of the `found` layers of a file, 0, 1, .. where none are given.

    Raises
    ------
    ValueError
        If there are more or fewer, or one is twice there.
    """
    if layers is None:
        return list(range(found))
    numbers = _different(layers, where)
    if len(numbers) != found:
        raise ValueError(
            f"{where}: layers: expected {found} numbers, one for each layer in the file, "
            f"got {len(numbers)}"
        )
    return numbers


def _different(layers: Sequence[int], where: object) -> list[int]:
    numbers = [int(number) for number in layers]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{where}: layers: expected different numbers, got {numbers}")
    return numbers


@dataclass(frozen=True)
class LayerColumns:
    """The layers with experts of an array that may have others.

    Attributes
    ----------
    places : list of int
        Where they are.
    numbers : list of int
        The model's own.
    """

    places: list[int]
    numbers: list[int]

    def of(self, ids: NDArray[Any], where: str) -> NDArray[Any]:
        """Their part of an array (token, layer, rank).

        Raises
        ------
        ValueError
            If one holds nothing but zeros, which no token has in two ranks.
        """
        chosen = ids[:, self.places]
        check_routed(chosen, where)
        empty = np.flatnonzero(~chosen.any((0, 2))) if chosen.shape[-1] > 1 and len(ids) else []
        if len(empty):
            raise ValueError(
                f"{where}: routed_experts: expected layers with experts, got nothing but zeros in "
                f"layer {self.numbers[empty[0]]}, as a layer without experts has; give layers, on "
                "the command line --layers, without it"
            )
        return chosen


def check_routed(ids: NDArray[Any], where: str) -> None:
    """Raise where ids (token, layer, rank) are zeros alone, as of a kernel that returns none.

    Raises
    ------
    ValueError
        With what can be done.
    """
    several = ids.shape[-1] > 1 or ids.shape[0] * ids.shape[1] >= _ENOUGH
    if ids.size and several and not ids.any():
        raise ValueError(
            f"{where}: routed_experts: expected the experts of each token, got nothing but zeros; "
            "the server's MoE kernel does not report them: serve with another one, such as Triton's"
        )


def check_one_rank(ids: Iterable[NDArray[Any]], numbers: Sequence[int], where: str) -> None:
    """Look at all tokens where each has one expert, which may as well be the first.

    Parameters
    ----------
    ids : iterable of int ndarray (token, layer, rank)
        Of all sequences.
    numbers : sequence of int
        Of the layers.
    where : str

    Raises
    ------
    ValueError
        If all have expert 0.

    Warns
    -----
    DegenerateTraceWarning
        If all have it in some layer, as where a layer has no experts.
    """
    every = list(ids)
    n_tokens = sum(map(len, every))
    if every[0].shape[2] > 1 or not n_tokens:
        return
    used = np.any([one.any((0, 2)) for one in every], axis=0)
    if not used.any():
        check_routed(np.zeros((n_tokens, len(numbers), 1)), where)
    elif not used.all() and n_tokens >= _ENOUGH:
        named = ", ".join(
            str(number) for number, is_used in zip(numbers, used, strict=True) if not is_used
        )
        warnings.warn(
            f"{where}: all tokens have expert 0 in layer {named}, as in layers without experts; "
            "if it has none, give layers (--layers) without it",
            DegenerateTraceWarning,
            stacklevel=2,
        )


def layer_columns(layers: Sequence[int] | None, n_columns: int, where: str) -> LayerColumns:
    """Which columns of an array are layers with experts, and their numbers.

    Parameters
    ----------
    layers : sequence of int
        The model's numbers of its layers with experts: as many as there are columns, or
        fewer, where the columns are all layers of the model.
    n_columns : int
    where : str

    Raises
    ------
    ValueError
        If they are not said, or do not fit.
    """
    numbers = _different(
        needed(
            layers,
            "layers",
            "the model's numbers of its layers with experts, as 0-23",
            where,
            f"it has {n_columns} layers, and those without experts may be left out or filled "
            "with zeros",
        ),
        where,
    )
    if len(numbers) == n_columns:
        return LayerColumns(list(range(n_columns)), numbers)
    if not numbers or max(numbers) >= n_columns or min(numbers) < 0:
        raise ValueError(
            f"{where}: layers: expected {n_columns} numbers, one for each layer there, or some of "
            f"0 to {n_columns - 1}, got {len(numbers)} up to {max(numbers, default='none')}"
        )
    return LayerColumns(numbers, numbers)
