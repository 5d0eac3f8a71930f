"""How large the models of the studies are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CPU", "GPU", "QUICK", "Size"]


@dataclass(frozen=True)
class Size:
    """Sizes of a model, of its training and of what is measured on it.

    Attributes
    ----------
    n_years : int or None
        Years of speeches that are used; all by default.
    vocab_size, context : int
        Tokens that there are, and of a window.
    hidden_size, intermediate_size, n_layers, n_heads, n_experts, top_k : int
    steps, batch_size : int
        Optimiser steps, and windows of each.
    learning_rate : float
        At its highest.
    n_seeds : int
        Trainings of each kind.
    n_windows : int
        Held-out windows that are scored and traced.
    n_points, n_followed : int
        Times at which a training is looked at, and windows that it is looked at with.
    """

    n_years: int | None = None
    vocab_size: int = 1024
    context: int = 256
    hidden_size: int = 64
    intermediate_size: int = 64
    n_layers: int = 4
    n_heads: int = 4
    n_experts: int = 8
    top_k: int = 2
    steps: int = 600
    batch_size: int = 8
    learning_rate: float = 3e-3
    n_seeds: int = 3
    n_windows: int = 256
    n_points: int = 8
    n_followed: int = 48

    @property
    def is_toy(self) -> bool:
        """Whether a model is trained in a few seconds."""
        return self.steps * self.batch_size * self.context < 10_000


CPU = Size()
QUICK = Size(
    n_years=12,
    vocab_size=300,
    context=32,
    hidden_size=16,
    intermediate_size=16,
    n_layers=2,
    n_heads=2,
    n_experts=4,
    steps=4,
    batch_size=2,
    n_seeds=2,
    n_windows=12,
    n_points=2,
    n_followed=4,
)
GPU = Size(
    vocab_size=8192,
    context=512,
    hidden_size=512,
    intermediate_size=256,
    n_layers=8,
    n_heads=8,
    n_experts=32,
    top_k=4,
    steps=6000,
    batch_size=32,
    learning_rate=1e-3,
    n_seeds=5,
    n_windows=512,
    n_points=12,
    n_followed=128,
)
