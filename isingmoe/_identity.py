"""What tells one sweep from another: values, chains and functions as JSON."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import xarray as xr

from isingmoe._code import Describe, digest, function_in, of_class, of_function, qualified
from isingmoe._text import plain

__all__ = ["digest", "digest_all", "identity", "other_sweep"]


def digest_all(values: Iterable[Any]) -> str:
    """A hash of many things made of JSON's types, one after another."""
    together = hashlib.sha256()
    for value in values:
        together.update(digest(value).encode())
    return together.hexdigest()[:16]


def identity(value: Any) -> Any:
    """A value in JSON's types, equal for equal values; arrays by their hash.

    Functions by their code, with the values that they use and the functions of the user
    that they call.

    Raises
    ------
    TypeError
        If it is of a kind that cannot be told from others, as it cannot be pickled.
    """
    return _identity(value, set())


def _identity(value: Any, seen: set[int]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, np.generic):
        return _identity(value.item(), seen)
    if isinstance(value, np.ndarray) and value.dtype != object:
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": content}
    if isinstance(value, list | tuple):
        return [_identity(item, seen) for item in value]
    if isinstance(value, Mapping) and not isinstance(value, xr.Dataset):
        return {str(key): _identity(item, seen) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(digest(_identity(item, seen)) for item in value)
    if isinstance(value, np.random.SeedSequence):
        return {"entropy": _identity(value.entropy, seen), "spawn_key": list(value.spawn_key)}
    if isinstance(value, xr.Dataset | xr.DataArray):
        return _of_labelled(value, seen)
    if isinstance(value, partial):
        arguments = _identity([value.args, value.keywords], seen)
        return {"function": _identity(value.func, seen), "arguments": arguments}
    if isinstance(value, MethodType):
        return {
            "function": _once(value.__func__, of_function, seen),
            "self": _identity(value.__self__, seen),
        }
    function = function_in(value)
    if function is not None:
        return _once(function, of_function, seen)
    if isinstance(value, type):
        return _once(value, of_class, seen)
    kind = _once(type(value), of_class, seen)
    if is_dataclass(value):
        return {
            "type": kind,
            **{f.name: _identity(getattr(value, f.name), seen) for f in fields(value)},
        }
    try:
        content = hashlib.sha256(pickle.dumps(value, protocol=5)).hexdigest()[:16]
    except Exception as error:
        raise TypeError(
            f"{plain(repr(value), 40)}: expected something that can be pickled ({error})"
        ) from None
    return {"type": kind, "sha256": content}


def _once(thing: Any, describe: Callable[[Any, Describe], Any], seen: set[int]) -> Any:
    """A function or a class in full where it is met first, by its name after that."""
    if id(thing) in seen:
        return qualified(thing)
    seen.add(id(thing))
    return describe(thing, partial(_held, seen=seen))


def _held(value: Any, seen: set[int]) -> Any:
    """What a function holds or uses, as far as it can be told."""
    try:
        return _identity(value, seen)
    except (TypeError, RecursionError):
        return qualified(type(value))


def _of_labelled(value: xr.Dataset | xr.DataArray, seen: set[int]) -> Any:
    data = value if isinstance(value, xr.Dataset) else value.to_dataset(name="values")
    variables = {
        str(name): [list(map(str, v.dims)), _identity(v.values, seen), _identity(v.attrs, seen)]
        for name, v in data.variables.items()
    }
    return {"variables": variables, "attributes": _identity(data.attrs, seen)}


def other_sweep(there: str | None, wanted: str) -> str:
    """What the provenance of another result says that it is, and in what it differs."""
    try:
        stored = json.loads(there or "")
        if stored["verb"] != "sweep":
            return f"what {plain(stored['verb'], 40)} made"
        old = {"version": stored["isingmoe"], **stored["arguments"]}
    except (ValueError, KeyError, TypeError):
        return "something else"
    new = json.loads(wanted)
    new = {"version": new["isingmoe"], **new["arguments"]}
    different = [name for name, value in new.items() if old.get(name) != value]
    # What is given first; the chains are what the other arguments made, or a function.
    order = {"version": 0, "verb": 1, "grid": 2, "chains": 9}
    name = min(different, key=lambda name: order.get(name, 5), default="")
    before, after = old.get(name), new.get(name)
    if name == "grid" and isinstance(before, dict) and isinstance(after, dict):
        if [*before] == [*after]:
            name = next(axis for axis in after if before[axis] != after[axis])
            before, after = _axis(before[name]), _axis(after[name])
        else:
            before, after = ", ".join(before), ", ".join(after)
    function = _function_of(after)
    if function is not None and function == _function_of(before):
        return f"another sweep: the code of {function}, or a value that it uses, differs"
    if name == "chains":
        return "another sweep: the chains of its points differ"
    if before == after:
        return f"another sweep: {name} differs"
    return f"another sweep: {name} is {_brief(before)} there and {_brief(after)} here"


def _function_of(value: Any) -> str | None:
    """Name of the function whose identity this is."""
    if isinstance(value, dict) and {*value} == {"function", "code"}:
        return plain(value["function"], 80)
    return None


def _axis(entry: Any) -> str:
    try:
        return f"{entry['n']} values from {entry['first']} to {entry['last']}"
    except (KeyError, TypeError):
        return "unknown"


def _brief(value: Any) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value), 80)
