"""What a training adds to its loss so that experts are used alike.

All of them take the router logits as transformers gives them (`output_router_logits=True`): one
tensor for each layer, (token, expert) or (sequence, position, expert), and the attention mask,
whose pads count nothing. Probabilities, which some releases of transformers give under that name,
are refused. They compute in float32, or float64 where that is given, and are 0 where
there is no token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from isingmoe.capturing.sites import are_probabilities

__all__ = ["MEMLoss", "SwitchLoss", "ZLoss", "gate_distribution"]

Logits = Tensor | Sequence[Tensor]


class _Batch:
    """Logits (sequence, position, expert) of each layer, and which of the tokens count."""

    def __init__(self, gate_logits: Logits, attention_mask: Tensor | None) -> None:
        layers = [gate_logits] if isinstance(gate_logits, Tensor) else list(gate_logits)
        if not layers:
            raise ValueError("gate_logits: expected those of some layer, got none")
        for layer in layers:
            if layer.ndim not in (2, 3) or not layer.is_floating_point():
                raise ValueError(
                    "gate_logits: expected floats (token, expert) or (sequence, position, expert), "
                    f"got {layer.dtype} {tuple(layer.shape)}"
                )
            if layer.shape[-1] > 1 and are_probabilities(layer):
                raise ValueError(
                    "gate_logits: expected router logits, got rows of probabilities, which "
                    "transformers before 5.6 gives under that name; take a newer release"
                )
        # Where rows are tokens of which nothing is said, they are taken for one sequence.
        shape = layers[0].shape[:-1] if layers[0].ndim == 3 else (1, len(layers[0]))
        self.has_positions = layers[0].ndim == 3 or attention_mask is not None
        if attention_mask is not None:
            shape = attention_mask.shape
        for layer in layers:
            if layer.shape[:-1].numel() != math.prod(shape) or len(shape) != 2:
                raise ValueError(
                    f"gate_logits: expected rows for {tuple(shape)} (sequence, position), as the "
                    f"attention mask or the first layer has, got {tuple(layer.shape[:-1])}"
                )
        self.logits = [
            layer.to(torch.promote_types(layer.dtype, torch.float32)).reshape(
                *shape, layer.shape[-1]
            )
            for layer in layers
        ]
        device = layers[0].device
        self.counts = (
            torch.ones(shape, dtype=self.logits[0].dtype, device=device)
            if attention_mask is None
            else attention_mask.to(device, self.logits[0].dtype)
        )

    def mean(self, values: Tensor) -> Tensor:
        """Mean (..,) over the tokens that count, of (sequence, position, ..)."""
        weight = self.counts.to(values.device)
        total = torch.einsum("sp,sp...->...", weight, values)
        return total / weight.sum().clamp(min=1)

    def of_layers(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of the logits of each layer (layer, ..), on the device of the first."""
        return torch.stack([function(one).to(self.logits[0].device) for one in self.logits])

    def gates(self) -> Tensor:
        """Mean gate probabilities (layer, expert)."""
        return self.of_layers(lambda one: self.mean(one.softmax(-1)))


def gate_distribution(gate_logits: Logits, attention_mask: Tensor | None = None) -> Tensor:
    """Mean gate probabilities of a batch.

    Parameters
    ----------
    gate_logits : Tensor or sequence of Tensor
        Router logits of a layer or of several with as many experts, each (token, expert) or
        (sequence, position, expert).
    attention_mask : Tensor (sequence, position), optional
        0 at pads.

    Returns
    -------
    float Tensor (layer, expert)

    Raises
    ------
    ValueError
        If a shape or dtype is another.
    """
    return _Batch(gate_logits, attention_mask).gates()


class MEMLoss(nn.Module):
    """Distance of the load from the maximum-entropy equilibrium.

    The Kullback-Leibler divergence of the mean gate distribution p of a batch from the uniform
    one, ln E - H(p), in nats: 0 at equilibrium, ln E where one expert has all (Bershatsky and
    Oseledets, arXiv:2504.04444).

    Parameters
    ----------
    per : {"layer", "block", "whole"}
        What has a distribution of its own: each layer, each block of positions of each layer,
        or the model. Of several, the loss is the mean; a block counts as often as it has tokens.
    block_length : int, optional
        Positions of a block, where there are blocks.

    Raises
    ------
    ValueError
        If an argument is impossible.
    """

    def __init__(
        self,
        per: Literal["layer", "block", "whole"] = "layer",
        *,
        block_length: int | None = None,
    ) -> None:
        super().__init__()
        if per not in ("layer", "block", "whole"):
            raise ValueError(f"per: expected layer, block or whole, got {per!r}")
        if (per == "block") != (block_length is not None):
            raise ValueError(
                "block_length: expected a number of positions with per='block' alone, got "
                f"{block_length} with {per!r}"
            )
        if block_length is not None and block_length < 1:
            raise ValueError(f"block_length: expected at least 1, got {block_length}")
        self.per, self.block_length = per, block_length

    def forward(self, gate_logits: Logits, attention_mask: Tensor | None = None) -> Tensor:
        """The loss.

        Parameters
        ----------
        gate_logits, attention_mask
            As for `gate_distribution`.

        Returns
        -------
        float Tensor ()

        Raises
        ------
        ValueError
            If a shape or dtype is another, or rows do not say their positions and blocks need
            them.
        """
        batch = _Batch(gate_logits, attention_mask)
        if self.per == "whole":
            return _divergence(batch.gates().mean(0))
        if self.per == "block" and not batch.has_positions:
            raise ValueError(
                "gate_logits: expected (sequence, position, expert), or an attention mask, for "
                "blocks of positions, got (token, expert) alone"
            )
        return batch.of_layers(lambda one: self._of_blocks(one, batch.counts.to(one.device))).mean()

    def _of_blocks(self, logits: Tensor, counts: Tensor) -> Tensor:
        # A layer is a block of all positions.
        length = self.block_length or max(logits.shape[1], 1)
        block = torch.arange(logits.shape[1], device=logits.device) // length
        n_blocks = -(-logits.shape[1] // length)
        weighted = torch.einsum("sp,spe->pe", counts, logits.softmax(-1))
        total = logits.new_zeros(n_blocks, logits.shape[-1]).index_add(0, block, weighted)
        tokens = counts.new_zeros(n_blocks).index_add(0, block, counts.sum(0))
        of_blocks = _divergence(total / tokens.clamp(min=1)[:, None])
        return (of_blocks * tokens).sum() / tokens.sum().clamp(min=1)


def _divergence(p: Tensor) -> Tensor:
    """Divergence from the uniform distribution along the last axis.

    An expert without load has a derivative: that of the smallest number there is.
    """
    least = torch.finfo(p.dtype).tiny
    return (p * (p.clamp(min=least) * p.shape[-1]).log()).sum(-1)


class SwitchLoss(nn.Module):
    """Auxiliary loss of the Switch transformer, for any top k.

    E Σ_e f_e P_e, f_e the share of tokens that are sent to expert e (they sum to k) and P_e its
    mean gate probability; k at even load. f has no gradient (Fedus, Zoph and Shazeer, JMLR 23,
    120 (2022), equations 4 to 6).

    Parameters
    ----------
    top_k : int
        Experts per token: those with the largest logits.
    per : {"whole", "layer"}
        Whether f and P are those of all layers together, as transformers'
        `load_balancing_loss_func` has them, or the loss is the mean of those of the layers.

    Raises
    ------
    ValueError
        If an argument is impossible.
    """

    def __init__(self, top_k: int = 1, per: Literal["whole", "layer"] = "whole") -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {top_k}")
        if per not in ("whole", "layer"):
            raise ValueError(f"per: expected whole or layer, got {per!r}")
        self.top_k, self.per = top_k, per

    def forward(self, gate_logits: Logits, attention_mask: Tensor | None = None) -> Tensor:
        """The loss.

        Parameters
        ----------
        gate_logits, attention_mask
            As for `gate_distribution`.

        Returns
        -------
        float Tensor ()

        Raises
        ------
        ValueError
            If a shape or dtype is another, or there are fewer experts than k.
        """
        batch = _Batch(gate_logits, attention_mask)
        num_experts = batch.logits[0].shape[-1]
        if num_experts < self.top_k:
            raise ValueError(
                f"top_k: expected at most {num_experts}, the number of experts, got {self.top_k}"
            )

        def sent(logits: Tensor) -> Tensor:
            chosen = logits.topk(self.top_k, dim=-1).indices
            return batch.mean(torch.zeros_like(logits).scatter_(-1, chosen, 1.0))

        share, mean = batch.of_layers(sent), batch.gates()
        if self.per == "whole":
            share, mean = share.mean(0), mean.mean(0)
        return num_experts * (share * mean).sum(-1).mean()


class ZLoss(nn.Module):
    """Router z-loss: the mean square of the logarithm of each token's partition function.

    (ln Σ_e exp x_e)², which keeps logits small (Zoph et al., ST-MoE, arXiv:2202.08906, equation
    5). Of several layers, the mean.
    """

    def forward(self, gate_logits: Logits, attention_mask: Tensor | None = None) -> Tensor:
        """The loss.

        Parameters
        ----------
        gate_logits, attention_mask
            As for `gate_distribution`.

        Returns
        -------
        float Tensor ()

        Raises
        ------
        ValueError
            If a shape or dtype is another.
        """
        batch = _Batch(gate_logits, attention_mask)
        return batch.of_layers(lambda one: batch.mean(one.logsumexp(-1).square())).mean()
