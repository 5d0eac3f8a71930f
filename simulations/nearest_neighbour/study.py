"""Nearest-neighbour chains: exact maps over coupling and field, and Monte Carlo on them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import figures
from common import Study, parse
from models import MODELS, Model, field_lines, named, of_one_expert, sampled

import isingmoe as im

N_SITES = 128
# Monte Carlo points on a line, and how many times as many places the line itself has.
POINTS = 12
FINER = {"J": 5, "h": 10}
LARGEST_FIELD = 8.0
QUANTITIES = ("neighbour_length", "magnetization", "susceptibility")


def exact_map(model: Model, study: Study) -> xr.Dataset:
    """Solve the infinite chain over coupling and field, fields crowding about zero."""
    n_J, n_h = (7, 9) if study.quick else (49, 65)
    J = model.unit * np.linspace(0, model.strongest, n_J)
    h = model.unit * bunched(LARGEST_FIELD, 0.005, n_h)
    exact = im.sweep(
        im.solve,
        model.chain(None),
        options={"max_distance": 1},
        n_workers=workers(study),
        J=J,
        h=h,
    )
    return of_one_expert(model, exact)


def workers(study: Study) -> int | None:
    """One process for a toy run, which is over before others have started."""
    return 1 if study.quick else None


def bunched(largest: float, width: float, n: int) -> np.ndarray:
    """Numbers from -largest to largest, evenly spaced on a scale that is linear below width."""
    return width * np.sinh(np.linspace(-1, 1, n) * np.arcsinh(largest / width))


def cut(model: Model, along: str, study: Study) -> xr.Dataset:
    """Lines through the surfaces of a ring, and Monte Carlo points on them.

    Along J the samples are independent, by `Exact`; along h they are made by `HeatBath`.
    """
    points, finer = (3, 1) if study.quick else (POINTS, FINER[along])
    n = (points - 1) * finer + 1
    if along == "J":
        J = np.linspace(model.coupling_of_length(0.4), model.coupling_of_length(8), n)
        h = model.unit * np.array([0, 0.1])
        algorithm, n_sweeps = im.Exact(), 1
    else:
        J = np.array([model.coupling_of_length(1), model.coupling_of_length(2)])
        h = model.unit * bunched(2.0, 0.1, n)
        algorithm, n_sweeps = im.HeatBath(), 10
    lines = im.sweep(
        im.solve,
        model.chain(N_SITES),
        options={"max_distance": 1},
        n_workers=workers(study),
        J=J,
        h=h,
    )
    lines = of_one_expert(model, lines).drop_vars("equal_neighbours")
    runs = im.sweep(
        sampled,
        model.chain(N_SITES),
        options={
            "algorithm": algorithm,
            "n_samples": 50 if study.quick else 500,
            "n_replicas": 4 if study.quick else 32,
            "n_sweeps": n_sweeps,
        },
        n_workers=workers(study),
        seed=np.random.SeedSequence([study.seed, MODELS.index(model), along == "h"]),
        **{"J": J, "h": h, along: lines[along].values[::finer]},
    )
    renamed = {str(name): f"{name}_sampled" for name in runs.data_vars}
    runs = named(dict(runs.data_vars), runs.attrs).rename(renamed)
    # A place without a run is NaN.
    both = xr.merge([lines, runs.reindex_like(lines)], combine_attrs="drop_conflicts")
    return both.assign_attrs(
        algorithm=repr(algorithm),
        n_sites=N_SITES,
        provenance=runs.attrs["provenance"],
        provenance_exact=lines.attrs["provenance"],
    )


def z_scores(cuts: xr.Dataset, quantity: str) -> np.ndarray:
    """Deviations of the sampled from the exact values, in their errors."""
    error = cuts[f"{quantity}_error_sampled"].values
    z = (cuts[f"{quantity}_sampled"] - cuts[quantity]).values / np.where(error > 0, error, np.nan)
    return z[np.isfinite(z)]


def describe(model: Model, exact: xr.Dataset, cuts: dict[str, xr.Dataset]) -> dict:
    """What the README says of one chain."""
    length, K = exact["correlation_length"], exact["J"].values / model.unit
    zero_field = length.sel(h=0, method="nearest")
    t = np.expm1(K[1:]) / (np.exp(K[1:]) + model.q - 1)
    place = length.argmax(...)
    boundary = field_lines(model.q, K)["upper"]
    summary = {
        "largest_xi": float(length.max()),
        "largest_xi_at": [float(length[place][name]) for name in ("J", "h")],
        "largest_xi_without_field": float(zero_field.max()),
        "xi_against_closed_form": float(np.abs(zero_field[1:] * -np.log(t) - 1).max()),
        "load_against_closed_form": load_deviation(model, exact),
        "largest_susceptibility": float(exact["susceptibility"].max()),
        "J_of_equal_neighbours_half": model.unit * float(np.log(model.q - 1)),
        "J_of_xi_1": model.coupling_of_length(1),
        "J_of_xi_10": model.coupling_of_length(10),
        "h_upper_line_at_strongest": model.unit * float(boundary[-1]),
    }
    for along, data in cuts.items():
        for quantity in QUANTITIES:
            z = z_scores(data, quantity)
            summary[f"along_{along}_{quantity}"] = {
                "points": len(z),
                "chi_square_per_point": float((z**2).mean()),
                "largest_z": float(np.abs(z).max()),
            }
    return summary


def load_deviation(model: Model, exact: xr.Dataset) -> float:
    """Largest difference of the solved load from that of the space of two states."""
    J, h = exact["J"] / model.unit, exact["h"] / model.unit
    q = model.q
    b = np.sqrt(q - 1) * np.exp(h / 2)
    x = (np.exp(J) * np.expm1(h) - (q - 2)) / (2 * b)
    load = (1 + x / np.sqrt(1 + x**2)) / 2
    return float(np.abs(exact["magnetization"] - (q * load - 1) / (q - 1)).max())


def fits() -> xr.Dataset:
    """Couplings and correlation lengths of the chains fitted to the bundled traces."""
    traces = im.example_traces()
    couplings = ("uniform", "full")
    data = [im.fit(traces, chain="potts", coupling=kind).data for kind in couplings]
    names = ["self_coupling", "self_coupling_error", "correlation_length"]
    both = xr.concat([d[names] for d in data], xr.Variable("coupling", list(couplings)))
    q = int(traces.attrs["num_experts"])
    for name in names[:2]:
        both[name].attrs = {"long_name": "coupling J of J delta(a, b)", "units": "1"}
    both["effective_experts"] = np.exp(entropy(data[-1]["marginal"]))
    both["effective_experts"].attrs = {"long_name": "exp of the entropy of the load", "units": "1"}
    return both.assign_attrs(data[-1].attrs | {"coupling": "uniform and full", "num_experts": q})


def entropy(load: xr.DataArray) -> xr.DataArray:
    """Of a distribution over experts, in nats."""
    p = load.where(load > 0, 1)
    return -(p * np.log(p)).sum("expert")


def main() -> None:
    """Run the study."""
    study = parse(__doc__, __file__)
    maps, cuts = {}, {}
    models = MODELS[:3] if study.quick else MODELS
    for model in models:
        maps[model.name] = study.cached(f"map_{model.name}.nc", lambda m=model: exact_map(m, study))
        cuts[model.name] = {
            along: study.cached(
                f"cut_{along}_{model.name}.nc", lambda m=model, a=along: cut(m, a, study)
            )
            for along in ("J", "h")
        }
    fitted = study.cached("fits.nc", fits)
    study.draw("maps.png", figures.maps(maps))
    for along in ("J", "h"):
        chosen = {name: both[along] for name, both in cuts.items()}
        study.draw(f"cuts_{along}.png", figures.cuts(chosen, along))
    study.draw("lengths.png", figures.lengths(fitted))
    ising, potts = (maps[name]["correlation_length"].values for name in ("ising", "potts_2"))
    correlated = potts > 0
    every = np.concatenate(
        [z_scores(c, name) for both in cuts.values() for c in both.values() for name in QUANTITIES]
    )
    study.conclude(
        {
            "chains": {m.name: describe(m, maps[m.name], cuts[m.name]) for m in models},
            "ising_against_potts_2": float(np.abs(ising[correlated] / potts[correlated] - 1).max()),
            "monte_carlo": {
                "values": len(every),
                "chi_square_per_value": float((every**2).mean()),
                "share_within_one_error": float((np.abs(every) < 1).mean()),
                "largest_z": float(np.abs(every).max()),
            },
            "fits": {
                str(kind): {
                    f"layer_{int(layer)}": {
                        "J": float(row["self_coupling"]),
                        "J_error": float(row["self_coupling_error"]),
                        "xi": float(row["correlation_length"]),
                        "effective_experts": float(row["effective_experts"]),
                    }
                    for layer in fitted["layer"]
                    for row in [fitted.sel(coupling=kind, layer=layer)]
                }
                for kind in fitted["coupling"].values
            },
        }
    )


if __name__ == "__main__":
    main()
