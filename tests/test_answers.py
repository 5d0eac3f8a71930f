"""Saved answers that are easily misread: several choices, several models, none of the experts."""

from __future__ import annotations

import base64
import copy
import io
import json
import zipfile

import numpy as np
import pytest
from foreign import (
    ids_of,
    prompts_pass,
    rows_of,
    sglang_answers,
    vllm_answers,
    write_lines,
    write_recorder,
    write_vllm_arrays,
)
from reader_checks import EXPERTS, assert_same, known, layers, sglang

import isingmoe as im
from isingmoe.readers import detected_format, import_traces, vllm
from isingmoe.readers.lines import json_values


def answers_of(engine, traces, **more):
    if engine == "sglang":
        return sglang_answers(traces, **more)
    return vllm_answers(traces, form=engine.split()[1], **more)


def options_of(engine, traces):
    if engine == "sglang":
        return sglang(traces)
    return {"layers": layers(traces), **known(traces)}


def joined(answers):
    """One answer with the choices of all, as a request for several has it."""
    whole = copy.deepcopy(answers[0])
    whole["choices"] = [
        {**answer["choices"][0], "index": place} for place, answer in enumerate(answers)
    ]
    whole["usage"]["completion_tokens"] = sum(a["usage"]["completion_tokens"] for a in answers)
    return whole


def with_one_prompt(traces, n_prompt=3):
    """Traces whose sequences begin alike, as samples of one prompt do."""
    traces = copy.deepcopy(traces)
    for name in ("expert_index", "token_id"):
        values = traces[name].values
        if name == "expert_index":
            values[:, :, :n_prompt] = values[:, :1, :n_prompt]
        else:
            values[:, :n_prompt] = values[:1, :n_prompt]
    return traces


ENGINES = ["vllm lists", "vllm base64", "sglang"]


@pytest.mark.parametrize("filler", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_prompt_of_several_choices_is_in_the_first_alone(some, tmp_path, engine, filler):
    traces = with_one_prompt(some())
    more = {"filler": filler} if engine != "sglang" else {}
    path = write_lines([joined(answers_of(engine, traces, **more))], tmp_path / "answers.jsonl")
    found = import_traces(path, **options_of(engine, traces))
    n = traces.sizes["sequence"]
    assert found["start_position"].values.tolist() == [0] + [3] * (n - 1)
    assert np.array_equal(rows_of(found, 0), rows_of(traces, 0))
    for sequence in range(1, n):
        assert np.array_equal(rows_of(found, sequence), rows_of(traces, sequence)[3:])
        assert ids_of(found, sequence) == ids_of(traces, sequence)[3:]


@pytest.mark.parametrize("engine", ["vllm base64", "sglang"])
def test_choices_of_several_prompts_are_whole(some, tmp_path, engine):
    traces = some()
    path = write_lines([joined(answers_of(engine, traces))], tmp_path / "answers.jsonl")
    assert_same(import_traces(path, **options_of(engine, traces)), traces)


@pytest.mark.parametrize("lost", [("prompt_token_ids",), ("token_ids", "prompt_token_ids")])
@pytest.mark.parametrize("engine", ENGINES)
def test_choices_that_do_not_say_their_prompts_are_refused(some, tmp_path, engine, lost):
    traces = with_one_prompt(some())
    answer = joined(answers_of(engine, traces))
    for choice in answer["choices"]:
        for name in lost:
            del choice[name]
    path = write_lines([answer], tmp_path / "answers.jsonl")
    message = r"line 1: choice 0: prompt_token_ids, token_ids: expected in each of \d choices"
    with pytest.raises(ValueError, match=message) as error:
        import_traces(path, **options_of(engine, traces))
    assert "ask the server with return_token_ids, or for one choice" in str(error.value)


def test_a_prompt_that_stands_beside_the_choices_is_of_all(some, tmp_path):
    traces = with_one_prompt(some())
    answer = joined(answers_of("vllm base64", traces))
    answer["prompt_token_ids"] = answer["choices"][0]["prompt_token_ids"]
    for choice in answer["choices"]:
        del choice["prompt_token_ids"]
    path = write_lines([answer], tmp_path / "answers.jsonl")
    found = import_traces(path, **options_of("vllm base64", traces))
    assert found["start_position"].values[1:].tolist() == [3] * (traces.sizes["sequence"] - 1)


def test_the_prompts_of_many_choices_are_looked_at_once(some):
    """Once for each choice, not for each pair of them."""
    asked = []

    class Choice(dict):
        def get(self, name, default=None):
            asked.append(name)
            return super().get(name, default)

    traces = some()
    answer = joined([vllm_answers(traces)[0]] * 50)
    answer["choices"] = [Choice(choice) for choice in answer["choices"]]
    options = {"num_experts": EXPERTS, "layers": layers(traces)}
    assert len(list(vllm.recordings([("here", answer)], **options))) == 50
    assert 50 <= asked.count("prompt_token_ids") <= 100


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_of_several_models_are_refused(some, tmp_path, engine):
    traces = some()
    answers = answers_of(engine, traces)
    answers[2]["model"] = "another/model"
    path = write_lines(answers, tmp_path / "answers.jsonl")
    message = r"line 3: model: expected 'a/model' .* got 'another/model'; .*--model"
    with pytest.raises(ValueError, match=message):
        import_traces(path, **options_of(engine, traces))
    found = import_traces(path, model="one/model", **options_of(engine, traces))
    assert found.attrs["model"] == "one/model"


@pytest.mark.parametrize("form", ["lists", "base64"])
@pytest.mark.parametrize("change", [{"n_layers": 3}, {"top_k": 3}])
def test_answers_of_another_layout_are_refused(some, tmp_path, form, change):
    traces = some()
    other = vllm_answers(some(**change), form=form)
    path = write_lines([*vllm_answers(traces, form=form)[:2], *other], tmp_path / "answers.jsonl")
    message = r"line 3: routed_experts: expected 2 layers of 2 experts .* got \d of \d; import"
    with pytest.raises(ValueError, match=message):
        import_traces(path, **options_of("vllm lists", traces))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("top_k", [1, 2])
def test_zeros_alone_are_of_a_kernel_that_does_not_report(some, tmp_path, engine, top_k):
    traces = some(top_k=top_k, ranked=True, n_sequences=14)
    traces["expert_index"].values[traces["expert_index"].values > 0] = 0
    path = write_lines(answers_of(engine, traces), tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match=r"nothing but zeros; the server's MoE kernel") as error:
        import_traces(path, **options_of(engine, traces))
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_layer_of_expert_0_alone_is_warned_about(some, tmp_path, engine):
    """With one expert to a token it may have no experts, or send all to the first."""
    traces = some(top_k=1, ranked=True, n_sequences=14)
    values = traces["expert_index"].values
    values[1][values[1] > 0] = 0
    path = write_lines(answers_of(engine, traces), tmp_path / "answers.jsonl")
    with pytest.warns(im.DegenerateTraceWarning, match=r"expert 0 in layer 7, .*--layers\) with"):
        found = import_traces(path, **options_of(engine, traces))
    assert_same(found, traces)


@pytest.mark.parametrize("end", ["\n", ""])
def test_lines_of_lists(some, tmp_path, end):
    """As SGLang's /generate answers a batch."""
    traces = some()
    answers = sglang_answers(traces, form="generate")
    lines = "\n".join(json.dumps(part) for part in (answers[:2], answers[2:3], answers[3:]))
    path = tmp_path / "answers.jsonl"
    path.write_text(lines + end)
    assert detected_format(path) == "sglang"
    assert_same(import_traces(path, **sglang(traces)), traces, ("token_id",))
    del answers[1]["meta_info"]["routed_experts"]
    path.write_text(json.dumps(answers[2:]) + "\n" + json.dumps(answers[:2]) + end)
    with pytest.raises(ValueError, match=r"line 2: item 1: routed_experts: expected base64"):
        import_traces(path, **sglang(traces))
    path.write_text(json.dumps(answers[2:])[:-1] + "\n" + json.dumps(answers[:2]) + end)
    with pytest.raises(ValueError, match=r"line 1: expected JSON, got"):
        import_traces(path, format="sglang", **sglang(traces))


def test_bytes_that_are_no_text_inside_json_over_lines(some, tmp_path):
    path = tmp_path / "answers.json"
    path.write_bytes(b'[\n {\n  "a": 1,\n  "b": "\xff"\n }\n]\n')
    with pytest.raises(ValueError, match=r"answers\.json: line 4: expected UTF-8 text"):
        list(json_values(path))


def test_token_ids_of_several_prompts(some, tmp_path):
    traces = some()
    answers = vllm_answers(traces)
    answers[1]["choices"][0]["prompt_token_ids"] = [[1, 2], [3]]
    path = write_lines(answers, tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match=r"line 2: token ids: expected a list of whole numbers"):
        import_traces(path, **options_of("vllm lists", traces))


def damaged(content: bytes, how: str) -> bytes:
    if how == "cut":
        return content[: len(content) // 2]
    if how == "bytes":
        middle = content.index(b"\x93NUMPY") if b"\x93NUMPY" in content else 60
        return content[: middle + 4] + b"\xff" * 40 + content[middle + 44 :]
    if how == "method":
        # Of compression, in the header and in the table at the end.
        at, table = 8, content.rindex(b"PK\x01\x02") + 10
        content = content[:at] + b"\x63\0" + content[at + 2 :]
        return content[:table] + b"\x63\0" + content[table + 2 :]
    assert how == "password"
    table = content.rindex(b"PK\x01\x02") + 8
    return content[:6] + b"\x01\0" + content[8:table] + b"\x01\0" + content[table + 2 :]


@pytest.mark.parametrize("how", ["cut", "bytes", "method", "password"])
@pytest.mark.parametrize("compressed", [False, True])
def test_archives_that_are_damaged(some, tmp_path, how, compressed):
    traces = some(n_sequences=1)
    path = write_vllm_arrays(traces, tmp_path / "arrays.npz")
    if compressed:
        with np.load(path) as arrays:
            np.savez_compressed(path, routed_experts=arrays["routed_experts_0"])
    path.write_bytes(damaged(path.read_bytes(), how))
    options = {"start_position": 0, **options_of("vllm lists", traces)}
    with pytest.raises(ValueError, match=r"arrays\.npz: ") as error:
        import_traces(path, format="vllm", **options)
    assert "\n" not in str(error.value)


def test_an_archive_in_base64_is_no_array(some, tmp_path):
    traces = some()
    answers = vllm_answers(traces, form="base64")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", b"")
    text = base64.b64encode(stream.getvalue()).decode()
    path = tmp_path / "answers.jsonl"
    for content in (text, base64.b64encode(b"PK\x03\x04" + b"x" * 50).decode()):
        answers[1]["choices"][0]["routed_experts"] = content
        write_lines(answers, path)
        with pytest.raises(ValueError, match=r"line 2: routed_experts: expected an array in NumPy"):
            import_traces(path, **options_of("vllm lists", traces))


@pytest.mark.parametrize("name", ["arrays.npz", "one.npy", "dump.pt"])
def test_folders_of_several_kinds_are_refused(some, tmp_path, name):
    traces = some()
    folder = tmp_path / "folder"
    folder.mkdir()
    engine = "sglang" if name == "dump.pt" else "vllm lists"
    write_lines(answers_of(engine, traces), folder / "answers.jsonl")
    if name == "dump.pt":
        write_recorder(prompts_pass(traces), folder / name, EXPERTS)
    elif name == "one.npy":
        np.save(folder / name, rows_of(traces, 0))
    else:
        write_vllm_arrays(traces, folder / name)
    message = rf"folder: expected files of one kind, got {name} and answers\.jsonl; put each kind"
    with pytest.raises(ValueError, match=message):
        import_traces(folder, format=engine.split()[0], **options_of(engine, traces))


@pytest.mark.parametrize("engine", ENGINES)
def test_rank_orders_that_the_ids_refute(some, tmp_path, engine):
    traces = some(n_sequences=14)
    values = traces["expert_index"].values
    inside = values >= 0
    values[:] = np.where(inside, np.sort(values, -1), -1)
    path = write_lines(answers_of(engine, traces), tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match=r"ranked: expected .* order of their ids .* --unranked"):
        import_traces(path, **options_of(engine, traces))
    found = import_traces(path, **{**options_of(engine, traces), "ranked": False})
    assert found.attrs["ranked"] == 0


def test_the_order_of_ranks_is_asked_for_at_the_first_answer(some, tmp_path):
    traces = some()
    answers = vllm_answers(traces)
    path = write_lines([*answers[:1], "no answer"], tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match=r"answers\.jsonl: ranked: expected whether"):
        import_traces(path, num_experts=EXPERTS, layers=layers(traces))


def test_long_answers_are_read_as_short_ones(make_traces, tmp_path):
    traces = make_traces(n_sequences=3, n_positions=300, top_k=3, token_ids=True)
    for form in ("lists", "base64"):
        path = write_lines(vllm_answers(traces, form=form, n_prompt=200), tmp_path / "a.jsonl")
        assert_same(import_traces(path, **options_of("vllm lists", traces)), traces)


def test_formats_are_told_by_the_beginning_of_a_file(some, tmp_path, monkeypatch):
    """Of a long file its first record is read, and only if it begins as JSON does."""
    from isingmoe.readers import lines

    answers = vllm_answers(some())
    path = write_lines(answers * 50, tmp_path / "answers.jsonl")
    parsed = []
    real = lines.loads
    monkeypatch.setattr(lines, "loads", lambda text, *a: parsed.append(len(text)) or real(text, *a))
    assert detected_format(path) == "vllm"
    first = len(json.dumps(answers[0]))
    assert sum(parsed) <= 2 * first
    parsed.clear()
    path = tmp_path / "list.json"
    path.write_text(json.dumps(answers * 50, indent=1))
    assert detected_format(path) == "vllm"
    path = tmp_path / "text.csv"
    path.write_text("layer,expert\n" + "0,1\n" * 100_000)
    assert detected_format(path) == "llama.cpp"
    assert not parsed
    kept = lines.first_json(tmp_path / "answers.jsonl")
    assert len(json.dumps(kept)) < 600
