"""A trained model run with a limit, that of its training or another.

What is dropped, and what is left of loads, of rates over position and of couplings.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import xarray as xr
from arms import ARMS
from scipy.stats import binom
from trained_models.measuring import routing
from trained_models.store import Job, Store, in_parallel
from trained_models.switching import SwitchRecipe
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersTop1Router,
)

import isingmoe as im

__all__ = ["independent", "name_of", "of_stack", "under_limits"]

# With the limit of its training, without one, and a model that never had one with each.
RUNS = [(ARMS[0], one) for one in ARMS] + [
    (trained, run) for trained in ARMS[1:] for run in (ARMS[0], trained)
]


class _Task(NamedTuple):
    trained: SwitchRecipe
    run: SwitchRecipe
    seed: int


def under_limits(store: Store) -> xr.Dataset:
    """Every run of every seed, as many at once as there are cores.

    Returns
    -------
    Dataset (run, seed, stack, layer, ..)
        `loss` in nats per token; `dropped`, the share of tokens that no expert served, and
        `dropped_at` the same (.., position). With a dim `which`, of what the router chose, of
        the same with the holes of another text (thinned), and of what the experts received: the
        measurements of `measuring.routing`, `rate` (.., expert, block) and `drift_bits` of
        `im.activation`, `stability` and `stability_p_value` of `im.mem`.
    """
    seeds = range(store.size.n_seeds)
    tasks = [_Task(trained, run, seed) for trained, run in RUNS for seed in seeds]
    found = in_parallel(partial(_under_limit, store), tasks)
    rows = [
        xr.concat(found[start : start + len(seeds)], "seed")
        for start in range(0, len(found), len(seeds))
    ]
    return xr.concat(rows, "run")


def independent(recipe: SwitchRecipe, store: Store) -> np.ndarray:
    """Share that would be dropped at each position if tokens chose alike and independently."""
    place = np.arange(store.size.context // 2)
    return binom.sf(recipe.capacity(store.size) - 1, place, 1 / store.size.n_experts)


def name_of(trained: SwitchRecipe, run: SwitchRecipe) -> str:
    """Of a run."""
    return f"{trained.name}, run as {run.name}"


def _under_limit(store: Store, task: _Task) -> xr.Dataset:
    model = store.model(Job(task.trained, task.seed))
    for module in model.modules():
        if isinstance(module, SwitchTransformersTop1Router):
            module.expert_capacity = task.run.capacity(store.size)
    windows = store.text.held_out.token_id
    recipe = replace(task.trained, capacity_factor=task.run.capacity_factor)
    traces = recipe.traces(model, windows, record=("router_logit",))
    stacks = [of_stack(one).expand_dims(stack=[name]) for name, one in traces.items()]
    loss = recipe.scores(model, windows).mean()
    return (
        xr.concat(stacks, "stack")
        .assign(loss=((), loss, {"long_name": "held-out cross-entropy", "units": "nat per token"}))
        .assign_coords(
            seed=task.seed,
            run=name_of(task.trained, task.run),
            trained=task.trained.name,
            limit=task.run.name,
        )
    )


def of_stack(traces: xr.Dataset) -> xr.Dataset:
    """Measure a stack, of whose traces there are router logits."""
    received = traces.drop_vars("router_logit")
    index = received["expert_index"]
    holes = index < 0
    best = traces["router_logit"].argmax("expert").astype(index.dtype)
    best = best.expand_dims("rank", -1).transpose(*index.dims).assign_attrs(index.attrs)
    # Far enough that it is another speech.
    of_another = holes.roll(sequence=holes.sizes["sequence"] // 2)
    kinds = {
        "chosen": best,
        "thinned": best.where(~of_another, -1),
        "received": index,
    }
    parts = [_of_choices(received)] * len(kinds)
    if holes.any():
        parts = [
            _of_choices(received.assign(expert_index=one.assign_attrs(index.attrs)))
            for one in kinds.values()
        ]
    dropped = holes.isel(rank=0, drop=True).astype(float)
    about = {"long_name": "share of tokens that no expert served", "units": "1"}
    return xr.concat(parts, xr.IndexVariable("which", list(kinds))).assign(
        dropped=dropped.mean(("sequence", "position")).assign_attrs(about),
        dropped_at=dropped.mean("sequence").assign_attrs(about),
    )


def _of_choices(traces: xr.Dataset) -> xr.Dataset:
    drift = im.activation(traces)
    steady = im.mem(traces, n_simulations=99)
    return routing(traces).assign(
        rate=drift["rate"],
        block_tokens=drift["block_tokens"],
        drift_bits=drift["layer_drift_bits"],
        stability=steady["stability"],
        stability_p_value=steady["stability_p_value"],
    )
