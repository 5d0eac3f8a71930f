"""The arms: how many tokens of a sequence an expert may serve."""

from __future__ import annotations

from trained_models.switching import SwitchRecipe

__all__ = ["ARMS", "LABELS"]

ARMS = (
    SwitchRecipe(),
    SwitchRecipe("switch-1.25", capacity_factor=1.25),
    SwitchRecipe("switch-1", capacity_factor=1.0),
)
LABELS = {"switch": "no limit", "switch-1.25": "factor 1.25", "switch-1": "factor 1"}
