"""Hidden states at the router input, beside a trace: one memory-mapped array for each layer.

A folder holds `layer_7.npy` (token, feature) for each layer and `offset.npy` (sequence + 1):
the tokens of sequence s are the rows offset[s] to offset[s + 1] of every layer. The files
grow at their ends, the rows of the layers first and the header of the offsets last, and a
reader sees as many rows as the last offset says.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from isingmoe._storage import replace_whole, unwritable

__all__ = ["HiddenWriter", "hidden_folder", "hidden_offsets", "open_hidden"]

_OFFSETS = "offset.npy"
_DTYPES = ("float16", "float32")


def hidden_folder(path: Path) -> Path:
    """Where the hidden states beside a trace are: `traces.hidden` of `traces.nc`."""
    return path.with_name(f"{path.stem}.hidden")


class HiddenWriter:
    """Hidden states that are written as they come; `create` or `resume` makes one.

    What was appended is in the files at once. To stay in step with a trace that grows, append
    here first and to the trace after it, and `resume` with the number of sequences that the
    trace has kept.

    Attributes
    ----------
    folder : Path
    layers : tuple of int
        The model's own layer numbers.
    n_sequences, n_tokens : int
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers = _layers(folder)
        with contextlib.ExitStack() as stack:
            self._offsets, *self._states = (
                stack.enter_context(contextlib.closing(_GrowingArray(file)))
                for file in (folder / _OFFSETS, *(_file(folder, n) for n in self.layers))
            )
            self._cut(self._offsets.n - 1)
            self._files = stack.pop_all()

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        layers: Sequence[int],
        n_features: int | Sequence[int],
        dtype: DTypeLike = "float16",
        overwrite: bool = False,
    ) -> Self:
        """Begin a folder of hidden states.

        Parameters
        ----------
        folder : path
        layers : sequence of int
            The model's own layer numbers, in rising order.
        n_features : int, or sequence of int (layer,)
        dtype : {"float16", "float32"}
            Of the files; bfloat16 is kept whole by float32.
        overwrite : bool
            Whether a folder of hidden states may be replaced.

        Returns
        -------
        HiddenWriter

        Raises
        ------
        OSError
            If it exists, or cannot be written.
        ValueError
            If the dtype is another, or the layers do not rise.
        """
        folder, dtype = Path(folder), np.dtype(dtype)
        if dtype.name not in _DTYPES:
            raise ValueError(f"{folder}: dtype: expected {' or '.join(_DTYPES)}, got {dtype.name}")
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"{folder}: layers: expected rising numbers, got {list(layers)}")
        if folder.exists():
            if not overwrite:
                raise FileExistsError(
                    f"{folder}: exists and is kept; say --overwrite, or another name"
                )
            if not (folder / _OFFSETS).is_file():
                raise IsADirectoryError(
                    f"{folder}: expected a folder of hidden states, got something else; name "
                    "another"
                )
        features = np.broadcast_to(np.asarray(n_features), len(layers)).tolist()

        def write(part: Path) -> None:
            part.mkdir()
            (part / _OFFSETS).write_bytes(_header((1,), np.dtype(np.int64)) + bytes(8))
            for layer, size in zip(layers, features, strict=True):
                _file(part, layer).write_bytes(_header((0, size), dtype))

        return cls(replace_whole(folder, write))

    @classmethod
    def resume(cls, folder: str | os.PathLike[str], *, n_sequences: int) -> Self:
        """Go on behind the first sequences of a folder, and remove the others.

        Parameters
        ----------
        folder : path
        n_sequences : int
            Of the trace that it goes with.

        Returns
        -------
        HiddenWriter

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If it holds fewer sequences, or is damaged.
        """
        folder = _checked(folder)
        writer = cls(folder)
        if writer.n_sequences < n_sequences:
            writer.close()
            raise ValueError(
                f"{folder}: expected at least {n_sequences} sequences, as the trace has, got "
                f"{writer.n_sequences}; capture again with --overwrite"
            )
        writer._cut(n_sequences)
        return writer

    def append(self, sequences: Sequence[Sequence[NDArray[Any]]]) -> None:
        """Add sequences.

        Parameters
        ----------
        sequences : sequence of arrays
            For each sequence, for each layer, a float ndarray (token, feature).

        Raises
        ------
        ValueError
            If a shape is another than expected, or float16 cannot hold a value.
        OSError
            If they cannot be written; none of them is seen by a reader then.
        """
        if not sequences:
            return
        lengths = [len(sequence[0]) for sequence in sequences]
        ends = self.n_tokens + np.cumsum(lengths, dtype=np.int64)
        of_layers = [
            self._checked(place, [sequence[place] for sequence in sequences], lengths)
            for place in range(len(self.layers))
        ]
        try:
            for states, rows in zip(self._states, of_layers, strict=True):
                states.write(rows, self.n_tokens)
            self._offsets.write(ends, self.n_sequences + 1)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self.n_sequences += len(sequences)
        self.n_tokens = int(ends[-1])

    def _checked(
        self, place: int, parts: Sequence[NDArray[Any]], lengths: Sequence[int]
    ) -> NDArray[Any]:
        """The rows of one layer, in the dtype of its file."""
        states = self._states[place]
        where = f"{self.folder}: after {self.n_sequences} sequences: layer {self.layers[place]}"
        for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            if part.shape != (length, *states.row):
                raise ValueError(
                    f"{where}: sequence {number}: expected shape {(length, *states.row)}, got "
                    f"{part.shape}"
                )
        rows = np.concatenate(parts)
        with np.errstate(over="ignore"):
            kept = rows.astype(states.dtype)
        lost = np.isinf(kept) & np.isfinite(rows)
        if lost.any():
            raise ValueError(
                f"{where}: expected values that {states.dtype} can hold, got {rows[lost][0]:.4g}; "
                "keep them as float32"
            )
        return kept

    def _cut(self, n_sequences: int) -> None:
        """Keep the first sequences; the offsets first, so that no reader looks for the others."""
        self.n_tokens = int(self._offsets.read(n_sequences))
        self._offsets.cut(n_sequences + 1)
        for states in self._states:
            states.cut(self.n_tokens)
        self.n_sequences = n_sequences

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _GrowingArray:
    """A .npy file to which rows are added.

    numpy leaves room in its header for the number of rows to grow; it is written again in its
    place, at once.
    """

    def __init__(self, file: Path) -> None:
        self._stream: BinaryIO = file.open("r+b", buffering=0)
        try:
            npy.read_magic(self._stream)
            (n, *row), _, self.dtype = npy.read_array_header_1_0(self._stream)
        except ValueError as error:
            self.close()
            raise ValueError(f"{file}: cannot be read ({error}); capture again") from error
        self.row, self.n = tuple(row), n
        self._start = self._stream.tell()
        self._row_bytes = self.dtype.itemsize * math.prod(row)
        if os.fstat(self._stream.fileno()).st_size < self._place(n):
            self.close()
            raise ValueError(f"{file}: expected {n} rows, got a truncated file; capture again")

    def _place(self, n: int) -> int:
        return self._start + n * self._row_bytes

    def write(self, rows: NDArray[Any], first: int) -> None:
        """Put rows at a place, as the last ones; then tell of them."""
        self._stream.seek(self._place(first))
        view = rows.data.cast("B") if rows.size else memoryview(b"")
        while view:
            view = view[self._stream.write(view) :]
        self._tell(first + len(rows))

    def read(self, place: int) -> NDArray[Any]:
        """One row."""
        self._stream.seek(self._place(place))
        row = np.frombuffer(self._stream.read(self._row_bytes), self.dtype)
        return row.reshape(self.row)

    def cut(self, n: int) -> None:
        """Keep the first rows."""
        if n > self.n:
            raise ValueError(
                f"{self._stream.name}: expected at least {n} rows, got {self.n}; capture again"
            )
        self._tell(n)
        self._stream.truncate(self._place(n))

    def _tell(self, n: int) -> None:
        self.n = n
        self._stream.seek(0)
        self._stream.write(_header((n, *self.row), self.dtype))

    def close(self) -> None:
        self._stream.close()


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    stream = io.BytesIO()
    told = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(stream, told)
    return stream.getvalue()


def open_hidden(folder: str | os.PathLike[str], layer: int) -> np.memmap[Any, Any]:
    """Hidden states of a layer, read from the disk as they are used.

    Parameters
    ----------
    folder : path
    layer : int
        The model's own number.

    Returns
    -------
    memmap of float16 or float32 (token, feature)
        Of all sequences, one after another; `hidden_offsets` says where each begins.

    Raises
    ------
    FileNotFoundError
        If there are no hidden states.
    ValueError
        If the layer is not there, or there are no tokens yet.
    """
    folder = _checked(folder)
    layers = _layers(folder)
    if layer not in layers:
        raise ValueError(
            f"{folder}: layer: expected one of {', '.join(map(str, layers))}, got {layer}"
        )
    # A file that grows may tell of more already.
    n_tokens = int(hidden_offsets(folder)[-1])
    if not n_tokens:
        raise ValueError(f"{folder}: expected tokens, got none; capture some")
    return np.load(_file(folder, layer), mmap_mode="r")[:n_tokens]


def hidden_offsets(folder: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Where the tokens of each sequence begin in the hidden states of a layer.

    Parameters
    ----------
    folder : path

    Returns
    -------
    int64 ndarray (sequence + 1,)
        Sequence s has the rows offset[s] to offset[s + 1].

    Raises
    ------
    FileNotFoundError
        If there are no hidden states.
    """
    return np.load(_checked(folder) / _OFFSETS)


def _checked(folder: str | os.PathLike[str]) -> Path:
    folder = Path(folder)
    if not (folder / _OFFSETS).is_file():
        raise FileNotFoundError(f"{folder}: no hidden states are there; check the name")
    return folder


def _file(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.npy"


def _layers(folder: Path) -> tuple[int, ...]:
    names = (re.fullmatch(r"layer_(\d+)\.npy", file.name) for file in folder.iterdir())
    return tuple(sorted(int(name[1]) for name in names if name))
