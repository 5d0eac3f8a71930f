"""`isingmoe probe`: what it writes and shows, and what it says of bad input."""

from __future__ import annotations

import json
import shutil

import matplotlib as mpl
import numpy as np
import planted
import pytest
from test_bad_input import nothing_written, one_line
from test_subspaces import of_features

import isingmoe as im

pytest.importorskip("sklearn")
mpl.use("Agg")

QUICK = ("--shuffles", 0, "--block-length", 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    states = np.stack([planted.noise(1), planted.blocks()])
    planted.traces_of(states, folder / "traces.nc", layer=(2, 7))
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_a_file_and_a_figure(run_cli, folder):
    ran = run_cli(
        "probe", "traces.nc", "--layer", 7, "--block-length", 16, "--shuffles", 2,
        "--input", "router_logit", "--input", "expert_index", "--figure", "probe.png",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    assert ran.stderr == ""
    found = im.open_probe("probe.nc")
    assert ran.stdout == f"{found}\n\nWritten: probe.nc and probe.png\n"
    assert found.data["input"].values.tolist() == ["router_logit", "expert_index"]
    assert found.data["target"].values.tolist() == ["parity", "block 16"]
    assert found.data["layer"].values.tolist() == [7]
    assert (folder / "probe.png").stat().st_size > 10_000
    drawn = run_cli("plot", "probe", "probe.nc", "-o", "again.png")
    assert drawn.exit_code == 0, drawn.stderr
    assert (folder / "again.png").exists()
    # The same numbers in Python.
    traces = im.open_traces("traces.nc", logits=True).sel(layer=[7])
    inputs = ["router_logit", "expert_index"]
    same = im.probe(traces, inputs=inputs, block_length=16, n_shuffles=2)
    assert same.data.equals(found.data)
    assert json.loads(found.data.attrs["provenance"])["input"]["traces"]["file"] == "traces.nc"


def test_json_and_all_inputs_by_default(run_cli, folder):
    ran = run_cli(
        "probe", "traces.nc", *QUICK, "--layer", 7, "--target", "block", "--block-length", 32,
        "--split", "sequence", "--json", "-o", "other.nc",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["probe"] == "other.nc"
    assert told["data"]["input"] == ["hidden_state", "router_logit", "expert_index"]
    assert told["data"]["target"] == ["block 16", "block 32"]
    assert told["data"]["split"] == ["sequence"]
    assert np.min(told["data"]["accuracy"]) > 0.4
    assert told["data"]["p_value"][0][0][0][0] is None


def test_hidden_states_elsewhere(run_cli, folder):
    (folder / "traces.hidden").rename(folder / "states")
    options = (*QUICK, "--input", "hidden_state", "--target", "block", "--layer", 7)
    line = one_line(run_cli("probe", "traces.nc", *options))
    assert line.startswith("traces.hidden: no hidden states are there; capture with")
    ran = run_cli("probe", "traces.nc", *options, "--hidden", "states")
    assert ran.exit_code == 0, ran.stderr


def test_bands_of_a_file(run_cli, folder):
    im.save_subspaces(of_features(), "rope.nc")
    options = (*QUICK, "--layer", 7, "--input", "hidden_state", "--split", "sequence")
    ran = run_cli("probe", "traces.nc", *options, "--rope", "rope.nc", "--figure", "p.svg")
    assert ran.exit_code == 0, ran.stderr
    assert "By wavelength, in tokens" in ran.stdout
    assert "band_accuracy" in im.open_probe("probe.nc").data


def test_bands_of_a_model(run_cli, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import small_models as small

    monkeypatch.chdir(tmp_path)
    model = small.causal("olmoe")
    small.save(model, tmp_path / "olmoe", with_tokenizer=False)
    ids = small.token_ids(*[32] * 6)
    im.capture(model, ids, output="traces.nc", record=("hidden_state",), progress=False)
    options = ("--shuffles", 0, "--block-length", 16, "--layer", 1)
    ran = run_cli("probe", "traces.nc", *options, "--rope", "olmoe", "--bands", 2)
    assert ran.exit_code == 0, ran.stderr
    assert im.open_probe("probe.nc").data.sizes["band"] == 2
    shutil.rmtree("traces.hidden")
    line = one_line(run_cli("probe", "traces.nc", "-o", "b.nc", *options, "--rope", "no model"))
    assert line.startswith("traces.hidden: no hidden states are there")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--block-length", 64), "traces.nc: layer 2: block 64: expected two blocks that"),
        (("--layer", 3), "traces.nc: layer: expected some of 2, 7, got 3"),
        (("--input", "logits"), "inputs: expected different ones of hidden_state, router_logit,"),
        (("--target", "phase"), "targets: expected some of parity, block, got 'phase'"),
        (("--split", "text"), "splits: expected different ones of token, sequence, got text"),
        (("--folds", 40, "--split", "sequence"), "traces.nc: splits: expected at least 40"),
        (("--shuffles", 1), "n_shuffles: expected 0, or at least 2 for an interval, got 1"),
        (("--hidden", "absent"), "absent: no hidden states are there; check the name"),
        (("--rope", "absent.nc"), "absent.nc: no such file; check the name"),
        (("--rope", "traces.nc"), "traces.nc: attribute conventions: expected"),
        (("--output", "traces.nc"), "traces.nc: is read, and cannot be written to"),
        (("--output", "no/where.nc"), "no/where.nc: no folder no; make it first"),
        (("--output", "probe.txt"), "probe.txt: expected a name that ends in .nc or .zarr"),
        (("--figure", "probe.doc"), "probe.doc: expected an ending of"),
    ],
)
def test_bad_input_is_told_in_one_line(run_cli, folder, options, text):
    with nothing_written(folder):
        line = one_line(run_cli("probe", "traces.nc", *options))
    assert line.startswith(text), line


def test_bands_without_a_model_are_a_matter_of_usage(run_cli, folder):
    ran = run_cli("probe", "traces.nc", "--bands", 4)
    assert ran.exit_code == 2
    assert ran.stderr.count("\n") == 1
    assert "--bands: expected with --rope" in ran.stderr


def test_hidden_states_that_are_damaged(run_cli, folder):
    states = np.load("traces.hidden/layer_7.npy")
    states[5, 2] = np.nan
    np.save("traces.hidden/layer_7.npy", states)
    with nothing_written(folder):
        line = one_line(run_cli("probe", "traces.nc", *QUICK, "--layer", 7))
    assert line.startswith("traces.hidden: layer 7: expected finite values, got others in 1 tokens")
    np.save("traces.hidden/offset.npy", np.load("traces.hidden/offset.npy")[:-1])
    with nothing_written(folder):
        line = one_line(run_cli("probe", "traces.nc", *QUICK, "--layer", 7))
    assert "expected hidden states of 24 sequences, as traces.nc has, got 23" in line


def test_a_probe_of_another_kind_is_not_drawn(run_cli, folder):
    with nothing_written(folder):
        line = one_line(run_cli("plot", "probe", "traces.nc"))
    assert line.endswith("make one with `isingmoe probe`")
