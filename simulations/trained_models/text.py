"""The text that the models learn and that they are measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trained_models import corpus
from trained_models.sizes import Size

__all__ = ["Text", "prepare"]


@dataclass(frozen=True)
class Text:
    """Windows of tokens: of the training speeches, packed, and of speeches that are held out.

    Attributes
    ----------
    training : int32 ndarray (window, position)
    held_out : Windows
        As equal a number from each speech as their lengths allow, from its beginning to its end.
    """

    training: np.ndarray
    held_out: corpus.Windows

    def followed(self, size: Size) -> np.ndarray:
        """Windows (window, position) that a training is looked at with on its way."""
        chosen = np.linspace(0, len(self.held_out) - 1, size.n_followed).round().astype(int)
        return self.held_out.token_id[chosen]


def prepare(size: Size) -> Text:
    """Split the speeches, train the tokenizer, and cut windows; the same for every training."""
    training, held_out = corpus.split_speeches(np.random.default_rng(0), size.n_years)
    tokenizer = corpus.train_tokenizer(training["text"], size.vocab_size)
    separator = tokenizer.token_to_id(corpus.SEPARATOR)
    windows = corpus.speech_windows(
        corpus.encode(tokenizer, held_out["text"]), held_out["fileid"], size.context
    )
    return Text(
        corpus.packed_windows(corpus.encode(tokenizer, training["text"]), separator, size.context),
        corpus.spread(windows, size.n_windows),
    )
