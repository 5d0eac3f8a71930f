"""How the activation rates of experts depend on the position in the text.

Small models, trained, untrained and ruled by chance; with --model pretrained ones, with --traces
what was captured before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "simulations"))
from figures import bits_figure, rates_figure
from trained_models.exchanging import exchanged
from trained_models.intervals import over_layers, significant, told
from trained_models.options import ModelStudy, parse
from trained_models.results import kept
from trained_models.subjects import Stack, each_seed, look_at

import isingmoe as im

PARTS = {
    "whole text": "",
    "windows that open no speech": "_inside",
    "after the first tokens": "_later",
    "after what all texts begin with": "_apart",
    "experts drawn among tokens of the same id": "_of_ids",
}
DRIFTS = ("layer_drift_bits", "layer_drift_bits_null", "layer_drift_p_value")


def drift(stack: Stack) -> xr.Dataset:
    """Activation over position, of all tokens, of some, and of the ids of the tokens alone."""
    whole = im.activation(stack.traces)
    length = whole.attrs["block_length"]
    parts = dict.fromkeys(("inside", "apart", "of_ids"), whole[list(DRIFTS)].where(False))
    later = without_beginning(stack.traces, length)
    parts["later"] = im.activation(later, block_length=length)
    if stack.is_inside is not None and stack.is_inside.sum() > 1:
        inside = stack.traces.isel(sequence=stack.is_inside)
        parts["inside"] = im.activation(inside, block_length=length)
    n_common, own = 0, float("nan")
    if knows_ids(stack.traces):
        n_common = common_beginning(stack.traces["token_id"].values)
        rest, parts["apart"] = stack.traces, whole
        if n_common:
            rest = without_beginning(stack.traces, n_common)
            parts["apart"] = im.activation(rest, block_length=length)
        parts["of_ids"] = im.activation(exchanged(rest, 0), block_length=length)
        own = share_of_own(rest["token_id"].values)
    moving = (whole["uniformity_q_value"] < 0.05).mean("expert")
    entropy = im.load_balance(stack.traces)["load_entropy"] / np.log(2)
    about = "share of the experts that drift, false discovery rate 5 %"
    # Blocks of different models start at different positions.
    return (
        whole.reset_coords("block_start")
        .assign({f"{name}_{when}": part[name] for when, part in parts.items() for name in DRIFTS})
        .assign(
            drifting=moving.assign_attrs(long_name=about, units="1"),
            load_bits=entropy.assign_attrs(long_name="entropy of the load", units="bit"),
            n_common=((), n_common, {"long_name": "tokens that nearly all texts begin with"}),
            own_share=(
                (),
                own,
                {"long_name": "tokens that get their own experts, if drawn among equal ids"},
            ),
        )
    )


def without_beginning(traces: xr.Dataset, n_tokens: int) -> xr.Dataset:
    """Sequences without their first tokens; those that have no others are left out."""
    length = traces["length"] - n_tokens
    start = traces.get("start_position", xr.zeros_like(length)) + n_tokens
    rest = traces.isel(position=slice(n_tokens, None)).assign(length=length, start_position=start)
    return rest.isel(sequence=np.flatnonzero(length.values > 0))


def common_beginning(token_id: np.ndarray, share: float = 0.9) -> int:
    """Leading tokens, of ids (sequence, position), that nearly all texts have in common."""
    for place, column in enumerate(token_id.T):
        known = column[column >= 0]
        if not known.size or np.unique(known, return_counts=True)[1].max() < share * known.size:
            return place
    return token_id.shape[1]


def share_of_own(token_id: np.ndarray) -> float:
    """Tokens that are expected to stay where they are in an exchange among equal ids: one of each.

    Of all tokens, of ids (sequence, position).
    """
    known = token_id[token_id >= 0]
    return np.unique(known).size / known.size


def knows_ids(traces: xr.Dataset) -> bool:
    """Whether all tokens have an id."""
    known = traces["token_id"] >= 0 if "token_id" in traces else xr.zeros_like(traces["length"])
    return int(known.sum()) == int(traces["length"].sum())


def told_of(one: xr.Dataset, tell: Any, tell_p: Any) -> dict[str, str]:
    """A row of the table: what was measured on a model, or on one of its layers."""
    row = {}
    for when, suffix in PARTS.items():
        row |= {
            f"drift (millibit), {when}": tell(1000 * one[f"layer_drift_bits{suffix}"], 2),
            f"95 % quantile without drift, {when}": tell(
                1000 * one[f"layer_drift_bits_null{suffix}"], 2
            ),
            f"p, {when}": tell_p(one[f"layer_drift_p_value{suffix}"]),
        }
    return row | {
        "share of the experts that drift": tell(one["drifting"], 3),
        "entropy of the load (bit)": tell(one["load_bits"], 2),
        "tokens that all texts begin with": tell(one["n_common"], 0),
        "share of the tokens that get their own experts": tell(one["own_share"], 3),
    }


def small_models(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """Means over layers with intervals over seeds."""
    rows = {}
    for name in data["subject"].values.tolist():
        one = data.sel(subject=name)
        rows[one["label"].item()] = told_of(
            one,
            lambda values, digits: told(over_layers(values), digits),
            lambda p_value: f"below 0.05 in {significant(p_value)}",
        )
    return rows


def of_layers(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """A row for each layer of one model."""
    return {
        f"layer {layer}": told_of(
            data.sel(layer=layer),
            lambda value, digits: f"{value.item():.{digits}f}",
            lambda p_value: f"{p_value.item():.2g}",
        )
        for layer in data["layer"].values
    }


def main(study: ModelStudy) -> None:
    """Capture, measure, draw, and conclude."""
    if not study.pretrained:
        data = kept(study, __file__, lambda: each_seed(study.store, drift))
        study.draw("rates.png", rates_figure(data))
        study.draw("bits.png", bits_figure(data))
        study.conclude(small_models(data))
        return
    for pretrained in study.pretrained:
        for name, data in look_at(pretrained, drift).items():
            study.save(f"{name}.nc", data)
            layer = int(data["layer_drift_bits"].idxmax())
            study.draw(f"{name}.png", im.plot_rates(data, layer).figure)
            study.conclude(of_layers(data), f"{name}.json")


if __name__ == "__main__":
    main(parse(__doc__, __file__, takes_pretrained=True))
