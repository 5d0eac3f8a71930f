"""What keeps the load of experts even, and whether it destroys the coupling of neighbours.

Small OLMoE models from scratch with nothing, the Switch loss, the MEM loss and loss-free biases:
perplexity, load and fitted couplings at the end and on the way there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from arms import ARMS, LABELS
from figures import end_figure, way_figure
from trained_models.intervals import over_layers, told
from trained_models.options import ModelStudy, parse
from trained_models.results import kept
from trained_models.store import trained

DIGITS = {"perplexity": 2, "load_entropy": 3, "largest_load": 2, "n_unused": 1}
DIGITS |= {"self_coupling": 3, "gain_bits": 3, "overlap": 3, "overlap_beyond": 3}


def whole(measured: xr.Dataset) -> xr.Dataset:
    """With perplexity, the mean over layers of what layers have, and the change by each arm."""
    loss = measured["loss"].mean("window")
    data = measured.drop_vars("loss").assign(
        held_out_loss=loss.assign_attrs(measured["loss"].attrs),
        perplexity=np.exp(loss).assign_attrs(long_name="held-out perplexity", units="1"),
    )
    return data.assign_coords(label=("recipe", [LABELS[name] for name in data["recipe"].values]))


def table(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """Means and intervals over seeds, and paired differences to the arm without balancing."""
    beyond = data["overlap"] - data["overlap_shuffled"]
    values = data.assign(overlap_beyond=beyond)[list(DIGITS)].map(over_layers)
    change = values - values.sel(recipe="none")
    rows = {}
    for name in data["recipe"].values.tolist():
        row = {v: told(values[v].sel(recipe=name), digits) for v, digits in DIGITS.items()}
        if name != "none":
            row |= {
                f"{v} - that of nothing": told(change[v].sel(recipe=name), digits)
                for v, digits in DIGITS.items()
            }
        rows[LABELS[name]] = row
    return rows


def on_the_way(data: xr.Dataset) -> dict[str, dict[str, str | dict[str, str]]]:
    """Load and coupling at each step of the training, and how the coupling has changed by its end.

    Means over layers; where a layer has no coupling, as one set serves it alone, there is none
    of that seed.
    """
    entropy = data["load_entropy_followed"].mean("layer")
    coupling = data["self_coupling_followed"].mean("layer", skipna=False)
    steps, last = data["step"].values.tolist(), coupling.isel(step=-1)
    rows: dict[str, dict[str, str | dict[str, str]]] = {}
    for name in data["recipe"].values.tolist():
        rows[LABELS[name]] = {
            "load_entropy": {str(n): told(entropy.sel(recipe=name, step=n), 2) for n in steps},
            "self_coupling": {str(n): told(coupling.sel(recipe=name, step=n), 3) for n in steps},
            "self_coupling, end - step": {
                str(n): told((last - coupling.sel(step=n)).sel(recipe=name), 3) for n in steps[:-1]
            },
        }
    return rows


def by_layer(data: xr.Dataset) -> dict[str, dict[str, dict[str, str]]]:
    """Load and coupling of each layer at the end."""
    return {
        name: {
            LABELS[arm]: {
                str(layer): told(data[name].sel(recipe=arm, layer=layer), 3)
                for layer in data["layer"].values
            }
            for arm in data["recipe"].values.tolist()
        }
        for name in ("load_entropy", "self_coupling")
    }


def main(study: ModelStudy) -> None:
    """Train, measure, draw, and conclude."""
    data = kept(study, __file__, lambda: whole(trained(study.store, ARMS)))
    study.draw("way.png", way_figure(data))
    study.draw("end.png", end_figure(data))
    study.conclude(
        {"arms": table(data), "on the way": on_the_way(data), "by layer": by_layer(data)}
    )


if __name__ == "__main__":
    main(parse(__doc__, __file__))
