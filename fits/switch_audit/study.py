"""What a capacity of experts does to routing, and which releases of transformers enforce it.

Small Switch Transformers, trained without a limit and with capacity factors 1.25 and 1, run with
the limit of their training and with others: what is dropped where, and what is left of the load,
of the rates over position and of the couplings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "simulations"))
from arms import ARMS, LABELS
from figures import dropped_figure, limit_figure, rate_figure
from limits import independent, name_of, under_limits
from trained_models.intervals import over_layers, told
from trained_models.options import ModelStudy, parse
from trained_models.results import kept
from trained_models.store import Store
from versions import probe_installed

DIGITS = {"loss": 3, "dropped": 3, "load_entropy": 3, "drift_bits": 4, "stability": 2}
DIGITS |= {"self_coupling": 3, "gain_bits": 3}


def of_run(data: xr.Dataset, name: str, which: str) -> dict[str, xr.DataArray]:
    """What a table tells of a run: (seed,), means over the layers of both stacks."""
    one = data.sel(run=name, which=which)
    return {v: over_layers(one[v]) for v in DIGITS}


def table(data: xr.Dataset, which: str) -> dict[str, dict[str, str]]:
    """Means and intervals over seeds of each run."""
    return {
        name: {v: told(x, DIGITS[v]) for v, x in of_run(data, name, which).items()}
        for name in data["run"].values.tolist()
    }


def differences(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """Paired differences over seeds, of what a limit changes."""
    free = name_of(ARMS[0], ARMS[0])
    rows = {}
    for arm in ARMS[1:]:
        as_trained = name_of(arm, arm)
        pairs = {
            "trained and run with {} - without": (as_trained, free),
            "trained without, run with {} - without": (name_of(ARMS[0], arm), free),
            "trained with {}, run with - without": (as_trained, name_of(arm, ARMS[0])),
        }
        for label, pair in pairs.items():
            for which in data["which"].values.tolist():
                after, before = (of_run(data, name, which) for name in pair)
                row = {v: told(after[v] - before[v], digits) for v, digits in DIGITS.items()}
                rows[f"{label.format(LABELS[arm.name])}, {which}"] = row
    return rows


def selection(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """Paired differences over seeds within a run: what is left of the chosen less all of it."""
    rows = {}
    for arm in ARMS[1:]:
        name = name_of(arm, arm)
        chosen = of_run(data, name, "chosen")
        for which in ("thinned", "unordered", "received"):
            found = of_run(data, name, which)
            rows[f"{LABELS[arm.name]}, {which} - chosen"] = {
                v: told(found[v] - chosen[v], digits) for v, digits in DIGITS.items()
            }
    return rows


def layers(data: xr.Dataset) -> dict[str, dict[str, dict[str, str]]]:
    """Of each layer of the models that are run as they were trained."""
    rows: dict[str, dict[str, dict[str, str]]] = {}
    for arm in ARMS:
        one = data.sel(run=name_of(arm, arm), which="received")
        for stack in data["stack"].values.tolist():
            for layer in data["layer"].values.tolist():
                of_layer = one.sel(stack=stack, layer=layer)
                rows.setdefault(LABELS[arm.name], {})[f"{stack} {layer}"] = {
                    v: told(of_layer[v], digits) for v, digits in DIGITS.items() if v != "loss"
                }
    return rows


def dropping(data: xr.Dataset, store: Store) -> dict[str, dict[str, str | int | None]]:
    """Where dropping begins and how far it goes, beside what independent tokens would lose."""
    rows: dict[str, dict[str, str | int | None]] = {}
    for arm in ARMS[1:]:
        at = data["dropped_at"].sel(run=name_of(arm, arm)).mean(("stack", "layer"))
        chance = independent(arm, store)
        last = slice(-(len(chance) // 8), None)
        rows[LABELS[arm.name]] = {
            "capacity": arm.capacity(store.size),
            "first position where 1 % are dropped": _first(at.mean("seed").values),
            "the same by chance": _first(chance),
            "dropped": told(at.mean("position"), 3),
            "dropped by chance": f"{chance.mean():.3f}",
            "dropped in the last eighth": told(at.isel(position=last).mean("position"), 3),
            "the same by chance, last eighth": f"{chance[last].mean():.3f}",
        }
    return rows


def _first(share: np.ndarray) -> int | None:
    """First position of which 1 % are dropped."""
    places = np.flatnonzero(share >= 0.01)
    return int(places[0]) if places.size else None


def main(study: ModelStudy) -> None:
    """Train, run with limits, draw, and conclude."""
    data = kept(study, __file__, lambda: under_limits(study.store, study.output / "runs"))
    study.draw("dropped.png", dropped_figure(data, study.store))
    study.draw("rates.png", rate_figure(data))
    study.draw("limits.png", limit_figure(data))
    study.conclude(
        {
            "installed": probe_installed(),
            "dropping": dropping(data, study.store),
            **{which: table(data, which) for which in data["which"].values.tolist()},
            "differences": differences(data),
            "selection": selection(data),
            "layers": layers(data),
        }
    )


if __name__ == "__main__":
    main(parse(__doc__, __file__))
