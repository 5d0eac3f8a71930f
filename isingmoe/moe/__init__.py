"""Losses that keep the load of experts even, for training models with torch."""

from isingmoe.moe.losses import MEMLoss, SwitchLoss, ZLoss, gate_distribution

__all__ = ["MEMLoss", "SwitchLoss", "ZLoss", "gate_distribution"]
