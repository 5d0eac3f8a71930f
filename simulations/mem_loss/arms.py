"""What keeps the load even in each arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trained_models.recipes import Recipe
from transformers import PreTrainedModel, TrainerCallback

from isingmoe.moe import LossFreeBias, insert_router

if TYPE_CHECKING:
    from trained_models.store import Store

__all__ = ["ARMS", "LABELS"]


@dataclass(frozen=True)
class Biased(Recipe):
    """Loss-free balancing: no loss, a bias on each score.

    Attributes
    ----------
    rate : float
        What a bias moves by in a step.
    """

    rate: float = 1e-3

    def prepare(self, model: PreTrainedModel, store: Store, seed: int) -> list[TrainerCallback]:
        """Put the biases into the model, to be saved with it."""
        router = LossFreeBias(self.rate)
        insert_router(model, router)
        model.add_module("balancing", router)
        return [_Update(router)]


class _Update(TrainerCallback):
    def __init__(self, router: LossFreeBias) -> None:
        self._router = router

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the biases."""
        self._router.update()


ARMS = (
    Recipe("none", "none"),
    Recipe(),
    Recipe("switch-strong", "switch", 0.1),
    Recipe("mem", "mem"),
    Recipe("mem-strong", "mem", 0.1),
    Biased("bias", "none"),
)
LABELS = {
    "none": "nothing",
    "olmoe": "Switch loss, 0.01",
    "switch-strong": "Switch loss, 0.1",
    "mem": "MEM loss, 0.01",
    "mem-strong": "MEM loss, 0.1",
    "bias": "loss-free bias, 0.001",
}
