"""`capture` that was stopped goes on, and keeps what it has."""

from __future__ import annotations

import numpy as np
import pytest

import isingmoe as im

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models as small  # noqa: E402
from captures import StoppedError, assert_routing_same, assert_same, capture, stopping_after  # noqa: E402

from isingmoe.capturing.sinks import FileSink  # noqa: E402
from isingmoe.hidden_states import open_hidden  # noqa: E402


@pytest.fixture(scope="module")
def olmoe():
    return small.causal("olmoe")


def test_finished_and_foreign_files_are_kept(olmoe, tmp_path):
    path = tmp_path / "traces.nc"
    capture(olmoe, [[1, 2, 3]], output=path).close()
    with pytest.raises(FileExistsError, match="exists and is kept"):
        capture(olmoe, [[1, 2, 3]], output=path)
    capture(olmoe, [[1, 2]], output=path, overwrite=True).close()
    assert im.open_traces(path)["length"].values.tolist() == [2]


@pytest.mark.parametrize("generate", [0, 4])
@pytest.mark.parametrize("n_calls", [2, 12])
def test_stopped_capture_goes_on_to_the_same_end(olmoe, tmp_path, generate, n_calls):
    texts = small.token_ids(*np.random.default_rng(1).integers(1, 40, 60))
    path = tmp_path / "traces.nc"
    options = {
        "record": ["gate_weight", "hidden_state"],
        "batch_tokens": 100,
        "generate": generate,
    }
    handle = stopping_after(olmoe, n_calls * (1 + generate))
    with pytest.raises(StoppedError):
        capture(olmoe, texts, output=path, **options)
    handle.remove()
    store = tmp_path / "traces.partial.zarr"
    if n_calls > 2:
        assert 0 < im.open_traces(store).sizes["sequence"] < 60
    calls = []
    handle = olmoe.register_forward_pre_hook(lambda *_: calls.append(1))
    with capture(olmoe, texts, output=path, **options) as resumed:
        handle.remove()
        whole_path = tmp_path / "whole.nc"
        with capture(olmoe, texts, output=whole_path, **options) as whole:
            assert_same(whole, resumed)
    for layer in range(3):
        np.testing.assert_array_equal(
            open_hidden(tmp_path / "traces.hidden", layer),
            open_hidden(tmp_path / "whole.hidden", layer),
        )
    assert not store.exists()


def test_other_captures_do_not_go_on_with_an_unfinished_one(olmoe, tmp_path):
    path = tmp_path / "traces.nc"
    texts = small.token_ids(*[30] * 12)
    handle = stopping_after(olmoe, 4)
    with pytest.raises(StoppedError):
        capture(olmoe, texts, output=path, batch_tokens=30)
    handle.remove()
    with pytest.raises(ValueError, match=r"texts: expected .* with which this capture was begun"):
        capture(olmoe, texts[1:], output=path, batch_tokens=30)
    with pytest.raises(ValueError, match="weights: expected"):
        capture(small.causal("olmoe", seed=9), texts, output=path, batch_tokens=30)
    with capture(olmoe, texts[1:], output=path, batch_tokens=30, overwrite=True) as traces:
        assert traces.sizes["sequence"] == 11


@pytest.mark.parametrize("n_written", [0, 1])
def test_stacks_that_were_not_all_finished_are_gone_on_with(tmp_path, monkeypatch, n_written):
    model, path = small.switch(), tmp_path / "traces.nc"
    texts, options = small.token_ids(5, 9, 7), {"record": ["gate_weight", "hidden_state"]}
    write, left = FileSink.write, [n_written]

    def stopped(self):
        left[0] -= 1
        if left[0] < 0:
            raise StoppedError
        write(self)

    monkeypatch.setattr(FileSink, "write", stopped)
    with pytest.raises(StoppedError):
        capture(model, texts, output=path, **options)
    monkeypatch.undo()
    assert (tmp_path / "traces.encoder.nc").exists() == (n_written == 1)
    for stack in ("encoder", "decoder"):
        assert open_hidden(tmp_path / f"traces.{stack}.hidden", 1).shape[0] > 0
    again = capture(model, texts, output=path, **options)
    whole = capture(model, texts)
    for stack in ("encoder", "decoder"):
        with again[stack]:
            assert_routing_same(whole[stack], again[stack])
    assert not list(tmp_path.glob("*.partial.zarr"))


def test_hidden_states_of_a_finished_trace_are_kept_whatever_comes_after(
    olmoe, tmp_path, monkeypatch
):
    def stopped(*_):
        raise StoppedError

    monkeypatch.setattr("isingmoe.capturing.sinks.open_as_used", stopped)
    path = tmp_path / "traces.nc"
    with pytest.raises(StoppedError):
        capture(olmoe, small.token_ids(8), output=path, record=["hidden_state"])
    assert im.open_traces(path).sizes["sequence"] == 1
    assert open_hidden(tmp_path / "traces.hidden", 0).shape[0] == 8


def test_a_capture_that_replaces_goes_on_by_the_same_call(olmoe, tmp_path):
    path, texts = tmp_path / "traces.nc", small.token_ids(*[30] * 12)
    capture(olmoe, [[1, 2]], output=path).close()
    options = {"output": path, "batch_tokens": 30, "record": ["hidden_state"], "overwrite": True}
    handle = stopping_after(olmoe, 7)
    with pytest.raises(StoppedError):
        capture(olmoe, texts, **options)
    handle.remove()
    assert im.open_traces(path).sizes["sequence"] == 1
    n_kept = im.open_traces(tmp_path / "traces.partial.zarr").sizes["sequence"]
    assert n_kept > 0
    calls = []
    handle = olmoe.register_forward_pre_hook(lambda *_: calls.append(1))
    capture(olmoe, texts, **options).close()
    handle.remove()
    # The first one is a trial.
    assert len(calls) == 1 + 12 - n_kept
    assert im.open_traces(path).sizes["sequence"] == 12


def test_hidden_states_that_are_gone_are_missed(olmoe, tmp_path):
    path, texts = tmp_path / "traces.nc", small.token_ids(*[30] * 12)
    options = {"output": path, "batch_tokens": 30, "record": ["hidden_state"]}
    handle = stopping_after(olmoe, 7)
    with pytest.raises(StoppedError):
        capture(olmoe, texts, **options)
    handle.remove()
    (tmp_path / "traces.hidden").rename(tmp_path / "elsewhere.hidden")
    with pytest.raises(FileNotFoundError, match=r"traces\.hidden"):
        capture(olmoe, texts, **options)
    with capture(olmoe, texts, **options, overwrite=True) as traces:
        assert traces.sizes["sequence"] == 12
    assert open_hidden(tmp_path / "traces.hidden", 0).shape[0] == 12 * 30
