"""How the models know where a token stands."""

from __future__ import annotations

from trained_models.attending import ALIBI, Attending
from trained_models.recipes import Recipe

__all__ = ["ARMS", "LABELS"]

ARMS = (
    Recipe(),
    Attending("no-positions", encoding="none"),
    Attending("sinusoidal", encoding="sinusoidal"),
    Attending("learned", encoding="learned"),
    ALIBI,
)
LABELS = {
    "olmoe": "RoPE",
    "no-positions": "none",
    "sinusoidal": "sinusoidal",
    "learned": "learned",
    "alibi": "ALiBi",
}
