"""Importing what serving and training engines have written."""

from __future__ import annotations

import base64
import copy
import json
import re
import warnings

import numpy as np
import pytest
from foreign import (
    ids_of,
    megatron_records,
    numbered,
    prompts_pass,
    recorder_passes,
    rows_of,
    sglang_answers,
    vllm_answers,
    with_logits,
    write_lines,
    write_recorder,
    write_vllm_arrays,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader_checks import EXPERTS, assert_same, known, layers, sglang

import isingmoe as im
from isingmoe.readers import FORMATS, import_traces, reader_of
from isingmoe.readers.interleaving import interleaved_lag
from isingmoe.readers.lines import json_values

SHAPES = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 4),
        "top_k": st.integers(1, 3),
        "num_experts": st.integers(4, 9),
        "ranked": st.booleans(),
        "seed": st.integers(0, 2**16),
    }
)
FEW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def ranked_where_one(shape: dict) -> dict:
    return shape | {"ranked": True} if shape["top_k"] == 1 else shape


@given(shape=SHAPES, form=st.sampled_from(["lists", "base64"]), n_prompt=st.integers(1, 9))
@FEW
def test_vllm_answers_come_back(some, tmp_path, shape, form, n_prompt):
    traces = some(**ranked_where_one(shape))
    path = write_lines(vllm_answers(traces, form=form, n_prompt=n_prompt), tmp_path / "a.jsonl")
    found = import_traces(path, layers=layers(traces), **known(traces))
    assert_same(found, traces)
    assert found.attrs["model"] == "a/model"
    assert json.loads(found.attrs["provenance"])["arguments"]["format"] == "vllm"


@pytest.mark.parametrize("form", ["lists", "base64"])
@pytest.mark.parametrize("as_list", [True, False])
def test_vllm_answers_in_other_files(some, tmp_path, form, as_list):
    traces = some(ranked=False)
    answers = vllm_answers(traces, form=form, filler=True)
    if as_list:
        path = tmp_path / "answers.json"
        path.write_text(json.dumps(answers, indent=1), "utf-8")
    else:
        path = tmp_path / "answers"
        path.mkdir()
        for place, answer in enumerate(answers):
            (path / f"{place}.json").write_text(json.dumps(answer, indent=1), "utf-8")
    assert_same(import_traces(path, layers=layers(traces), **known(traces)), traces)


def test_vllm_arrays_come_back(some, tmp_path):
    traces = some(n_layers=3, n_sequences=14, n_least=1)
    path = write_vllm_arrays(traces, tmp_path / "arrays.npz", n_prompt=1)
    assert_same(import_traces(path, layers=layers(traces), **known(traces)), traces)
    one = traces.isel(sequence=[0])
    one = one.isel(position=slice(int(one["length"][0])))
    np.save(tmp_path / "one.npy", rows_of(one, 0))
    options = {"format": "vllm", "layers": layers(traces), **known(traces)}
    found = import_traces(tmp_path / "one.npy", start_position=0, **options)
    assert_same(found, one, ("token_id",))
    with pytest.raises(ValueError, match=r"one\.npy: start_position: expected .*--start-position"):
        import_traces(tmp_path / "one.npy", **options)


def test_what_the_prefix_cache_had_is_a_gap(some, tmp_path):
    traces = some()
    traces["expert_index"].values[:, :, :2] = -1
    path = write_lines(vllm_answers(traces), tmp_path / "answers.jsonl")
    assert_same(import_traces(path, layers=layers(traces), **known(traces)), traces)


def test_choices_share_their_prompt(some, tmp_path):
    traces = some()
    first, second = vllm_answers(traces.isel(sequence=[0, 1]), n_prompt=2)
    both = copy.deepcopy(first)
    choice = copy.deepcopy(second["choices"][0])
    choice["prompt_token_ids"] = first["choices"][0]["prompt_token_ids"]
    both["choices"].append(choice)
    both["usage"]["completion_tokens"] += second["usage"]["completion_tokens"]
    path = write_lines([both], tmp_path / "answers.jsonl")
    found = import_traces(path, layers=layers(traces), **known(traces))
    assert found["start_position"].values.tolist() == [0, 2]
    assert np.array_equal(rows_of(found, 0), rows_of(traces, 0))
    assert np.array_equal(rows_of(found, 1), rows_of(traces, 1)[2:])
    assert ids_of(found, 1) == ids_of(traces, 1)[2:]
    both["choices"][1]["prompt_token_ids"] = [5, 5]
    write_lines([both], path)
    with pytest.raises(ValueError, match=r"line 1: choice 0: prompt_routed_experts: expected one"):
        import_traces(path, layers=layers(traces), **known(traces))


def test_without_ids_there_are_none(some, tmp_path):
    traces = some()
    path = write_lines(vllm_answers(traces, with_ids=False), tmp_path / "answers.jsonl")
    assert_same(import_traces(path, layers=layers(traces), **known(traces)), traces, ("token_id",))


def test_new_tokens_alone_begin_after_their_prompt(some, tmp_path):
    traces = some()
    answers = vllm_answers(traces)
    for answer in answers:
        del answer["prompt_routed_experts"]
    path = write_lines(answers, tmp_path / "answers.jsonl")
    found = import_traces(path, layers=layers(traces), **known(traces))
    assert (found["start_position"] == 3).all()
    assert np.array_equal(rows_of(found, 1), rows_of(traces, 1)[3:])


@pytest.mark.parametrize("dense", [(0,), (0, 2)])
@pytest.mark.parametrize("engine", ["vllm lists", "vllm base64", "sglang"])
def test_layers_without_experts_are_named_by_the_user(some, tmp_path, engine, dense):
    """They are filled with zeros; whether they are is told by the layers that are given."""
    n = 3 + len(dense)
    numbers = [number for number in range(n) if number not in dense]
    traces = some(n_layers=3, layer=np.array(numbers))
    if engine == "sglang":
        answers, options = sglang_answers(traces, dense=dense), sglang(traces, len(dense))
    else:
        answers = vllm_answers(traces, form=engine.split()[1], dense=dense)
        options = {**known(traces), "layers": numbers}
    path = write_lines(answers, tmp_path / "answers.jsonl")
    assert_same(import_traces(path, **options), traces)
    with pytest.raises(ValueError, match=r"layers: expected the model's numbers .*--layers"):
        import_traces(path, **{**options, "layers": None})
    with pytest.raises(ValueError, match=r"line 1: .* nothing but zeros in layer 0, as a layer"):
        import_traces(path, **{**options, "layers": list(range(n))})


@given(
    shape=SHAPES,
    form=st.sampled_from(["choice", "answer", "generate"]),
    start=st.integers(0, 3),
    said=st.booleans(),
)
@FEW
def test_sglang_answers_come_back(some, tmp_path, shape, form, start, said):
    traces = some(**ranked_where_one(shape))
    answers = sglang_answers(traces, form=form, start=start, said=said)
    path = write_lines(answers, tmp_path / "answers.jsonl")
    options = sglang(traces) | ({} if said else {"start_position": start})
    found = import_traces(path, **options)
    n = traces["length"] - start
    expected = traces.isel(position=slice(start, None)).assign(length=n.astype(np.int32))
    if start:
        begun = np.full(traces.sizes["sequence"], start, np.int32)
        expected = expected.assign(start_position=("sequence", begun))
    without = ("token_id",) if form == "generate" else ()
    assert_same(found, expected, without)


def test_sglang_asks_where_rows_begin_if_nothing_says_it(some, tmp_path):
    traces = some()
    path = write_lines(sglang_answers(traces, start=2, said=False), tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match=r"line 1: start_position: expected routed_experts_start"):
        import_traces(path, **sglang(traces))
    with pytest.raises(ValueError, match=r"routed_experts: expected \d+ rows, .* position 1 on"):
        import_traces(path, start_position=1, **sglang(traces))


@pytest.mark.parametrize("prompts_only", [False, True])
def test_recorded_passes_come_back(some, tmp_path, prompts_only):
    traces = some(n_layers=3, layer=np.array([1, 4, 11]))
    records = prompts_pass(traces) if prompts_only else recorder_passes(traces)
    path = write_recorder(records, tmp_path / "dump.pt", EXPERTS)
    options = {} if prompts_only else {"requests": "one"}
    assert_same(import_traces(path, ranked=True, **options), traces)


def test_a_recorder_of_several_ranks_and_copies_of_experts(some, tmp_path):
    import torch

    traces = some(layer=np.array([0, 3]))
    folder = tmp_path / "dumps"
    folder.mkdir()
    records = prompts_pass(traces)
    # Ids are of copies; experts 0 and 5 have two.
    copies = torch.tensor([[5, 4, 3, 2, 1, 0, 0, 5]]).repeat(12, 1)
    ids = records[0]["topk_ids_of_layer"]
    records[0]["topk_ids_of_layer"] = torch.where(ids < 0, ids, 5 - ids)
    for rank in range(2):
        # Both ranks serve all tokens.
        content = {"records": records, "last_physical_to_logical_map": copies}
        torch.save(content, folder / f"dump_{rank}.pt")
    assert_same(import_traces(folder, ranked=True), traces)


def test_a_recorder_asks_which_request_a_token_is_of(some, tmp_path):
    traces = some(layer=np.array([0, 3]))
    records = recorder_passes(traces)
    path = write_recorder(records, tmp_path / "dump.pt", EXPERTS)
    with pytest.raises(ValueError, match=r"records\[1\]: requests: expected 'one' .* --requests"):
        import_traces(path, ranked=True)
    n_left = int((traces["length"] - 3).sum())
    with pytest.warns(UserWarning, match=rf"dump\.pt: {n_left} of \d+ tokens are left out: gener"):
        found = import_traces(path, ranked=True, requests="many")
    assert (found["length"] == 3).all()
    assert np.array_equal(rows_of(found, 2), rows_of(traces, 2)[:3])
    write_recorder(numbered([records[0], records[2]]), path, EXPERTS)
    with pytest.raises(ValueError, match=r"records\[1\]: requests: expected a token that follows"):
        import_traces(path, ranked=True, requests="one")
    write_recorder(prompts_pass(traces) + records[:2], path, EXPERTS)
    with pytest.raises(ValueError, match=r"records\[0\]: requests: expected one at a time, got"):
        import_traces(path, ranked=True, requests="one")


def test_a_recorder_reads_prompts_beside_generated_tokens_and_in_parts(some, tmp_path):
    """A prompt in two parts, the second in a pass with generated tokens of other requests."""
    traces = some(layer=np.array([0, 3]), n_least=8).isel(sequence=[0])
    traces = traces.isel(position=slice(int(traces["length"][0])))
    (whole,) = prompts_pass(traces)
    n = len(whole["input_ids"])

    def part(begin, end, more, mode):
        """And `more` generated tokens."""
        import torch

        places = [*range(begin, end), *[0] * more]
        return {
            **whole,
            "input_ids": [whole["input_ids"][i] for i in places],
            "positions": [*range(begin, end), *[40] * more],
            "topk_ids_of_layer": whole["topk_ids_of_layer"][:, torch.tensor(places)],
            "forward_mode": mode,
            "extend_seq_lens": [end - begin, *[1] * more],
        }

    records = numbered([part(0, 5, 0, 1), part(5, n, 2, 3)])
    path = write_recorder(records, tmp_path / "dump.pt", EXPERTS)
    with (
        pytest.warns(UserWarning, match=rf"dump\.pt: 2 of {n + 2} tokens are left out"),
        pytest.warns(UserWarning, match=r"1 of 2 sequences begin after the first token .*parts"),
    ):
        found = import_traces(path, ranked=True, requests="many")
    assert found["start_position"].values.tolist() == [0, 5]
    rows = np.concatenate([rows_of(found, 0), rows_of(found, 1)])
    assert np.array_equal(rows, rows_of(traces, 0))


@given(shape=SHAPES, size=st.sampled_from([1, 2, 3]))
@FEW
def test_megatron_micro_batches_come_back(some, tmp_path, shape, size):
    traces = some(ragged=False, n_sequences=6, **ranked_where_one(shape))
    path = write_lines(megatron_records(traces, size), tmp_path / "router_trace_rank0.jsonl")
    found = import_traces(path, micro_batch_size=size, **known(traces))
    assert_same(found, traces, ("token_id",))


def test_megatron_logits_come_back(some, tmp_path):
    rng = np.random.default_rng(2)
    exact = rng.standard_normal((2, 6, 14, EXPERTS)).astype(np.float32).view(np.uint32)
    logits = (exact & np.uint32(0xFFFF0000)).view(np.float32)
    traces = some(ragged=False, n_sequences=6, router_logit=logits)
    records = with_logits(megatron_records(traces, 2), traces, 2, tmp_path / "logits_rank0.bin")
    path = write_lines(records, tmp_path / "router_trace_rank0.jsonl")
    options = {"micro_batch_size": 2, "ranked": True}
    assert_same(import_traces(path, logits=True, **options), traces, ("token_id",))
    assert_same(import_traces(path, **options), traces, ("token_id", "router_logit"))
    content = (tmp_path / "logits_rank0.bin").read_bytes()
    (tmp_path / "logits_rank0.bin").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"logits_rank0\.bin: expected .* line 6, got .* been cut"):
        import_traces(path, logits=True, **options)
    (tmp_path / "logits_rank0.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"logits_rank0\.bin: no such file; .*line 1"):
        import_traces(path, logits=True, **options)


def test_megatron_processes_belong_together_as_is_said(some, tmp_path):
    traces = some(ragged=False, n_sequences=4, n_layers=4, layer=np.arange(4))
    options = {"micro_batch_size": 2, **known(traces)}

    def written(name, parts, n_before=(0, 0)):
        folder = tmp_path / name
        folder.mkdir()
        for rank, part in enumerate(parts):
            records = megatron_records(part, 2, rank=rank, n_before=n_before[rank])
            write_lines(records, folder / f"router_trace_rank{rank}.jsonl")
        return import_traces(folder, processes=name, **options)

    halves = [traces.isel(sequence=slice(s, s + 2)) for s in (0, 2)]
    assert_same(written("data", halves), traces, ("token_id",))
    halves = [
        traces.isel(position=slice(p, p + 7)).assign(length=("sequence", np.full(4, 7, np.int32)))
        for p in (0, 7)
    ]
    assert_same(written("positions", halves), traces, ("token_id",))
    halves = [traces.isel(layer=places) for places in ([0, 1], [2, 3])]
    assert_same(written("layers", halves, (0, 2)), traces, ("token_id",))
    with pytest.raises(ValueError, match=r"data: processes: expected how 2 files .*--processes"):
        import_traces(tmp_path / "data", **options)


def test_megatron_decoding_goes_on(some, tmp_path):
    """A step over the prompts, then one token of each sequence to a step."""
    traces = some(ragged=False, n_sequences=2)
    prompts = traces.isel(position=slice(5)).assign(length=("sequence", np.full(2, 5, np.int32)))
    records = megatron_records(prompts, 2)
    for i in range(5, 14):
        one = traces.isel(position=[i]).assign(length=("sequence", np.ones(2, np.int32)))
        records += megatron_records(one, 2, first_step=i)
    path = write_lines(records, tmp_path / "trace.jsonl")
    options = {"micro_batch_size": 2, **known(traces)}
    assert_same(import_traces(path, steps="continued", **options), traces, ("token_id",))
    with pytest.raises(ValueError, match=r"line 3: steps: expected whether .*it has one position"):
        import_traces(path, **options)


def test_megatron_blocks_are_asked_for(some, tmp_path):
    traces = some(ragged=False, n_sequences=2)
    other = megatron_records(traces, 1, more={"block": "mtp", "mtp_idx": 0})
    both = sorted(megatron_records(traces, 1) + other, key=lambda record: record["step"])
    path = write_lines(both, tmp_path / "trace.jsonl")
    options = {"micro_batch_size": 1, **known(traces)}
    for block in ("decoder", "mtp"):
        assert_same(import_traces(path, block=block, **options), traces, ("token_id",))
    with pytest.raises(ValueError, match=r"line 3: block: expected one of decoder, mtp"):
        import_traces(path, **options)
    with pytest.raises(ValueError, match=r"block: expected records of 'encoder', got those of"):
        import_traces(path, block="encoder", **options)


def test_layers_with_fewer_experts_to_a_token(some, tmp_path):
    traces = some(ragged=False, n_sequences=2, n_layers=3)
    traces["expert_index"].values[1, ..., 1] = -1
    records = megatron_records(traces, 1)
    for record in records[1::3]:
        record["topk"], record["top_indices"] = 1, [row[:1] for row in record["top_indices"]]
    path = write_lines(records, tmp_path / "trace.jsonl")
    found = import_traces(path, micro_batch_size=1, **known(traces))
    assert found["top_k"].values.tolist() == [2, 1, 2]
    assert np.array_equal(found["expert_index"], traces["expert_index"])


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    ["gpt-oss-20b", "deepseek-v2-lite", "olmoe-1b-7b-layer0", "flame-moe-290m", "mixtral-8x7b"],
)
@pytest.mark.parametrize("engine", ["vllm lists", "vllm base64", "vllm npz", "sglang", "megatron"])
@pytest.mark.filterwarnings("ignore::isingmoe.InterleavedTraceWarning")
def test_real_traces_come_back(shared_traces, tmp_path, name, engine):
    traces = im.open_traces(shared_traces / f"{name}.nc").drop_vars(
        "start_position", errors="ignore"
    )
    traces = traces.isel(sequence=slice(4), layer=slice(0, 6))
    shortest, longest = int(traces["length"].min()), int(traces["length"].max())
    inside = np.arange(traces.sizes["position"]) < traces["length"].values[:, None]
    # Not all tokens are known, and every answer has ids.
    made = np.where(inside, np.maximum(traces.get("token_id", 5), 5), -1).astype(np.int32)
    traces = traces.assign(token_id=(("sequence", "position"), made))
    traces = traces.isel(position=slice(longest))
    options = {"layers": layers(traces), **known(traces)}
    if engine == "megatron":
        n = np.full(4, shortest, np.int32)
        traces = traces.isel(position=slice(shortest)).assign(length=("sequence", n))
        path = write_lines(megatron_records(traces, 2), tmp_path / "trace.jsonl")
        options = {"micro_batch_size": 2, **known(traces)}
        assert_same(import_traces(path, **options), traces, ("token_id",))
        return
    if engine == "sglang":
        path = write_lines(sglang_answers(traces), tmp_path / "answers.jsonl")
        options = sglang(traces)
    elif engine == "vllm npz":
        path = write_vllm_arrays(traces, tmp_path / "arrays.npz")
    else:
        path = write_lines(vllm_answers(traces, form=engine.split()[1]), tmp_path / "a.jsonl")
    assert_same(import_traces(path, **options), traces)


@pytest.mark.shared
@pytest.mark.parametrize("size", [2, 4, 8])
def test_real_rows_that_take_turns_are_warned_about(shared_traces, tmp_path, size):
    traces = im.open_traces(shared_traces / "flame-moe-290m.nc")
    path = write_lines(megatron_records(traces, size), tmp_path / "router_trace_rank0.jsonl")
    options = {"ranked": True, "num_experts": 64, "model": traces.attrs["model"]}
    with pytest.warns(im.InterleavedTraceWarning, match=rf"those {size} rows on .*-size {size}\)"):
        import_traces(path, micro_batch_size=1, **options)
    with pytest.raises(
        ValueError, match=rf"look like those of {size} sequences\); .*--micro-batch"
    ):
        import_traces(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = import_traces(path, micro_batch_size=size, **options)
    assert_same(found, traces, ("token_id",))


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    ["gpt-oss-20b", "deepseek-v2-lite", "olmoe-1b-7b-layer0", "flame-moe-290m", "mixtral-8x7b"],
)
def test_real_texts_do_not_seem_to_take_turns(shared_traces, name):
    traces = im.open_traces(shared_traces / f"{name}.nc")
    assert interleaved_lag(traces) is None
    for place in range(0, traces.sizes["layer"], 5):
        assert interleaved_lag(traces.isel(layer=[place])) is None


@pytest.mark.shared
@pytest.mark.parametrize("name", ["gpt-oss-20b", "deepseek-v2-lite", "olmoe-1b-7b-layer0"])
@pytest.mark.parametrize("size", [2, 8])
def test_other_real_rows_that_take_turns(shared_traces, name, size):
    index = im.open_traces(shared_traces / f"{name}.nc")["expert_index"].values[:, :16]
    n_layers, n_sequences, n, k = index.shape
    rows = index.reshape(n_layers, n_sequences // size, size, n, k).swapaxes(2, 3)
    rows = rows.reshape(n_layers, n_sequences // size, n * size, k)
    mixed = im.traces_from_arrays(rows, num_experts=64, ranked=False)
    assert interleaved_lag(mixed) == size


def test_independent_tokens_seldom_seem_to_take_turns(make_traces):
    found = [
        interleaved_lag(make_traces(n_positions=80, n_sequences=3, num_experts=16, seed=seed))
        for seed in range(60)
    ]
    assert sum(lag is not None for lag in found) <= 1


def test_too_few_rows_to_tell(make_traces):
    assert interleaved_lag(make_traces(n_positions=7)) is None


def broken(answers, change):
    """The answers, the second of which is changed."""
    answers = copy.deepcopy(answers)
    changed = change(answers[1])
    if changed is not None:
        answers[1] = changed
    return answers


def set_rows(answer, change):
    rows = answer["choices"][0]["routed_experts"]
    answer["choices"][0]["routed_experts"] = change(rows)


VLLM = {
    "no object": (lambda a: [1, 2], r"item 0: expected an answer, an object, got '1'"),
    "refused": (lambda a: {"error": {"message": "busy"}}, r"got the error .*busy"),
    "null": (
        lambda a: a.update(prompt_routed_experts=None) or set_rows(a, lambda r: None),
        r"routed_experts: expected lists or base64, got null; serve with --enable-return",
    ),
    "no choices": (lambda a: a.update(choices=[]), r"choices: expected some, got none"),
    "choices of text": (lambda a: a.update(choices="x"), r"choices: expected a list of objects"),
    "ragged": (
        lambda a: set_rows(a, lambda r: [*r[:-1], [[1]]]),
        r"routed_experts: expected as many layers and ranks for each token, got a ragged list",
    ),
    "wrong k": (
        lambda a: set_rows(a, lambda r: [[ids[:1] for ids in row] for row in r]),
        r"routed_experts: expected the layers and ranks of prompt_routed_experts, \(2, 2\), got "
        r"\(2, 1\)",
    ),
    "too high": (
        lambda a: set_rows(a, lambda r: [*r[:-1], [[0, EXPERTS]] * 2]),
        r"routed_experts: expected ids of 0 to 5, or -1 for none, got 6; correct num_experts",
    ),
    "twice": (
        lambda a: set_rows(a, lambda r: [*r[:-1], [[3, 3]] * 2]),
        r"routed_experts: expected different experts for one token, got 3 twice",
    ),
    "floats": (
        lambda a: set_rows(a, lambda r: [*r[:-1], [[0.5, 1]] * 2]),
        r"routed_experts: expected whole numbers \[tokens, layers, k\], got shape .* of float64",
    ),
    "not base64": (
        lambda a: set_rows(a, lambda r: "%%%"),
        r"routed_experts: expected base64, got '%%%' of 3 characters",
    ),
    "cut base64": (
        lambda a: set_rows(a, lambda r: base64.b64encode(b"\x93NUMPY\x01\x00v").decode()),
        r"routed_experts: expected an array in NumPy's file format, got 9 bytes",
    ),
    "too many rows": (
        lambda a: set_rows(a, lambda r: r + r),
        r"routed_experts: expected at most \d+ rows, one for each new token, got",
    ),
    "rows of another prompt": (
        lambda a: a.update(prompt_routed_experts=a["prompt_routed_experts"] * 2),
        r"prompt_routed_experts: expected 3 rows, one for each token of the prompt, got 6",
    ),
    "ids of text": (
        lambda a: a["choices"][0].update(token_ids=["a"]),
        r"token ids: expected a list of whole numbers from 0 up",
    ),
}


@pytest.mark.parametrize("name", VLLM)
def test_a_vllm_answer_that_is_not_as_it_should_be(some, tmp_path, name):
    traces = some()
    change, message = VLLM[name]
    path = write_lines(broken(vllm_answers(traces), change), tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match=message) as caught:
        import_traces(path, format="vllm", layers=layers(traces), **known(traces))
    text = str(caught.value)
    assert text.startswith(f"{path}: line 2: ")
    assert "\n" not in text


def change_sglang(answer, change):
    experts = answer["choices"][0]["sgl_ext"]
    experts["routed_experts"] = change(experts["routed_experts"])


SGLANG = {
    "null": (lambda t: None, r"expected base64, got 'None'; serve with --enable-return-routed"),
    "cut": (lambda t: t[:-3], r"expected base64, got '.*' of \d+ characters .* it may have been"),
    "cut between numbers": (
        lambda t: base64.b64encode(base64.b64decode(t)[:-4]).decode(),
        r"expected a multiple of 2 layers x 2 experts x 4 bytes, got \d+; correct num_layers or",
    ),
    "a token less": (
        lambda t: base64.b64encode(base64.b64decode(t)[:-16] * 2).decode(),
        r"expected \d+ rows, for 3 tokens and \d+ new ones but the last, from position 0 on, got",
    ),
    "too high": (
        lambda t: base64.b64encode(base64.b64decode(t)[:-4] + b"\x09\0\0\0").decode(),
        r"expected ids of 0 to 5, or -1 for none, got 9",
    ),
}


@pytest.mark.parametrize("name", SGLANG)
def test_an_sglang_answer_that_is_not_as_it_should_be(some, tmp_path, name):
    traces = some()
    change, message = SGLANG[name]
    answers = broken(sglang_answers(traces), lambda answer: change_sglang(answer, change))
    path = write_lines(answers, tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match=message) as caught:
        import_traces(path, format="sglang", **sglang(traces))
    assert str(caught.value).startswith(f"{path}: line 2: routed_experts: ")
    assert "\n" not in str(caught.value)


RECORDER = {
    "no file of torch": (None, r"dump\.pt: expected a dump of SGLang's recorder \("),
    "no records": (lambda c: c.update(records=[]), r"dump\.pt: records: expected a list of"),
    "no experts": (
        lambda c: c["records"][0].pop("topk_ids_of_layer"),
        r"records\[0\]: topk_ids_of_layer: missing; record with --expert-distribution-recorder",
    ),
    "no positions": (lambda c: c["records"][0].pop("positions"), r"records\[0\]: expected input"),
    "fewer positions": (
        lambda c: c["records"][0]["positions"].pop(),
        r"records\[0\]: expected as many ids, positions and rows of topk_ids_of_layer, got",
    ),
    "speculative": (
        lambda c: c["records"][0].update(forward_mode=6),
        r"records\[0\]: forward_mode: expected .* got 6; record without speculative decoding",
    ),
    "lengths": (
        lambda c: c["records"][0].update(extend_seq_lens=[3]),
        r"records\[0\]: extend_seq_lens: expected a sum of \d+, the tokens of the pass, got 3",
    ),
    "copies": (
        lambda c: c["records"][0]["topk_ids_of_layer"].fill_(99),
        r"records\[0\]: topk_ids_of_layer: expected ids of -1 to 5, got 99",
    ),
    "nothing": (
        lambda c: c["records"][0]["topk_ids_of_layer"].fill_(-1),
        r"topk_ids_of_layer: expected ids, got -1 alone",
    ),
    "layers": (
        lambda c: c.update(last_physical_to_logical_map=c["last_physical_to_logical_map"][:3]),
        r"last_physical_to_logical_map: expected 12 layers, got shape \(3, 6\)",
    ),
}


@pytest.mark.parametrize("name", RECORDER)
def test_a_dump_that_is_not_as_it_should_be(some, tmp_path, name):
    import torch

    change, message = RECORDER[name]
    path = write_recorder(prompts_pass(some()), tmp_path / "dump.pt", EXPERTS)
    if change is None:
        content = path.read_bytes()
        path.write_bytes(content[:-200])
        with pytest.raises(ValueError, match=r"dump\.pt: (format: expected one|cannot be read)"):
            import_traces(path, ranked=True)
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"topk_ids_of_layer")
    else:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        import_traces(path, format="sglang", ranked=True)
    assert "\n" not in str(caught.value)


MEGATRON = {
    "no record": (lambda r: [1], r"step, layer, num_tokens, topk, top_indices: missing"),
    "no experts": (lambda r: r.pop("top_indices") and None, r"top_indices: missing; expected a"),
    "ragged": (lambda r: r["top_indices"][3].pop() and None, r"top_indices: expected as many ent"),
    "wrong k": (lambda r: r.update(topk=3), r"top_indices: expected shape \(14, 3\), num_tokens"),
    "wrong number": (
        lambda r: r.update(num_tokens=13),
        r"top_indices: expected shape \(13, 2\), num_tokens and topk, got \(14, 2\)",
    ),
    "too high": (
        lambda r: r["top_indices"].__setitem__(5, [0, 77]),
        r"top_indices: expected ids of 0 to 5, or -1 for none, got 77",
    ),
    "twice": (lambda r: r["top_indices"].__setitem__(5, [2, 2]), r"top_indices: .* got 2 twice"),
    "text": (
        lambda r: r["top_indices"].__setitem__(5, ["a", "b"]),
        r"top_indices: expected whole numbers, got 'a'",
    ),
    "step of text": (lambda r: r.update(step="x"), r"step: expected a whole number, got 'x'"),
}


@pytest.mark.parametrize("name", MEGATRON)
def test_a_megatron_record_that_is_not_as_it_should_be(some, tmp_path, name):
    traces = some(ragged=False, n_sequences=4)
    change, message = MEGATRON[name]
    records = broken(megatron_records(traces, 1), change)
    path = write_lines(records, tmp_path / "trace.jsonl")
    with pytest.raises(ValueError, match=message) as caught:
        import_traces(path, micro_batch_size=1, **known(traces))
    assert str(caught.value).startswith(f"{path}: line 2: ")
    assert "\n" not in str(caught.value)


def test_megatron_records_that_do_not_fit_each_other(some, tmp_path):
    traces = some(ragged=False, n_sequences=4)
    records = megatron_records(traces, 2)
    options = {"micro_batch_size": 2, **known(traces)}
    path = tmp_path / "trace.jsonl"

    def refused(records, message, **more):
        write_lines(records, path)
        with pytest.raises(ValueError, match=message):
            import_traces(path, **{**options, **more})

    refused(records[:-1], r"line 3: layer: expected .*\(3, 7\) of the first .*, got \(3,\)")
    refused(
        records[:3] + records[3:4] * 2,
        r"trace\.jsonl: step 1: expected as many records of each layer, got 1 of layer 3 and 2 of",
    )
    refused(records + records[:1], r"line 5: step: expected the records of a step together, got 0")
    refused(
        records, r"line 1: num_tokens: expected a multiple of .* = 3, got 28", micro_batch_size=3
    )
    refused(records, r"micro_batch_size: expected at least 1, got 0", micro_batch_size=0)
    refused(records, r"steps: expected one of new, continued, got 'old'", steps="old")
    short = copy.deepcopy(records)
    short[1]["top_indices"], short[1]["num_tokens"] = short[1]["top_indices"][:26], 26
    refused(short, r"line 2: num_tokens: expected 28 as in layer 3, got 26")
    refused(records, r"line 1: expected rank, logit_offset, .*capture-logits", logits=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r": empty file; expected records"),
        (b"\n \n", r": empty file; expected records"),
        (b'{"a": 1}\n{"b": \n', r": line 2: expected JSON, got '\{\"b\":' "),
        (b'{"a": 1,\n{"b": 2}\n', r": line 1: expected JSON, got '\{\"a\": 1,' "),
        (b'{\n "a": [1,\n 2}\n', r": line 3: expected JSON or JSONL, got none"),
        (b'{"a": 1}\n\xff\xfe\n', r": line 2: expected UTF-8 text, got other bytes"),
        (b"[" * 100_000, r": expected JSON or JSONL, got it nested too deeply"),
        (b'{"a": 1}\n' + b"[" * 100_000, r": line 2: expected JSON, got it nested too deeply"),
    ],
    ids=["empty", "blank", "cut", "first line", "over lines", "bytes", "deep", "deep line"],
)
def test_text_that_is_no_json(tmp_path, content, message):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(json_values(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vllm", "sglang", "megatron"])
@pytest.mark.parametrize("end", ["cut", "other bytes", "empty"])
def test_a_file_that_has_been_cut(some, tmp_path, name, end):
    traces = some(ragged=False, n_sequences=4)
    answers = {"vllm": vllm_answers, "sglang": sglang_answers}.get(name)
    records = megatron_records(traces, 1) if answers is None else answers(traces)
    path = write_lines(records, tmp_path / "file.jsonl")
    content = path.read_bytes()
    n = content.count(b"\n")
    changed = {"cut": content[:-9], "other bytes": content + b"\xff\xfe\n", "empty": b""}
    path.write_bytes(changed[end])
    message = {
        "cut": rf"file\.jsonl: line {n}: expected JSON, got",
        "other bytes": rf"file\.jsonl: line {n + 1}: expected UTF-8 text",
        "empty": r"file\.jsonl: empty file; expected records",
    }
    options = {
        "vllm": {"layers": layers(traces), **known(traces)},
        "sglang": sglang(traces),
        "megatron": {"micro_batch_size": 1, **known(traces)},
    }
    for format in (name, None if end != "empty" else name):  # noqa: A001
        with pytest.raises(ValueError, match=message[end]):
            import_traces(path, format=format, **options[name])


def test_options_are_asked_for_by_name(some, tmp_path):
    traces = some(ragged=False, n_sequences=4)
    files = {
        "vllm": write_lines(vllm_answers(traces), tmp_path / "vllm.jsonl"),
        "sglang": write_lines(sglang_answers(traces), tmp_path / "sglang.jsonl"),
        "megatron": write_lines(megatron_records(traces, 2), tmp_path / "megatron.jsonl"),
    }
    every = {**sglang(traces), "micro_batch_size": 2}
    needed = {
        "vllm": ("num_experts", "layers", "ranked"),
        "sglang": ("num_experts", "layers", "ranked", "num_layers", "top_k"),
        "megatron": ("num_experts", "ranked", "micro_batch_size"),
    }
    for name, path in files.items():
        for missing in needed[name]:
            given = {key: every[key] for key in needed[name] if key != missing}
            option = missing.replace("_", "-")
            with pytest.raises(ValueError, match=rf"{missing}: expected .*--{option}") as caught:
                import_traces(path, **given)
            assert str(caught.value).startswith(str(path))
        with pytest.raises(TypeError, match=rf"batches: not an option of format {name}; expected"):
            import_traces(path, batches=2)


def test_the_format_is_told_by_the_content(some, tmp_path):
    traces = some(ragged=False, n_sequences=4, layer=np.array([0, 1]))
    files = {
        "vllm": [
            write_lines(vllm_answers(traces, form=form), tmp_path / f"vllm {form}")
            for form in ("lists", "base64")
        ]
        + [write_vllm_arrays(traces, tmp_path / "vllm.npz")],
        "sglang": [
            write_lines(sglang_answers(traces, form=form), tmp_path / f"sglang {form}")
            for form in ("choice", "answer", "generate")
        ]
        + [write_recorder(prompts_pass(traces), tmp_path / "dump.pt", EXPERTS)],
        "megatron": [write_lines(megatron_records(traces, 1), tmp_path / "megatron")],
    }
    for name, paths in files.items():
        for path in paths:
            found = [other for other in FORMATS if reader_of(other).looks_like(path)]
            assert name in found
            assert set(found) <= {name, "npz", "jsonl", "table"}


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"\0\1\2" * 100, b'{"a": 1}\n', b"[]", b"PK\5\6" + 18 * b"\0"]
)
def test_a_format_that_cannot_be_told(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file: (empty file|format: expected one of vllm, sgl)"):
        import_traces(path, num_experts=4)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent: no such file; check the name"):
        import_traces(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"format: expected one of vllm, .*, got 'tgi'"):
        import_traces(tmp_path, format="tgi")
    for name in ("vllm", "sglang", "megatron"):
        with pytest.raises(ValueError, match=r"expected files that end in .*, got none"):
            import_traces(
                tmp_path,
                format=name,
                num_experts=4,
                ranked=True,
                **({"micro_batch_size": 1} if name == "megatron" else {"layers": [0]}),
                **({"num_layers": 1, "top_k": 1} if name == "sglang" else {}),
            )


def test_torch_is_asked_for_by_its_extra(some, tmp_path, monkeypatch):
    path = write_recorder(prompts_pass(some()), tmp_path / "dump.pt", EXPERTS)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    message = re.escape("dump.pt: files of torch need it; install it with `pip install 'isingmoe[")
    with pytest.raises(ImportError, match=message):
        import_traces(path, ranked=True)


def test_every_reader_says_what_it_cannot_know():
    for name in FORMATS:
        reader = reader_of(name)
        assert name == reader.NAME
        assert len(reader.CANNOT_KNOW) > 20
        assert reader.read.__doc__
