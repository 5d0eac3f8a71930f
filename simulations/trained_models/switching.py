"""Small Switch Transformers: an encoder reads the first half of a window, a decoder goes on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from packaging.version import Version
from transformers import (
    PreTrainedModel,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

from trained_models.measuring import capture, scores
from trained_models.recipes import Recipe
from trained_models.sizes import Size

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SwitchRecipe", "halves"]

# Of the weights at the start.
_SPREAD = 0.02
# Releases 5.0 to 5.17 send every token to its expert, whatever the capacity.
_ENFORCING = Version("5.18.0")


def halves(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder reads and what the decoder is to write, of windows (window, position)."""
    middle = windows.shape[1] // 2
    return windows[:, :middle], windows[:, middle : 2 * middle]


@dataclass(frozen=True)
class SwitchRecipe(Recipe):
    """A small Switch Transformer (arXiv:2101.03961) of transformers: one expert to a token.

    Every other layer of the encoder and of the decoder has experts. Training and evaluation
    are the same function: no dropout, and no noise at the router.

    Attributes
    ----------
    capacity_factor : float, optional
        An expert serves at most this number times the tokens of a sequence over the experts,
        rounded down; any number by default.
    """

    name: str = "switch"
    capacity_factor: float | None = None

    def capacity(self, size: Size) -> int:
        """Tokens of a sequence that an expert serves at most."""
        length = size.context // 2
        factor = size.n_experts if self.capacity_factor is None else self.capacity_factor
        return int(length * factor / size.n_experts)

    def build(self, size: Size) -> PreTrainedModel:
        """Make a model in float32 with fresh weights from torch's random state.

        Raises
        ------
        RuntimeError
            If there is a capacity, and a release of transformers that does not enforce it.
        """
        if self.capacity_factor is not None and Version(transformers.__version__) < _ENFORCING:
            raise RuntimeError(
                f"capacity_factor: expected transformers {_ENFORCING} or newer, which enforces "
                f"it, got {transformers.__version__}"
            )
        config = SwitchTransformersConfig(
            vocab_size=size.vocab_size,
            d_model=size.hidden_size,
            d_kv=size.hidden_size // size.n_heads,
            d_ff=size.top_k * size.intermediate_size,
            num_layers=size.n_layers,
            num_sparse_encoder_layers=size.n_layers // 2,
            num_decoder_layers=size.n_layers,
            num_sparse_decoder_layers=size.n_layers // 2,
            num_heads=size.n_heads,
            num_experts=size.n_experts,
            expert_capacity=self.capacity(size),
            router_jitter_noise=0.0,
            dropout_rate=0.0,
            router_z_loss_coef=0.0,
            router_aux_loss_coef=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=False,
            use_cache=False,
        )
        model = SwitchTransformersForConditionalGeneration(config)
        # As the other models start: from T5's weights, meant for Adafactor, AdamW learns slowly.
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=_SPREAD)
        return model

    def examples(self, windows: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """The first half of each window is read, all tokens of the second are predicted."""
        read, written = (torch.from_numpy(half.astype(np.int64)) for half in halves(windows))
        return [{"input_ids": x, "labels": y} for x, y in zip(read, written, strict=True)]

    def router_logits(self, outputs: Any) -> Sequence[torch.Tensor]:
        """Router logits of the layers of both stacks."""
        return *outputs.encoder_router_logits, *outputs.decoder_router_logits

    def scores(self, model: PreTrainedModel, windows: np.ndarray) -> np.ndarray:
        """Cross-entropy in nats of each second half, (window,), the first half given."""
        read, written = halves(windows)
        return scores(model, read, targets=written)

    def traces(
        self,
        model: PreTrainedModel,
        windows: np.ndarray,
        output: Path | None = None,
        record: Collection[str] | None = None,
    ) -> dict[str, xr.Dataset]:
        """Traces of each stack, of what the experts received.

        The decoder reads what it reads in training: its first token and all but the last of
        the second half.
        """
        read, written = halves(windows)
        return capture(model, read, output, targets=written[:, :-1], record=record)

    def balance_loss(self, router_logits: Sequence[torch.Tensor], size: Size) -> torch.Tensor:
        """The loss of load, with its weight; a Switch layer gives a token one expert."""
        return super().balance_loss(router_logits, replace(size, top_k=1))
