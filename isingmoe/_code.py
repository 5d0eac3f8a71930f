"""What tells one function from another: its code, and that of the user's code that it calls."""

from __future__ import annotations

import dis
import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["Describe", "digest", "function_in", "of_class", "of_function", "qualified"]

# Values that a function holds or uses, in JSON's types.
Describe = Callable[[Any], Any]

_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")


def digest(value: Any) -> str:
    """A hash of something made of JSON's types."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def qualified(thing: Any) -> str:
    """The full name of a class or of a function."""
    return f"{thing.__module__}.{thing.__qualname__}"


def function_in(value: Any) -> FunctionType | None:
    """The Python function that a value is, or that a decorator such as njit has wrapped."""
    for name in ("py_func", "__wrapped__"):
        if not isinstance(value, FunctionType | type | ModuleType):
            value = getattr(value, name, value)
    return value if isinstance(value, FunctionType) else None


def of_function(function: FunctionType, describe: Describe) -> Any:
    """Name and code of a function, with the values and functions that it uses.

    Of installed packages the name and the version: what they use is theirs.
    """
    installed = _installed(function.__module__)
    if installed is not None:
        return " ".join(filter(None, (qualified(function), installed)))
    attributes = set(_names(function.__code__))
    held = [*_cells(function), function.__defaults__, function.__kwdefaults__]
    held.append(function_in(getattr(function, "__wrapped__", None)))
    used = [_of_value(value, attributes, describe) for value in held]
    for name in sorted(set(_names(function.__code__, _GLOBALS)) & set(function.__globals__)):
        used.append([name, _of_value(function.__globals__[name], attributes, describe)])
    code = digest([_of_code(function.__code__), used])
    return {"function": qualified(function), "code": code}


def _of_value(
    value: Any, attributes: set[str], describe: Describe, path: tuple[str, ...] = ()
) -> Any:
    """A value that a function uses; of a module of the user, what the function uses of it."""
    if not isinstance(value, ModuleType):
        return describe(value)
    installed = _installed(value.__name__)
    if installed is not None or value.__name__ in path:
        return " ".join(filter(None, (value.__name__, installed)))
    path, inside = (*path, value.__name__), vars(value)
    return [
        value.__name__,
        {
            name: _of_value(inside[name], attributes, describe, path)
            for name in sorted(attributes & set(inside))
        },
    ]


def of_class(kind: type, describe: Describe) -> Any:
    """Name of a class, and of one of the user its functions and values."""
    installed = _installed(kind.__module__)
    if installed is not None:
        return qualified(kind)
    parts = {}
    for name, value in sorted(vars(kind).items()):
        inner = getattr(value, "__func__", value)
        if isinstance(inner, property):
            parts[name] = [describe(f) for f in (inner.fget, inner.fset, inner.fdel)]
        elif function_in(inner) is not None or not (
            name.startswith("__") or inspect.isdatadescriptor(inner)
        ):
            parts[name] = describe(inner)
    return {
        "class": qualified(kind),
        "bases": [describe(base) for base in kind.__bases__],
        "parts": parts,
    }


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            # A name that has no value yet.
            yield None


def _names(code: CodeType, kinds: tuple[str, ...] | None = None) -> Iterator[str]:
    """Names in a function and in those inside it; those that certain instructions load."""
    if kinds is None:
        yield from code.co_names
    else:
        yield from (i.argval for i in dis.get_instructions(code) if i.opname in kinds)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant, kinds)


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


@cache
def _installed(module: str | None) -> str | None:
    """The version of an installed package; None for code of the user."""
    if module is None:
        return None
    package = module.partition(".")[0]
    if package == "isingmoe" or package in sys.stdlib_module_names - {"__main__"}:
        # The version of this package stands beside every identity.
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None if module == "__main__" or module not in sys.modules else ""
    folders = {sysconfig.get_path(name) for name in _INSTALLED}
    if not any(Path(file).is_relative_to(folder) for folder in folders if folder):
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", ""))
