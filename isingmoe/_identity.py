"""What tells one sweep from another: values, chains and functions as JSON."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from isingmoe._text import plain

__all__ = ["digest", "identity", "other_sweep"]


def digest(value: Any) -> str:
    """A hash of something made of JSON's types."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(value: Any) -> Any:
    """A value in JSON's types, equal for equal values; arrays by their hash.

    Raises
    ------
    TypeError
        If it is of a kind that cannot be told from others, as it cannot be pickled.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, np.generic):
        return identity(value.item())
    if isinstance(value, np.ndarray) and value.dtype != object:
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": content}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, np.random.SeedSequence):
        return {"entropy": identity(value.entropy), "spawn_key": list(value.spawn_key)}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: identity(getattr(value, f.name)) for f in fields(value)}
        return {"type": _name(type(value)), **parts}
    if isinstance(value, partial):
        return {
            "function": identity(value.func),
            "arguments": identity([value.args, value.keywords]),
        }
    if isinstance(value, FunctionType):
        return _of_function(value)
    try:
        content = hashlib.sha256(pickle.dumps(value, protocol=5)).hexdigest()[:16]
    except Exception as error:
        raise TypeError(
            f"{plain(repr(value), 40)}: expected something that can be pickled ({error})"
        ) from None
    return {"type": _name(type(value)), "sha256": content}


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _of_function(function: FunctionType) -> Any:
    if function.__module__.startswith("isingmoe."):
        return _name(function)
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [function.__defaults__, function.__kwdefaults__]
    return {
        "function": _name(function),
        "code": digest([_of_code(function.__code__), [_held(item) for item in held]]),
    }


def _of_code(code: CodeType) -> list[Any]:
    """What a function does, whatever line it stands on."""
    constants = [
        _of_code(c)
        if isinstance(c, CodeType)
        else repr(sorted(map(repr, c)))
        if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), constants]


def _held(value: Any) -> Any:
    """What a function holds from where it was defined, as far as it can be told."""
    if isinstance(value, FunctionType):
        return _name(value)
    try:
        return identity(value)
    except TypeError:
        return _name(type(value))


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
    if name == "chains":
        return "another sweep: the chains of its points differ"
    if before == after:
        return f"another sweep: {name} differs"
    return f"another sweep: {name} is {_brief(before)} there and {_brief(after)} here"


def _axis(entry: Any) -> str:
    try:
        return f"{entry['n']} values from {entry['first']} to {entry['last']}"
    except (KeyError, TypeError):
        return "unknown"


def _brief(value: Any) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value), 80)
