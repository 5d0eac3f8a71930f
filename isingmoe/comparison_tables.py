"""A comparison as tables for a terminal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from rich.console import RenderableType

from isingmoe._text import interval, number, p_text, plain, report, with_errors
from isingmoe.neighbours import overlap_columns

__all__ = ["tables"]

_LAW_NAMES = {
    "exponential": "exponential",
    "power-law": "power law",
    "stretched": "stretched",
    "exponential+constant": "exp. + constant",
    "two-exponentials": "two exponentials",
}
# Share of false discoveries among the experts whose rates are said to drift.
_LEVEL = 0.05


def tables(data: xr.Dataset) -> list[RenderableType]:
    """Everything that is said of a comparison.

    Parameters
    ----------
    data : Dataset
        Of a `Comparison`.

    Returns
    -------
    list
        What rich prints.
    """
    shown = [*_fitted(data)]
    for part in (_judged(data), _equilibrium(data), _neighbours(data)):
        if part:
            shown += ["", *part]
    return shown


def _fitted(data: xr.Dataset) -> tuple[RenderableType, ...]:
    held_out = "held_out_bits" in data
    score = data["held_out_bits" if held_out else "bits_per_token"]

    def lengths(centre: str) -> list[str]:
        row = data.sel(centre=centre)
        names = ("correlation_length", "correlation_length_low", "correlation_length_high")
        return _intervals(row, names)

    def gain(name: str) -> list[str]:
        return [number(v) for v in (data[name] - score).values]

    columns: dict[str, Any] = {
        "layer": data["layer"].values,
        "self-coupling J": with_errors(
            data["self_coupling"].values, data["self_coupling_error"].values
        ),
        "spread": [number(v, 2) for v in data["J_spread"].values],
        "ξ chain": [number(v, 2) for v in data["predicted_length"].values],
        "ξ measured": lengths("global"),
        "ξ within texts": lengths("sequence") if "sequence" in data["centre"] else [],
        "KL": [number(v, 4) for v in data["kl"].values],
        "bits/token": [number(v) for v in score.values],
        "vs load": gain("held_out_bits_load" if held_out else "bits_load"),
        "vs uniform": gain("bits_uniform"),
    }
    columns = {name: column for name, column in columns.items() if len(column)}
    a = data.attrs
    title = (
        f"{plain(a['model'])}: {a['chain']} chain, coupling {a['coupling']}, field "
        f"{a['field']}; {a['n_sequences']} sequences, {a['n_tokens']} tokens"
    )
    scored = "bits/token in sample"
    if held_out:
        scored = f"bits/token on held-out sequences ({a['n_folds']} folds)"
    elif not a["same_data"]:
        scored = "bits/token of this fit on these traces, which it was not fitted to"
    lines = [
        f"J at T = 1, zero-sum gauge, ± standard error ({a['uncertainty']}); ξ in tokens with "
        "a 95 % bootstrap interval, by the decay of C(d); KL of the load from uniform in nats;",
        f"{scored}; vs load, vs uniform: bits gained over independent tokens with the same "
        "load, and over a uniform router.",
    ]
    if a["chain"] == "ising":
        lines.append(
            "ising: ξ chain by the decay of the summed C(d); bits summed over on/off chains."
        )
    return report(title, columns, lines)


def _judged(data: xr.Dataset) -> tuple[RenderableType, ...]:
    """Whether the chain can be what was measured."""
    columns: dict[str, Any] = {}
    notes = []
    if "discrepancy_p_value" in data:
        smallest = 1 / (data.sizes["simulation"] + 1)
        columns["chain holds"] = [p_text(p, smallest) for p in data["discrepancy_p_value"].values]
        notes.append(
            "chain holds: chance of as large a discrepancy of C(d) if the chain were right, by "
            f"{data.sizes['simulation']} simulated data sets."
        )
    if "ck_p_value" in data:
        smallest = 1 / (data["ck_p_value"].attrs["n_simulations"] + 1)
        columns["P(d) = P(1)^d"] = [p_text(p, smallest) for p in data["ck_p_value"].values]
        notes.append("P(d) = P(1)^d: the same of the Chapman-Kolmogorov test of primary experts.")
    if not columns and "law_weight" not in data:
        return ()
    furthest = data["z"].sel(centre="global").isel(distance=slice(1, None))
    columns["largest z"] = [_largest(row) for row in furthest.transpose("layer", "distance")]
    row = data.sel(estimator="second-moment")
    names = ("length", "length_low", "length_high")
    columns["ξ 2nd moment"] = _intervals(row, names)
    names = ("length_ratio", "length_ratio_low", "length_ratio_high")
    columns["ξ measured / chain"] = _intervals(data.sel(estimator="exponential"), names)
    notes.append(
        "largest z: of measured less predicted C(d), and the distance; ξ measured / chain: by the "
        "decay of C(d) over that of the chain."
    )
    if "law_weight" in data:
        columns["decay law (weight)"] = _laws(data["law_weight"])
        notes.append("decay law: of five the one with the largest Akaike weight.")
    columns = {"layer": data["layer"].values, **columns}
    return report("Chain and measurement", columns, notes)


def _laws(weight: xr.DataArray) -> list[str]:
    names = weight["law"].values.tolist()
    found = []
    for row in weight.transpose("layer", "law").values:
        if np.isnan(row).all():
            found.append("–")
            continue
        best = int(np.nanargmax(row))
        found.append(f"{_LAW_NAMES[names[best]]} ({row[best]:.2f})")
    return found


def _largest(z: xr.DataArray) -> str:
    """The largest of some z-scores, and where it stands."""
    values = z.values
    if np.isnan(values).all():
        return "–"
    at = int(np.nanargmax(np.abs(values)))
    return f"{values[at]:+.1f} (d = {int(z['distance'][at])})"


def _equilibrium(data: xr.Dataset) -> tuple[RenderableType, ...]:
    """The load beside its maximum-entropy equilibrium, and over the text."""
    columns: dict[str, Any] = {}
    notes = []
    if "mem_state" in data:
        columns |= {
            "load": data["mem_state"].values.tolist(),
            "p": [p_text(p) for p in data["mem_p_value"].values],
            "experts in effect": [number(v, 1) for v in np.exp(data["load_entropy"].values)],
            "U": [number(v) for v in data["energy"].values] if "energy" in data else [],
            "S": [number(v) for v in data["entropy"].values] if "energy" in data else [],
            "F = U - S": [number(v) for v in data["free_energy"].values]
            if "energy" in data
            else [],
            "ranges owned": data["n_owners"].values.tolist(),
        }
        notes.append(
            "p: of the load, for a uniform router; experts in effect: exp(entropy); U, S, F: "
            "energy, entropy and free energy of the chain at this load, nat per token, T = 1;"
        )
        notes.append("ranges owned: experts that have most tokens of a range of positions.")
    if "layer_drift_p_value" in data:
        drifting = (data["uniformity_q_value"] < _LEVEL).sum("expert").values
        columns |= {
            "rates drift": [p_text(p) for p in data["layer_drift_p_value"].values],
            "bits": [f"{v:.2g}" for v in data["layer_drift_bits"].values],
            "experts that do": [f"{n} of {data.sizes['expert']}" for n in drifting],
        }
        notes.append(
            "rates drift: chance of as much if rates were the same at all positions; bits: what "
            f"the position tells of a token's experts; those that do at a rate of {_LEVEL:.0%} of "
            "false discoveries."
        )
    columns = {name: column for name, column in columns.items() if len(column)}
    if not columns:
        return ()
    return report("Equilibrium", {"layer": data["layer"].values.tolist(), **columns}, notes)


def _neighbours(data: xr.Dataset) -> tuple[RenderableType, ...]:
    if "overlap" not in data:
        return ()
    columns, note = overlap_columns(data, "overlap_distance")
    return report("Neighbouring tokens", columns, [note])


def _intervals(row: xr.Dataset, names: tuple[str, str, str]) -> list[str]:
    triples = zip(*(row[name].values for name in names), strict=True)
    return [interval(*triple) if not math.isnan(triple[0]) else "–" for triple in triples]
