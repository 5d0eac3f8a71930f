"""Megatron-Core's files of several processes, and tokens that they hold twice."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from foreign import megatron_records, with_logits, write_lines
from reader_checks import assert_same, known

from isingmoe.readers import import_traces


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "ranks"
    made.mkdir()
    return made


def write_stages(traces, folder, stages):
    """A file for each stage: the places of its layers, and how many layers are before."""
    for rank, (places, n_before) in enumerate(stages):
        records = megatron_records(traces.isel(layer=places), 2, rank=rank, n_before=n_before)
        write_lines(records, folder / f"router_trace_rank{rank}.jsonl")


def test_stages_go_on_from_each_other_also_behind_layers_without_experts(some, folder):
    traces = some(ragged=False, n_sequences=4, n_layers=11, layer=np.arange(1, 12))
    write_stages(traces, folder, [([0, 1], 0), ([2, 3, 4], 3), ([5, 6, 7, 8, 9, 10], 6)])
    options = {"micro_batch_size": 2, "processes": "layers", **known(traces)}
    assert_same(import_traces(folder, **options), traces, ("token_id",))


def test_numbers_that_tell_are_taken_as_they_are(some, folder):
    traces = some(ragged=False, n_sequences=4, n_layers=4)
    write_stages(traces, folder, [([2, 3], 0), ([0, 1], 0)])
    options = {"micro_batch_size": 2, "processes": "layers", **known(traces)}
    assert_same(import_traces(folder, **options), traces, ("token_id",))


def test_stages_whose_last_layer_cannot_be_known_are_asked_about(some, folder):
    """Every second layer has experts, of 4 layers in each stage."""
    numbers = np.array([0, 2, 4, 6])
    traces = some(ragged=False, n_sequences=4, n_layers=4, layer=numbers)
    write_stages(traces, folder, [([0, 1], 0), ([2, 3], 4)])
    options = {"micro_batch_size": 2, "processes": "layers", **known(traces)}
    with pytest.raises(ValueError, match=r"rank0\.jsonl: line 1: layers: .*\(0, 2\).*--layers"):
        import_traces(folder, **options)
    found = import_traces(folder, layers=numbers.tolist(), **options)
    assert_same(found, traces, ("token_id",))
    with pytest.raises(ValueError, match=r"layers: expected 4 numbers, .* got 3"):
        import_traces(folder, layers=[0, 2, 4], **options)


@pytest.mark.parametrize("size", [1, 2])
def test_layers_that_were_computed_again_are_refused(some, tmp_path, size):
    """The forward pass of a micro-batch, then that of the backward pass, whose layers fall."""
    traces = some(ragged=False, n_sequences=4)
    records = megatron_records(traces, size)
    repeated = [
        one
        for step in range(4 // size)
        for one in [*records[2 * step : 2 * step + 2], *records[2 * step : 2 * step + 2][::-1]]
    ]
    path = write_lines(repeated, tmp_path / "router_trace_rank0.jsonl")
    with pytest.raises(ValueError, match=r"step 0: expected other tokens .*recompute-gr") as error:
        import_traces(path, micro_batch_size=size, **known(traces))
    text = str(error.value)
    assert text.startswith(f"{path}: line 4: ")
    assert f"than from {path}: line 1 on" in text
    assert "\n" not in text


@pytest.mark.parametrize("processes", ["data", "positions", "layers"])
def test_ranks_that_share_their_tokens_are_refused(some, folder, processes):
    traces = some(ragged=False, n_sequences=4)
    for rank in range(2):
        records = megatron_records(traces, 2, rank=rank)
        write_lines(records, folder / f"router_trace_rank{rank}.jsonl")
    with pytest.raises(ValueError, match=r"rank1\.jsonl: line 1: step 0: .* one file of such ran"):
        import_traces(folder, processes=processes, micro_batch_size=2, **known(traces))


def test_the_same_experts_in_some_layer_or_another_step_are_no_repeat(some, tmp_path):
    traces = some(ragged=False, n_sequences=4)
    records = megatron_records(traces, 2)
    records[2]["top_indices"] = records[0]["top_indices"]
    for record in records:
        record["step"] = 0
    path = write_lines(records, tmp_path / "trace.jsonl")
    options = {"micro_batch_size": 2, **known(traces)}
    assert import_traces(path, **options).sizes["sequence"] == 4
    records = megatron_records(traces, 2)
    again = [{**record, "step": record["step"] + 2} for record in records]
    write_lines(records + again, path)
    assert import_traces(path, **options).sizes["sequence"] == 8


@pytest.mark.parametrize("shape", [[], ["x"], None, [28, "x"], [28], 6, [28, -1]])
@pytest.mark.parametrize("logits", [True, False])
def test_shapes_of_logits_that_are_none(some, tmp_path, shape, logits):
    exact = np.zeros((2, 4, 14, 6), np.float32)
    traces = some(ragged=False, n_sequences=4, router_logit=exact)
    records = with_logits(megatron_records(traces, 2), traces, 2, tmp_path / "logits_rank0.bin")
    records[0]["logit_shape"] = shape
    path = write_lines(records, tmp_path / "router_trace_rank0.jsonl")
    with pytest.raises(ValueError, match=r"line 1: expected rank, .* --logits out and") as error:
        import_traces(path, micro_batch_size=2, ranked=True, logits=logits)
    assert str(error.value).startswith(f"{path}: ")


def test_logits_of_layers_with_other_numbers_of_experts(some, tmp_path):
    traces = some(ragged=False, n_sequences=4, router_logit=np.zeros((2, 4, 14, 6), np.float32))
    records = with_logits(megatron_records(traces, 2), traces, 2, tmp_path / "logits_rank0.bin")
    records[1]["logit_shape"], records[1]["logit_bytes"] = [28, 5], 280
    path = write_lines(records, tmp_path / "router_trace_rank0.jsonl")
    with pytest.raises(ValueError, match=r"line 2: logit_shape: expected 6 experts .* got 5"):
        import_traces(path, micro_batch_size=2, ranked=True, logits=True)


def test_ids_in_the_order_of_their_numbers_are_not_ranked(some, tmp_path):
    """The ids that a mask of the chosen experts is turned into."""
    traces = some(ragged=False, n_sequences=4, ranked=False)
    index = np.sort(traces["expert_index"].values, -1)
    traces["expert_index"].values[:] = index
    path = write_lines(megatron_records(traces, 2), tmp_path / "trace.jsonl")
    options = {"micro_batch_size": 2, "num_experts": 6}
    with pytest.raises(ValueError, match=r"trace\.jsonl: ranked: .*for all of 112 .*--unranked"):
        import_traces(path, ranked=True, **options)
    assert_same(import_traces(path, ranked=False, **options), traces, ("token_id",))
    # One token that is not, and it can be.
    other = copy.deepcopy(traces)
    other["expert_index"].values[1, 3, 13] = index[1, 3, 13, ::-1]
    write_lines(megatron_records(other, 2), path)
    assert import_traces(path, ranked=True, **options).attrs["ranked"] == 1


def test_what_is_asked_for_is_asked_before_the_file_is_read(some, tmp_path):
    records = megatron_records(some(ragged=False, n_sequences=4), 2)
    path = write_lines([*records[:1], "no record"], tmp_path / "trace.jsonl")
    with pytest.raises(ValueError, match=r"trace\.jsonl: ranked: expected whether"):
        import_traces(path, format="megatron", micro_batch_size=2, num_experts=6)


@pytest.mark.parametrize("n_tokens", [4, 400])
@pytest.mark.parametrize("indent", [None, 1])
def test_records_long_and_short(make_traces, tmp_path, n_tokens, indent):
    """Long lists are read in another way."""
    traces = make_traces(n_sequences=2, n_positions=n_tokens, top_k=3)
    records = megatron_records(traces, 1)
    path = write_lines(records, tmp_path / "trace.jsonl")
    if indent:
        text = path.read_text().replace("[", "[ ").replace(", ", " ,\t")
        path.write_text(text)
    assert_same(import_traces(path, micro_batch_size=1, **known(traces)), traces)
    records[2]["top_indices"][n_tokens - 1][1] = 6
    write_lines(records, path)
    with pytest.raises(ValueError, match=r"line 3: top_indices: expected ids of 0 to 5, .* got 6"):
        import_traces(path, micro_batch_size=1, **known(traces))
