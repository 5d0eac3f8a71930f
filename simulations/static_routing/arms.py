"""What decides where the tokens of a model go, and when it comes to decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr
from trained_models.measuring import capture, quietly_fitted
from trained_models.recipes import Recipe
from trained_models.sizes import Size
from trained_models.store import Job, Store
from transformers import PreTrainedModel, TrainerCallback

import isingmoe as im
from isingmoe.moe import (
    ChainRouter,
    HashRouter,
    RandomRouter,
    Router,
    StaticRouter,
    insert_router,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DYNAMIC", "LABELS", "Kind", "Rerouted", "known_of", "recipes", "router_of"]

Kind = Literal["constant", "position", "chain", "before", "token", "random"]
LABELS: Mapping[str, str] = {
    "dynamic": "its own router",
    "constant": "nothing: one set for all",
    "position": "the position",
    "chain": "its own set before",
    "before": "the dynamic set before",
    "token": "the token",
    "random": "chance",
}
DYNAMIC = Recipe()


@dataclass(frozen=True)
class Known:
    """What was learnt of a model's own routing on training text."""

    traces: xr.Dataset
    by_position: im.Fit
    chain: im.Fit


@cache
def known_of(store: Store, seed: int) -> Known:
    """Traces of training windows through the trained model, and the fits that routers need."""
    windows = store.text.training
    chosen = np.linspace(0, len(windows) - 1, store.size.n_windows).round().astype(int)
    traces = capture(store.model(Job(DYNAMIC, seed)), windows[chosen])
    return Known(
        traces,
        quietly_fitted(traces, coupling="none", field="position"),
        quietly_fitted(traces, coupling="full", field="position"),
    )


def router_of(kind: Kind, store: Store, seed: int, *, is_fitted: bool = True) -> Router:
    """A router; of a model that never had its own, where the token decides, by a hash."""
    if kind == "random":
        return RandomRouter(seed)
    if kind == "token" and not is_fitted:
        return HashRouter(seed)
    known = known_of(store, seed)
    if kind == "token":
        return HashRouter.from_traces(known.traces, seed=seed)
    if kind == "position":
        return StaticRouter.from_fit(known.by_position)
    if kind == "constant":
        return StaticRouter.from_fit(quietly_fitted(known.traces, coupling="none", field="expert"))
    if kind == "before":
        return ChainRouter.from_fit(known.chain, given="gate", rule="likely", seed=seed)
    return ChainRouter.from_fit(known.chain, seed=seed)


@dataclass(frozen=True)
class Rerouted(Recipe):
    """A model that another router decides for while it is trained.

    Attributes
    ----------
    kind : str
        What decides; `dynamic` is the model's own router.
    is_tuned : bool
        Whether it goes on from the trained dynamic model, for a quarter of the steps, or starts
        from fresh weights.
    """

    kind: Kind | Literal["dynamic"] = "position"
    is_tuned: bool = False

    def steps(self, size: Size) -> int:
        """A quarter, where it goes on."""
        return max(size.steps // 4, 1) if self.is_tuned else size.steps

    def start(self, store: Store, seed: int) -> Callable[[], PreTrainedModel] | None:
        """The trained dynamic model, where it goes on."""
        return (lambda: store.model(Job(DYNAMIC, seed))) if self.is_tuned else None

    def prepare(self, model: PreTrainedModel, store: Store, seed: int) -> list[TrainerCallback]:
        """Put the router in."""
        if self.kind != "dynamic":
            insert_router(model, router_of(self.kind, store, seed, is_fitted=self.is_tuned))
        return []


def recipes(kinds: tuple[str, ...], *, is_tuned: bool) -> list[Rerouted]:
    """A recipe for each kind; without a loss of load, which a fixed router has no use for."""
    when = "tuned" if is_tuned else "fresh"
    return [
        Rerouted(
            f"{kind}-{when}",
            "switch" if kind == "dynamic" else "none",
            kind=kind,  # pyright: ignore[reportArgumentType]
            is_tuned=is_tuned,
        )
        for kind in kinds
    ]
