"""Recordings of sequences, and how they become traces."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import isingmoe as im
from isingmoe.recorded import Recording, assemble, expert_ids

COMMON = {"model": "m", "attributes": {}, "where": "here"}


def recorded(traces: xr.Dataset) -> list[Recording]:
    """Each sequence of traces by itself."""
    found = []
    for s, n in enumerate(traces["length"].values):
        parts = {
            name: traces[name].values[:, s, :n].swapaxes(0, 1)
            for name in ("expert_index", "gate_weight", "router_logit")
            if name in traces
        }
        token = traces["token_id"].values[s, :n] if "token_id" in traces else None
        start = int(traces["start_position"][s]) if "start_position" in traces else 0
        found.append(Recording(**parts, token_id=token, start_position=start))
    return found


@given(
    shape=st.fixed_dictionaries(
        {
            "n_layers": st.integers(1, 3),
            "n_sequences": st.integers(1, 5),
            "n_positions": st.integers(1, 9),
            "top_k": st.integers(1, 3),
            "gaps": st.sampled_from([0.0, 0.3]),
            "weights": st.booleans(),
            "token_ids": st.booleans(),
            "ranked": st.booleans(),
            "seed": st.integers(0, 2**16),
        }
    )
)
@settings(max_examples=40, deadline=None)
def test_sequences_put_together_are_the_traces(make_traces, shape):
    traces = make_traces(ragged=True, **shape)
    found = assemble(
        recorded(traces),
        layers=[3 + 4 * i for i in range(shape["n_layers"])],
        num_experts=6,
        ranked=shape["ranked"],
        top_k=shape["top_k"],
        **{**COMMON, "model": "synthetic"},
    )
    if shape["weights"]:
        used = traces["expert_index"] >= 0
        traces = traces.assign(gate_weight=traces["gate_weight"].where(used))
        traces["gate_weight"].attrs = found["gate_weight"].attrs
    expected = traces.assign_attrs(provenance="")
    expected["layer"].attrs = found["layer"].attrs
    xr.testing.assert_identical(found.assign_attrs(provenance=""), expected)


def test_everything_that_is_recorded_is_kept(make_traces):
    logits = np.random.default_rng(0).standard_normal((2, 5, 12, 6)).astype(np.float16)
    start = np.array([0, 3, 0, 0, 9], np.int32)
    traces = make_traces(router_logit=logits, start_position=start, token_ids=True)
    more = {"router": "softmax", "text": "none"}
    common = {**COMMON, "attributes": more}
    found = assemble(recorded(traces), layers=[3, 7], num_experts=6, ranked=True, **common)
    for name in ("router_logit", "start_position", "token_id"):
        xr.testing.assert_equal(found[name], traces[name])
        assert found[name].dtype == traces[name].dtype
    assert found.attrs["router"] == "softmax"
    wide = [
        Recording(r.expert_index, router_logit=np.asarray(r.router_logit, np.float64))
        for r in recorded(traces)
    ]
    found = assemble(wide, layers=[3, 7], num_experts=6, ranked=True, **COMMON)
    assert found["router_logit"].dtype == np.float32
    assert "start_position" not in found


def test_ranks_are_put_into_the_order_of_the_weights():
    index = np.array([[[2, 0, 5]], [[1, -1, 3]]])
    weight = np.array([[[0.1, 0.7, 0.2]], [[0.25, 9.0, 0.75]]], np.float32)
    options = {"layers": [0], "num_experts": 6, "top_k": 3, **COMMON}
    found = assemble([Recording(index, weight)], ranked=True, **options)
    assert found["expert_index"].values[0, 0].tolist() == [[0, 5, 2], [3, 1, -1]]
    assert np.array_equal(
        found["gate_weight"].values[0, 0],
        np.array([[0.7, 0.2, 0.1], [0.75, 0.25, np.nan]], np.float32),
        equal_nan=True,
    )
    found = assemble([Recording(index, weight)], ranked=False, **options)
    assert found["expert_index"].values[0, 0].tolist() == index[:, 0].tolist()


def test_layers_that_differ_say_in_what():
    index = np.full((4, 3, 3), -1)
    index[:, 0, :2], index[:, 1, :1], index[:, 2] = [0, 5], [3], [7, 1, 2]
    found = assemble(
        [Recording(index)], layers=[1, 2, 5], num_experts=[6, 4, 8], ranked=True, **COMMON
    )
    assert found["num_experts"].values.tolist() == [6, 4, 8]
    assert found["top_k"].values.tolist() == [2, 1, 3]
    assert (found.attrs["num_experts"], found.attrs["top_k"]) == (8, 3)
    alike = assemble(
        [Recording(index)], layers=[1, 2, 5], num_experts=8, ranked=True, top_k=3, **COMMON
    )
    assert not {"num_experts", "top_k"} & set(alike.variables)
    with pytest.raises(im.TraceSchemaError, match=r"^here: .*below num_experts = 4, got 5, first"):
        assemble([Recording(index)], layers=[1, 2, 5], num_experts=[4, 4, 8], ranked=True, **COMMON)


def test_what_no_token_fills_is_not_taken_for_fewer_experts():
    index = np.array([[[3, -1], [-1, -1]]])
    found = assemble([Recording(index)], layers=[0, 1], num_experts=4, ranked=True, **COMMON)
    assert found.attrs["top_k"] == 2
    assert "top_k" not in found.variables


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: [], r"here: expected sequences, got none; the trace would be empty"),
        (
            lambda r: [r[0], Recording(r[1].expert_index[:, :1])],
            r"here: sequence 1: expert_index: expected shape \(token, 2 layers, rank\), got",
        ),
        (
            lambda r: [r[0], Recording(r[1].expert_index[..., :1], token_id=r[1].token_id)],
            r"here: expert_index: expected shape \(token, 2, 2\) as in sequence 0, got",
        ),
        (
            lambda r: [r[0], Recording(r[1].expert_index)],
            r"here: token_id: expected in every sequence or in none, got it in sequence 0 and not",
        ),
        (
            lambda r: [Recording(r[0].expert_index, np.ones((12, 2, 3)))],
            r"here: sequence 0: gate_weight: expected shape \(12, 2, 2\), got \(12, 2, 3\)",
        ),
        (
            lambda r: [Recording(r[0].expert_index, token_id=np.arange(3))],
            r"here: sequence 0: token_id: expected shape \(12,\), got \(3,\)",
        ),
        (
            lambda r: [Recording(r[0].expert_index.astype(int) + 70_000)],
            r"here: sequence 0: expert_index: expected ids of -1 to 32767, got 7000\d",
        ),
        (
            lambda r: [Recording(r[0].expert_index, router_logit=np.ones((12, 2, 4)))],
            r"here: router_logit: expected 6 experts, got 4",
        ),
    ],
)
def test_recordings_that_do_not_fit_are_named(make_traces, change, message):
    recordings = change(recorded(make_traces(token_ids=True)))
    with pytest.raises(ValueError, match=message):
        assemble(recordings, layers=[3, 7], num_experts=6, ranked=True, **COMMON)


@pytest.mark.parametrize("number", [[6, 6, 6], 2.5, [[6, 6]]])
def test_numbers_are_one_for_each_layer(make_traces, number):
    with pytest.raises(ValueError, match=r"here: num_experts: expected a whole number, or one for"):
        assemble(recorded(make_traces()), layers=[3, 7], num_experts=number, ranked=True, **COMMON)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, 6]], r"expected ids of 0 to 5, or -1 for none, got 6; correct num_experts or the"),
        ([[-2, 1]], r"expected ids of 0 to 5, or -1 for none, got -2"),
        ([[2, 2]], r"expected different experts for one token, got 2 twice"),
        ([[0, 1], [2]], r"expected as many entries in each row, got a ragged array"),
        ([[0, 1.5]], r"expected whole numbers, got 1.5"),
        ([["x", 1]], r"expected whole numbers, got 'x'"),
        ([[None, 1]], r"expected whole numbers, got None"),
        ([[True, False]], r"expected whole numbers, got True"),
    ],
)
def test_ids_that_cannot_be_are_named(values, message):
    with pytest.raises(ValueError, match=rf"^line 3: ids: {message}"):
        expert_ids(values, num_experts=6, where="line 3", name="ids")


def test_ids_that_can_be():
    assert expert_ids([[5, -1], [-1, -1]], num_experts=6, where="").tolist() == [[5, -1], [-1, -1]]
    assert expert_ids([], num_experts=6, where="").size == 0
    for n in (0, 40_000):
        with pytest.raises(ValueError, match=rf"num_experts: expected 1 to 32768, .* got {n}"):
            expert_ids([[0]], num_experts=n, where="here")
