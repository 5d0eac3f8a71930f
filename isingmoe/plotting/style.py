"""Colours and words that the figures share."""

from __future__ import annotations

__all__ = ["BLACK", "BLUE", "CENTRE_STYLES", "GREEN", "GREY", "ORANGE"]

# Okabe and Ito's colours, told apart with any colour vision.
BLACK, BLUE, ORANGE, GREEN, GREY = "#000000", "#0072B2", "#D55E00", "#009E73", "#888888"

# Of measured correlations by the mean they are about: colour, marker, label.
CENTRE_STYLES = {
    "global": (BLUE, "o", "measured, about the global mean"),
    "position": (GREEN, "s", "measured, about the mean at each position"),
    "sequence": (ORANGE, "^", "measured, within texts"),
}
