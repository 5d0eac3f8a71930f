"""Hidden states beside a trace: written in step with it, cut back, read from the disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isingmoe.hidden_states import HiddenWriter, hidden_offsets, open_hidden

ROOT = Path(__file__).parents[1]
LAYERS, FEATURES = (3, 12), (4, 5)


def known(place: int) -> list[np.ndarray]:
    """The states of a sequence, always the same ones."""
    rng = np.random.default_rng(place)
    n_tokens = int(rng.integers(0, 7))
    return [rng.normal(size=(n_tokens, n)).astype(np.float32) for n in FEATURES]


def some(first: int, last: int) -> list[list[np.ndarray]]:
    return [known(place) for place in range(first, last)]


def check(folder: Path, n: int, dtype: str = "float32") -> None:
    """Every sequence is whole and the known one."""
    offset = hidden_offsets(folder)
    assert len(offset) == n + 1
    for place, layer in enumerate(LAYERS):
        states = open_hidden(folder, layer)
        assert isinstance(states, np.memmap)
        assert states.dtype == dtype
        assert len(states) == offset[-1]
        for s in range(n):
            expected = known(s)[place].astype(dtype)
            np.testing.assert_array_equal(states[offset[s] : offset[s + 1]], expected)


def begin(folder: Path, **more: Any) -> HiddenWriter:
    told = {"layers": LAYERS, "n_features": FEATURES, "dtype": "float32", **more}
    return HiddenWriter.create(folder, **told)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "traces.hidden"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("batch", [1, 4, 11])
def test_what_was_appended_is_what_is_read(folder, dtype, batch):
    with begin(folder, dtype=dtype) as writer:
        for first in range(0, 11, batch):
            writer.append(some(first, min(first + batch, 11)))
            # While it grows, too.
            if writer.n_tokens:
                check(folder, writer.n_sequences, dtype)
        assert (writer.n_sequences, writer.n_tokens) == (11, hidden_offsets(folder)[-1])
    check(folder, 11, dtype)
    assert not np.load(folder / "layer_3.npy", mmap_mode="r").flags.writeable
    assert sorted(os.listdir(folder)) == ["layer_12.npy", "layer_3.npy", "offset.npy"]


@pytest.mark.parametrize("kept", [0, 3, 7])
def test_what_the_trace_has_not_is_cut(tmp_path, folder, kept):
    with begin(folder) as writer:
        writer.append(some(0, 7))
    with HiddenWriter.resume(folder, n_sequences=kept) as writer:
        assert writer.n_sequences == kept
        assert writer.layers == LAYERS
        writer.append(some(kept, 9))
    check(folder, 9)
    with begin(tmp_path / "whole") as writer:
        writer.append(some(0, 9))
    for name in os.listdir(folder):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_writer_killed_between_files_leaves_whole_sequences(folder):
    script = """
import os, signal, sys
from pathlib import Path
from test_hidden_states import begin, some
from isingmoe import hidden_states

write, left = hidden_states._GrowingArray.write, 0

def counted(self, rows, first):
    global left
    left -= 1
    if left < 0:
        # Of the rows, half have arrived.
        self._stream.seek(self._place(first))
        self._stream.write(rows.tobytes()[: rows.nbytes // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, rows, first)

hidden_states._GrowingArray.write = counted
for kill in range(3):
    folder = Path(sys.argv[1]) / str(kill)
    child = os.fork()
    if not child:
        left = 3 + kill
        with begin(folder) as writer:
            writer.append(some(0, 4))
            writer.append(some(4, 6))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""
    folder.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", script, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )
    assert ran.returncode == 0
    for kill in range(3):
        check(folder / str(kill), 4)
        with HiddenWriter.resume(folder / str(kill), n_sequences=4) as writer:
            writer.append(some(4, 7))
        check(folder / str(kill), 7)


def test_a_full_disk_keeps_what_was_there(folder):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with begin(folder) as writer:
        writer.append(some(0, 3))
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        try:
            with pytest.raises(OSError, match=r"traces\.hidden: cannot be written \(File too la"):
                writer.append(some(3, 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        check(folder, 3)
        writer.append(some(3, 5))
    check(folder, 5)


def test_what_exists_is_kept_unless_asked(folder, tmp_path):
    begin(folder).close()
    with pytest.raises(FileExistsError, match=r"traces\.hidden: exists and is kept; say --overw"):
        begin(folder)
    with begin(folder, overwrite=True) as writer:
        writer.append(some(0, 2))
    check(folder, 2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").write_text("the work of a year")
    with pytest.raises(
        IsADirectoryError, match="expected a folder of hidden states, got something"
    ):
        begin(other, overwrite=True)
    assert os.listdir(other) == ["precious.txt"]
    with pytest.raises(OSError, match=r"absent/hidden: cannot be written"):
        begin(tmp_path / "absent" / "hidden")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float64"}, "dtype: expected float16 or float32, got float64"),
        ({"layers": (12, 3)}, r"layers: expected rising numbers, got \[12, 3\]"),
    ],
)
def test_what_cannot_be_begun(folder, change, message):
    with pytest.raises(ValueError, match=message):
        begin(folder, **change)
    assert not folder.exists()


def test_states_that_do_not_fit_are_not_taken(folder):
    with begin(folder, dtype="float16") as writer:
        writer.append(some(0, 2))
        for states, message in (
            (
                [np.zeros((2, 4)), np.zeros((3, 5))],
                r"layer 12: sequence 1: expected shape \(2, 5\)",
            ),
            (
                [np.zeros((2, 9)), np.zeros((2, 5))],
                r"layer 3: sequence 1: .* \(2, 4\), got \(2, 9\)",
            ),
            ([np.full((2, 4), 1e6), np.zeros((2, 5))], r"float16 can hold, got 1e\+06; keep them"),
        ):
            with pytest.raises(ValueError, match=message):
                writer.append([known(2), states])
        writer.append([])
        writer.append(some(2, 4))
    check(folder, 4, "float16")


def test_what_cannot_be_read(folder):
    with pytest.raises(FileNotFoundError, match=r"traces\.hidden: no hidden states are there"):
        open_hidden(folder, 3)
    with pytest.raises(FileNotFoundError, match=r"traces\.hidden: no hidden states are there"):
        HiddenWriter.resume(folder, n_sequences=0)
    begin(folder).close()
    with pytest.raises(ValueError, match="expected tokens, got none"):
        open_hidden(folder, 3)
    with begin(folder, overwrite=True) as writer:
        writer.append(some(0, 4))
    with pytest.raises(ValueError, match="layer: expected one of 3, 12, got 5"):
        open_hidden(folder, 5)
    with pytest.raises(ValueError, match="expected at least 5 sequences, as the trace has, got 4"):
        HiddenWriter.resume(folder, n_sequences=5)
    file = folder / "layer_3.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"layer_3\.npy: expected \d+ rows, got a truncated file"):
        HiddenWriter.resume(folder, n_sequences=4)
    file.write_bytes(b"not an array")
    with pytest.raises(ValueError, match=r"layer_3\.npy: cannot be read \(.*\); capture again"):
        HiddenWriter.resume(folder, n_sequences=4)
