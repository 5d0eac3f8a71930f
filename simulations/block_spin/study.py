"""Block spins: decimation of nearest-neighbour chains, and block averages of many kinds."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import figures
from blocks import N_LAGS, exact_blocks, fitted_length, measured, second_moment_length
from common import Study, parse
from decimation import about, decimation, examples, flow, zero_field_deviation
from texts import Size, Texts, real, simulated

import isingmoe as im

FULL = Size(n_sets=24, n_texts=32, n_tokens=4096)
QUICK = Size(n_sets=6, n_texts=4, n_tokens=512)
FACTORS = [1, 2, 4, 8, 16, 32, 64]

# A length grows with the block if it is so many times larger at the largest block at which
# it is known than at single tokens, and the intervals of the two do not meet.
GROWS = 1.5


def provenance(study: Study, **choices: object) -> dict[str, str]:
    """What a Dataset says of where it comes from."""
    record = {"study": "simulations/block_spin", "version": im.__version__, "seed": study.seed}
    return {"provenance": json.dumps(record | choices)}


def decimate(study: Study) -> xr.Dataset:
    """Decimate the examples, and follow Ising chains towards their fixed points."""
    chains = examples(np.random.default_rng(study.seed))
    result = decimation(chains, FACTORS)
    b = 2 ** np.linspace(0, 7, 57)
    fields = np.array([-0.3, -0.1, -0.03, -0.01, -0.002, 0, 0.002, 0.01, 0.03, 0.1, 0.3])
    lines = np.array([flow(2.0, h, b) for h in fields])
    dims = ("start_field", "factor")
    result["flow_J"] = (dims, lines[:, 0], about("coupling of the sites left", "1"))
    result["flow_h"] = (dims, lines[:, 1], about("field of the sites left", "1"))
    result["zero_field_deviation"] = (
        (),
        zero_field_deviation(1.5, FACTORS),
        about("largest deviation of the length at tanh K' = tanh^b K", "1"),
    )
    return result.assign_attrs(provenance(study)).assign_coords(
        start_field=("start_field", fields, about("field before", "1")),
        factor=("factor", b, about("sites before for one left", "1")),
    )


def measure(
    kinds: dict[str, Texts], largest: int, study: Study, stream: int, **choices: object
) -> xr.Dataset:
    """Block averages of several kinds of text, over (kind, centre, block)."""
    factors = [2**k for k in range(largest.bit_length())]
    seeds = np.random.SeedSequence([study.seed, stream]).spawn(len(kinds))
    rows = [
        measured(texts, factors, seed) for texts, seed in zip(kinds.values(), seeds, strict=True)
    ]
    result = xr.concat(rows, xr.Variable("kind", list(kinds)), combine_attrs="override")
    result["label"] = ("kind", [texts.label for texts in kinds.values()])
    result["group"] = ("kind", [texts.group for texts in kinds.values()])
    result["n_sets"] = ("kind", [len(texts.sets) for texts in kinds.values()])
    names = {"label": "name in figures", "group": "panel of the figures", "n_sets": "sets of texts"}
    for name, long_name in names.items():
        result[name].attrs = about(long_name, "1")
    result["kind"].attrs = about("kind of text", "1")
    return result.assign_attrs(provenance(study, **choices))


def exact_lengths(factors: list[int]) -> xr.Dataset:
    """What both estimators give without noise for the Ising chain, from all lags, in tokens."""
    exact = im.solve(im.IsingChain(J=1.0, n_sites=None), max_distance=(N_LAGS + 1) * max(factors))
    values = np.empty((2, len(factors)))
    for j, b in enumerate(factors):
        curve = exact_blocks(exact["correlation"].values, b)
        seen = int((curve > 1e-8 * curve[0]).sum()) - 1
        for i, estimate in enumerate((fitted_length, second_moment_length)):
            values[i, j] = b * estimate(curve[None], np.ones(len(curve)), seen)[0]
    return xr.Dataset(
        {
            "fitted_length": ("block", values[0], about("fitted length", "token")),
            "second_moment_length": ("block", values[1], about("second-moment length", "token")),
        },
        coords={"block": ("block", factors, about("tokens in a block", "token"))},
    )


def verdict(row: xr.Dataset, name: str) -> dict:
    """Lengths of one kind over the block size, and whether they grow."""
    value, low, high = (row[name + end].values for end in ("", "_low", "_high"))
    known = np.flatnonzero(~np.isnan(value))
    block = row["block"].values
    result: dict = {
        "tokens": {str(int(block[j])): number(value[j]) for j in known},
        "interval": {str(int(block[j])): [number(low[j]), number(high[j])] for j in known[[0, -1]]}
        if len(known)
        else {},
        "grows": None,
    }
    if len(known) < 2:
        return result
    first, last = known[0], known[-1]
    grows = bool(value[last] > GROWS * value[first] and low[last] > high[first])
    blocks = [number(value[j] / block[j]) for j in (first, last)]
    return result | {"blocks_first_and_last": blocks, "grows": grows}


def number(value: float) -> float | str:
    """Of a summary: JSON knows no infinity."""
    return round(float(value), 3) if np.isfinite(value) else "inf"


def describe(data: xr.Dataset) -> dict:
    """What the README says of every kind of text."""
    estimates = ("fitted_length", "second_moment_length")
    return {
        str(row["label"].values): {
            "own_length": float(row["own_length"]),
            **{
                f"{name}, {centre}": verdict(row.sel(centre=centre), name)
                for name in estimates
                for centre in data["centre"].values
            },
        }
        for kind in data["kind"].values
        for row in [data.sel(kind=kind)]
    }


def main() -> None:
    """Run the study."""
    study = parse(__doc__, __file__)
    size = QUICK if study.quick else FULL
    left = study.cached("decimation.nc", lambda: decimate(study))
    chains = study.cached(
        "simulated.nc",
        lambda: measure(simulated(size, study.seed), size.largest_block, study, 1, **asdict(size)),
    )
    text = study.cached("example_traces.nc", lambda: measure(real(study.seed), 64, study, 2))
    exact = exact_lengths(chains["block"].values.tolist())
    study.draw("decimation.png", figures.decimation(left))
    study.draw("lengths.png", figures.lengths(chains, text, exact))
    study.draw("curves.png", figures.curves(chains, text))
    study.conclude(
        {
            "decimation": {
                "largest_length_deviation": float(left["length_deviation"].max()),
                "largest_correlation_deviation": float(left["correlation_deviation"].max()),
                "largest_marginal_deviation": float(left["marginal_deviation"].max()),
                "zero_field_deviation": float(left["zero_field_deviation"]),
                "whole_length": {
                    str(name): float(xi)
                    for name, xi in zip(left["chain"].values, left["whole_length"], strict=True)
                },
            },
            "exact_second_moment_of_ising": {
                str(int(b)): round(float(xi), 3)
                for b, xi in zip(exact["block"], exact["second_moment_length"], strict=True)
            },
            "simulated": describe(chains),
            "example_traces": describe(text),
        }
    )


if __name__ == "__main__":
    main()
