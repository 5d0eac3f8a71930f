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
from trained_models.intervals import told
from trained_models.options import ModelStudy, parse
from trained_models.results import kept
from trained_models.store import trained

DIGITS = {"perplexity": 2, "load_entropy": 3, "largest_load": 2, "n_unused": 1}
DIGITS |= {"self_coupling": 3, "gain_bits": 3, "overlap": 3}


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
    rows = {}
    for name in data["recipe"].values.tolist():
        one = data.sel(recipe=name)
        of_layers = {v: one[v].mean("layer") if "layer" in one[v].dims else one[v] for v in DIGITS}
        rows[LABELS[name]] = {v: told(values, DIGITS[v]) for v, values in of_layers.items()}
        if name != "none":
            bare = data.sel(recipe="none")
            for v, digits in (("perplexity", 2), ("self_coupling", 3)):
                change = one[v] - bare[v]
                if "layer" in change.dims:
                    change = change.mean("layer")
                rows[LABELS[name]][f"{v} - that of nothing"] = told(change, digits)
    return rows


def main(study: ModelStudy) -> None:
    """Train, measure, draw, and conclude."""
    data = kept(study, __file__, lambda: whole(trained(study.store, ARMS)))
    study.draw("way.png", way_figure(data))
    study.draw("end.png", end_figure(data))
    layers = {
        LABELS[name]: {
            int(layer): told(data["self_coupling"].sel(recipe=name, layer=layer), 3)
            for layer in data["layer"].values
        }
        for name in data["recipe"].values.tolist()
    }
    study.conclude({"arms": table(data), "self_coupling_by_layer": layers})


if __name__ == "__main__":
    main(parse(__doc__, __file__))
