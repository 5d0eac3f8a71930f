"""What a capacity of experts does to routing, and which releases of transformers enforce it.

Small Switch Transformers, trained without a limit and with capacity factors 1.25 and 1, run with
the limit of their training and with others: what is dropped where, and what is left of the load,
of the rates over position and of the couplings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "simulations"))
from arms import ARMS, LABELS
from figures import dropped_figure, limit_figure, rate_figure
from limits import name_of, under_limits
from trained_models.intervals import told
from trained_models.options import ModelStudy, parse
from trained_models.store import trained
from versions import probe_installed

DIGITS = {"loss": 3, "dropped": 3, "load_entropy": 3, "drift_bits": 4, "stability": 2}
DIGITS |= {"self_coupling": 3, "gain_bits": 3}


def of_run(data: xr.Dataset, name: str, which: str) -> dict[str, xr.DataArray]:
    """What a table tells of a run: (seed,), means over the layers of both stacks."""
    one = data.sel(run=name, which=which)
    return {v: one[v].mean([d for d in ("stack", "layer") if d in one[v].dims]) for v in DIGITS}


def table(data: xr.Dataset, which: str) -> dict[str, dict[str, str]]:
    """Means and intervals over seeds of each run."""
    return {
        name: {v: told(x, DIGITS[v]) for v, x in of_run(data, name, which).items()}
        for name in data["run"].values.tolist()
    }


def differences(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """Paired differences over seeds, of what a limit changes."""
    free = ARMS[0]
    pairs = {
        "trained and run with {} - without": lambda arm: (name_of(arm, arm), name_of(free, free)),
        "trained without, run with {} - without": lambda arm: (
            name_of(free, arm),
            name_of(free, free),
        ),
        "trained with {}, run with - without": lambda arm: (name_of(arm, arm), name_of(arm, free)),
    }
    rows = {}
    for arm in ARMS[1:]:
        for told_as, pair in pairs.items():
            for which in ("chosen", "received"):
                after, before = (of_run(data, name, which) for name in pair(arm))
                row = {v: told(after[v] - before[v], digits) for v, digits in DIGITS.items()}
                rows[f"{told_as.format(LABELS[arm.name])}, {which}"] = row
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


def main(study: ModelStudy) -> None:
    """Train, run with limits, draw, and conclude."""
    trained(study.store, ARMS)
    data = study.save("limits.nc", under_limits(study.store))
    study.draw("dropped.png", dropped_figure(data, study.store))
    study.draw("rates.png", rate_figure(data))
    study.draw("limits.png", limit_figure(data))
    study.conclude(
        {
            "installed": probe_installed(),
            "chosen": table(data, "chosen"),
            "received": table(data, "received"),
            "differences": differences(data),
            "layers": layers(data),
        }
    )


if __name__ == "__main__":
    main(parse(__doc__, __file__))
