"""What a capture is made of: a model with its tokenizer, and texts cut to its size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
from torch import nn

from isingmoe.capturing.describing import context_length, model_name, text_config
from isingmoe.capturing.loading import (
    Loading,
    Prepared,
    load_model,
    load_tokenizer,
    prepare_model,
)
from isingmoe.texts import Text, read_texts
from isingmoe.tokens import MAX_TOKENS, Cut, TokenSequences

__all__ = [
    "begun",
    "check_pairs",
    "cut_of",
    "in_eval_mode",
    "loaded",
    "pad_of",
    "vocabulary_size",
    "with_tokenizer",
]


def with_tokenizer(
    model: nn.Module | str | os.PathLike[str],
    tokenizer: Any,
    needed: bool,
    options: Mapping[str, Any],
) -> tuple[nn.Module | Prepared, Any]:
    """The model, and its tokenizer if one is needed, which is loaded where a model is named.

    The weights of one that is named are left to `loaded`: the texts are read before them.
    """
    if isinstance(model, nn.Module):
        if options:
            raise TypeError(
                f"{', '.join(options)}: expected with the name of a model, got a model that is "
                "loaded; load it so"
            )
        return model, tokenizer
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"model: expected a name, a folder or a Module, got {type(model).__name__}")
    loading = Loading(**options)
    prepared = prepare_model(model, loading)
    if tokenizer is None and needed:
        tokenizer = load_tokenizer(model, loading)
    return prepared, tokenizer


def loaded(model: nn.Module | Prepared, options: Mapping[str, Any]) -> nn.Module:
    """A model with its weights."""
    return model if isinstance(model, nn.Module) else load_model(model, Loading(**options))


def begun(texts: Any) -> tuple[Iterator[Text], bool]:
    """The texts, and whether the first one needs a tokenizer."""
    found = read_texts(texts)
    first = next(found, None)
    if first is None:
        return found, False
    return chain([first], found), isinstance(first.content, str)


def cut_of(
    model: nn.Module | Prepared,
    tokenizer: Any,
    max_tokens: int | None,
    stride: int | None,
    pack: bool,
    generate: int,
) -> Cut:
    """How texts are cut for a model."""
    limit = context_length(model)
    if limit is not None and (max_tokens or 1) + generate > limit:
        what = "max_tokens" if not generate else "max_tokens and generate together"
        raise ValueError(
            f"{what}: expected at most {limit}, what {model_name(model)} can read, got "
            f"{(max_tokens or 1) + generate}; choose fewer"
        )
    if max_tokens is None:
        max_tokens = MAX_TOKENS if limit is None else min(MAX_TOKENS, limit - generate)
    separator: Any = None
    if pack:
        separator = getattr(tokenizer, "eos_token_id", None)
        if separator is None:
            ends = getattr(getattr(model, "config", None), "eos_token_id", None)
            separator = ends[0] if isinstance(ends, list | tuple) and ends else ends
    return Cut(max_tokens, stride, pack, separator)


def vocabulary_size(model: nn.Module | Prepared) -> int | None:
    """Tokens that the model knows; None where nothing says."""
    return getattr(text_config(model), "vocab_size", None)


def pad_of(model: nn.Module, tokenizer: Any) -> int:
    """A token to fill up with; which one does not matter, as it is masked."""
    size = vocabulary_size(model)
    for owner in (tokenizer, getattr(model, "config", None)):
        value = getattr(owner, "pad_token_id", None)
        if isinstance(value, int) and 0 <= value < (size or value + 1):
            return value
    return 0


def check_pairs(tokens: TokenSequences, targets: TokenSequences) -> None:
    """Raise where targets do not go with the texts one by one."""
    for name, given in (("texts", tokens), ("targets", targets)):
        if len(given) > len(given.names):
            raise ValueError(
                f"{name}: expected texts of one sequence each beside targets, got "
                f"{given.names[int(given.text[np.flatnonzero(given.offset)[0]])]}, which is cut; "
                "raise max_tokens, or shorten it"
            )
    if tokens.places != targets.places:
        n_texts, n_targets = (len(given) + given.n_empty for given in (tokens, targets))
        if n_texts != n_targets:
            raise ValueError(f"targets: expected one for each of {n_texts} texts, got {n_targets}")
        alone = min(set(tokens.places) ^ set(targets.places))
        raise ValueError(
            f"targets: expected tokens in both a text and its target, got none in one of number "
            f"{alone}; leave out both"
        )


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout and the noise of routers; as it was, at the end."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True
