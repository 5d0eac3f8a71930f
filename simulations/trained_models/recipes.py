"""What is trained: an architecture, and what keeps the load of its experts even."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedModel, TrainerCallback

from isingmoe.moe import MEMLoss, SwitchLoss
from trained_models.measuring import capture, scores
from trained_models.sizes import Size

if TYPE_CHECKING:
    from trained_models.store import Store

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """A small OLMoE and its training; studies inherit and change what they ask about.

    Attributes
    ----------
    name : str
        For tables and file names.
    balance : {"none", "switch", "mem"}
        The loss of load beside the cross-entropy.
    weight : float
        Of that loss.
    """

    name: str = "olmoe"
    balance: Literal["none", "switch", "mem"] = "switch"
    weight: float = 0.01

    def build(self, size: Size) -> PreTrainedModel:
        """Make a model in float32 with fresh weights from torch's random state."""
        config = OlmoeConfig(
            vocab_size=size.vocab_size,
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.n_layers,
            num_attention_heads=size.n_heads,
            num_experts=size.n_experts,
            num_experts_per_tok=size.top_k,
            max_position_embeddings=size.context,
            router_aux_loss_coef=0.0,
            pad_token_id=None,
            eos_token_id=0,
            use_cache=False,
        )
        # A loop over the experts is faster on a CPU than a grouped product.
        config._experts_implementation = "grouped_mm" if torch.cuda.is_available() else "eager"
        return OlmoeForCausalLM(config)

    def steps(self, size: Size) -> int:
        """Optimiser steps of its training."""
        return size.steps

    def examples(self, windows: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """An example of each window: its first token is given, the others are predicted."""
        rows = torch.from_numpy(windows.astype(np.int64))
        return [{"input_ids": row, "labels": row} for row in rows]

    def router_logits(self, outputs: Any) -> Sequence[torch.Tensor]:
        """Router logits of each layer, from what the model gives."""
        return outputs.router_logits

    def scores(self, model: PreTrainedModel, windows: np.ndarray) -> np.ndarray:
        """Cross-entropy in nats of each window, (window,)."""
        return scores(model, windows)

    def traces(
        self,
        model: PreTrainedModel,
        windows: np.ndarray,
        output: Path | None = None,
        record: Collection[str] | None = None,
    ) -> xr.Dataset | dict[str, xr.Dataset]:
        """Traces of windows, as `measuring.capture` gives them."""
        return capture(model, windows, output, record=record)

    def start(self, store: Store, seed: int) -> Callable[[], PreTrainedModel] | None:
        """What gives the model to go on with; None for fresh weights."""
        return None

    def prepare(self, model: PreTrainedModel, store: Store, seed: int) -> list[TrainerCallback]:
        """Change the model before its training; what comes back is called during it.

        Called again when a trained model is read, before its weights are.
        """
        return []

    def balance_loss(self, router_logits: Sequence[torch.Tensor], size: Size) -> torch.Tensor:
        """The loss of load, with its weight."""
        if self.balance == "none":
            return router_logits[0].new_zeros(())
        loss = MEMLoss() if self.balance == "mem" else SwitchLoss(size.top_k, per="layer")
        return self.weight * loss(router_logits)
