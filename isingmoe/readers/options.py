"""What readers ask for where the files do not say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["layer_numbers", "needed"]


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


def layer_numbers(layers: Sequence[int] | None, found: int, where: object) -> list[int]:
    """The model's layer numbers of the `found` layers of a file, 0, 1, .. where none are given.

    Raises
    ------
    ValueError
        If there are more or fewer, or one is twice there.
    """
    if layers is None:
        return list(range(found))
    numbers = [int(number) for number in layers]
    if len(numbers) != found:
        raise ValueError(
            f"{where}: layers: expected {found} numbers, one for each layer in the file, "
            f"got {len(numbers)}"
        )
    if len(set(numbers)) < found:
        raise ValueError(f"{where}: layers: expected different numbers, got {numbers}")
    return numbers
