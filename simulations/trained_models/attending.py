"""Attention of imposed range, and encodings of position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from trained_models.recipes import Recipe
from trained_models.sizes import Size

__all__ = ["ALIBI", "Attending"]


@dataclass(frozen=True)
class Attending(Recipe):
    """An OLMoE with a bias on its attention by distance, or another encoding of position.

    Attributes
    ----------
    window : int, optional
        Tokens before itself that a token attends to in one layer, 0 for none but itself; all by
        default.
    decay : {"none", "exponential", "power-law", "alibi"}
        How the attention weight falls with the distance, beside what queries and keys make of
        it: exp(-rate d); (d + 1)^-rate; or exponentials by head, whose rates are the slopes
        2^(-8/n), 2^(-16/n), .., 2^-8 of n heads.
    rate : float
        Of the first two.
    encoding : {"rope", "none", "sinusoidal", "learned"}
        Of the position: rotary; none; or added to the token embeddings, waves times one learned
        gain or a learned vector for each position.

    References
    ----------
    O. Press, N. A. Smith and M. Lewis, arXiv:2108.12409 (2021), of slopes by head; A. Vaswani
    et al., arXiv:1706.03762 (2017), of waves; J. Su et al., arXiv:2104.09864 (2021), of
    rotary encoding.
    """

    window: int | None = None
    decay: Literal["none", "exponential", "power-law", "alibi"] = "none"
    rate: float = 0.0
    encoding: Literal["rope", "none", "sinusoidal", "learned"] = "rope"

    def build(self, size: Size) -> PreTrainedModel:
        """Make the base model, with the same weights from the same random state, and change it."""
        model = super().build(size)
        inner = model.get_submodule("model")
        if self.encoding != "rope":
            inner.rotary_emb = _Unturned(size.hidden_size // size.n_heads)
        if self.encoding in ("sinusoidal", "learned"):
            spread = model.config.initializer_range
            kind = _Waves if self.encoding == "sinusoidal" else _Learned
            places = kind(size.context, size.hidden_size, spread)
            inner.embed_tokens = _Placed(inner.embed_tokens, places)
        if self.window is not None or self.decay != "none":
            for module in model.modules():
                if hasattr(module, "q_proj"):
                    module.register_forward_pre_hook(self._biased, with_kwargs=True)
        return model

    def bias(self, n_heads: int, length: int) -> torch.Tensor:
        """What is added to the attention logits, (head, query, key); -inf where none is paid.

        The dim of heads has size 1 where they are alike.
        """
        position = torch.arange(length)
        distance = position[:, None] - position
        is_hidden = distance < 0
        if self.window is not None:
            is_hidden |= distance > self.window
        distance = distance.clamp(min=0).float()
        fall = distance.log1p() if self.decay == "power-law" else distance
        return (-self._rates(n_heads)[:, None, None] * fall).masked_fill(is_hidden, -torch.inf)

    def _rates(self, n_heads: int) -> torch.Tensor:
        if self.decay == "alibi":
            return 2.0 ** (-8 * torch.arange(1, n_heads + 1) / n_heads)
        return torch.tensor([0.0 if self.decay == "none" else self.rate])

    def _biased(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an attention module is called with, the bias put on its mask."""
        if kwargs.get("past_key_values") is not None:
            raise ValueError("past_key_values: expected whole windows, got a cache")
        hidden, mask = kwargs["hidden_states"], kwargs.get("attention_mask")
        n_heads = attention.config.num_attention_heads
        bias = _on_device(self, n_heads, hidden.shape[1], hidden.device).to(hidden.dtype)
        if mask is not None and mask.dtype == torch.bool:
            # Finite, so that pads, which attend to nothing, stay numbers.
            lowest = torch.finfo(hidden.dtype).min
            mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, lowest)
        return args, kwargs | {"attention_mask": bias[None] if mask is None else bias + mask}


# As its authors use it: in place of any other encoding.
ALIBI = Attending("alibi", decay="alibi", encoding="none")


@cache
def _on_device(recipe: Attending, n_heads: int, length: int, device: torch.device) -> torch.Tensor:
    return recipe.bias(n_heads, length).to(device)


class _Unturned(nn.Module):
    """In place of the rotary encoding: turns nothing."""

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self._head_size = head_size

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        """Cosines and sines of no angle, (1, position, feature)."""
        cosine = x.new_ones(1, x.shape[1], self._head_size)
        return cosine, torch.zeros_like(cosine)


class _Placed(nn.Embedding):
    """Token embeddings with the encoding of the position in the window added."""

    def __init__(self, tokens: nn.Embedding, places: nn.Module) -> None:
        super().__init__(tokens.num_embeddings, tokens.embedding_dim, _weight=tokens.weight)
        self.places = places

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Embeddings (window, position, feature)."""
        return super().forward(input) + self.places(input.shape[-1])


class _Learned(nn.Module):
    """A vector for each position, drawn as transformers draws token embeddings."""

    def __init__(self, context: int, n_features: int, spread: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(context, n_features) * spread)

    def forward(self, length: int) -> torch.Tensor:
        """Of the first positions, (position, feature)."""
        return self.weight[:length]


class _Waves(nn.Module):
    """Sines and cosines of the position, times one gain: at first as large as fresh embeddings."""

    def __init__(self, context: int, n_features: int, spread: float) -> None:
        super().__init__()
        rate = torch.exp(-math.log(10_000) * torch.arange(0, n_features, 2) / n_features)
        angle = torch.arange(context)[:, None] * rate
        self.register_buffer("waves", torch.cat([angle.sin(), angle.cos()], -1), persistent=False)
        self.gain = nn.Parameter(torch.tensor(2**0.5 * spread))

    def forward(self, length: int) -> torch.Tensor:
        """Of the first positions, (position, feature)."""
        return self.gain * self.waves[:length]
