"""Token ids of strings by a tokenizer, a long text in pieces.

A tokenizer keeps some hundred bytes for each token while it works. A long text is therefore
given to it in pieces that overlap. Where the tokens of two pieces agree all over the middle of
what they share, both know enough of the text around them, and are joined there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from isingmoe.tokens import Encode

__all__ = ["encoder_of"]

# Characters of a piece, and those that it shares with each of its neighbours.
_PIECE, _SHARED = 1 << 18, 1 << 13
# Tokens that have to agree.
_AGREED = 64


def encoder_of(tokenizer: Any) -> Encode | None:
    """What gives the token ids of strings.

    Parameters
    ----------
    tokenizer : callable or None
        Of transformers, or any that gives the token ids of each of a list of strings.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if tokenizer is None:
        return None
    if not callable(tokenizer):
        raise TypeError(
            "tokenizer: expected one of transformers, or a function, got "
            f"{type(tokenizer).__name__}"
        )
    # A text that is longer than the model can read at once is cut: no reason to warn.
    options = {"verbose": False} if hasattr(tokenizer, "eos_token_id") else {}
    knows_places = getattr(tokenizer, "is_fast", False)

    def encode(strings: list[str]) -> Sequence[Sequence[int]]:
        joined: dict[int, Any] = {}
        for number, text in enumerate(strings):
            if knows_places and len(text) > _PIECE:
                ids = _joined(tokenizer, text)
                joined |= {} if ids is None else {number: ids}
        rest = [text for number, text in enumerate(strings) if number not in joined]
        found: Any = tokenizer(rest, **options) if rest else []
        others = iter(found["input_ids"] if isinstance(found, Mapping) else found)
        return [
            joined[number] if number in joined else next(others) for number in range(len(strings))
        ]

    return encode


@dataclass(frozen=True)
class _Piece:
    """Tokens of a part of a text: their ids, and where they begin and end in the whole."""

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    is_special: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Any, text: str, begin: int, end: int) -> Self:
        """Tokens of `text[begin:end]`."""
        found = tokenizer(
            text[begin:end],
            verbose=False,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        places = np.array(found["offset_mapping"], np.int64).reshape(-1, 2) + begin
        return cls(
            np.array(found["input_ids"], np.int64),
            places,
            np.array(found["special_tokens_mask"], bool),
        )

    def inside(self, begin: int, end: int) -> slice:
        """The tokens within a range of characters."""
        within = (self.places[:, 0] >= begin) & (self.places[:, 1] <= end) & ~self.is_special
        found = np.flatnonzero(within)
        return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)


def _joined(tokenizer: Any, text: str) -> Any:
    """Token ids (int64 ndarray) of a text, or None where its pieces do not agree."""
    found, before, kept = [], None, 0
    for middle in range(0, len(text), _PIECE):
        end = min(middle + _PIECE + _SHARED // 2, len(text))
        piece = _Piece.of(tokenizer, text, max(middle - _SHARED // 2, 0), end)
        if before is not None:
            range_of_both = middle - _SHARED // 4, min(middle + _SHARED // 4, end)
            one, other = (side.inside(*range_of_both) for side in (before, piece))
            n = one.stop - one.start
            if (
                n < _AGREED
                or not np.array_equal(before.ids[one], piece.ids[other])
                or not np.array_equal(before.places[one], piece.places[other])
            ):
                return None
            found.append(before.ids[kept : one.start + n // 2])
            kept = other.start + n // 2
        before = piece
        if end == len(text):
            break
    if before is not None:
        found.append(before.ids[kept:])
    return np.concatenate(found)
