"""Traces that grow: what is stored, what a killed process leaves, and where it goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import isingmoe as im
from isingmoe import _conversion, _growing, _unfinished, appending
from isingmoe._storage import read_dataset
from isingmoe.appending import TraceWriter, partial_store
from isingmoe.recorded import Recording

ROOT = Path(__file__).parents[1]
POSITIONS, ROWS = 8, 4
BEGUN: dict[str, Any] = {
    "layers": [3, 5],
    "num_experts": 6,
    "top_k": 2,
    "n_positions": POSITIONS,
    "ranked": True,
    "model": "known",
    "variables": ("gate_weight", "token_id", "start_position"),
    "identity": {"model": "known", "texts": ["a", "b"], "seed": 1},
}


def known(place: int) -> Recording:
    """The recording of a sequence, always the same one; shorter than it may be."""
    rng = np.random.default_rng(place)
    n_tokens = rng.integers(1, POSITIONS)
    index = rng.random((n_tokens, 2, 6)).argsort(-1)[..., :2]
    index[rng.random(n_tokens) < 0.1] = -1
    weight = -np.sort(-rng.random(index.shape, np.float32))
    return Recording(index, weight, None, rng.integers(0, 1000, n_tokens), place % 3)


def some(first: int, last: int) -> list[Recording]:
    return [known(place) for place in range(first, last)]


def check(traces: xr.Dataset, n: int) -> None:
    """Every sequence is whole and the known one."""
    assert traces.sizes["sequence"] == n
    if n:
        im.validate(traces)
    index, weight, token, length, start = (
        traces[name].values
        for name in ("expert_index", "gate_weight", "token_id", "length", "start_position")
    )
    for place in range(n):
        recorded = known(place)
        n_tokens = len(recorded.expert_index)
        assert length[place] == n_tokens
        assert start[place] == recorded.start_position
        ids = recorded.expert_index.swapaxes(0, 1)
        weights = np.where(ids < 0, np.float32(np.nan), recorded.gate_weight.swapaxes(0, 1))
        np.testing.assert_array_equal(index[:, place, :n_tokens], ids)
        np.testing.assert_array_equal(weight[:, place, :n_tokens], weights)
        np.testing.assert_array_equal(token[place, :n_tokens], recorded.token_id)
        assert (index[:, place, n_tokens:] == -1).all()
        assert np.isnan(weight[:, place, n_tokens:]).all()
        assert (token[place, n_tokens:] == -1).all()


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(_unfinished, "_CHUNK_TOKENS", POSITIONS * ROWS)


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "traces.nc"


def begin(path: Path, **more: Any) -> TraceWriter:
    return TraceWriter.create(path, **{**BEGUN, **more})


def resume(path: Path) -> TraceWriter:
    return TraceWriter.resume(path, identity=BEGUN["identity"])


# What is stored.


@pytest.mark.parametrize(("suffix", "batch"), [("nc", 1), ("nc", 11), ("zarr", 4), ("zarr", 30)])
def test_what_was_appended_is_what_is_read(tmp_path, suffix, batch):
    path = tmp_path / f"traces.{suffix}"
    with begin(path) as writer:
        for first in range(0, 30, batch):
            writer.append(some(first, min(first + batch, 30)))
        assert writer.finish() == path
    traces = im.open_traces(path)
    check(traces, 30)
    assert traces.sizes["position"] == traces["length"].max() < POSITIONS
    assert traces["layer"].values.tolist() == [3, 5]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_the_output_is_that_of_traces_saved_at_once(tmp_path, suffix):
    attributes = {"router": "softmax, top-2", "text": "ξ \u202e \x01", "source": "", "n": 3}
    with begin(tmp_path / f"grown.{suffix}", attributes=attributes) as writer:
        writer.append(some(0, 10))
        grown = im.open_traces(writer.finish())
    im.save_traces(grown, tmp_path / f"saved.{suffix}")
    xr.testing.assert_identical(grown, im.open_traces(tmp_path / f"saved.{suffix}"))
    assert grown.attrs.items() >= attributes.items()
    assert json.loads(grown.attrs["provenance"])["isingmoe"] == im.__version__
    for name, variable in grown.variables.items():
        declared = next(v for v in im._schema.VARIABLES if v.name == name)
        assert variable.attrs == {"long_name": declared.long_name, "units": declared.units}
        assert variable.dims == declared.dims


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_logits_and_layers_that_differ(tmp_path, suffix, dtype):
    rng = np.random.default_rng(0)
    logit = rng.normal(size=(5, 2, 6)).astype(dtype)
    logit[:, 1, 4:] = np.nan
    index = np.array([[0, 5], [3, -1]])[None].repeat(5, 0)
    path = tmp_path / f"traces.{suffix}"
    several = {"num_experts": [6, 4], "top_k": [2, 1], "variables": ["router_logit"]}
    with begin(path, **several, logit_dtype=dtype) as writer:
        writer.append([Recording(index, router_logit=logit)])
        writer.finish()
    traces = im.open_traces(path, logits=True)
    np.testing.assert_array_equal(traces["router_logit"][:, 0], logit.swapaxes(0, 1))
    assert traces["router_logit"].dtype == dtype
    assert traces["num_experts"].values.tolist() == [6, 4]
    assert traces["top_k"].values.tolist() == [2, 1]


def test_a_chunk_is_bounded_in_tokens_and_in_bytes(output, monkeypatch):
    monkeypatch.undo()
    for n_positions, rows in ((512, 256), (100_000, 1)):
        with begin(output, n_positions=n_positions, overwrite=True) as writer:
            writer.append(some(0, 1))
        array = zarr.open_group(partial_store(output), mode="r")["expert_index"]
        assert array.chunks == (1, rows, n_positions, 2)
    monkeypatch.setattr(_unfinished, "_CHUNK_BYTES", 1 << 20)
    with begin(output, n_positions=512, overwrite=True) as writer:
        writer.append(some(0, 1))
    rows = zarr.open_group(partial_store(output), mode="r")["expert_index"].chunks[1]
    # Of a token: two layers of two ids and weights, and its own id.
    assert rows == (1 << 20) // (512 * (2 * 2 * (2 + 4) + 4) + 8)


# While it grows.


def test_each_commit_is_a_trace_that_others_can_read(output, run_cli):
    with begin(output) as writer:
        store = partial_store(output)
        for n in (3, 5, 11, 12):
            writer.append(some(writer.n_appended, n))
            assert writer.n_sequences == n // ROWS * ROWS
            writer.commit()
            assert (writer.n_sequences, writer.n_appended) == (n, n)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                opened = xr.open_zarr(store, chunks=None)
            xr.testing.assert_identical(opened.load(), read_dataset(store))
            assert opened["expert_index"].dtype == np.int16
            check(im.open_traces(store), n)
        ran = run_cli("info", store)
        assert ran.exit_code == 0
        assert "12 sequences" in ran.stdout
        assert not output.exists()


def test_only_the_root_shows_a_commit(output, monkeypatch):
    """Whatever is written before, the root's metadata is the last file that changes."""
    with begin(output) as writer:
        writer.append(some(0, 6))
        writer.commit()
        monkeypatch.setattr(_growing, "publish", lambda folder: None)
        writer.append(some(6, 11))
        writer.commit()
        check(read_dataset(partial_store(output)), 6)
        assert xr.open_zarr(partial_store(output)).sizes["sequence"] == 6
    monkeypatch.undo()
    monkeypatch.setattr(_unfinished, "_CHUNK_TOKENS", POSITIONS * ROWS)
    with resume(output) as writer:
        assert writer.n_sequences == 6
        writer.append(some(6, 7))
        check(read_dataset(partial_store(output)), 6)
        writer.commit()
        check(read_dataset(partial_store(output)), 7)


# Filters of warnings are not each thread's own.
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_readers_see_whole_commits_while_it_is_written(output):
    writing, seen = threading.Event(), set()

    def write() -> None:
        try:
            while writer.n_appended < 30:
                writer.append(some(writer.n_appended, writer.n_appended + 1))
                writer.commit()
        finally:
            writing.set()

    with begin(output) as writer, ThreadPoolExecutor(1) as pool:
        written = pool.submit(write)
        while not writing.is_set():
            opened = read_dataset(partial_store(output))
            check(opened, opened.sizes["sequence"])
            seen.add(opened.sizes["sequence"])
        written.result()
        check(read_dataset(partial_store(output)), 30)
    assert len(seen) > 3


def test_a_slow_capture_is_committed_by_time(output, monkeypatch):
    with begin(output) as writer:
        writer.append(some(0, 1))
        assert writer.n_sequences == 0
        monkeypatch.setattr(appending, "_COMMIT_SECONDS", 0.0)
        writer.append(some(1, 2))
        assert writer.n_sequences == 2


def test_a_store_that_is_written_to_is_still_read(output):
    with begin(output) as writer:
        writer.append(some(0, 5))
        writer.commit()
        store = partial_store(output)
        before = read_dataset(store)
        (store / "expert_index" / "c" / "0" / "0" / "0" / "0.abc.partial").write_bytes(b"half")
        (store / "zarr.abc.partial").write_bytes(b"half")
        after = read_dataset(store)
    xr.testing.assert_identical(before, after)
    assert before.encoding["sha256"] == after.encoding["sha256"]
    resume(output).close()
    assert not list(store.rglob("*.partial"))


# Going on.


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8])
def test_a_resumed_capture_is_an_uninterrupted_one(tmp_path, stop):
    for name, stops in (("whole", [13]), ("stopped", [stop, stop + 1, 13])):
        path = tmp_path / name / "traces.nc"
        path.parent.mkdir()
        begin(path).close()
        for n in stops:
            with resume(path) as writer:
                writer.append(some(writer.n_sequences, n))
        with resume(path) as writer:
            assert writer.n_sequences == 13
            writer.finish()
    files = [(tmp_path / name / "traces.nc").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_an_error_keeps_what_is_whole_and_says_where(output, error):
    def capture() -> None:
        with begin(output) as writer:
            writer.append(some(0, 6))
            raise error

    with pytest.raises(type(error)) as raised:
        capture()
    told = [str(raised.value), *getattr(raised.value, "__notes__", [])]
    assert f"6 sequences are kept in {partial_store(output)}" in "; ".join(told)
    check(read_dataset(partial_store(output)), 6)
    with resume(output) as writer:
        writer.append(some(6, 8))
        check(im.open_traces(writer.finish()), 8)


def test_the_command_line_says_what_an_error_kept(output, run_cli, monkeypatch):
    def capture(*_: Any, **__: Any) -> None:
        with begin(output) as writer:
            writer.append(some(0, 6))
            raise ValueError("text.txt: no text")

    monkeypatch.setattr(im, "open_traces", capture)
    ran = run_cli("info", "traces.nc")
    assert ran.exit_code == 1
    assert ran.stderr == (
        f"isingmoe: error: text.txt: no text; 6 sequences are kept in {partial_store(output)}, and "
        "the same capture goes on from there\n"
    )


def test_an_interrupt_says_of_several_traces_where_they_are(tmp_path):
    def capture() -> None:
        with begin(tmp_path / "encoder.nc") as one, begin(tmp_path / "decoder.nc") as other:
            one.append(some(0, 2))
            other.append(some(0, 3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        capture()
    assert str(raised.value) == "interrupted" + "".join(
        f"; {n} sequences are kept in {tmp_path / name}.partial.zarr, and the same capture goes on "
        "from there"
        for n, name in ((3, "decoder"), (2, "encoder"))
    )


def test_a_capture_that_kept_nothing_leaves_nothing(output):
    def capture(recordings: list[Recording]) -> None:
        with begin(output) as writer:
            writer.append(recordings)
            writer.finish()

    with pytest.raises(ValueError, match=r"traces\.nc: expected sequences, got none"):
        capture([])
    assert not list(output.parent.iterdir())


def test_an_interrupt_inside_a_commit_keeps_what_is_whole(output, monkeypatch):
    publish, interrupted = _growing.publish, []

    def stop(folder: Path) -> None:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        publish(folder)

    def capture() -> None:
        with begin(output) as writer:
            writer.append(some(0, 2))
            writer.commit()
            monkeypatch.setattr(_growing, "publish", stop)
            writer.append(some(2, 7))

    with pytest.raises(KeyboardInterrupt, match="interrupted; 4 sequences are kept in"):
        capture()
    check(read_dataset(partial_store(output)), 4)


def test_an_interrupt_at_the_end_keeps_the_store(output, monkeypatch):
    regions = _conversion._regions

    def interrupted(*shapes: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return regions(*shapes)

    def capture() -> None:
        with begin(output) as writer:
            writer.append(some(0, 6))
            monkeypatch.setattr(_conversion, "_regions", interrupted)
            writer.finish()

    with pytest.raises(KeyboardInterrupt, match="interrupted; 6 sequences are kept in"):
        capture()
    monkeypatch.undo()
    assert os.listdir(output.parent) == ["traces.partial.zarr"]
    with resume(output) as writer:
        check(im.open_traces(writer.finish()), 6)


# What is refused.


def test_another_capture_is_not_gone_on_with(output):
    with begin(output) as writer:
        writer.append(some(0, 2))
    for name, value in (("seed", 2), ("texts", ["a"]), ("dtype", "bfloat16"), ("model", None)):
        other = {**BEGUN["identity"], name: value}
        kept = BEGUN["identity"].get(name, "nothing")
        with pytest.raises(ValueError, match=r"repeat it, say --overwrite to begin anew") as raised:
            TraceWriter.resume(output, identity=other)
        assert f"partial.zarr: {name}: expected {kept}, with" in str(raised.value)
        assert f"got {value};" in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"output: expected traces\.nc, .* got traces\.zarr"):
        resume(output.with_suffix(".zarr"))
    check(read_dataset(partial_store(output)), 2)
    resume(output).close()


def test_what_exists_is_kept_unless_asked(output):
    with begin(output) as writer:
        writer.append(some(0, 2))
    with pytest.raises(FileExistsError, match=r"traces\.partial\.zarr: an unfinished capture is"):
        begin(output)
    with begin(output, overwrite=True) as writer:
        writer.append(some(0, 3))
        writer.finish()
    with pytest.raises(FileExistsError, match=r"traces\.nc: exists and is kept; say --overwrite"):
        begin(output)
    with begin(output, overwrite=True) as writer:
        writer.append(some(0, 4))
        check(im.open_traces(output), 3)
        writer.finish()
    check(im.open_traces(output), 4)


def test_a_folder_that_is_no_store_is_never_replaced(output):
    folder = partial_store(output)
    folder.mkdir()
    (folder / "precious.txt").write_text("the work of a year")
    for attempt in (lambda: begin(output, overwrite=True), lambda: resume(output)):
        with pytest.raises((OSError, ValueError), match=r"traces\.partial\.zarr: "):
            attempt()
    assert os.listdir(folder) == ["precious.txt"]


def test_one_process_writes_at_a_time(output):
    with begin(output) as writer:
        writer.append(some(0, 2))
        for attempt in (lambda: resume(output), lambda: begin(output, overwrite=True)):
            with pytest.raises(BlockingIOError, match="is being written by another process; wait"):
                attempt()
        check(im.open_traces(writer.finish()), 2)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("traces.h5", {}, r"traces\.h5: expected a name that ends in \.nc or \.zarr"),
        ("absent/traces.nc", {}, r"traces\.nc: no folder .*absent; make it first"),
        ("traces.nc", {"n_positions": 0}, "n_positions: expected at least 1, got 0"),
        ("traces.nc", {"top_k": 0}, "top_k: expected at least 1, got 0"),
        ("traces.nc", {"num_experts": [6] * 3}, "num_experts: expected a whole number, or one"),
        ("traces.nc", {"variables": ["weight"]}, "variables: expected some of .*, got 'weight'"),
        ("traces.nc", {"logit_dtype": "int8"}, "logit_dtype: expected float16 or float32, got"),
        ("traces.nc", {"layers": [3, 3]}, "layer: expected different numbers"),
        ("traces.nc", {"attributes": {"a": None}}, "attribute a: expected text or a number, got N"),
        ("traces.nc", {"attributes": {"a": True}}, "attribute a: expected text or a number, got b"),
    ],
)
def test_what_cannot_be_begun(tmp_path, name, change, message):
    with pytest.raises((ValueError, TypeError, OSError), match=message) as raised:
        begin(tmp_path / name, **change)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_gone_on_with(output):
    with pytest.raises(FileNotFoundError, match=r"traces\.partial\.zarr: no unfinished capture"):
        resume(output)
    im.save_traces(_as_traces(3), partial_store(output))
    before = sorted(partial_store(output).rglob("*"))
    with pytest.raises(ValueError, match=r"expected a trace that is being captured, got another"):
        resume(output)
    assert sorted(partial_store(output).rglob("*")) == before
    begin(output, overwrite=True).close()
    (partial_store(output) / "length" / "zarr.json").unlink()
    with pytest.raises(ValueError, match=r"damaged one .*; remove it, or say --overwrite"):
        resume(output)
    begin(output, overwrite=True).close()
    resume(output).close()


def _as_traces(n: int) -> xr.Dataset:
    return im.traces_from_arrays(np.zeros((1, n, 2, 1), int), num_experts=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expert_index": np.zeros((3, 1, 2), int)}, "sequence 1: expert_index: expected shape"),
        ({"expert_index": np.full((3, 2, 2), [0, 6])}, "expected ids below num_experts = 6, got 6"),
        ({"expert_index": np.zeros((3, 2, 2), int)}, "expected different experts for one token"),
        ({"gate_weight": None}, "gate_weight: expected in every sequence or in none"),
        ({"gate_weight": np.full((3, 2, 2), np.inf)}, "gate_weight: expected finite weights"),
        ({"router_logit": np.zeros((3, 2, 6))}, "router_logit: expected in every sequence or in"),
        ({"token_id": np.zeros(4, int)}, "token_id: expected shape"),
    ],
)
def test_a_batch_that_does_not_fit_is_not_taken(output, change, message):
    good = {
        "expert_index": np.full((3, 2, 2), [0, 1]),
        "gate_weight": np.full((3, 2, 2), [0.6, 0.4], np.float32),
        "token_id": np.arange(3),
    }
    with begin(output) as writer:
        writer.append(some(0, 3))
        with pytest.raises(ValueError, match=message) as raised:
            writer.append([known(3), Recording(**{**good, **change})])
        assert str(raised.value).startswith(f"{output}: after 3 sequences: ")
        assert "\n" not in str(raised.value)
        assert writer.n_appended == 3
        writer.append(some(3, 5))
        check(im.open_traces(writer.finish()), 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate_weight": None}, "gate_weight: expected float32, as the trace was begun, got none"),
        ({"router_logit": np.zeros((3, 2, 6))}, "router_logit: expected none, .* got float32"),
        ({"token_id": None}, "token_id: expected int32, as the trace was begun, got none"),
        ({"expert_index": np.full((9, 2, 2), [0, 1])}, "at most n_positions = 8 tokens .* got 9"),
    ],
)
def test_a_batch_of_other_variables_is_not_taken(output, change, message):
    n = len(change.get("expert_index", range(3)))
    recording = {
        "expert_index": np.full((n, 2, 2), [0, 1]),
        "gate_weight": np.full((n, 2, 2), [0.6, 0.4], np.float32),
        "token_id": np.arange(n),
    }
    with begin(output) as writer, pytest.raises(ValueError, match=message):
        writer.append([Recording(**{**recording, **change})])


def test_a_start_that_is_not_kept_is_refused(output):
    with (
        begin(output, variables=["gate_weight", "token_id"]) as writer,
        pytest.raises(ValueError, match=r"start_position: expected none, .* got int32"),
    ):
        writer.append([known(1)])


def test_a_closed_writer_takes_nothing(output):
    with begin(output) as writer:
        writer.append(some(0, 2))
        writer.finish()
    for attempt in (lambda: writer.append(some(2, 3)), writer.commit, writer.finish):
        with pytest.raises(ValueError, match="expected a trace that is open, got a closed one"):
            attempt()


def test_zarr_is_asked_for(output, monkeypatch):
    remedy = r"install it with `pip install 'isingmoe\[capture\]'`"
    monkeypatch.setattr(zarr, "__version__", "3.0.9")
    with pytest.raises(ImportError, match=rf"needs zarr 3\.1\.3 or newer, got 3\.0\.9; {remedy}"):
        begin(output)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=rf"traces\.nc: a trace that grows needs zarr; {remedy}"):
        begin(output)


# What cannot be written.


@pytest.fixture
def full_disk():
    """Files may not grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_what_was_committed(output, full_disk):
    with begin(output) as writer:
        writer.append(some(0, 6))
        writer.commit()
        full_disk(50)
        message = (
            rf"{partial_store(output)}: cannot be written \(File too large\); make room, and go on "
            "with the 6 sequences that are kept there"
        )
        with pytest.raises(OSError, match=message):
            writer.append(some(6, 9))
        assert (writer.n_sequences, writer.n_appended) == (6, 8)
        check(read_dataset(partial_store(output)), 6)
        full_disk(resource.RLIM_INFINITY)
        writer.append(some(8, 9))
        check(im.open_traces(writer.finish()), 9)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_a_disk_that_is_full_at_the_end_keeps_the_store(tmp_path, full_disk, suffix):
    path = tmp_path / f"traces.{suffix}"

    def capture() -> None:
        with begin(path) as writer:
            writer.append(some(0, 6))
            writer.commit()
            full_disk(50)
            writer.finish()

    with pytest.raises(OSError, match=r"cannot be written \(.*\); name another folder") as raised:
        capture()
    full_disk(resource.RLIM_INFINITY)
    assert raised.value.__notes__ == [
        f"6 sequences are kept in {partial_store(path)}, and the same capture goes on from there"
    ]
    assert os.listdir(tmp_path) == ["traces.partial.zarr"]
    with resume(path) as writer:
        check(im.open_traces(writer.finish()), 6)


def test_a_folder_that_cannot_be_written_to(output, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(PermissionError, match=r"traces\.nc: folder .* cannot be written to; name"):
        begin(output)


def test_file_systems_without_links(tmp_path, monkeypatch):
    path = tmp_path / "traces.zarr"
    with begin(path) as writer:
        writer.append(some(0, 6))
        writer.commit()

        def link(*_: Any) -> None:
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", link)
        copied = path.with_name("copied.zarr")
        appending.write_zarr(partial_store(path), copied, "unfinished")
    monkeypatch.undo()
    check(read_dataset(copied), 6)


# Killed.

LAST = 14

# Captures that are killed at a change of the file system, counted from the beginning. Each is a
# fork, so that the imports are paid for once.
KILLED = """
import os, random, signal, sys
from pathlib import Path
from test_appending import BEGUN, LAST, POSITIONS, ROWS, begin, some
import h5netcdf, xarray, zarr
from isingmoe import _unfinished
from isingmoe.recorded import assemble

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}

def capture(path, moment):
    log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    count = 0

    def hook(event, arguments):
        nonlocal count
        opened = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or opened:
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    with begin(path) as writer:
        for n in range(0, LAST, 3):
            writer.append(some(n, min(n + 3, LAST)))
            if n == 6:
                writer.commit()
            os.write(log, b"%d\\n" % writer.n_sequences)
        writer.finish()
    os.write(log, b"%d\\n" % count)

def forked(path, moment):
    path.parent.mkdir()
    child = os.fork()
    if not child:
        capture(path, moment)
        os._exit(0)
    return os.waitpid(child, 0)[1]

_unfinished._CHUNK_TOKENS = POSITIONS * ROWS
# Compiles what the forks need.
assemble(some(0, 1), attributes={}, where="", **{k: BEGUN[k] for k in (
    "layers", "num_experts", "top_k", "ranked", "model")})
names = ("traces.nc", "traces.zarr")
n_moments = {}
for name in names:
    assert forked(Path("whole-" + name, name), None) == 0
    n_moments[name] = int(Path("whole-" + name, "traces.log").read_text().split()[-1])
n_kills = int(sys.argv[1])
draw = random.Random(n_kills)
for kill in range(n_kills):
    n = n_moments[names[kill % 2]]
    moment = 1 + int(n * (kill + draw.random()) / n_kills)
    status = forked(Path(str(kill), names[kill % 2]), moment)
    # Threads do not always make as many changes.
    assert status == signal.SIGKILL or moment > n - 5, (status, moment, n)
"""


def killed(folder: Path, n_kills: int) -> None:
    script = folder / "killed.py"
    script.write_text(KILLED)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    subprocess.run(
        [sys.executable, script, str(n_kills)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    )


def go_on(path: Path) -> int:
    """What the same command would do again; how many sequences there were already."""
    if partial_store(path).exists():
        kept = read_dataset(partial_store(path))
        n = kept.sizes["sequence"]
        check(kept, n)
        with resume(path) as writer:
            assert writer.n_sequences == n
            writer.append(some(n, LAST))
            writer.finish()
        return n
    if path.exists():
        with pytest.raises(FileExistsError, match="exists and is kept"):
            begin(path)
        return LAST
    with begin(path) as writer:
        writer.append(some(0, LAST))
        writer.finish()
    return 0


@pytest.mark.parametrize("n_kills", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_at_any_moment_every_sequence_is_whole(tmp_path, n_kills):
    killed(tmp_path, n_kills)
    outputs = {name: tmp_path / f"whole-{name}" / name for name in ("traces.nc", "traces.zarr")}
    expected = {name: im.open_traces(path) for name, path in outputs.items()}
    for traces in expected.values():
        check(traces, LAST)
    counts = set()
    for kill in range(n_kills):
        name = ("traces.nc", "traces.zarr")[kill % 2]
        path = tmp_path / str(kill) / name
        log = path.with_suffix(".log")
        told = [0, *map(int, log.read_text().split())]
        log.unlink()
        if path.exists():
            check(im.open_traces(path), LAST)
        n = go_on(path)
        # The log is written after the commit.
        assert n >= min(told[-1], LAST)
        counts.add(n)
        if path.suffix == ".nc":
            assert path.read_bytes() == outputs[name].read_bytes()
        xr.testing.assert_identical(read_dataset(path), expected[name])
        assert os.listdir(path.parent) == [name]
    assert counts <= {0, ROWS, 2 * ROWS, 9, 3 * ROWS, LAST}
    assert len(counts) > 3


@pytest.mark.slow
def test_killed_by_the_clock_until_it_is_done(tmp_path):
    """The same capture, killed and gone on with until it comes to its end."""
    capture = """
import sys, time
from pathlib import Path
from test_appending import POSITIONS, ROWS, begin, resume, some
from isingmoe import _unfinished
from isingmoe.appending import partial_store

_unfinished._CHUNK_TOKENS = POSITIONS * ROWS
path = Path(sys.argv[1])
with resume(path) if partial_store(path).exists() else begin(path) as writer:
    print("begun", flush=True)
    while writer.n_appended < 200:
        writer.append(some(writer.n_appended, min(writer.n_appended + 5, 200)))
        time.sleep(0.005)
    writer.finish()
"""
    rng = np.random.default_rng(3)
    (tmp_path / "capture.py").write_text(capture)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    output, n, kills = tmp_path / "traces.nc", 0, 0
    while not output.exists():
        process = subprocess.Popen(
            [sys.executable, "capture.py", output],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            # Longer each time, so that it ends.
            process.wait((1 + kills) * 0.3 * rng.random())
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.wait()
        process.stdout.close()
        if not output.exists():
            kept = read_dataset(partial_store(output))
            check(kept, kept.sizes["sequence"])
            assert kept.sizes["sequence"] >= n
            n = kept.sizes["sequence"]
    assert kills >= 3
    check(im.open_traces(output), 200)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_memory_stays_flat_over_two_million_tokens(tmp_path, suffix):
    capture = """
import resource, sys
import numpy as np
from isingmoe.appending import TraceWriter
from isingmoe.recorded import Recording

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

rng = np.random.default_rng(0)
recordings = []
for _ in range(32):
    index = rng.random((512, 4, 16)).argsort(-1)[..., :2]
    weight = -np.sort(-rng.random(index.shape, np.float32))
    recordings.append(Recording(index, weight, None, rng.integers(0, 50_000, 512)))
with TraceWriter.create(
    sys.argv[1],
    layers=range(4),
    num_experts=16,
    top_k=2,
    n_positions=512,
    ranked=True,
    model="m",
    variables=["gate_weight", "token_id"],
) as writer:
    for batch in range(125):
        writer.append(recordings)
        if batch == 8:
            warm = peak()
    writer.finish()
print(warm, peak())
"""
    path = tmp_path / f"traces.{suffix}"
    ran = subprocess.run(
        [sys.executable, "-c", capture, path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    warm, last = map(float, ran.stdout.split())
    assert last - warm < 200
    with xr.open_dataset(path, engine="zarr" if suffix == "zarr" else "h5netcdf") as traces:
        assert int(traces["length"].sum()) == 2_048_000
