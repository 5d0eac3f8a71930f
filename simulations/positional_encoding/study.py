"""Does it show in the routing how a model knows the position of its tokens.

Small OLMoE models with rotary, no, sinusoidal, learned and linear-bias encodings of position:
perplexity, rates of the experts over the position, probes of the position, couplings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from arms import ARMS, LABELS
from figures import position_figure, rate_figure
from positions import measured_of
from trained_models.intervals import over_layers, significant, told
from trained_models.options import ModelStudy, parse
from trained_models.results import kept
from trained_models.store import Store, measured_of_each

DIGITS = {"perplexity": 2, "drift_bits": 5, "drifting": 2, "self_coupling": 3}
INPUTS = {"hidden_state": "router's input", "expert_index": "choice"}


def measured(store: Store) -> xr.Dataset:
    """What is measured of every model, (recipe, seed, ..); those not there are trained."""
    data = measured_of_each(store, ARMS, measured_of)
    return data.assign_coords(label=("recipe", [LABELS[arm.name] for arm in ARMS]))


def table(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """Means over layers with intervals over seeds, and paired differences to RoPE."""
    base = data.sel(recipe="olmoe")
    rows = {}
    for name, label in LABELS.items():
        one = data.sel(recipe=name)
        rows[label] = {v: told(over_layers(one[v]), digits) for v, digits in DIGITS.items()}
        if name != "olmoe":
            rows[label] |= {
                f"{v} - that of RoPE": told(over_layers(one[v] - base[v]), digits)
                for v, digits in DIGITS.items()
            }
        for read, spoken in INPUTS.items():
            probe = one.sel(input=read)
            for target in data["target"].values.tolist():
                told_of = probe["accuracy"].sel(target=target)
                shifted = probe["control_accuracy"].sel(target=target, control="shifted")
                title = f"{target} from the {spoken}"
                rows[label][title] = told(over_layers(told_of), 3)
                rows[label][f"{title}, above shifted"] = told(over_layers(told_of - shifted), 3)
    return rows


def by_layer(data: xr.Dataset) -> dict[str, dict[str, dict[str, str]]]:
    """Drift, probes and coupling of each layer."""
    target = next(name for name in data["target"].values.tolist() if name != "parity")
    accuracy = data["accuracy"].sel(target=target)
    shown = {
        "drift_bits": (data["drift_bits"], 5),
        **{f"{target}, {INPUTS[read]}": (accuracy.sel(input=read), 3) for read in INPUTS},
        "self_coupling": (data["self_coupling"], 3),
    }
    return {
        label: {
            title: {
                str(layer): told(values.sel(recipe=name, layer=layer), digits)
                for layer in data["layer"].values.tolist()
            }
            for title, (values, digits) in shown.items()
        }
        for name, label in LABELS.items()
    }


def counts(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """In how many layers of all seeds p is below 0.05."""
    found = {}
    for name, label in LABELS.items():
        one = data.sel(recipe=name)
        found[label] = {"rates drift": significant(one["drift_p_value"])}
        for read, spoken in INPUTS.items():
            for target in data["target"].values.tolist():
                p = one["p_value"].sel(input=read, target=target)
                found[label][f"{target} from the {spoken}"] = significant(p)
    return found


def main(study: ModelStudy) -> None:
    """Train, measure, draw, and conclude."""
    # Prepared once, to be sent to every process.
    _ = study.store.text
    data = kept(study, __file__, lambda: measured(study.store))
    study.draw("rates.png", rate_figure(data))
    study.draw("position.png", position_figure(data))
    study.conclude(
        {"encodings": table(data), "by layer": by_layer(data), "p below 0.05": counts(data)}
    )


if __name__ == "__main__":
    main(parse(__doc__, __file__))
