"""`isingmoe import`: what it prints, what it asks for, and that bad input ends in one line."""

from __future__ import annotations

import numpy as np
import pytest
from foreign import megatron_records, sglang_answers, vllm_answers, write_lines

import isingmoe as im


@pytest.fixture
def traces(make_traces):
    return make_traces(n_positions=14, n_sequences=4, token_ids=True)


@pytest.fixture
def answers(traces, tmp_path):
    return write_lines(vllm_answers(traces), tmp_path / "answers.jsonl")


USUAL = ("--num-experts", 6, "--layers", "3,7", "--ranked")


def test_what_is_written_and_said(answers, traces, tmp_path, run_cli):
    output = tmp_path / "traces.nc"
    ran = run_cli("import", answers, "-o", output, *USUAL, "--model", "mine")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stderr == ""
    written, read, following = ran.stdout.splitlines()
    assert written == (
        f"Written: {output} (2 layers, 4 sequences of 14 to 14 tokens, 56 in all; 6 experts, "
        "top-2, ranked by weight)"
    )
    assert read.startswith("Read as vllm: vLLM --enable-return-routed-experts. Such files do not")
    assert "prefix cache" in read
    assert following == f"Next: isingmoe info {output}"
    opened = im.open_traces(output)
    assert np.array_equal(opened["expert_index"], traces["expert_index"])
    assert opened.attrs["model"] == "mine"
    assert opened.attrs["source"] == "answers.jsonl, vLLM --enable-return-routed-experts"
    assert run_cli("info", output).exit_code == 0


@pytest.mark.parametrize("text", ["3,7", "3, 7"])
def test_layers_are_listed(answers, tmp_path, run_cli, text):
    output = tmp_path / "traces.zarr"
    options = ("--num-experts", 6, "--layers", text, "--unranked")
    ran = run_cli("import", answers, "-o", output, *options)
    assert ran.exit_code == 0, ran.stderr
    opened = im.open_traces(output)
    assert opened["layer"].values.tolist() == [3, 7]
    assert opened.attrs["ranked"] == 0


def test_ranges_of_layers(make_traces, tmp_path, run_cli):
    traces = make_traces(n_layers=5, token_ids=True)
    path = write_lines(sglang_answers(traces), tmp_path / "answers.jsonl")
    output = tmp_path / "traces.nc"
    sizes = ("--num-experts", 6, "--num-layers", 5, "--top-k", 2, "--ranked")
    ran = run_cli("import", path, "-o", output, *sizes, "--layers", "1-3,8,10-10")
    assert ran.exit_code == 0, ran.stderr
    assert im.open_traces(output)["layer"].values.tolist() == [1, 2, 3, 8, 10]


def test_rows_that_take_turns_are_warned_about_in_one_line(tmp_path, run_cli):
    rng = np.random.default_rng(0)
    index = rng.random((3, 4, 200, 16)).argsort(-1)[..., :2]
    for i in range(1, 200):
        stays = rng.random((3, 4, 1)) < 0.5
        index[:, :, i] = np.where(stays, index[:, :, i - 1], index[:, :, i])
    traces = im.traces_from_arrays(index, num_experts=16)
    path = write_lines(megatron_records(traces, 4), tmp_path / "router_trace_rank0.jsonl")
    usual = ("import", path, "-o", tmp_path / "traces.nc", "--num-experts", 16, "--ranked")
    with pytest.warns(im.InterleavedTraceWarning, match=r"with those 4 rows on"):
        ran = run_cli(*usual, "--micro-batch-size", 1)
    assert ran.exit_code == 0
    ran = run_cli(*usual, "--micro-batch-size", 4, "--overwrite")
    assert ran.exit_code == 0
    assert ran.stderr == ""
    found = im.open_traces(tmp_path / "traces.nc")
    assert np.array_equal(found["expert_index"], traces["expert_index"])
    ran = run_cli(*usual, "--overwrite")
    assert ran.exit_code == 1
    assert "the rows look like those of 4 sequences" in ran.stderr
    assert "--micro-batch-size" in ran.stderr


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (USUAL[2:], 1, "num_experts: expected the number of routed experts"),
        (USUAL[:2], 1, "layers: expected the model's numbers"),
        (USUAL[:4], 1, "ranked: expected whether"),
        ((*USUAL, "--micro-batch-size", 2), 1, "micro_batch_size: not an option of format vllm"),
        ((*USUAL, "--format", "tgi"), 1, "format: expected one of vllm, sglang, megatron"),
        ((*USUAL, "--format", "megatron"), 1, "topk, top_indices: missing; expected a record"),
        ((*USUAL[:2], "--layers", "a-b", "--ranked"), 1, "--layers: expected numbers such as"),
        ((*USUAL[:2], "--layers", "7-3", "--ranked"), 1, "--layers: expected numbers such as"),
        ((*USUAL[:2], "--layers", "3,3", "--ranked"), 1, "layers: expected different numbers"),
        ((*USUAL[:2], "--layers", "1,2,3", "--ranked"), 1, "layers: expected 2 numbers"),
        (("--num-experts", 0), 2, "--num-experts"),
        (("--num-experts", 4, *USUAL[2:]), 1, "expected ids of 0 to 3, or -1 for none, got"),
        (("--steps", "old"), 2, "--steps"),
    ],
)
def test_bad_options_end_in_one_line(answers, tmp_path, run_cli, options, status, message):
    ran = run_cli("import", answers, "-o", tmp_path / "traces.nc", *options)
    assert ran.exit_code == status
    (line,) = ran.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "traces.nc").exists()


def test_bad_files_end_in_one_line(answers, tmp_path, run_cli):
    output = tmp_path / "traces.nc"

    def refused(source, message, *more, output=output):
        ran = run_cli("import", source, "-o", output, *USUAL, *more)
        assert ran.exit_code == 1
        (line,) = ran.stderr.splitlines()
        assert message in line

    refused(tmp_path / "absent", "absent: no such file; check the name")
    refused(answers, "answers.jsonl: is read, and cannot be written to", output=answers)
    refused(answers, "expected a name that ends in .nc or .zarr", output=tmp_path / "traces.txt")
    refused(answers, "no folder", output=tmp_path / "folder" / "traces.nc")
    for content, message in (
        (b"", "answers.jsonl: empty file; expected records"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "format: expected one of vllm"),
        (answers.read_bytes() + b"{", "answers.jsonl: line 5: expected JSON, got '{'"),
    ):
        answers.write_bytes(content)
        refused(answers, message)
    assert not output.exists()


def test_a_file_that_exists_is_kept(answers, tmp_path, run_cli):
    output = tmp_path / "traces.nc"
    output.write_text("mine")
    ran = run_cli("import", answers, "-o", output, *USUAL)
    assert ran.exit_code == 1
    assert "exists and is kept; say --overwrite" in ran.stderr
    assert output.read_text() == "mine"
    assert run_cli("import", answers, "-o", output, *USUAL, "--overwrite").exit_code == 0
    assert im.open_traces(output).sizes["sequence"] == 4
