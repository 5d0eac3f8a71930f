"""Loss-free balancing: a bias on each expert's score, moved after each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from isingmoe.moe.routers import Router, Tokens, check_layer

__all__ = ["LossFreeBias"]


class LossFreeBias(nn.Module, Router):
    """Chooses by scores with a bias that evens the load, and without any loss.

    The k experts with the largest s_e + b_e are chosen, s the scores by which the model's own
    router would choose, and weighed by s alone. After each step b_e moves by `rate` up where
    expert e had less than the mean load and down where it had more (Wang et al.,
    arXiv:2408.15664; DeepSeek-V3, arXiv:2412.19437, section 2.1.2).

    A module, so that biases can be kept with the weights of the model: they are buffers
    `bias_7` of layer 7, which are there as soon as it is put into a model. They stay in
    float32, where a step of 0.001 counts, when the model is converted to fewer bits.

    Parameters
    ----------
    rate : float
        What a bias moves by in a step, in units of the scores, which lie between 0 and 1.

    Raises
    ------
    ValueError
        If the rate is not positive.
    """

    is_by_layer = True

    def __init__(self, rate: float = 1e-3) -> None:
        super().__init__()
        if not rate > 0:
            raise ValueError(f"rate: expected a positive number, got {rate}")
        self.rate = rate
        self._layers: list[int] = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move buffers to another device, but not to another dtype."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        return super()._apply(moved, recurse)

    def check(self, layer: int, num_experts: int) -> None:
        """As `Router.check`; makes the biases of a layer that is new."""
        if layer not in self._layers:
            self._layers.append(layer)
            self.register_buffer(f"bias_{layer}", torch.zeros(num_experts))
            load = torch.zeros(num_experts, dtype=torch.int64)
            self.register_buffer(f"load_{layer}", load, persistent=False)
        check_layer(layer, num_experts, {layer: len(self.bias(layer))})

    def bias(self, layer: int) -> Tensor:
        """Biases of a layer (expert,)."""
        return self.get_buffer(f"bias_{layer}")

    def choose(self, tokens: Tokens) -> Tensor:
        """As `Router.choose`; in training, the load is counted.

        Raises
        ------
        ValueError
            If the model's own router shows no logits, or weighs experts by other scores.
        """
        score = tokens.score.detach()
        index = (score + self.bias(tokens.layer).to(score)).topk(tokens.top_k, dim=-1).indices
        if tokens.is_training:
            load = self.get_buffer(f"load_{tokens.layer}")
            sent = torch.bincount(index[tokens.mask].reshape(-1), minlength=len(load))
            load += sent.to(load.device)
        return index

    def update(self) -> None:
        """Move the biases by the load since the last time; to be called after each step."""
        for layer in self._layers:
            load = self.get_buffer(f"load_{layer}")
            short = (load.double().mean() - load).sign()
            self.bias(layer).add_(self.rate * short)
            load.zero_()
