"""Long lists of numbers are cut out of JSON, and what `json` says is what comes of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isingmoe.readers import nested

WHOLE = st.integers(-(2**31), 2**31)


@pytest.fixture(autouse=True)
def short_ones_too(monkeypatch):
    monkeypatch.setattr(nested, "_LONG", 0)


@st.composite
def regular(draw) -> Any:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    numbers = draw(st.lists(WHOLE, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return np.array(numbers, np.int64).reshape(shape).tolist()


OTHER = st.sampled_from([None, "r", [], [[]], [[1], [2, 3]], [1.5], [True], ['"r": [1]'], {}])
RECORDS = st.fixed_dictionaries(
    {
        "text": st.sampled_from(["", '"r": [1]', "[[", "NaN", "}"]),
        "r": st.one_of(regular(), OTHER),
        "inner": st.lists(st.fixed_dictionaries({"r": regular(), "other": OTHER}), max_size=3),
        "s": st.one_of(regular(), OTHER),
    }
)


def as_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {name: as_lists(part) for name, part in value.items()}
    return [as_lists(part) for part in value] if isinstance(value, list) else value


@given(record=RECORDS, indent=st.sampled_from([None, 1]))
@example(record={"r": [[]], "s": [[1]]}, indent=1)
def test_it_is_what_json_makes_of_it(record, indent):
    text = json.dumps(record, indent=indent)
    found = nested.loads(text, ("r", "s"))
    # Of the same types too: 1, 1.0 and True are equal.
    assert repr(as_lists(found)) == repr(record)


@given(value=regular())
def test_long_lists_become_arrays(value):
    assert isinstance(nested.loads(json.dumps({"r": value}), ("r",))["r"], np.ndarray)


@given(
    record=RECORDS, place=st.integers(0, 400), letter=st.sampled_from([*'[],1-x" :}', "", "NaN"])
)
@example(record={"r": [[1], [2]]}, place=10, letter="5")
@example(record={"r": [[105], [2]]}, place=7, letter="")
def test_what_is_broken_is_what_json_says(record, place, letter):
    text = json.dumps(record)
    place %= len(text)
    for broken in (text[:place] + letter + text[place + 1 :], text[:place] + letter + text[place:]):
        try:
            expected = repr(json.loads(broken))
        except ValueError as error:
            expected = str(error)
        try:
            found = repr(as_lists(nested.loads(broken, ("r", "s"))))
        except ValueError as error:
            found = str(error)
        assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "[01]",
        "[-01]",
        "[[]1]",
        "[1[2]]",
        "[- 1]",
        "[1 2]",
        "[1,,2]",
        "[,1]",
        "[1,]",
        "[[1],-[2]]",
        "[ ]",
        "[--1]",
    ],
)
def test_what_numpy_would_read_and_json_does_not(text):
    whole = f'{{"r": {text}}}'
    try:
        expected = json.loads(whole)
    except ValueError:
        with pytest.raises(ValueError, match="line 1"):
            nested.loads(whole, ("r",))
    else:
        assert as_lists(nested.loads(whole, ("r",))) == expected


@pytest.mark.parametrize(
    "value", [[], [[]], [1], [[1, 2], [3, 4]], [[1.5]], ["a"], [True], 3, None]
)
def test_lists_as_arrays(value):
    found, expected = nested.array_of(value), np.asarray(value)
    assert found.shape == expected.shape
    assert found.dtype.kind == expected.dtype.kind
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("value", [[[1], 2], [[1], [2, 3]], [[[1]], [2]], [1, [2]]])
def test_ragged_lists_are_no_arrays(value):
    with pytest.raises(ValueError, match=r"."):
        nested.array_of(value)
