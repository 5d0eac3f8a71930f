"""Losses and routers for training models with torch."""

from isingmoe.moe.balancing import LossFreeBias
from isingmoe.moe.chain_router import ChainRouter
from isingmoe.moe.gating import mean_gate_weight
from isingmoe.moe.hash_router import HashRouter
from isingmoe.moe.inserting import Inserted, insert_router, remove_router
from isingmoe.moe.losses import MEMLoss, SwitchLoss, ZLoss, gate_distribution
from isingmoe.moe.routers import RandomRouter, Router, StaticRouter, Tokens

__all__ = [
    "ChainRouter",
    "HashRouter",
    "Inserted",
    "LossFreeBias",
    "MEMLoss",
    "RandomRouter",
    "Router",
    "StaticRouter",
    "SwitchLoss",
    "Tokens",
    "ZLoss",
    "gate_distribution",
    "insert_router",
    "mean_gate_weight",
    "remove_router",
]
