"""Running a model over token sequences: as they are, or with what it writes after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isingmoe.capturing.batches import Padded, accepts, pad
from isingmoe.capturing.collating import Layout, Stack
from isingmoe.capturing.loading import is_out_of_memory, library, memory_told
from isingmoe.tokens import TokenSequences, check_temperature

__all__ = ["Continuation", "Runner"]

_ENCODER, _DECODER = "encoder", "decoder"
_PROBED = 8
# What a model that does not run may raise: a dtype that the device lacks, a kernel that is
# missing, an input that is asked for.
_UNFIT = (RuntimeError, TypeError, ImportError, IndexError, AttributeError)


@dataclass(frozen=True)
class Continuation:
    """What a model writes after a text.

    Attributes
    ----------
    n_tokens : int
        At most; it ends where the model ends it.
    temperature : float
        0 takes the most probable token.
    seed : int
        Every sequence draws from its own child of it, whatever batch it is in.
    """

    n_tokens: int
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_tokens < 1:
            raise ValueError(f"generate: expected at least 1 token, got {self.n_tokens}")
        check_temperature(self.temperature)


class Runner:
    """Runs batches of sequences through a model.

    Parameters
    ----------
    model : Module
        In eval mode.
    tokens : TokenSequences
    targets : TokenSequences, optional
        What the decoder of an encoder-decoder model reads for each sequence.
    continuation : Continuation, optional
        What the model is to write; without it, it reads only.
    pad_id : int

    Attributes
    ----------
    has_encoder : bool
    ends : list of int
        Tokens that end what it writes.

    Raises
    ------
    ValueError
        If the model reads no token ids, or cannot write.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: TokenSequences,
        *,
        targets: TokenSequences | None = None,
        continuation: Continuation | None = None,
        pad_id: int = 0,
    ) -> None:
        name = type(model).__name__
        if not accepts(model, "input_ids"):
            raise ValueError(
                f"{name}: expected a model that reads token ids (input_ids), got one that does "
                "not; record it with isingmoe.capturing.recorded around calls of your own"
            )
        if continuation is not None and not hasattr(model, "generate"):
            raise ValueError(
                f"{name}: generate: expected a model that can write, got one without a language "
                "model's head; capture what it reads"
            )
        self._model, self._tokens, self._targets = model, tokens, targets
        self._continuation, self._pad_id = continuation, pad_id
        self._config: Any = getattr(model, "config", None)
        self.has_encoder = bool(getattr(self._config, "is_encoder_decoder", False))
        if targets is not None and not self.has_encoder:
            raise ValueError(
                f"{name}: targets: expected none for a model without an encoder, got "
                f"{len(targets)}; put them behind the texts"
            )
        self.ends = [] if continuation is None else _eos_ids(model)
        self._encoder = self._name_of_encoder() if self.has_encoder else None
        self._start_id = self._first_of_decoder() if self.has_encoder else None
        self._options = _options_of(model)

    def side(self, stack: Stack) -> str:
        """Which of the layouts a stack has."""
        label = stack.sites[0].label
        in_encoder = self._encoder is not None and label.startswith(f"{self._encoder}.")
        return _ENCODER if in_encoder else _DECODER

    def longest(self, stack: Stack) -> int:
        """Tokens that a sequence of a stack has at most."""
        n_more = 0 if self._continuation is None else self._continuation.n_tokens
        if self.has_encoder and self.side(stack) == _DECODER:
            tokens = self._targets or self._tokens
            return n_more or int(tokens.length.max()) + 1
        recorded = int((self._tokens.length - self._tokens.context).max())
        return recorded if self.has_encoder else recorded + n_more

    @torch.no_grad()
    def probe(self) -> None:
        """Run over the first few tokens, to see what the experts show.

        Raises
        ------
        ValueError
            If the model does not run, or does not write.
        MemoryError
            If there is no memory left for it.
        """
        ids = self._tokens[0][:_PROBED]
        with memory_told("model: its weights leave no room; choose another device or dtype"):
            try:
                self._forward(pad([ids], self._pad_id), [self._decoder_input(0)[:_PROBED]])
                if self._continuation is not None:
                    few = replace(self._continuation, n_tokens=2)
                    self._write(few, np.array([0]), [ids], [0])
            except _UNFIT as error:
                if is_out_of_memory(error):
                    raise
                what = "runs over" if self._continuation is None else "reads, and goes on from,"
                lines = str(error).splitlines() or [type(error).__name__]
                raise ValueError(
                    f"{type(self._model).__name__}: expected a model that {what} {len(ids)} token "
                    f"ids, got {type(error).__name__} ({lines[0][:200]}); try another dtype, "
                    "device or experts_implementation"
                ) from error

    @torch.no_grad()
    def run(self, batch: NDArray[np.int64]) -> dict[str, Layout]:
        """Run over a batch.

        Parameters
        ----------
        batch : int ndarray
            Numbers of its sequences.

        Returns
        -------
        dict of Layout
            By `side`: what the modules were given.
        """
        sequences = [self._tokens[number] for number in batch]
        context = [int(n) for n in self._tokens.context[batch]]
        if self._continuation is not None:
            return self._write(self._continuation, batch, sequences, context)
        return self._read(batch, sequences, context)

    def _read(
        self,
        batch: NDArray[np.int64],
        sequences: list[NDArray[np.int32]],
        context: list[int],
    ) -> dict[str, Layout]:
        """Let the model read a batch."""
        padded = pad(sequences, self._pad_id)
        decoded = [self._decoder_input(number) for number in batch] if self.has_encoder else []
        self._forward(padded, decoded)
        if not self.has_encoder:
            return {_DECODER: _layout(padded, sequences, context)}
        # The token of a place is read one place later, behind the first one.
        behind = [0 if n == 0 or self._targets is not None else n + 1 for n in context]
        return {
            _ENCODER: _layout(padded, sequences, context),
            _DECODER: _layout(pad(decoded, self._pad_id), decoded, behind),
        }

    def _forward(self, padded: Padded, decoded: Sequence[NDArray[np.int32]]) -> None:
        given: dict[str, Any] = padded.on(self._device)
        if self.has_encoder:
            there = pad(decoded, self._pad_id).on(self._device)
            given["decoder_input_ids"] = there["input_ids"]
            if "attention_mask" in there and accepts(self._model, "decoder_attention_mask"):
                given["decoder_attention_mask"] = there["attention_mask"]
        self._model(**given, **self._options)

    def _write(
        self,
        continuation: Continuation,
        batch: NDArray[np.int64],
        sequences: list[NDArray[np.int32]],
        context: list[int],
    ) -> dict[str, Layout]:
        """Let the model go on from a batch, and find out which tokens it was given."""
        # An encoder reads on to the end of its pads, a decoder goes on from the end of its text.
        padded = pad(sequences, self._pad_id, left=not self.has_encoder)
        model: Any = self._model
        # Without a mask, `generate` would take every token that equals the pad for one.
        masked = accepts(model, "attention_mask")
        settings = self._generation(continuation)
        with _no_settings(model):
            made = model.generate(
                **padded.on(self._device, masked=masked),
                generation_config=settings,
                logits_processor=[_Draw(continuation, batch)] if continuation.temperature else [],
            )
        rows = made.cpu().numpy().astype(np.int32)
        # Of the decoder, what stands there before it writes.
        n_given = 1 if self.has_encoder else padded.token_id.shape[1]
        ends = self.ends
        fed = []
        for row, start in zip(rows, padded.start, strict=True):
            stops = np.flatnonzero(np.isin(row[n_given:], ends))
            # The last token that is written is never read.
            n_read = n_given + (int(stops[0]) if stops.size else len(row) - n_given - 1)
            fed.append(row[0 if self.has_encoder else start : n_read])
        n_columns = rows.shape[1] - 1
        if not self.has_encoder:
            layout = _layout_at(padded.start, fed, context, n_columns)
            return {_DECODER: layout}
        at_zero = [0] * len(fed)
        return {
            _ENCODER: _layout(padded, sequences, context),
            _DECODER: _layout_at(at_zero, fed, at_zero, n_columns),
        }

    def _generation(self, continuation: Continuation) -> Any:
        """Settings of `generate` for plain sampling: what is drawn is up to `_Draw`."""
        return library().GenerationConfig(
            max_new_tokens=continuation.n_tokens,
            do_sample=False,
            num_beams=1,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            repetition_penalty=1.0,
            use_cache=True,
            disable_compile=True,
            return_dict_in_generate=False,
            pad_token_id=self._pad_id,
            eos_token_id=self.ends or None,
            decoder_start_token_id=self._start_id,
        )

    def _decoder_input(self, number: int) -> NDArray[np.int32]:
        """What the decoder reads where it does not write: the target, behind the first token."""
        ids = (self._targets or self._tokens)[number]
        return ids if self._start_id is None else np.append(np.int32(self._start_id), ids)

    @property
    def _device(self) -> torch.device:
        devices = (parameter.device for parameter in self._model.parameters())
        # Weights that come from the disk as they are used are nowhere.
        return next((device for device in devices if device.type != "meta"), torch.device("cpu"))

    def _name_of_encoder(self) -> str:
        model: Any = self._model
        encoder = model.get_encoder()
        return next(name for name, module in self._model.named_modules() if module is encoder)

    def _first_of_decoder(self) -> int:
        owners = (getattr(self._model, "generation_config", None), self._config)
        for name in ("decoder_start_token_id", "bos_token_id"):
            for owner in owners:
                value = getattr(owner, name, None)
                if isinstance(value, int):
                    return value
        raise ValueError(
            f"{type(self._model).__name__}: decoder_start_token_id: expected the token that its "
            "decoder begins with, got none; set it in the model's config"
        )


class _Draw:
    """Draws tokens from the softmax of the scaled logits, and leaves no other choice."""

    def __init__(self, continuation: Continuation, batch: NDArray[np.int64]) -> None:
        self._temperature = continuation.temperature
        seed = continuation.seed
        self._draws = [
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(number),)))
            for number in batch
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        places = torch.tensor([draw.random() for draw in self._draws], dtype=torch.float64)
        # Not every device has numbers of that many digits.
        where = torch.device("cpu") if scores.device.type == "mps" else scores.device
        law = (scores.to(where, torch.float64) / self._temperature).softmax(-1)
        chosen = _inverse(law, places.to(where)).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


def _inverse(law: Tensor, places: Tensor) -> Tensor:
    """The state (row, 1) whose share of each row holds a place in [0, 1)."""
    reached = law.cumsum(-1)
    found = torch.searchsorted(reached, places[:, None] * reached[:, -1:], right=True)
    # A place that is rounded to the end belongs to the last state that is possible.
    last = law.shape[-1] - 1 - (law.flip(-1) > 0).to(torch.int8).argmax(-1, keepdim=True)
    return torch.minimum(found, last)


def _layout(padded: Padded, fed: Sequence[NDArray[np.int32]], context: Sequence[int]) -> Layout:
    return _layout_at(padded.start, fed, context, padded.token_id.shape[1])


def _layout_at(
    start: Sequence[int],
    fed: Sequence[NDArray[np.int32]],
    context: Sequence[int],
    n_columns: int,
) -> Layout:
    columns = [
        slice(begin + n, begin + len(ids))
        for begin, ids, n in zip(start, fed, context, strict=True)
    ]
    tokens = [ids[n:] for ids, n in zip(fed, context, strict=True)]
    return Layout(n_columns, columns, tokens, list(context))


def _options_of(model: nn.Module) -> Mapping[str, Any]:
    """What keeps a forward pass from doing more than the routing needs."""
    wanted = {"use_cache": False, "output_router_logits": False, "logits_to_keep": 1}
    options = {name: value for name, value in wanted.items() if accepts(model, name)}
    # Some hand it on to the model inside.
    inner = getattr(model, "model", None)
    if isinstance(inner, nn.Module) and accepts(inner, "use_cache") and accepts(model, "kwargs"):
        options["use_cache"] = False
    return options


def _eos_ids(model: Any) -> list[int]:
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if found is None:
        found = getattr(model.config, "eos_token_id", None)
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [int(found)]


@contextmanager
def _no_settings(model: Any) -> Iterator[None]:
    """Without those of the checkpoint, which `generate` takes for all that is not said."""
    own = getattr(model, "generation_config", None)
    model.generation_config = library().GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
