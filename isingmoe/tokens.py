"""Token sequences of texts, cut to the length that a model reads; kept in a temporary file."""

from __future__ import annotations

import hashlib
import math
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isingmoe.texts import Text

__all__ = [
    "MAX_TOKENS",
    "Cut",
    "Encode",
    "TokenSequences",
    "brief",
    "check_temperature",
    "describe_texts",
    "tokenize",
]

Encode = Callable[[list[str]], Sequence[Sequence[int]]]

# Of a sequence by default, where the model reads as many.
MAX_TOKENS = 512

# Texts that are named one by one.
_MOST_TEXTS = 10_000
# Characters given to a tokenizer at once.
_BATCH = 1 << 18


@dataclass(frozen=True)
class Cut:
    """How texts become sequences.

    Attributes
    ----------
    max_tokens : int
        Longest sequence that is read at once.
    stride : int, optional
        Tokens from the beginning of one window to that of the next; `max_tokens` by default.
        Where windows overlap, the tokens that the window before had are read again as context
        and are not recorded twice.
    pack : bool
        Whether texts are joined and then cut, so that all sequences but the last are full;
        otherwise every text begins a sequence of its own.
    separator : int, optional
        Token that is put after every text where they are joined.
    """

    max_tokens: int
    stride: int | None = None
    pack: bool = False
    separator: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: expected at least 1, got {self.max_tokens}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride: expected at least 1, got {self.stride}")

    def windows(self, n_tokens: int) -> Iterator[tuple[int, int, int]]:
        """First token, number of tokens and tokens of context of each window of a text."""
        stride = self.stride or self.max_tokens
        overlap = max(self.max_tokens - stride, 0)
        for start in range(0, n_tokens, stride):
            context = overlap if start else 0
            length = min(self.max_tokens, n_tokens - start)
            # The rest of a text may lie in the window before as a whole.
            if length > context:
                yield start, length, context


class TokenSequences:
    """Sequences of token ids, in the order of the texts.

    Attributes
    ----------
    length : ndarray of int64 (sequence,)
        Tokens that are read.
    context : ndarray of int64 (sequence,)
        Tokens at the beginning that are read and not recorded.
    text : ndarray of int64 (sequence,)
        Which text the first token is of.
    offset : ndarray of int64 (sequence,)
        Tokens of that text before the first one.
    names, hashes : list of str
        Of the texts that have tokens.
    places : list of int
        Of those texts among all.
    n_empty : int
        Texts without a token, which are left out.
    sha256 : str
        Hash of all token ids and windows.
    """

    def __init__(self) -> None:
        # Closed when it is collected; holds int32, so that memory does not grow with the texts.
        self._file = tempfile.TemporaryFile(prefix="isingmoe-tokens-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._n_stored = 0
        self._table = array("q")
        self._digest = hashlib.sha256()
        self.names: list[str] = []
        self.hashes: list[str] = []
        self.places: list[int] = []
        self.n_empty = 0

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        """Token ids of a sequence, context included."""
        self._file.seek(4 * int(self._start[number]))
        data = self._file.read(4 * int(self.length[number]))
        return np.frombuffer(data, np.int32).copy()

    @property
    def n_recorded(self) -> int:
        """Tokens of all sequences without their context."""
        return int((self.length - self.context).sum())

    def _store(self, ids: NDArray[np.int32]) -> int:
        """Append token ids; where they begin."""
        self._file.write(ids.tobytes())
        self._digest.update(ids.astype("<i4").tobytes())
        self._n_stored += len(ids)
        return self._n_stored - len(ids)

    def _add(self, begin: int, text: int, offset: int, length: int, context: int) -> None:
        self._table.extend((begin, length, context, text, offset))

    def _finish(self) -> TokenSequences:
        self._file.flush()
        table = np.array(self._table, np.int64).reshape(-1, 5)
        self._table = array("q")
        self._digest.update(table.astype("<i8").tobytes())
        self._start, self.length, self.context, self.text, self.offset = table.T.copy()
        self.sha256 = self._digest.hexdigest()
        return self


def tokenize(
    texts: Iterable[Text], encode: Encode | None, cut: Cut, *, vocab_size: int | None = None
) -> TokenSequences:
    """Make token sequences of texts.

    Parameters
    ----------
    texts : iterable of Text
    encode : callable or None
        Gives the token ids of each of a list of strings; none is needed where all texts are
        token ids already.
    cut : Cut
    vocab_size : int, optional
        Tokens that the model knows.

    Returns
    -------
    TokenSequences

    Raises
    ------
    ValueError
        If a text is a string and there is no tokenizer, a token is not of the vocabulary, or
        there is no token at all.
    """
    made = TokenSequences()
    joined = _Joined(made, cut)
    for place, (text, ids) in enumerate(_encoded(texts, encode)):
        if not ids.size:
            made.n_empty += 1
            continue
        if vocab_size is not None and ids.max() >= vocab_size:
            wrong = int((ids >= vocab_size).argmax())
            raise ValueError(
                f"{text.name}: token {wrong}: expected an id below {vocab_size}, the model's "
                f"vocabulary, got {ids[wrong]}; give the model's own tokenizer"
            )
        made.names.append(text.name)
        made.places.append(place)
        made.hashes.append(text.sha256())
        if cut.pack:
            joined.add(ids)
            continue
        begin = made._store(ids)
        for start, length, context in cut.windows(len(ids)):
            made._add(begin + start, len(made.names) - 1, start, length, context)
    joined.finish()
    made._finish()
    if not len(made):
        raise ValueError(
            f"texts: expected some tokens, got none (empty texts: {made.n_empty}); check the texts"
        )
    return made


def describe_texts(tokens: TokenSequences) -> dict[str, Any]:
    """What was read: names, hashes and numbers of sequences of the texts.

    Returns
    -------
    dict
        In types of JSON.
    """
    counts = [0] * len(tokens.names)
    for text in tokens.text.tolist():
        counts[text] += 1
    listed = zip(tokens.names, tokens.hashes, counts, strict=True)
    return {
        "n_texts": len(tokens.names),
        "n_empty_texts": tokens.n_empty,
        "texts": [
            {"name": name, "sha256": sha256, "sequences": count}
            for name, sha256, count in islice(listed, _MOST_TEXTS)
        ],
    }


def brief(tokens: TokenSequences, generate: int) -> str:
    """The texts in a line, and whether a model continued them."""
    names = ", ".join(tokens.names[:3]) + (", .." if len(tokens.names) > 3 else "")
    n_texts, n_sequences = len(tokens.names), len(tokens)
    read = (
        f"{n_texts} {'text' if n_texts == 1 else 'texts'} ({names}) in {n_sequences} "
        f"{'sequence' if n_sequences == 1 else 'sequences'}"
    )
    return f"{read}, each continued by the model" if generate else read


def check_temperature(temperature: float) -> None:
    """Raise where a model could write nothing at a temperature."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: expected a finite number from 0 up, got {temperature}")


class _Joined:
    """Texts one after another in one stream."""

    def __init__(self, made: TokenSequences, cut: Cut) -> None:
        self._made, self._cut = made, cut
        self._begins: list[int] = []

    def add(self, ids: NDArray[np.int32]) -> None:
        separator = self._cut.separator
        # A tokenizer may have ended the text with it.
        if separator is not None and ids[-1] != separator:
            ids = np.append(ids, np.int32(separator))
        self._begins.append(self._made._store(ids))

    def finish(self) -> None:
        if not self._begins:
            return
        begins = np.array(self._begins)
        for start, length, context in self._cut.windows(self._made._n_stored):
            text = int(np.searchsorted(begins, start, "right")) - 1
            self._made._add(start, text, start - int(begins[text]), length, context)


def _encoded(
    texts: Iterable[Text], encode: Encode | None
) -> Iterator[tuple[Text, NDArray[np.int32]]]:
    """Texts with their token ids; many small ones are given to the tokenizer at once."""
    waiting: list[Text] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text.content)
        if size >= _BATCH:
            yield from _encode_all(waiting, encode)
            waiting, size = [], 0
    yield from _encode_all(waiting, encode)


def _encode_all(
    texts: list[Text], encode: Encode | None
) -> Iterator[tuple[Text, NDArray[np.int32]]]:
    strings = [text.content for text in texts if isinstance(text.content, str)]
    if strings and encode is None:
        name = next(text.name for text in texts if isinstance(text.content, str))
        raise ValueError(
            f"{name}: tokenizer: expected one for a text, got none; give tokenizer=, or token ids"
        )
    ids = iter(encode(strings) if strings and encode is not None else [])
    for text in texts:
        known = text.content
        yield text, np.asarray(next(ids), np.int32) if isinstance(known, str) else known
