"""The chain of every point of a grid: given, with other parameters, or made by a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache, partial
from typing import Any

from isingmoe._grids import Grid
from isingmoe._identity import digest, digest_all, identity
from isingmoe._spins import short
from isingmoe.chains import Chain
from isingmoe.couplings import exponential, power_law

__all__ = ["digest_of_chains", "in_words", "maker"]

# Parameters of a chain that take another shape, by the name that they have in a grid.
_DECAYS = {"alpha": power_law, "length": exponential}
_STANDS_FOR = {"q": "n_experts", "alpha": "decay", "length": "decay"}
_NOT_NUMBERS = ("boundary", "decay")

# Chains that functions have made are kept up to so many.
_KEPT_CHAINS = 1024


def maker(chain: Any, grid: Grid) -> Callable[[int], Chain]:
    """What makes the chain of each point.

    A function is asked once for each point of a grid that is not large.

    Raises
    ------
    TypeError
        If `chain` is neither a chain nor a function, or the grid has a name that it does
        not know.
    """
    if callable(chain) and not isinstance(chain, type):
        build: Callable[..., Any] = chain
        try:
            inspect.signature(chain).bind(**grid.values)
        except TypeError as error:
            raise TypeError(
                f"chain: expected a function of {', '.join(grid.values)}, the names in the grid; "
                f"{error}"
            ) from None
    elif _is_chain(chain):
        _check_parameters(chain, grid)
        build = partial(_replaced, chain)
    else:
        raise TypeError(
            f"chain: expected a chain, or a function that makes one, got {type(chain).__name__}"
        )

    def make(index: int) -> Chain:
        try:
            made = build(**grid.at(index))
        except ValueError as error:
            raise ValueError(f"at {grid.where(index)}: {error}") from error
        if not _is_chain(made):
            raise TypeError(
                f"chain: expected a function that makes a chain, got {type(made).__name__}"
            )
        return made

    return make if _is_chain(chain) else lru_cache(_KEPT_CHAINS)(make)


def digest_of_chains(chain: Any, make: Callable[[int], Chain], grid: Grid) -> str:
    """What tells the chains of a sweep from others; all of them are made, to be checked.

    A chain that is given says itself, with the grid, what the others are: some are enough.
    """
    if _is_chain(chain):
        return digest([identity(make(index)) for index in grid.probes])
    return digest_all(identity(make(index)) for index in range(grid.size))


def _is_chain(value: Any) -> bool:
    # Not by isinstance, which would ask an infinite chain for its reach.
    return is_dataclass(value) and hasattr(type(value), "bond")


def _check_parameters(chain: Any, grid: Grid) -> None:
    known = [f.name for f in fields(chain) if f.name not in _NOT_NUMBERS]
    known += [name for name, field_ in _STANDS_FOR.items() if hasattr(chain, field_)]
    for name in grid.values:
        if name not in known:
            raise TypeError(
                f"{name}: expected a parameter of {type(chain).__name__} ({', '.join(known)}); for "
                "another give a function of the grid's values in place of the chain"
            )
    replaced = [_STANDS_FOR.get(name, name) for name in grid.values]
    for name in set(replaced):
        if replaced.count(name) > 1:
            both = " and ".join(n for n in grid.values if _STANDS_FOR.get(n, n) == name)
            raise TypeError(f"grid: expected one of {both}, got both")


def _replaced(chain: Any, **values: Any) -> Any:
    changed = {
        _STANDS_FOR.get(name, name): _DECAYS[name](value) if name in _DECAYS else value
        for name, value in values.items()
    }
    return replace(chain, **changed)


def in_words(chain: Any, names: Iterable[str]) -> str:
    """The chain without the parameters that a grid replaces."""
    if not _is_chain(chain):
        return getattr(chain, "__qualname__", type(chain).__name__)
    replaced = {_STANDS_FOR.get(name, name) for name in names}
    values = {f.name: getattr(chain, f.name) for f in fields(chain) if f.name not in replaced}
    if values.get("decay", 0) is None:
        del values["decay"]
    parts = [f"{name}={short(value)}" for name, value in values.items()]
    return f"{type(chain).__name__}({', '.join(parts)})"
