"""A trained model run with a limit, that of its training or another.

What is dropped, and what is left of loads, of rates over position and of couplings.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from arms import ARMS, LABELS
from numpy.random import Generator
from scipy.stats import binom
from trained_models.measuring import routing
from trained_models.store import Job, Store, in_parallel
from trained_models.switching import SwitchRecipe
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersTop1Router,
)

import isingmoe as im

__all__ = ["independent", "name_of", "of_stack", "under_limits"]

# With the limit of its training and without one; a model that never had one with each.
_RUNS = {one: (ARMS[0], one) for one in ARMS[1:]} | {ARMS[0]: ARMS}


def under_limits(store: Store, folder: Path) -> xr.Dataset:
    """Every run of every seed, as many at once as there are cores; each is kept in a folder.

    Returns
    -------
    Dataset (run, seed, stack, layer, ..)
        `loss` in nats per token; `dropped`, the share of tokens that no expert served, and
        `dropped_at` the same (.., position). With a dim `which`, of what the router chose, of
        the same with the holes of another text (thinned), of the same with as many holes in each
        text and of each expert but at random positions (unordered), and of what the experts
        received: the measurements of `measuring.routing`, `rate` (.., expert, block) and
        `drift_bits` of `im.activation`, `stability` and `stability_p_value` of `im.mem`.
    """
    folder.mkdir(exist_ok=True)
    seeds = range(store.size.n_seeds)
    jobs = [Job(one, seed) for one in ARMS for seed in seeds]
    found = in_parallel(partial(_of_model, store, folder), jobs, is_toy=store.size.is_toy)
    return xr.concat(
        [
            xr.concat(runs, "seed")
            for start in range(0, len(jobs), len(seeds))
            for runs in zip(*found[start : start + len(seeds)], strict=True)
        ],
        "run",
    )


def independent(recipe: SwitchRecipe, store: Store) -> np.ndarray:
    """Share that would be dropped at each position if tokens chose alike and independently."""
    place = np.arange(store.size.context // 2)
    return binom.sf(recipe.capacity(store.size) - 1, place, 1 / store.size.n_experts)


def name_of(trained: SwitchRecipe, run: SwitchRecipe) -> str:
    """Of a run."""
    return f"trained: {LABELS[trained.name]}; run: {LABELS[run.name]}"


def _of_model(store: Store, folder: Path, job: Job) -> list[xr.Dataset]:
    """Each run of a model, which is trained if it was not before."""
    found = []
    for run in _RUNS[job.recipe]:
        path = folder / f"{store.place(job).name}-as-{run.name}.nc"
        if not path.exists():
            part = path.with_name(f".{path.name}")
            _under_limit(store, job, run).to_netcdf(part, engine="h5netcdf")
            part.replace(path)
        # A name as long as that of the first run would be the longest that is written.
        found.append(xr.load_dataset(path, engine="h5netcdf").drop_encoding())
    return found


def _under_limit(store: Store, job: Job, run: SwitchRecipe) -> xr.Dataset:
    model = store.model(job)
    for module in model.modules():
        if isinstance(module, SwitchTransformersTop1Router):
            module.expert_capacity = run.capacity(store.size)
    windows = store.text.held_out.token_id
    traces = run.traces(model, windows, record=("router_logit",))
    stacks = [of_stack(one).expand_dims(stack=[name]) for name, one in traces.items()]
    loss = run.scores(model, windows).mean()
    about = {"long_name": "held-out cross-entropy", "units": "nat per token"}
    whole = xr.concat(stacks, "stack").assign(loss=((), loss, about))
    return whole.assign_coords(seed=job.seed, run=name_of(job.recipe, run))


def of_stack(traces: xr.Dataset) -> xr.Dataset:
    """Measure a stack, of whose traces there are router logits."""
    received = traces.drop_vars("router_logit")
    index = received["expert_index"]
    holes = index < 0
    best = traces["router_logit"].argmax("expert").astype(index.dtype)
    best = best.expand_dims("rank", -1).transpose(*index.dims).assign_attrs(index.attrs)
    # Far enough that it is another speech.
    of_another = holes.roll(sequence=holes.sizes["sequence"] // 2)
    rng = np.random.default_rng(0)
    kinds = {
        "chosen": best,
        "thinned": best.where(~of_another, -1),
        "unordered": best.copy(data=_dropped_at_random(best.values, holes.values, rng)),
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


def _dropped_at_random(best: np.ndarray, holes: np.ndarray, rng: Generator) -> np.ndarray:
    """What is left if a full expert drops any of its tokens, as many as it did, not the last."""
    choice, dropped = best[..., 0], holes[..., 0]
    lot = rng.random(choice.shape)
    lost = np.zeros_like(dropped)
    for expert in np.unique(choice):
        mine = choice == expert
        n_lost = (mine & dropped).sum(-1, keepdims=True)
        rank = np.where(mine, lot, 2).argsort(-1).argsort(-1)
        lost |= mine & (rank < n_lost)
    return np.where(lost, -1, choice)[..., None].astype(best.dtype)


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
