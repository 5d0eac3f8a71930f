from __future__ import annotations

import collections
import itertools
import json
import re

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import isingmoe as im
from isingmoe._schema import ATTRIBUTES, VARIABLES
from isingmoe.derived import BASELINES
from isingmoe.traces import select_layers

NAMES = [variable.name for variable in VARIABLES]
SUFFIXES = ("nc", "zarr")

SHAPES = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 3),
        "n_sequences": st.integers(1, 5),
        "n_positions": st.integers(1, 9),
        "num_experts": st.integers(3, 7),
        "top_k": st.integers(1, 3),
        "ragged": st.booleans(),
        "gaps": st.sampled_from([0.0, 0.2, 0.9]),
        "weights": st.booleans(),
        "token_ids": st.booleans(),
        "seed": st.integers(0, 2**20),
    }
)


def described(name: str) -> dict[str, str]:
    """The attributes that the schema gives a variable."""
    variable = next(v for v in VARIABLES if v.name == name)
    return {"long_name": variable.long_name, "units": variable.units}


@pytest.fixture
def complete(make_traces) -> xr.Dataset:
    """Traces with every variable and attribute of the schema."""
    rng = np.random.default_rng(7)
    traces = make_traces(
        n_positions=9,
        ragged=True,
        gaps=0.2,
        weights=True,
        token_ids=True,
        router_logit=rng.standard_normal((2, 5, 9, 6)).astype(np.float16),
        start_position=[0, 11, 0, 3, 70000],
    )
    traces["num_experts"] = ("layer", np.array([6, 6], np.int32), described("num_experts"))
    traces["top_k"] = ("layer", np.array([2, 2], np.int32), described("top_k"))
    texts = {a.name: f"the {a.name}" for a in ATTRIBUTES if not a.required}
    return traces.assign_attrs({**texts, "provenance": "{}"})


def faults_of(traces: xr.Dataset) -> tuple[str, ...]:
    with pytest.raises(im.TraceSchemaError) as caught:
        im.validate(traces)
    assert str(caught.value).startswith("traces: ")
    for fault in caught.value.faults:
        assert fault in str(caught.value)
    return caught.value.faults


def token(traces: xr.Dataset, sequence: int, position: int) -> tuple[object, ...]:
    """All that is known of a token: its experts in every layer, their weights, its id."""
    here = traces.isel(sequence=sequence, position=position)
    return tuple(
        tuple(here[name].values.ravel().tolist())
        for name in ("expert_index", "gate_weight", "router_logit", "token_id")
        if name in traces
    )


def tokens(traces: xr.Dataset) -> list[list[tuple[object, ...]]]:
    lengths = traces["length"].values
    return [[token(traces, s, i) for i in range(n)] for s, n in enumerate(lengths)]


def test_complete_traces_are_valid(complete):
    assert set(NAMES) == set(complete.variables)
    assert {attribute.name for attribute in ATTRIBUTES} == set(complete.attrs)
    assert im.validate(complete) is complete


@given(shape=SHAPES)
@settings(max_examples=30, deadline=None)
def test_the_factory_makes_valid_traces(make_traces, shape):
    im.validate(make_traces(**shape))


@pytest.mark.parametrize("variable", VARIABLES, ids=NAMES)
def test_wrong_dims_are_named(complete, tmp_path, variable):
    if variable.name == "layer":
        # A coordinate named as a dimension cannot lie along another one.
        bad, found = complete.isel(layer=0), ()
    else:
        found = ("extra", *variable.dims[1:])
        bad = complete.assign({variable.name: (found, complete[variable.name].values)})
    expected, got = (f"({', '.join(dims)})" for dims in (variable.dims, found))
    remedy = "transpose or rename them"
    if variable.name == "layer":
        remedy = "select layers with a list, as traces.sel(layer=[7])"
    fault = f"{variable.name}: expected dims {expected}, got {got}; {remedy}"
    assert fault in faults_of(bad)
    with pytest.raises(im.TraceSchemaError, match=re.escape(fault)):
        im.save_traces(bad, tmp_path / "traces.nc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", VARIABLES, ids=NAMES)
def test_wrong_dtype_is_named(complete, tmp_path, variable):
    bad = complete.assign({variable.name: complete[variable.name].astype(float)})
    fault = (
        f"{variable.name}: expected dtype {' or '.join(variable.dtypes)}, got float64; "
        "convert it with astype"
    )
    assert faults_of(bad) == (fault,)
    with pytest.raises(im.TraceSchemaError, match=re.escape(fault)):
        im.save_traces(bad, tmp_path / "traces.nc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", VARIABLES, ids=NAMES)
def test_only_required_variables_are_missed(complete, variable):
    without = complete.drop_vars(variable.name)
    if not variable.required:
        im.validate(without)
        return
    (fault,) = faults_of(without)
    assert fault.startswith(f"{variable.name}: missing; expected dims ({variable.dims[0]}")


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=[a.name for a in ATTRIBUTES])
def test_attributes_are_checked(complete, attribute):
    without = complete.drop_attrs(deep=False).assign_attrs(
        {name: value for name, value in complete.attrs.items() if name != attribute.name}
    )
    if attribute.required:
        assert faults_of(without) == (
            f"attribute {attribute.name}: missing; expected {attribute.meaning}",
        )
    else:
        im.validate(without)
    for wrong in (True, 2.0, "2" if attribute.kind is int else 2):
        fault = f"expected {attribute.kind.__name__}, got {type(wrong).__name__}"
        bad = complete.assign_attrs({attribute.name: wrong})
        assert f"attribute {attribute.name}: {fault}" in faults_of(bad)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("conventions", "CF-1.8", "expected 'isingmoe-traces-1', got 'CF-1.8'"),
        ("ranked", 2, "expected 0 or 1, got 2"),
        ("num_experts", 0, "expected at least 1, got 0"),
        ("top_k", 3, "expected 2, the size of dimension rank of expert_index, got 3"),
    ],
)
def test_attribute_values_are_checked(make_traces, name, value, fault):
    assert faults_of(make_traces().assign_attrs({name: value})) == (f"attribute {name}: {fault}",)


@pytest.mark.parametrize("num_experts", [32769, 10**6, 2**62])
def test_more_experts_than_an_id_can_name_are_refused(make_traces, num_experts):
    # Arrays of this size end in a MemoryError or worse.
    (fault,) = faults_of(make_traces().assign_attrs(num_experts=num_experts))
    assert re.search(rf"^attribute num_experts: expected .*32768.*, got {num_experts}", fault)


def test_number_of_experts_and_logits_agree(complete):
    assert faults_of(complete.isel(expert=slice(0, 5))) == (
        "router_logit: expected 6 experts, got 5",
    )


@pytest.mark.parametrize("dim", ["layer", "sequence", "position", "rank"])
def test_empty_dimensions_are_named(make_traces, dim):
    faults = faults_of(make_traces().isel({dim: slice(0, 0)}))
    assert faults[0] == f"dimension {dim}: expected at least 1, got 0; the trace is empty"


def test_every_structural_fault_is_listed_at_once(complete):
    bad = complete.drop_vars("length").assign(
        expert_index=complete["expert_index"].astype(np.int32),
        token_id=complete["token_id"].transpose("position", "sequence"),
    )
    bad.attrs.update(ranked=2, top_k=3)
    del bad.attrs["model"]
    assert faults_of(bad) == (
        "attribute model: missing; expected name of the model",
        "attribute ranked: expected 0 or 1, got 2",
        "expert_index: expected dtype int16, got int32; convert it with astype",
        "length: missing; expected dims (sequence)",
        "token_id: expected dims (sequence, position), got (position, sequence); "
        "transpose or rename them",
        "attribute top_k: expected 2, the size of dimension rank of expert_index, got 3",
    )


def test_every_fault_of_value_is_listed_at_once_with_its_first_index(make_traces):
    traces = make_traces(weights=True).assign_coords(layer=[4, 4])
    traces["length"][3] = 10
    index, weight = traces["expert_index"].values, traces["gate_weight"].values
    index[:, 3, 10:] = -1
    index[0, 1, 5, 1] = 6
    index[1, 0, 0, 0] = 99
    index[0, 4, 2, 0] = -2
    index[1, 0, 1, 0] = -300
    index[1, 3, 11, 1] = 0
    index[0, 2, 3] = 5
    index[0, 2, 4] = 1
    weight[1, 1, 1, 0] = np.nan
    weight[1, 1, 2, 1] = np.inf
    shown = [re.sub(r"; (?!drop).*", "", fault) for fault in faults_of(traces)]
    at = "first at index layer {}, sequence {}, position {}, rank {}".format
    assert shown == [
        "layer: expected different numbers, got [4, 4]",
        f"expert_index: expected ids below num_experts = 6, got 6, {at(0, 1, 5, 1)}",
        f"expert_index: expected ids from 0 up, or -1 for none, got -2, {at(0, 4, 2, 0)}",
        f"expert_index: expected -1 past the sequence's length, got 0, {at(1, 3, 11, 1)}",
        f"expert_index: expected different experts for one token, got 5 twice, {at(0, 2, 3, 1)}",
        f"gate_weight: expected finite weights, got nan in 2 places, {at(1, 1, 1, 0)}; "
        "drop the variable, or capture again",
    ]


@pytest.mark.parametrize("value", [-1, 13])
def test_lengths_out_of_range_are_named(make_traces, value):
    traces = make_traces()
    traces["length"][[2, 4]] = value
    (fault,) = faults_of(traces)
    assert fault.startswith(
        f"length: expected 0 to 12, the size of dimension position, got {value} at sequence 2"
    )


@given(shape=SHAPES, data=st.data())
@settings(max_examples=40, deadline=None)
def test_first_bad_id_is_the_one_a_slow_search_finds(make_traces, shape, data):
    traces = make_traces(**shape)
    index = traces["expert_index"].values
    places = list(np.ndindex(index.shape))
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3))
    for place in chosen:
        index[place] = data.draw(st.sampled_from([-2, -9, shape["num_experts"], 30]))
    fault = faults_of(traces)[0]
    high = [place for place in places if index[place] >= shape["num_experts"]]
    first = (high or [place for place in places if index[place] < -1])[0]
    assert f"got {index[first]}, first at index " in fault
    assert tuple(map(int, re.findall(r"(?:layer|sequence|position|rank) (\d+)", fault))) == first


def test_rising_weights_need_unranked_traces(make_traces):
    traces = make_traces(weights=True)
    traces["gate_weight"].values[1, 2, 3] = [0.25, 0.5]
    (fault,) = faults_of(traces)
    assert "got a rise after index layer 1, sequence 2, position 3, rank 0" in fault
    assert "set ranked to 0" in fault
    im.validate(traces.assign_attrs(ranked=0))


def test_weights_of_missing_experts_are_not_read(make_traces):
    traces = make_traces(weights=True, gaps=0.3)
    traces["gate_weight"].values[traces["expert_index"].values < 0] = np.nan
    im.validate(traces)


@pytest.mark.parametrize("name", ["num_experts", "top_k"])
def test_numbers_of_a_layer_are_within_the_attribute(complete, name):
    most = complete.attrs[name]
    for wrong in (0, most + 1):
        bad = complete.assign({name: ("layer", np.array([most, wrong], np.int32))})
        assert (
            f"{name}: expected 1 to {most}, the attribute {name}, got {wrong} at layer 1"
            in (faults_of(bad)[0])
        )


def test_ids_are_those_of_their_own_layer(make_traces):
    traces = make_traces()
    traces["expert_index"].values[1] = [[[3, -1]]]
    fewer = traces.assign(
        num_experts=("layer", np.array([6, 4], np.int32)),
        top_k=("layer", np.array([2, 1], np.int32)),
    )
    im.validate(fewer)
    index = fewer["expert_index"].values
    index[1, 2, 3, 0] = 4
    index[1, 1, 5, 1] = 2
    high, past = faults_of(fewer)
    assert "expected ids below num_experts = 4, got 4, first at index layer 1, seq" in high
    assert past == (
        "expert_index: expected -1 past top_k = 1 of the layer, got 2, first at index "
        "layer 1, sequence 1, position 5, rank 1"
    )


def test_arrays_of_layers_that_differ():
    index = np.array([[0, 5], [3, -1]])[:, None, None]
    traces = im.traces_from_arrays(index, num_experts=[6, 4], top_k=[2, 1])
    assert traces.attrs["num_experts"] == 6
    assert traces.attrs["top_k"] == 2
    assert traces["num_experts"].values.tolist() == [6, 4]
    assert traces["top_k"].values.tolist() == [2, 1]


def test_arrays_are_declared_as_the_schema_says(complete):
    for variable in VARIABLES:
        found = complete[variable.name]
        assert found.dims == variable.dims
        assert found.dtype.name in variable.dtypes
        assert found.attrs == {"long_name": variable.long_name, "units": variable.units}


def test_arrays_default_to_whole_sequences_and_counted_layers():
    traces = im.traces_from_arrays(np.zeros((3, 2, 5, 1), int), num_experts=4)
    assert traces["length"].values.tolist() == [5, 5]
    assert traces["layer"].values.tolist() == [0, 1, 2]
    assert json.loads(traces.attrs["provenance"])["verb"] == "traces_from_arrays"
    assert {k: v for k, v in traces.attrs.items() if k != "provenance"} == {
        "conventions": "isingmoe-traces-1",
        "model": "unnamed",
        "num_experts": 4,
        "top_k": 1,
        "ranked": 1,
    }


def test_arrays_that_do_not_fit_are_refused():
    index = np.zeros((1, 2, 3, 1), int)
    with pytest.raises(ValueError, match=r"expert_index: expected 4 dims .*, got 3"):
        im.traces_from_arrays(index[0], num_experts=4)
    with pytest.raises(TypeError, match=r"gate: expected one of layer, expert_index, .*"):
        im.traces_from_arrays(index, num_experts=4, gate=index)
    with pytest.raises(im.TraceSchemaError, match="expected ids below num_experts = 4, got 4"):
        im.traces_from_arrays(index + 4, num_experts=4)


def test_ids_are_never_wrapped_into_range():
    # 65538 in 16 bits is 2.
    with pytest.raises(ValueError, match=r"expert_index: expected .*, got 65538"):
        im.traces_from_arrays(np.full((1, 1, 3, 1), 65538), num_experts=4)


def test_layers_are_chosen_by_the_models_number(make_traces):
    traces = make_traces(n_layers=3)
    assert select_layers(traces, None) is traces
    assert select_layers(traces, [11, 3])["layer"].values.tolist() == [11, 3]
    with pytest.raises(ValueError, match=r"traces: layer: expected some of 3, 7, 11, got 5, 6"):
        select_layers(traces, [5, 7, 6])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_keeps_everything(complete, tmp_path, suffix):
    file = tmp_path / f"traces.{suffix}"
    im.save_traces(complete, file)
    opened = im.open_traces(file, logits=True)
    xr.testing.assert_identical(opened, complete)
    for name in NAMES:
        assert opened[name].dtype == complete[name].dtype
        assert isinstance(opened[name].values, np.ndarray)
    assert [type(v) is str for v in opened.attrs.values()] == [
        type(v) is str for v in complete.attrs.values()
    ]


@given(shape=SHAPES)
@settings(max_examples=10, deadline=None)
def test_round_trip_of_any_shape(make_traces, tmp_path_factory, shape):
    traces = make_traces(**shape)
    file = tmp_path_factory.mktemp("any") / "traces.nc"
    im.save_traces(traces, file)
    xr.testing.assert_identical(im.open_traces(file), traces)


def test_formats_convert_into_each_other(complete, tmp_path):
    im.save_traces(complete, tmp_path / "a.nc")
    for source, target in itertools.pairwise(["a.nc", "b.zarr", "c.zarr", "d.nc", "e.nc"]):
        im.save_traces(im.open_traces(tmp_path / source, logits=True), tmp_path / target)
    xr.testing.assert_identical(im.open_traces(tmp_path / "e.nc", logits=True), complete)
    part = im.open_traces(tmp_path / "c.zarr").isel(sequence=[1, 2], layer=[1])
    for name in ("part.nc", "part.zarr"):
        im.save_traces(part, tmp_path / name)
        xr.testing.assert_identical(im.open_traces(tmp_path / name), part)


def test_a_layer_is_one_compressed_chunk(complete, tmp_path):
    im.save_traces(complete, tmp_path / "traces.nc")
    with h5py.File(tmp_path / "traces.nc") as file:
        for name in ("expert_index", "gate_weight", "router_logit"):
            assert file[name].chunks == (1, *complete[name].shape[1:])
            assert file[name].compression == "gzip"
        assert file["token_id"].chunks == complete["token_id"].shape


def test_a_layer_is_one_chunk_of_a_store(complete, tmp_path):
    im.save_traces(complete, tmp_path / "traces.zarr")
    group = zarr.open_group(tmp_path / "traces.zarr", mode="r")
    for name in ("expert_index", "gate_weight", "router_logit"):
        assert group[name].chunks == (1, *complete[name].shape[1:])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_logits_are_loaded_on_request(complete, tmp_path, suffix):
    file = tmp_path / f"traces.{suffix}"
    im.save_traces(complete, file)
    assert "router_logit" not in im.open_traces(file)
    assert "router_logit" not in im.open_traces(file, logits=False)
    loaded = im.open_traces(file, logits=True)["router_logit"]
    xr.testing.assert_identical(loaded, complete["router_logit"])


def test_faults_name_the_file(make_traces, tmp_path):
    traces = make_traces()
    traces["expert_index"].values[0, 0, 0, 0] = 6
    traces.to_netcdf(tmp_path / "bad.nc", engine="h5netcdf")
    with pytest.raises(im.TraceSchemaError) as caught:
        im.open_traces(tmp_path / "bad.nc")
    assert str(caught.value) == f"{tmp_path / 'bad.nc'}: {caught.value.faults[0]}"


@pytest.mark.shared
@pytest.mark.parametrize("name", ["flame-moe-290m", "mixtral-8x7b", "olmoe-1b-7b-layer0"])
def test_shared_traces_open_and_survive(shared_traces, tmp_path, name):
    traces = im.open_traces(shared_traces / f"{name}.nc")
    im.save_traces(traces, tmp_path / "traces.nc")
    xr.testing.assert_identical(im.open_traces(tmp_path / "traces.nc"), traces)


@given(shape=SHAPES)
@settings(max_examples=40, deadline=None)
def test_states_are_what_slow_loops_find(make_traces, shape):
    traces = make_traces(**shape)
    before = traces.copy(deep=True)
    index = traces["expert_index"].values.tolist()
    states = (im.primary_expert(traces), im.expert_set(traces), im.occupancy(traces))
    primary, sets, occupied = (state.values.tolist() for state in states)
    n_layers, n_sequences, n_positions, _ = traces["expert_index"].shape
    for place in itertools.product(range(n_layers), range(n_sequences), range(n_positions)):
        layer, sequence, position = place
        experts = index[layer][sequence][position]
        present = [e for e in experts if e >= 0]
        assert primary[layer][sequence][position] == experts[0]
        assert sets[layer][sequence][position] == sorted(experts)
        expected = [
            (1 if e in present else 0) if present else -1 for e in range(shape["num_experts"])
        ]
        assert occupied[layer][sequence][position] == expected
    assert states[2].dims == ("layer", "sequence", "position", "expert")
    assert states[2].dtype == np.int8
    xr.testing.assert_identical(traces, before)


def test_primary_expert_is_a_view(make_traces):
    traces = make_traces()
    assert np.shares_memory(im.primary_expert(traces).values, traces["expert_index"].values)


def test_unranked_sets_have_no_primary_expert(make_traces):
    with pytest.raises(ValueError, match=r"traces: ranked: expected 1 .* use chain='ising'"):
        im.primary_expert(make_traces(ranked=False))
    alone = make_traces(ranked=False, top_k=1)
    assert im.primary_expert(alone).equals(alone["expert_index"].isel(rank=0))


@given(shape=SHAPES, length=st.integers(1, 9), stride=st.none() | st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_windows_are_what_slow_loops_cut(make_traces, shape, length, stride):
    starts = np.arange(shape["n_sequences"]) * 100
    traces = make_traces(**shape, start_position=starts)
    before = traces.copy(deep=True)
    expected = [
        (sequence, start)
        for sequence, n in enumerate(traces["length"].values.tolist())
        for start in range(n)
        if start % (stride or length) == 0 and start + length <= n
    ]
    if not expected:
        longest = int(traces["length"].max())
        with pytest.raises(ValueError, match=rf"length: .* {longest}, .*, got {length}$"):
            im.windows(traces, length, stride=stride)
        return
    cut = im.validate(im.windows(traces, length, stride=stride))
    assert cut["window_of"].values.tolist() == [sequence for sequence, _ in expected]
    assert cut["start_position"].values.tolist() == [100 * s + start for s, start in expected]
    assert cut["length"].values.tolist() == [length] * len(expected)
    assert tokens(cut) == [
        [token(traces, sequence, start + i) for i in range(length)] for sequence, start in expected
    ]
    xr.testing.assert_identical(traces, before)


def test_windows_start_at_zero_where_nothing_else_is_said(make_traces):
    cut = im.windows(make_traces(n_sequences=1, n_positions=11), 3, stride=4)
    assert cut["start_position"].values.tolist() == [0, 4, 8]
    assert cut["start_position"].dtype == np.int32


def test_windows_of_windows_keep_absolute_positions(make_traces):
    once = im.windows(make_traces(n_sequences=2), 6)
    twice = im.windows(once, 2, stride=3)
    assert twice["start_position"].values.tolist() == [0, 3, 6, 9] * 2
    assert twice["window_of"].values.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_windows_carry_what_belongs_to_their_sequence_or_nothing(make_traces):
    index = make_traces(n_sequences=3, n_positions=20)["expert_index"].values.copy()
    length = np.array([10, 5, 20])
    index[:, np.arange(20) >= length[:, None]] = -1
    traces = im.traces_from_arrays(index, num_experts=6, length=length)
    # As many windows as sequences, but of other ones.
    cut = im.windows(traces.assign(topic=("sequence", [7, 8, 9])), 10)
    assert cut["window_of"].values.tolist() == [0, 2, 2]
    assert "topic" not in cut or cut["topic"].values.tolist() == [7, 9, 9]


@pytest.mark.parametrize(("length", "stride"), [(0, None), (-1, None), (3, 0), (3, -2)])
def test_windows_need_positive_lengths(make_traces, length, stride):
    with pytest.raises(ValueError, match="length, stride: expected at least 1"):
        im.windows(make_traces(), length, stride=stride)


@given(shape=SHAPES, kind=st.sampled_from(BASELINES), seed=st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def test_baselines_keep_what_they_promise(make_traces, shape, kind, seed):
    traces = make_traces(**shape)
    before = traces.copy(deep=True)
    result = im.validate(im.baseline(traces, kind, seed=seed))
    xr.testing.assert_identical(traces, before)
    assert result["expert_index"].shape == traces["expert_index"].shape
    assert result["length"].identical(traces["length"])
    index, old = result["expert_index"].values, traces["expert_index"].values
    if kind == "random":
        # Validation has found the experts of a token to be different.
        np.testing.assert_array_equal(index < 0, old < 0)
        assert "gate_weight" not in result
        assert ("token_id" in result) == ("token_id" in traces)
        if "token_id" in traces:
            assert result["token_id"].identical(traces["token_id"])
        return
    assert set(result.variables) == set(traces.variables)
    found, given_ = tokens(result), tokens(traces)
    if kind == "position-shuffled":
        found, given_ = (
            [[row[i] for row in rows if i < len(row)] for i in range(shape["n_positions"])]
            for rows in (found, given_)
        )
    assert [collections.Counter(group) for group in found] == [
        collections.Counter(group) for group in given_
    ]


@pytest.mark.parametrize("kind", BASELINES)
def test_baselines_depend_on_the_seed_alone(make_traces, kind):
    traces = make_traces(ragged=True, gaps=0.1, weights=True, token_ids=True)
    first = im.baseline(traces, kind, seed=5)
    xr.testing.assert_identical(first, im.baseline(traces, kind, seed=5))
    other = im.baseline(traces, kind, seed=6)
    assert not first["expert_index"].equals(other["expert_index"])
    assert not first["expert_index"].equals(traces["expert_index"])


def test_unknown_baseline_is_refused(make_traces):
    with pytest.raises(ValueError, match=r"kind: expected one of random, .*, got 'sorted'"):
        im.baseline(make_traces(), "sorted")


@pytest.mark.parametrize("kind", ["shuffled", "position-shuffled"])
def test_every_order_is_equally_likely(kind):
    # 1200 texts of three tokens, or three texts of 1200: six orders, 200 times each.
    sizes = (1200, 3) if kind == "shuffled" else (3, 1200)
    label = np.broadcast_to(np.arange(3), (1200, 3))
    label = label if kind == "shuffled" else label.T
    traces = im.traces_from_arrays(
        np.zeros((1, *sizes, 1), int) + label[None, ..., None], num_experts=3, token_id=label
    )
    orders = im.baseline(traces, kind, seed=1)["token_id"].values
    orders = orders if kind == "shuffled" else orders.T
    counts = collections.Counter(map(tuple, orders.tolist()))
    assert set(counts) == set(itertools.permutations(range(3)))
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_position_shuffling_destroys_neighbours_and_keeps_rates():
    # Every text stays with one expert, so that neighbours are always equal.
    expert = np.arange(300) % 3
    index = np.broadcast_to(expert[None, :, None, None], (1, 300, 20, 1))
    traces = im.traces_from_arrays(index.copy(), num_experts=3)
    state = im.baseline(traces, "position-shuffled")["expert_index"].values[0, :, :, 0]
    assert (np.sort(state, 0) == np.sort(expert)[:, None]).all()
    repeats = (state[:, 1:] == state[:, :-1]).mean()
    # 5700 pairs: a standard error of 0.006.
    assert abs(repeats - 1 / 3) < 0.03


def test_shuffling_destroys_order_and_keeps_the_load_of_each_text():
    # Experts alternate, so that neighbours are never equal.
    index = np.broadcast_to((np.arange(200) % 2)[None, None, :, None], (1, 40, 200, 1))
    traces = im.traces_from_arrays(index.copy(), num_experts=2)
    state = im.baseline(traces, "shuffled")["expert_index"].values[0, :, :, 0]
    assert (state.sum(1) == 100).all()
    repeats = (state[:, 1:] == state[:, :-1]).mean()
    assert abs(repeats - 99 / 199) < 0.03


@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_random_router_is_uniform(make_traces, top_k):
    traces = make_traces(n_sequences=10, n_positions=100, num_experts=7, top_k=top_k)
    index = im.baseline(traces, "random", seed=2)["expert_index"].values
    for rank in range(top_k):
        assert chisquare(np.bincount(index[..., rank].ravel(), minlength=7)).pvalue > 1e-3
    assert not (index[0] == index[1]).all()
    pairs = np.bincount((7 * index[0, :, :-1] + index[0, :, 1:])[..., 0].ravel(), minlength=49)
    assert chisquare(pairs).pvalue > 1e-3
