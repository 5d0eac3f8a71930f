"""Texts: where they come from, read one after another."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Text", "TextDataset", "TextFile", "read_texts"]

_LINES = (".jsonl", ".ndjson")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose mark is the beginning of this one.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLOCK = 1 << 20
# What a file's name is shorter than.
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Text:
    """One text.

    Attributes
    ----------
    name : str
        Where it comes from, to name it in a message.
    content : str or ndarray of int32
        Its characters, or its token ids.
    """

    name: str
    content: str | NDArray[np.int32]

    def sha256(self) -> str:
        """Hash of the content: of the characters in UTF-8, or of the ids as little-endian int32."""
        if isinstance(self.content, str):
            data = self.content.encode("utf-8", "surrogatepass")
        else:
            data = self.content.astype("<i4").tobytes()
        return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class TextFile:
    """A file of text, or a folder of such files.

    Attributes
    ----------
    path : path
        A file is one text; one whose name ends in `.jsonl` or `.ndjson` has a text on each
        line. A folder stands for the files in it and below, in the order of their names,
        without those whose names begin with a dot.
    field : str
        Of JSON lines that are objects: which field is the text, or its token ids.
    encoding : str, optional
        Of the file; UTF-8 by default, or what its byte order mark says.
    """

    path: str | os.PathLike[str]
    field: str = "text"
    encoding: str | None = None

    def read(self) -> Iterator[Text]:
        """Read the texts.

        Raises
        ------
        OSError
            If a file cannot be read.
        ValueError
            If a file is in another encoding, or a line has no text; it names the byte, or the
            line.
        """
        path = Path(self.path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder of texts; check the name")
        for file in _files_in(path) if path.is_dir() else [path]:
            if file.suffix in _LINES:
                yield from self._read_lines(file)
            else:
                yield Text(str(file), _decode(file, self.encoding))

    def _read_lines(self, file: Path) -> Iterator[Text]:
        encoding = _encoding_of(file, self.encoding)
        try:
            with _opened(file).open(encoding=encoding, newline="\n") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        name = f"{file}:{number}"
                        yield Text(name, self._content(name, line))
        except UnicodeDecodeError:
            raise _undecodable(file, encoding) from None

    def _content(self, name: str, line: str) -> str | NDArray[np.int32]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{name}: expected JSON, got {line.strip()[:40]!r} ({error})"
            ) from None
        if isinstance(value, dict):
            if self.field not in value:
                raise ValueError(
                    f"{name}: expected a field {self.field!r}, got {', '.join(value) or 'none'}; "
                    "name the one with the text (field, --field)"
                )
            value = value[self.field]
        return _checked(name, value)


@dataclass(frozen=True)
class TextDataset:
    """A dataset of the Hugging Face hub, or a folder that `datasets.load_dataset` reads.

    Attributes
    ----------
    name : str
    field : str
        The column with the text, or with token ids.
    split : str
    config : str, optional
        Which configuration of it.
    revision : str, optional
        Branch, tag or commit.
    limit : int, optional
        This many rows from the first one; they are streamed then, so that nothing else is
        downloaded.
    """

    name: str
    field: str = "text"
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    limit: int | None = None

    def read(self) -> Iterator[Text]:
        """Read the texts.

        Raises
        ------
        ImportError
            If `datasets` is not installed.
        OSError, ValueError
            If there is no such dataset, configuration, split or column.
        """
        try:
            from datasets import load_dataset  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError(
                f"{self.name}: a dataset needs the package datasets; install it with "
                "`pip install datasets`"
            ) from None
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: expected at least 1, got {self.limit}")
        try:
            rows: Iterable[Any] = load_dataset(
                self.name,
                self.config,
                split=self.split,
                revision=self.revision,
                streaming=self.limit is not None,
            )
        # The library has errors of its own for whatever a hub, a script or a file may do.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.name}: expected a dataset with the split {self.split!r}, got "
                f"{type(error).__name__} ({reason}); check name, split, configuration and network"
            ) from error
        for number, row in enumerate(islice(rows, self.limit)):
            name = f"{self.name}:{self.split}:{number}"
            if self.field not in row:
                raise ValueError(
                    f"{name}: expected a column {self.field!r}, got {', '.join(row)}; name the "
                    "one with the text (field, --field)"
                )
            yield Text(name, _checked(name, row[self.field]))


def read_texts(texts: Any) -> Iterator[Text]:
    """Read texts, whatever holds them.

    Parameters
    ----------
    texts : str, Path, TextFile, TextDataset, array of int or an iterable of these
        A `str` is a text itself, a `Path` a file or a folder of files; a 1D array or list of
        int is the token ids of one text, a 2D array has a text in each row.

    Yields
    ------
    Text

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If a text that is given as a string is the name of a file; and as `TextFile` and
        `TextDataset` do.
    OSError
        If a file cannot be read.
    """
    return _read(texts, "text")


def _read(texts: Any, name: str) -> Iterator[Text]:
    if isinstance(texts, TextFile | TextDataset):
        yield from texts.read()
    elif isinstance(texts, os.PathLike):
        yield from TextFile(texts).read()
    elif isinstance(texts, str):
        _check_is_no_file(texts)
        yield Text(name, texts)
    elif isinstance(texts, bytes | dict):
        raise TypeError(
            f"{name}: expected a str, a Path or token ids, got {type(texts).__name__}; decode it, "
            "or choose what is the text in it"
        )
    elif hasattr(texts, "ndim"):
        array = np.asarray(texts)
        if array.ndim == 2:
            for number, row in enumerate(array):
                yield Text(f"{name} {number}", _token_ids(f"{name} {number}", row))
        else:
            yield Text(name, _token_ids(name, array))
    elif isinstance(texts, list | tuple) and texts and _is_number(texts[0]):
        yield Text(name, _token_ids(name, np.asarray(texts)))
    elif isinstance(texts, Iterable):
        for number, text in enumerate(texts):
            # Token ids of a text without a token are an empty list.
            one = np.empty(0, np.int32) if isinstance(text, list | tuple) and not text else text
            yield from _read(one, f"{name} {number}")
    else:
        raise TypeError(f"{name}: expected a str, a Path or token ids, got {type(texts).__name__}")


def _check_is_no_file(text: str) -> None:
    if 0 < len(text) <= _LONGEST_NAME and text.isprintable() and os.path.exists(text):
        raise ValueError(
            f"{text}: expected a text, got the name of a file; Path({text!r}) reads the file"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _checked(name: str, value: Any) -> str | NDArray[np.int32]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(map(_is_number, value)):
        return _token_ids(name, np.asarray(value, np.int64))
    raise ValueError(
        f"{name}: expected a string or token ids, got {type(value).__name__}; name another field "
        "(field, --field)"
    )


def _token_ids(name: str, array: NDArray[Any]) -> NDArray[np.int32]:
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise TypeError(
            f"{name}: expected token ids as integers in one dim, got {array.dtype} in {array.ndim}"
        )
    bad = np.flatnonzero((array < 0) | (array > np.iinfo(np.int32).max))
    if bad.size:
        raise ValueError(f"{name}: token {bad[0]}: expected an id from 0 up, got {array[bad[0]]}")
    return array.astype(np.int32)


def _files_in(folder: Path) -> list[Path]:
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not found:
        raise ValueError(f"{folder}: expected files of text, got an empty folder; name another")
    return found


def _opened(file: Path) -> Path:
    """The file, if it can be opened; the error otherwise in one line."""
    try:
        file.open("rb").close()
    except OSError as error:
        raise type(error)(f"{file}: cannot be read ({error.strerror}); check the file") from None
    return file


def _encoding_of(file: Path, given: str | None) -> str:
    if given is not None:
        try:
            return codecs.lookup(given).name
        except LookupError:
            raise ValueError(
                f"encoding: expected one that Python knows, such as latin-1, got {given!r}"
            ) from None
    with _opened(file).open("rb") as stream:
        start = stream.read(4)
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def _decode(file: Path, given: str | None) -> str:
    encoding = _encoding_of(file, given)
    try:
        return _opened(file).read_bytes().decode(encoding)
    except UnicodeDecodeError:
        raise _undecodable(file, encoding) from None


def _undecodable(file: Path, encoding: str) -> ValueError:
    """The error for a file in another encoding, with the first byte that does not fit."""
    decoder = codecs.getincrementaldecoder(encoding)()
    place, kept = 0, 0
    with file.open("rb") as stream:
        while True:
            block = stream.read(_BLOCK)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # What the decoder had kept of the block before is the beginning of its input.
                at = place - kept + error.start
                value = f"0x{error.object[error.start]:02x}"
                break
            place += len(block)
            kept = len(decoder.getstate()[0])
    return ValueError(
        f"{file}: byte {at}: expected {encoding} text, got {value}; name its encoding (encoding, "
        "--encoding), or leave the file out"
    )
