"""The layer of the Switch Transformer as its paper's equations say it, one token after another.

W. Fedus, B. Zoph and N. Shazeer, arXiv:2101.03961; the numbers are those of its equations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Route(NamedTuple):
    """Of a token: the expert with the largest gate, that gate, and whether it has a place there."""

    expert: int
    gate: float
    is_served: bool


def gates(logits: np.ndarray) -> np.ndarray:
    """Equation 1: the softmax of the router's logits of one token."""
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return np.array([weight / sum(weights) for weight in weights])


def capacity(n_tokens: int, n_experts: int, factor: float) -> int:
    """Equation 3: tokens over experts, times the capacity factor."""
    return math.floor(n_tokens / n_experts * factor)


def routes(logits: np.ndarray, places: int) -> list[Route]:
    """Routes of the tokens of one group; an expert serves those that come first."""
    taken = [0] * logits.shape[1]
    found = []
    for token in logits:
        probability = gates(token)
        expert = int(np.argmax(probability))
        is_served = taken[expert] < places
        taken[expert] += is_served
        found.append(Route(expert, float(probability[expert]), is_served))
    return found


def layer(
    hidden: np.ndarray,
    router: np.ndarray,
    experts: Sequence[Callable[[np.ndarray], np.ndarray]],
    places: int,
) -> np.ndarray:
    """Equation 2 for k = 1: the gate times the expert's output, nothing where a token overflows.

    Of one group (token, width); what comes out is added to the residual stream, so that a token
    that overflows goes on as it was.
    """
    out = np.zeros_like(hidden)
    for place, route in enumerate(routes(hidden @ router.T, places)):
        if route.is_served:
            out[place] = route.gate * experts[route.expert](hidden[place])
    return out


def load_loss(logits: np.ndarray) -> float:
    """Equations 4 to 6 without alpha: N sum f_i P_i, f_i the share of tokens *chosen* for i."""
    n_tokens, n_experts = logits.shape
    share, mean = [0.0] * n_experts, [0.0] * n_experts
    for token in logits:
        probability = gates(token)
        share[int(np.argmax(probability))] += 1 / n_tokens
        for expert in range(n_experts):
            mean[expert] += probability[expert] / n_tokens
    return n_experts * sum(f * p for f, p in zip(share, mean, strict=True))
