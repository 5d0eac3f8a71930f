"""Can something that does not read the token decide where it goes.

Perplexity of small OLMoE models where the position, the set before, the token's id or chance
decides in place of the router: put in after training, tuned with it, or trained with it.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from arms import DYNAMIC, LABELS, known_of, recipes, router_of
from figures import perplexity_figure
from trained_models.intervals import told
from trained_models.measuring import scores
from trained_models.options import ModelStudy, parse
from trained_models.results import kept
from trained_models.store import Job, Store, in_parallel, trained

from isingmoe.moe import RandomRouter, Router, Tokens, insert_router, mean_gate_weight

KINDS = ("constant", "position", "chain", "before", "token", "random")
# A router that goes by the dynamic sets has none to go by where nothing was ever dynamic.
FRESH = ("constant", "position", "chain", "token", "random")


class _Own(Router):
    """What the model's own router chose, for other weights alone."""

    def choose(self, tokens: Tokens):
        return tokens.chosen


def swapped(store: Store, seed: int) -> xr.Dataset:
    """Held-out cross-entropy of the trained model with each router put in, (kind,).

    Weighed by the model's own router, and by the mean weight of each expert.
    """
    model, windows = store.model(Job(DYNAMIC, seed)), store.text.held_out.token_id
    mean = mean_gate_weight(known_of(store, seed).traces)
    loss, fixed = [], []
    for kind in ("dynamic", *KINDS):
        router = _Own() if kind == "dynamic" else router_of(kind, store, seed)
        for weights, into in (("gate", loss), (mean, fixed)):
            with insert_router(model, router, weights=weights):
                into.append(scores(model, windows).mean())
    with insert_router(model, RandomRouter(seed), weights=0.0):
        without = scores(model, windows).mean()
    return xr.Dataset(
        {"gate": ("kind", loss), "fixed": ("kind", fixed), "without_experts": ((), without)},
        {"kind": ["dynamic", *KINDS], "seed": seed},
    )


def retrained(store: Store, kinds: tuple[str, ...], *, is_tuned: bool) -> xr.DataArray:
    """Held-out cross-entropy (kind, seed) of models trained with each router."""
    data = trained(store, recipes(kinds, is_tuned=is_tuned))
    loss = data["loss"].mean("window").rename(recipe="kind")
    return loss.assign_coords(kind=list(kinds))


def measured(store: Store) -> xr.Dataset:
    """Perplexity (way, kind, seed): put in, put in with fixed weights, tuned, trained with."""
    # The trained models are there before the processes ask for them.
    base = trained(store, [DYNAMIC])["loss"].mean("window").isel(recipe=0)
    seeds = list(range(store.size.n_seeds))
    parts = in_parallel(partial(swapped, store), seeds, is_toy=store.size.is_toy)
    put_in = xr.concat(parts, "seed")
    fresh = retrained(store, FRESH, is_tuned=False)
    ways = {
        "swapped in": put_in["gate"],
        "swapped in, fixed weights": put_in["fixed"],
        "tuned": retrained(store, ("dynamic", *KINDS), is_tuned=True),
        "from scratch": xr.concat([base.assign_coords(kind="dynamic"), fresh], "kind"),
    }
    plain = {name: loss.reset_coords(drop=True) for name, loss in ways.items()}
    loss = xr.concat(list(plain.values()), "way", join="outer").assign_coords(way=list(plain))
    return xr.Dataset(
        {
            "perplexity": np.exp(loss).assign_attrs(long_name="held-out perplexity", units="1"),
            "without_experts": np.exp(put_in["without_experts"]).assign_attrs(
                long_name="held-out perplexity with no MoE layers", units="1"
            ),
        }
    )


def table(values: xr.DataArray, digits: int) -> dict[str, dict[str, str]]:
    """Means and intervals over seeds, (kind, way)."""
    return {
        label: {
            way: told(values.sel(kind=kind, way=way), digits)
            for way in values["way"].values.tolist()
        }
        for kind, label in LABELS.items()
    }


def main(study: ModelStudy) -> None:
    """Train, swap, measure, draw, and conclude."""
    data = kept(study, __file__, lambda: measured(study.store))
    perplexity = data["perplexity"]
    over_own = perplexity / perplexity.sel(kind="dynamic")
    study.draw("perplexity.png", perplexity_figure(over_own))
    study.conclude(
        {
            "perplexity": table(perplexity, 2),
            "perplexity over that of its own router": table(over_own, 3),
            **{
                f"perplexity over that of {said}": table(perplexity / perplexity.sel(kind=kind), 3)
                for kind, said in (("constant", "one set for all"), ("random", "chance"))
            },
            "perplexity without experts": told(data["without_experts"]),
        }
    )


if __name__ == "__main__":
    main(parse(__doc__, __file__))
