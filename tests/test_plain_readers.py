"""The plain formats: what is written in them comes back, and what is wrong is named by line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from foreign_plain import (
    table_rows,
    write_arrays,
    write_moe_trace,
    write_records,
    write_table,
)

import isingmoe as im
from isingmoe.readers import import_traces

NAMES = {
    "sequence": "sequence",
    "position": "position",
    "layer": "layer",
    "experts": "experts",
    "weights": "weights",
    "token_id": "token_id",
}


def names_for(traces: xr.Dataset, *, by_layer: bool) -> dict[str, str]:
    absent = {
        *(["weights"] if "gate_weight" not in traces else []),
        *(["token_id"] if "token_id" not in traces else []),
        *(["layer"] if not by_layer else []),
    }
    return {part: name for part, name in NAMES.items() if part not in absent}


def assert_same(found: xr.Dataset, traces: xr.Dataset) -> None:
    """The same traces: all variables, NaN being the weight of no expert, and the attributes."""
    expected = traces
    if "gate_weight" in traces:
        used = traces["expert_index"] >= 0
        expected = traces.assign(gate_weight=traces["gate_weight"].where(used))
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        assert found[name].dims == expected[name].dims
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=str(name))
    for name in ("num_experts", "top_k", "ranked"):
        assert found.attrs[name] == traces.attrs[name]


def cut_to_length(traces: xr.Dataset) -> xr.Dataset:
    """Without positions that no sequence has, which no format can hold."""
    return traces.isel(position=slice(int(traces["length"].max())))


@pytest.fixture(
    scope="module",
    params=[
        {"gaps": 0.3, "ranked": False},
        {"gaps": 0.3, "weights": True, "token_ids": True},
        {"top_k": 1, "gaps": 0.2, "weights": True, "start_position": [4, 0, 7, 1, 2]},
        {"n_layers": 1, "top_k": 4, "token_ids": True},
    ],
    ids=["sets", "weights and tokens", "one expert", "one layer"],
)
def traces(request, make_traces) -> xr.Dataset:
    made = make_traces(ragged=True, n_positions=20, seed=3, **request.param)
    # A sequence of no tokens has no record.
    return made.isel(sequence=np.flatnonzero(made["length"].values > 0))


def known(traces: xr.Dataset) -> dict[str, object]:
    return {"num_experts": traces.attrs["num_experts"], "ranked": bool(traces.attrs["ranked"])}


@pytest.mark.parametrize("by_layer", [True, False], ids=["token and layer", "token"])
@pytest.mark.parametrize("shuffle", [None, 5], ids=["in order", "shuffled"])
def test_records_come_back(traces, tmp_path, by_layer, shuffle):
    path = tmp_path / "records.jsonl"
    write_records(
        traces,
        path,
        names=names_for(traces, by_layer=by_layer),
        by_layer=by_layer,
        shuffle=shuffle,
    )
    layers = None if by_layer else traces["layer"].values.tolist()
    found = import_traces(path, format="jsonl", layers=layers, **known(traces))
    order = [json.loads(line)["sequence"] for line in path.read_text().splitlines()]
    first_seen = [int(name.removeprefix("s")) for name in dict.fromkeys(order)]
    assert_same(found, traces.isel(sequence=first_seen))


def test_records_that_are_left_out_are_gaps(make_traces, tmp_path):
    traces = make_traces(gaps=0.4, ranked=False, seed=2)
    # What is recorded of a sequence ends with its first and last record.
    traces["expert_index"].values[:, :, [0, -1]] = [0, 1]
    path = tmp_path / "records.jsonl"
    names = names_for(traces, by_layer=True)
    write_records(traces, path, names=names, by_layer=True, omit_gaps=True, shuffle=1)
    assert len(path.read_text().splitlines()) < traces["expert_index"][..., 0].size
    found = import_traces(path, format="jsonl", **known(traces))
    assert np.isin(-1, found["expert_index"].values)
    order = [json.loads(line)["sequence"] for line in path.read_text().splitlines()]
    first_seen = [int(name.removeprefix("s")) for name in dict.fromkeys(order)]
    assert_same(found, traces.isel(sequence=first_seen))


def test_records_under_other_names(make_traces, tmp_path):
    traces = make_traces(weights=True, token_ids=True)
    path = tmp_path / "records.jsonl"
    names = dict(zip(NAMES, ["doc", "pos", "blk", "sel", "w", "tok"], strict=True))
    write_records(traces, path, names=names, by_layer=True)
    assert_same(import_traces(path, format="jsonl", fields=names, **known(traces)), traces)


@pytest.mark.parametrize("positions", [True, False])
def test_records_of_one_sequence(make_traces, tmp_path, positions):
    traces = make_traces(n_sequences=1, ranked=False)
    path = tmp_path / "records.jsonl"
    names = {"layer": "layer", "experts": "experts"}
    names |= {"position": "position"} if positions else {}
    write_records(traces, path, names=names, by_layer=True)
    options = known(traces)
    with pytest.raises(ValueError, match="--single-sequence or --sequence-length"):
        import_traces(path, format="jsonl", **options)
    assert_same(import_traces(path, format="jsonl", single_sequence=True, **options), traces)
    halves = import_traces(path, format="jsonl", sequence_length=6, **options)
    assert halves["length"].values.tolist() == [6, 6]
    np.testing.assert_array_equal(
        halves["expert_index"].values.reshape(traces["expert_index"].shape),
        traces["expert_index"].values,
    )


@pytest.mark.parametrize("names", [("expert", "weight"), ("experts", "weights"), ("e", "w")])
def test_tables_with_lists_come_back(traces, tmp_path, names):
    """Lists of all experts of a token and layer, without those that are not there."""
    rows = []
    for row in table_rows(traces, wide=True):
        index = [row.pop(f"expert_{rank}") for rank in range(traces.sizes["rank"])]
        row[names[0]] = [expert for expert in index if expert >= 0]
        if "weight_0" in row:
            every = [row.pop(f"weight_{rank}") for rank in range(traces.sizes["rank"])]
            row[names[1]] = [w for w, expert in zip(every, index, strict=True) if expert >= 0]
        rows.append(row)
    path = tmp_path / "table.parquet"
    pd.DataFrame(rows).to_parquet(path)
    fields = {"expert": "e", **({"weight": "w"} if "w" in rows[0] else {})}
    fields = fields if names == ("e", "w") else None
    assert_same(import_traces(path, fields=fields, **known(traces)), traces)


def test_lists_of_which_some_are_null(tmp_path):
    path = tmp_path / "table.parquet"
    lists = [[3, 1], None, [2], []]
    pd.DataFrame({"position": range(4), "layer": 0, "expert": lists}).to_parquet(path)
    found = import_traces(path, num_experts=4, ranked=True, single_sequence=True)
    assert found["expert_index"][0, 0].values.tolist() == [[3, 1], [-1, -1], [2, -1], [-1, -1]]


@pytest.mark.parametrize("wide", [True, False], ids=["rank columns", "row for each rank"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_come_back(traces, tmp_path, wide, suffix):
    path = tmp_path / f"table{suffix}"
    rows = table_rows(traces, wide=wide)
    if suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        write_table(rows, path, delimiter="\t" if suffix == ".tsv" else ",")
    assert_same(import_traces(path, format="table", **known(traces)), traces)


def test_rows_in_any_order_and_empty_entries(make_traces, tmp_path):
    traces = make_traces(weights=True, gaps=0.3)
    rows = pd.DataFrame(table_rows(traces, wide=True))
    experts = rows[["expert_0", "expert_1"]].astype("Int64")
    rows[["expert_0", "expert_1"]] = experts.mask(experts < 0)
    # The first row of each sequence stays in front.
    mixed = rows.sample(frac=1, random_state=4).sort_values("sequence", kind="stable")
    mixed.to_csv(tmp_path / "table.csv", index=False)
    assert ",,," in (tmp_path / "table.csv").read_text()
    assert_same(import_traces(tmp_path / "table.csv", format="table", **known(traces)), traces)
    mixed.to_parquet(tmp_path / "table.parquet")
    assert_same(import_traces(tmp_path / "table.parquet", format="table", **known(traces)), traces)


def test_a_table_of_another_delimiter_and_other_names(make_traces, tmp_path):
    traces = make_traces(n_sequences=1, ranked=False)
    path = tmp_path / "table.csv"
    renamed = {"position": "token", "expert": "id"}
    rows = table_rows(traces, wide=False)
    for row in rows:
        del row["sequence"]
    rows = [{"phase": "p", **{renamed.get(k, k): v for k, v in row.items()}} for row in rows]
    write_table(rows, path, delimiter=";")
    found = import_traces(
        path,
        format="table",
        delimiter=";",
        fields=renamed,
        single_sequence=True,
        **known(traces),
    )
    assert_same(found, traces)


@pytest.mark.parametrize("axes", [("token", "layer", "rank"), ("layer", "token", "rank")])
@pytest.mark.parametrize("offsets", [True, False], ids=["offsets", "lengths"])
@pytest.mark.parametrize("named", [True, False], ids=["axes given", "axes found"])
def test_archives_come_back(traces, tmp_path, axes, offsets, named):
    path = tmp_path / "arrays.npz"
    write_arrays(traces, path, axes=axes, offsets=offsets, compressed=named)
    given = {"axes": ",".join(axes)} if named else {}
    assert_same(import_traces(path, format="npz", **given, **known(traces)), traces)


def test_archives_keep_empty_sequences(make_traces, tmp_path):
    traces = make_traces(ragged=True, ranked=False, seed=1)
    traces = traces.assign(length=traces["length"].copy())
    traces["length"].values[2] = 0
    traces["expert_index"].values[:, 2] = -1
    write_arrays(traces, tmp_path / "arrays.npz")
    assert_same(import_traces(tmp_path / "arrays.npz", format="npz", **known(traces)), traces)


def test_axes_are_asked_for_where_both_fit(tmp_path):
    index = np.arange(18).reshape(3, 3, 2)
    path = tmp_path / "arrays.npz"
    np.savez(path, expert_index=index, lengths=[3], layer=[0, 1, 2])
    with pytest.raises(ValueError, match="--axes"):
        import_traces(path, num_experts=18, ranked=True, format="npz")
    found = import_traces(path, num_experts=18, ranked=True, format="npz", axes="layer,token,rank")
    np.testing.assert_array_equal(found["expert_index"].values[:, 0], index)


def decoded(traces: xr.Dataset, prompt: int) -> list[list[int]]:
    """Batches of each sequence: its prompt in chunks, then one token after another."""
    batches = []
    for length in traces["length"].values.tolist():
        end = min(prompt, length)
        chunks = [min(5, end - done) for done in range(0, end, 5)]
        batches.append([*chunks, *[1] * (length - sum(chunks))])
    return batches


@pytest.fixture(scope="module")
def long_traces(make_traces) -> xr.Dataset:
    """Enough tokens for the experts of a token to be counted; no gaps."""
    return make_traces(
        n_layers=4, n_sequences=3, n_positions=60, num_experts=16, top_k=3, ranked=False
    )


@pytest.mark.parametrize("prompt", [0, 13, 60])
@pytest.mark.parametrize("header", [True, False])
def test_a_moe_trace_comes_back(long_traces, tmp_path, prompt, header):
    path = tmp_path / "trace.csv"
    write_moe_trace(long_traces, path, batches=decoded(long_traces, prompt), header=header)
    options = {**known(long_traces), "format": "llama.cpp"}
    assert_same(import_traces(path, sequence_length=60, **options), long_traces)
    joined = import_traces(path, single_sequence=True, **options)
    assert joined["length"].values.tolist() == [180]
    with pytest.raises(ValueError, match="--single-sequence or --sequence-length"):
        import_traces(path, **options)


def test_a_folder_of_moe_traces_has_a_sequence_in_each_file(make_traces, tmp_path):
    traces = make_traces(
        n_layers=3, n_positions=90, num_experts=16, top_k=2, ragged=True, ranked=False
    )
    traces = cut_to_length(traces.isel(sequence=np.flatnonzero(traces["length"].values > 20)))
    for place in range(traces.sizes["sequence"]):
        one = traces.isel(sequence=[place])
        write_moe_trace(one, tmp_path / f"{place}.csv", batches=decoded(one, 12))
    found = import_traces(tmp_path, format="llama.cpp", single_sequence=True, **known(traces))
    assert_same(found, traces)


@pytest.mark.parametrize("n_layers", [2, 4])
def test_tokens_that_the_last_layer_left_out_are_gaps(make_traces, tmp_path, n_layers):
    traces = make_traces(
        n_layers=n_layers, n_sequences=1, n_positions=80, num_experts=16, top_k=3, ranked=False
    )
    path = tmp_path / "trace.csv"
    write_moe_trace(traces, path, batches=[[7, 6, *[1] * 67]], outputs_only=True)
    with pytest.warns(UserWarning, match="layer .*: left out for some of 13 tokens in [12] bat"):
        found = import_traces(path, format="llama.cpp", single_sequence=True, **known(traces))
    expected = traces.copy(deep=True)
    expected["expert_index"].values[-1, 0, :13] = -1
    assert_same(found, expected)


@pytest.mark.parametrize("top_k", [1, 2, 4, 6])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_experts_to_a_token_are_recovered(make_traces, tmp_path, top_k, n_layers):
    """For prompts alone too, where no batch is of one token."""
    traces = make_traces(
        n_layers=n_layers,
        n_sequences=1,
        n_positions=960 // n_layers,
        num_experts=16,
        top_k=top_k,
        ranked=top_k == 1,
    )
    path = tmp_path / "trace.csv"
    sizes = [8] * (traces.sizes["position"] // 8)
    write_moe_trace(traces, path, batches=[sizes])
    found = import_traces(path, format="llama.cpp", single_sequence=True, **known(traces))
    layers = traces["layer"].values
    assert found.attrs["top_k"] == top_k
    assert_same(found, traces.assign_coords(layer=layers))


def test_a_moe_trace_too_short_to_tell_asks(make_traces, tmp_path):
    traces = make_traces(n_sequences=1, n_positions=6, num_experts=64, top_k=2, ranked=False)
    path = tmp_path / "trace.csv"
    write_moe_trace(traces, path, batches=[[3, 1, 1, 1]])
    options = {**known(traces), "format": "llama.cpp", "single_sequence": True}
    with pytest.raises(ValueError, match=r"top_k: .*its lines allow .*--top-k"):
        import_traces(path, **options)
    assert_same(import_traces(path, top_k=2, **options), traces)


def test_ids_read_without_their_stride_are_refused(make_traces, tmp_path):
    """A tracer that copies the first rows of the experts in order, instead of the first columns."""
    traces = make_traces(
        n_layers=4, n_sequences=1, n_positions=60, num_experts=16, top_k=4, ranked=False
    )
    rng = np.random.default_rng(0)
    lines = []
    done = 0
    for size in [20, *[1] * 40]:
        for place, layer in enumerate(traces["layer"].values):
            chosen = traces["expert_index"].values[place, 0, done : done + size]
            rest = [rng.permutation(np.setdiff1d(np.arange(16), own)) for own in chosen]
            in_order = np.concatenate([chosen, rest], axis=1)
            lines += [f"{layer},{expert}" for expert in in_order.ravel()[: size * 4]]
        done += size
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"trace\.csv: line 1: .*without their stride"):
        import_traces(path, format="llama.cpp", single_sequence=True, **known(traces))


def test_a_repeated_expert_in_a_line_is_named(long_traces, tmp_path):
    path = tmp_path / "trace.csv"
    write_moe_trace(long_traces, path, batches=decoded(long_traces, 0))
    lines = path.read_text().splitlines()
    lines[100] = lines[101]
    path.write_text("\n".join(lines) + "\n")
    for top_k in (None, 3):
        with pytest.raises(ValueError, match=r"trace\.csv: line 100: .*expected (3 )?different"):
            import_traces(
                path,
                format="llama.cpp",
                single_sequence=True,
                top_k=top_k,
                **known(long_traces),
            )


def test_blank_lines_of_a_moe_trace_are_passed_over(long_traces, tmp_path):
    path = tmp_path / "trace.csv"
    write_moe_trace(long_traces, path, batches=decoded(long_traces, 9))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    found = import_traces(path, format="llama.cpp", sequence_length=60, **known(long_traces))
    assert_same(found, long_traces)


def write_as(form: str, traces: xr.Dataset, folder: Path) -> Path:
    """Traces in one of the formats, as it is mostly found."""
    path = folder / f"traces.{form}"
    match form:
        case "jsonl":
            write_records(traces, path, names=names_for(traces, by_layer=True), by_layer=True)
        case "npz":
            write_arrays(traces, path)
        case "csv":
            write_table(table_rows(traces, wide=True), path)
        case "parquet":
            pd.DataFrame(table_rows(traces, wide=False)).to_parquet(path)
    return path


@pytest.mark.shared
@pytest.mark.parametrize("form", ["jsonl", "npz", "csv", "parquet"])
@pytest.mark.parametrize(
    "name",
    ["gpt-oss-20b", "deepseek-v2-lite", "olmoe-1b-7b-layer0", "flame-moe-290m", "mixtral-8x7b"],
)
def test_real_traces_come_back(shared_traces, tmp_path, name, form):
    traces = im.open_traces(shared_traces / f"{name}.nc")
    few = cut_to_length(traces.isel(sequence=slice(0, 3), layer=slice(0, 2)))
    assert_same(import_traces(write_as(form, few, tmp_path), **known(few)), few)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["gpt-oss-20b", "deepseek-v2-lite", "olmoe-1b-7b-layer0", "flame-moe-290m"]
)
def test_real_traces_come_back_from_moe_traces(shared_traces, tmp_path, name):
    """With the number of experts to a token found, from decoding and from prompts alone."""
    traces = im.open_traces(shared_traces / f"{name}.nc").drop_vars(
        ["gate_weight", "token_id", "start_position"], errors="ignore"
    )
    few = cut_to_length(traces.isel(sequence=slice(0, 4), layer=slice(0, 4)))
    for prompt in (50, 10_000):
        folder = tmp_path / str(prompt)
        folder.mkdir()
        for place in range(few.sizes["sequence"]):
            one = few.isel(sequence=[place])
            write_moe_trace(one, folder / f"{place}.csv", batches=decoded(one, prompt))
        assert_same(import_traces(folder, single_sequence=True, **known(few)), few)


@pytest.mark.parametrize("form", ["jsonl", "npz", "csv", "parquet"])
def test_the_format_is_told_by_the_content(make_traces, tmp_path, form):
    traces = make_traces(weights=True, token_ids=True, gaps=0.2)
    path = write_as(form, traces, tmp_path).rename(tmp_path / "traces")
    assert_same(import_traces(path, **known(traces)), traces)


def test_the_command_imports(long_traces, tmp_path, run_cli):
    source, output = tmp_path / "trace.csv", tmp_path / "traces.nc"
    write_moe_trace(long_traces, source, batches=decoded(long_traces, 9))
    usual = ("import", source, "-o", output, "--num-experts", 16)
    ran = run_cli(*usual, "--unranked", "--sequence-length", 60)
    assert ran.exit_code == 0, ran.stderr
    assert_same(im.open_traces(output), long_traces)
    ran = run_cli(*usual, "--unranked", "--overwrite")
    assert ran.exit_code == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"isingmoe: error: {source}: sequences: expected to know where they")
    assert_same(im.open_traces(output), long_traces)


def test_the_command_names_fields_axes_and_delimiters(make_traces, tmp_path, run_cli):
    traces = make_traces(n_sequences=1, n_layers=12, ranked=False)
    output = tmp_path / "traces.nc"
    usual = ("-o", output, "--num-experts", 6, "--unranked", "--overwrite")
    write_arrays(traces, tmp_path / "arrays.npz", axes=("layer", "token", "rank"))
    ran = run_cli("import", tmp_path / "arrays.npz", *usual, "--axes", "layer,token,rank")
    assert ran.exit_code == 0, ran.stderr
    assert_same(im.open_traces(output), traces)
    rows = [{f"the {name}": v for name, v in row.items()} for row in table_rows(traces, wide=False)]
    write_table(rows, tmp_path / "table", delimiter=";")
    fields = [f"--field={name.removeprefix('the ')}={name}" for name in rows[0]]
    options = ("--format", "table", "--delimiter", ";", *fields)
    ran = run_cli("import", tmp_path / "table", *usual, *options)
    assert ran.exit_code == 0, ran.stderr
    assert_same(im.open_traces(output), traces)
    ran = run_cli("import", tmp_path / "table", *usual, "--field", "sequence")
    assert ran.exit_code in (1, 2)
    assert "--field: expected PART=NAME, got 'sequence'" in ran.stderr
