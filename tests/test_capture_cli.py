"""`isingmoe capture`: what it writes, what it refuses, and that it goes on when it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import isingmoe as im

pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models as small

# No request leaves this machine, and none is waited for.
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def olmoe_folder(tmp_path_factory):
    return small.save(small.causal("olmoe"), tmp_path_factory.mktemp("models") / "olmoe")


@pytest.fixture
def speech(tmp_path):
    path = tmp_path / "speech.txt"
    path.write_text(small.speeches(1)[0][:3000])
    return path


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_text_becomes_traces(run_cli, olmoe_folder, speech, tmp_path):
    target = tmp_path / "traces.nc"
    ran = run_cli("capture", olmoe_folder, "--text", speech, "-o", target)
    assert ran.exit_code == 0, ran.stderr
    assert f"Written: {target} (3 layers" in ran.stdout
    assert f"isingmoe fit {target}" in ran.stdout
    traces = im.open_traces(target)
    ids = small.tokenizer()(speech.read_text())["input_ids"]
    pairs = zip(traces["token_id"].values, traces["length"].values, strict=True)
    assert np.concatenate([row[:n] for row, n in pairs]).tolist() == ids
    assert traces.attrs["model"] == str(olmoe_folder)
    assert traces.attrs["num_experts"] == 8


def test_options_reach_the_capture(run_cli, olmoe_folder, speech, tmp_path):
    target = tmp_path / "traces.zarr"
    ran = run_cli(
        *("capture", olmoe_folder, "--text", speech, speech, "-o", target, "--max-tokens", 40),
        *("--stride", 30, "--generate", 5, "--temperature", 0, "--seed", 3, "--pack"),
        *("--no-gate-weights", "--router-logits", "--hidden-states", "--dtype", "float64"),
        *("--device", "cpu", "--batch-tokens", 500),
    )
    assert ran.exit_code == 0, ran.stderr
    traces = im.open_traces(target, logits=True)
    assert set(traces.data_vars) >= {"router_logit", "start_position"}
    assert "gate_weight" not in traces
    assert traces.attrs["dtype"] == "float64"
    assert traces.attrs["experts_implementation"] == "eager"
    assert traces.attrs["seed"] == "3"
    assert int(traces["start_position"].max()) == 10
    assert (tmp_path / "traces.hidden" / "offset.npy").exists()


def test_encoder_and_decoder_have_files_of_their_own(run_cli, speech, tmp_path):
    folder = small.save(small.switch(), tmp_path / "switch")
    target = tmp_path / "traces.nc"
    ran = run_cli("capture", folder, "--text", speech, "-o", target, "--max-tokens", 50)
    assert ran.exit_code == 0, ran.stderr
    for stack in ("encoder", "decoder"):
        path = tmp_path / f"traces.{stack}.nc"
        assert f"Written: {path}" in ran.stdout
        assert im.open_traces(path).attrs["stack"] == stack


def dense(folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=small.VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return small.save(LlamaForCausalLM(config), folder, with_tokenizer=False)


OF_A_MODEL = ("--no-gate-weights", "--hidden-states", "--dtype", "float16")


def test_what_is_wrong_is_said_in_one_line(run_cli, olmoe_folder, speech, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"ab\xff\xfe\xfa")
    lines = tmp_path / "bad.jsonl"
    lines.write_text('{"body": "a"}\n')
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    bare = small.save(small.causal("olmoe"), tmp_path / "bare", with_tokenizer=False)
    other = tmp_path / "other"
    other.mkdir()
    cut = small.save(small.causal("olmoe"), tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    model = ("capture", olmoe_folder)
    text = ("--text", speech)
    for arguments, words in (
        (("capture", "nobody/no-such-model", *text), "nobody/no-such-model: expected a folder, or"),
        (("capture", dense(tmp_path / "dense"), *text), "which is dense and has no routing"),
        (("capture", bare, *text), "bare: expected a tokenizer beside the model"),
        (("capture", cut, *text), "cut: expected a model that transformers can load, got none"),
        (("capture", other, *text), "other: expected a folder with a model, got one without"),
        (("capture", speech, *text), "speech.txt: expected a folder with a model, got a file"),
        ((*model, "--text", bad), "bad.txt: byte 2: expected utf-8 text, got 0xff"),
        ((*model, "--text", lines), "bad.jsonl:1: expected a field 'text', got body"),
        ((*model, "--text", empty), "texts: expected some tokens, got none"),
        ((*model, "--text", tmp_path / "none.txt"), "none.txt: no such file or folder of texts"),
        ((*model, "--dataset", "some/corpus"), "some/corpus: "),
        (model, "text: expected texts, got none"),
        (("capture", *text), "MODEL: expected a name or a folder"),
        ((*model, *text, "--device", "abacus"), "device: expected one that torch has here"),
        ((*model, *text, "--experts-implementation", "fast"), 'experts_implementation="fast"'),
        (
            (*model, *text, "--device-map", "auto", "--device", "cpu"),
            "device_map: expected without",
        ),
        ((*model, *text, "--max-tokens", 5000), "max_tokens: expected at most 96"),
        ((*model, *text, "-o", "no/such/traces.nc"), "no folder no/such"),
        ((*model, *text, "--model", "name"), "--model: of a server"),
        (
            (*model, *text, "--top-k", 2, "--server", "vllm", "--ranked"),
            "--server, --top-k, --ranked: of a server; name one with --endpoint",
        ),
        (
            ("capture", *text, "--endpoint", "http://localhost:1/v1", *OF_A_MODEL),
            "--no-gate-weights, --hidden-states, --dtype: of a model that runs here",
        ),
    ):
        target = () if "-o" in arguments else ("-o", tmp_path / "traces.nc")
        ran = run_cli(*arguments, *target)
        assert ran.exit_code == 1, (arguments, ran.stdout)
        assert ran.stderr.count("\n") == 1, ran.stderr
        assert words in ran.stderr
        assert not list(tmp_path.glob("traces*"))


def test_what_exists_is_kept(run_cli, olmoe_folder, speech, tmp_path):
    target = tmp_path / "traces.nc"
    target.write_text("mine")
    ran = run_cli("capture", olmoe_folder, "--text", speech, "-o", target)
    assert ran.exit_code == 1
    assert "exists and is kept" in ran.stderr
    assert target.read_text() == "mine"
    ran = run_cli("capture", olmoe_folder, "--text", speech, "-o", target, "--overwrite")
    assert ran.exit_code == 0, ran.stderr
    im.open_traces(target)


# Runs the command in children, one for each line that it reads, with a commit after every batch
# and slow batches, so that a signal finds them at work. What takes long to import is there before.
NURSERY = """
import json, os, sys, time
import torch, transformers.models.olmoe.modeling_olmoe, zarr, h5netcdf
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
import isingmoe.appending as appending
import isingmoe.capturing.verb
import isingmoe.cli.capture
import isingmoe.capturing.sinks as sinks
from isingmoe.capturing.running import Runner
from isingmoe.cli._app import run
torch.set_num_threads(1)
appending._COMMIT_SECONDS = sinks._GROUP_SECONDS = 0.0
plain = Runner.run
def slow(self, batch):
    print("batch", flush=True)
    time.sleep(0.03)
    return plain(self, batch)
Runner.run = slow
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.argv = json.loads(line)
        run()
    print("pid", child, flush=True)
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def nursery():
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        env={**os.environ, **OFFLINE, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


def captured(nursery, arguments, kill=None):
    """Run the command, or kill it after so many batches and seconds; what it ended with."""
    nursery.stdin.write(json.dumps(["isingmoe", *map(str, arguments)]) + "\n")
    nursery.stdin.flush()
    child, n_batches = None, 0
    for line in nursery.stdout:
        kind, *more = line.split() or [""]
        child = int(more[0]) if kind == "pid" else child
        n_batches += kind == "batch"
        if kill is not None and child is not None and n_batches >= kill[0]:
            time.sleep(kill[1])
            os.kill(child, signal.SIGKILL)
            kill = None
        if kind == "ended":
            return int(more[0])
    raise AssertionError("the command never ended")


def check_killed_captures(nursery, folder, tmp_path, moments, n_characters=None):
    """Kill a capture again and again; it ends as one that was left alone."""
    texts = tmp_path / "speech.txt"
    texts.write_text(small.speeches(1)[0][:n_characters])
    target, whole = tmp_path / "traces.nc", tmp_path / "whole.nc"
    command = ("capture", folder, "--text", texts, "--hidden-states")
    command += ("--max-tokens", 40, "--batch-tokens", 160, "-o")
    assert captured(nursery, (*command, whole)) == 0
    expected = im.open_traces(whole)
    store = tmp_path / "traces.partial.zarr"
    kept = 0
    for moment in moments:
        assert captured(nursery, (*command, target), moment) == signal.SIGKILL
        assert not target.exists()
        if not store.exists():
            assert kept == 0
            continue
        partial = im.open_traces(store) if xr.open_zarr(store).sizes["sequence"] else None
        n = 0 if partial is None else partial.sizes["sequence"]
        assert n >= kept
        kept = n
        if partial is None:
            continue
        for name in ("expert_index", "gate_weight", "token_id", "length"):
            part = expected[name].isel(sequence=slice(n))
            whole_part = partial[name].values
            np.testing.assert_array_equal(whole_part, part.values)
    assert 0 < kept < expected.sizes["sequence"]
    assert captured(nursery, (*command, target)) == 0
    finished = im.open_traces(target)
    assert set(finished.variables) == set(expected.variables)
    for name in finished.variables:
        np.testing.assert_array_equal(finished[name].values, expected[name].values)
    assert finished.attrs == expected.attrs
    for file in (tmp_path / "whole.hidden").iterdir():
        assert file.read_bytes() == (tmp_path / "traces.hidden" / file.name).read_bytes()
    assert not store.exists()


def test_killed_capture_goes_on(nursery, olmoe_folder, tmp_path):
    check_killed_captures(nursery, olmoe_folder, tmp_path, [(4, 0.02)], 4000)


@pytest.mark.slow
def test_capture_killed_at_ten_moments_goes_on(nursery, olmoe_folder, tmp_path):
    rng = np.random.default_rng(0)
    moments = [(int(rng.integers(1, 4)), float(rng.uniform(0, 0.06))) for _ in range(10)]
    check_killed_captures(nursery, olmoe_folder, tmp_path, moments)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path):
    """Two million tokens of one text, read, run, written and put together, beside 50 thousand."""
    code = f"""
import resource, sys
from pathlib import Path
import torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from transformers import OlmoeConfig, OlmoeForCausalLM
import isingmoe as im, small_models as small
torch.manual_seed(0)
tokenizer = small.tokenizer()
model = OlmoeForCausalLM(OlmoeConfig(vocab_size=2048, hidden_size=192, intermediate_size=256,
    num_hidden_layers=4, num_attention_heads=6, num_experts=16, num_experts_per_tok=2,
    max_position_embeddings=512, pad_token_id=None, eos_token_id=0, use_cache=False))
folder = Path(sys.argv[1])
text = "\\n".join(small.speeches(200)).encode()
for name, size in (("few", 90_000), ("many", 3_600_000)):
    (folder / f"{{name}}.txt").write_bytes(text[:size].decode(errors="ignore").encode())
del text
for name in ("few", "many"):
    out = folder / f"{{name}}.nc"
    im.capture(model, folder / f"{{name}}.txt", tokenizer=tokenizer, output=out,
        progress=False).close()
    n_tokens = int(im.open_traces(out)["length"].sum())
    print(n_tokens, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, **OFFLINE, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    (n_few, warm), (n_many, most) = (map(float, line.split()) for line in ran.stdout.splitlines())
    assert n_few > 40_000
    assert n_many > 2_000_000
    assert most < warm + 200
