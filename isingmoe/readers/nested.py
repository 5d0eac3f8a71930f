"""Nested lists of whole numbers: long ones are cut out of JSON and read at once."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["array_of", "loads"]

# Bytes from which on cutting is faster than reading all at once.
_LONG = 1 << 11
# Levels of lists that are looked for.
_DEEPEST = 3
# What is of a number as 0, so that brackets and commas are what else there is.
_OUTLINE = bytes.maketrans(b"123456789-", b"0" * 10)
_ZERO, _MINUS = np.uint8(ord("0")), ord("-")
_SPACED = bytes.maketrans(b"[]", b"  ")


def loads(text: str, names: Sequence[str] = ()) -> Any:
    """A value out of JSON, some fields of which may be arrays in place of lists.

    Parameters
    ----------
    text : str
    names : sequence of str
        Of the fields that hold nested lists of whole numbers, of one length on each level. One
        that holds anything else is what `json` makes of it.

    Raises
    ------
    ValueError, RecursionError
        As `json.loads`.
    """
    if len(text) < _LONG or not names:
        return json.loads(text)
    raw = text.encode()
    parts, arrays, done = [], [], 0
    for start, end in _places(raw, names):
        array = _regular(raw[start:end])
        # What a field looks like may also stand inside another.
        if array is None or start < done:
            continue
        # A number that JSON does not have takes its place.
        parts += [raw[done:start], b"NaN"]
        arrays.append(array)
        done = end
    if not arrays:
        return json.loads(text)
    left = arrays[::-1]
    try:
        value = json.loads(b"".join([*parts, raw[done:]]), parse_constant=lambda _: left.pop())
    except (ValueError, IndexError):
        # The error is to be of the text as it is.
        return json.loads(text)
    return json.loads(text) if left else value


def _places(raw: bytes, names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where the lists of the fields of some names begin and end, in their order."""
    found = []
    for name in names:
        key = b'"%s"' % name.encode()
        place = raw.find(key)
        while place >= 0:
            found.append(place + len(key))
            place = raw.find(key, place + len(key))
    for after in sorted(found):
        start = raw.find(b"[", after, after + 9)
        if start < 0 or raw[after:start].strip() != b":":
            continue
        ends = [end for end in (raw.find(b'"', start), raw.find(b"}", start)) if end >= 0]
        end = raw.rfind(b"]", start, min(ends, default=len(raw))) + 1
        if end:
            yield start, end


def _regular(raw: bytes) -> NDArray[np.int64] | None:
    """The array that a text is, None where it is not of whole numbers or ragged."""
    outline = raw.translate(_OUTLINE, b" \t\r\n")
    form = outline.translate(None, b"0")
    depth = len(form) - len(form.lstrip(b"["))
    if depth > _DEEPEST:
        return None
    shape: list[int] = []
    part = b""
    for level in range(depth):
        # The first list of the level, made of those of the level below.
        start, stop = depth - 1 - level, form.find(b"]" * (level + 1))
        n = (stop + level - start) // (len(part) + 1)
        part = b"[" + b",".join([part] * n) + b"]"
        shape.insert(0, n)
    if part != form or not shape or b"0[" in outline or b"]0" in outline:
        return None
    size = math.prod(shape)
    code = np.frombuffer(raw, np.uint8)
    digit = (code - _ZERO) < 10
    begins = digit[1:] & ~digit[:-1]
    # NumPy reads what is no number as 0, and zeros in front.
    if np.count_nonzero(begins) != size or (begins & (code[1:] == _ZERO))[:-1][digit[2:]].any():
        return None
    if b"-" in raw and not digit[np.flatnonzero(code == _MINUS) + 1].all():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            values = np.fromstring(raw.translate(_SPACED), np.int64, sep=",")
        except (ValueError, DeprecationWarning):
            return None
    return values.reshape(shape) if len(values) == size else None


def array_of(values: Any) -> NDArray[Any]:
    """Nested lists as an array, which those of whole numbers become faster than by NumPy.

    Raises
    ------
    ValueError
        If they are ragged.
    """
    flat, shape = values, []
    while isinstance(flat, list) and flat:
        shape.append(len(flat) // math.prod(shape))
        kinds = set(map(type, flat))
        if kinds != {list}:
            break
        if len(set(map(len, flat))) > 1:
            raise ValueError("ragged")
        flat = list(chain.from_iterable(flat))
    else:
        return np.asarray(values)
    return np.array(flat).reshape(shape) if kinds <= {int} else np.asarray(values)
