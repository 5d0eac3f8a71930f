"""Order of the transition of Potts chains with power-law couplings.

For q = 3, 8 and 64 states, alpha = 1.8 and growing lengths: the histogram of the energy at the
transition, the energies of its two peaks, the dip between them and the maximum of the specific
heat. README.md says what is seen.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from figures import histogram_figure, noise_figure, scaling_figure
from histograms import BINS, Run, jackknife, peaks

import isingmoe as im

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import Study, parse

ALPHA = 1.8
N_REPLICAS = 8

# Where each chain is sampled: near its transition, as shorter runs of this kind have found it.
# The results are reweighted from there. Then the samples of a replica and the sweeps between.
RUNS = {
    3: {
        128: (1.012, 10_000, 2),
        512: (0.993, 10_000, 2),
        2048: (0.986, 5_000, 2),
        8192: (0.981, 2_000, 2),
    },
    8: {
        128: (1.403, 5_000, 4),
        256: (1.390, 7_500, 4),
        512: (1.381, 8_000, 5),
        1024: (1.375, 11_000, 6),
        2048: (1.3717, 8_000, 8),
    },
    64: {
        16: (2.5, 6_000, 20),
        32: (2.428, 6_000, 30),
        64: (2.376, 10_000, 60),
        128: (2.369, 25_000, 60),
    },
}
QUICK = {
    3: {32: (1.06, 200, 2), 64: (1.03, 200, 2)},
    8: {32: (1.46, 200, 2), 64: (1.43, 200, 4)},
    64: {16: (2.39, 200, 10), 32: (2.395, 200, 10)},
}

# The lengths at which energies are also summed over all pairs of the states, and how many.
CHECKED = {3: 512, 8: 512, 64: 64}
N_CHECKED = 8_000

_OF_TWO_PEAKS = (
    *("disordered", "ordered", "separation", "latent_heat"),
    *("disordered_error", "ordered_error", "separation_error", "latent_heat_error"),
    *("equal_height_at", "equal_height_at_error", "n_passages"),
)


def ring(n_experts: int, n_sites: int, J: float) -> im.PottsChain:
    """A periodic chain with couplings J r**-ALPHA."""
    return im.PottsChain(
        J=J,
        n_experts=n_experts,
        n_sites=n_sites,
        boundary="periodic",
        decay=im.power_law(ALPHA),
    )


def measured(
    chain: im.PottsChain, *, n_samples: dict[int, tuple[int, int]], check: int, seed: Any
) -> xr.Dataset:
    """Sample a chain near its transition and read off the order of it.

    Parameters
    ----------
    chain : PottsChain
    n_samples : dict
        By length, samples of a replica and sweeps between them.
    check : int
        The length at which the energies are compared with sums over all pairs.
    seed : SeedSequence

    Returns
    -------
    Dataset
        Numbers with errors, and histograms (bin,).
    """
    n_sites = int(chain.n_sites or 0)
    samples, sweeps = n_samples[n_sites]
    result = im.simulate(
        chain,
        im.SwendsenWang(),
        n_samples=samples,
        n_sweeps=sweeps,
        n_replicas=N_REPLICAS,
        max_distance=-1,
        keep_states=n_sites == check,
        seed=seed,
    )
    run = Run(
        n_sites=n_sites,
        n_experts=chain.n_states,
        J=float(chain.J),
        total=float(chain.strength.sum()),
        events=np.rint(-result["energy_series"].values * n_sites),
        order=result["order_parameter_series"].values,
    )
    couplings = run.couplings()
    heat = jackknife(run, lambda part: _largest_heat(part, couplings))
    J = heat["specific_heat_at"]
    # From the nearest on, which is kept if there is one peak at all of them.
    distance = np.abs(np.log(couplings / J))
    near = couplings[np.argsort(distance)][: int((distance < 0.03).sum())][::2]
    pair = jackknife(run, lambda part: peaks(part, near))
    ground_state = run.total * J
    numbers = {
        **heat,
        **pair,
        "latent_heat": ground_state * pair["separation"],
        "latent_heat_error": ground_state * pair["separation_error"],
        "n_passages": run.passages(pair["disordered"], pair["ordered"]),
        "n_sweeps": samples * sweeps * N_REPLICAS,
        "autocorrelation_time": float(result["energy_autocorrelation_time"]),
        "effective_share": 1 / ((run.weights(J) ** 2).sum() * run.events.size),
        "noise": 1 / np.sqrt(run.events.mean()) * run.energy(run.J).mean(),
    }
    if pair["barrier"] <= 2 * pair["barrier_error"]:
        numbers |= dict.fromkeys(_OF_TWO_PEAKS, np.nan)
    histograms = {
        "energy_density": run.energy_histogram(J),
        "equal_height_density": run.energy_histogram(pair["equal_height_at"]),
        "order_density": run.order_histogram(J),
        "checked_density": np.full(len(BINS) - 1, np.nan),
        "summed_density": np.full(len(BINS) - 1, np.nan),
    }
    if "state" in result:
        thin = slice(None, None, max(run.events.size // N_CHECKED, 1))
        states = result["state"].values.reshape(-1, n_sites)[thin]
        for name, energy in (
            ("checked_density", run.energy(run.J).ravel()[thin]),
            ("summed_density", _share_of_equal_pairs(states, chain.strength)),
        ):
            histograms[name] = np.histogram(energy, BINS, density=True)[0]
    return xr.Dataset(
        {name: ((), float(value)) for name, value in numbers.items()}
        | {name: ("bin", density) for name, density in histograms.items()},
        coords={"bin": (BINS[1:] + BINS[:-1]) / 2},
    )


def _largest_heat(run: Run, couplings: np.ndarray) -> dict[str, float]:
    heat = np.array([run.specific_heat(J) for J in couplings])
    top = int(heat.argmax())
    if 0 < top < len(heat) - 1:
        near = slice(max(top - 8, 0), top + 9)
        a, b, c = np.polyfit(couplings[near] - couplings[top], heat[near], 2)
        if a < 0:
            shift = np.clip(-b / (2 * a), *(couplings[[top - 1, top + 1]] - couplings[top]))
            return {
                "specific_heat": float(c + shift * (b + a * shift)),
                "specific_heat_at": float(couplings[top] + shift),
            }
    return {"specific_heat": float(heat[top]), "specific_heat_at": float(couplings[top])}


def _share_of_equal_pairs(states: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Energy of each state over that of the ground state, summed over all pairs."""
    total = np.zeros(len(states))
    for r, coupling in enumerate(strength, start=1):
        total += coupling * (states == np.roll(states, r, axis=1)).sum(1)
    return total / (states.shape[1] * strength.sum())


def compute(study: Study) -> xr.Dataset:
    """All chains: numbers and histograms by n_experts and n_sites."""
    parts: list[xr.Dataset] = []
    for n_experts, runs in (QUICK if study.quick else RUNS).items():
        start = {n_sites: J for n_sites, (J, _, _) in runs.items()}
        options = {
            "n_samples": {n_sites: counts for n_sites, (_, *counts) in runs.items()},
            "check": max(runs) if study.quick else CHECKED[n_experts],
        }
        swept = im.sweep(
            measured,
            lambda n_sites, q=n_experts, start=start: ring(q, n_sites, start[n_sites]),
            options=options,
            seed=np.random.SeedSequence([study.seed, n_experts]),
            n_workers=1,
            n_sites=list(runs),
        )
        parts.append(swept.expand_dims(n_experts=[n_experts]))
    data = xr.concat(parts, dim="n_experts", join="outer", combine_attrs="override")
    data["bin"].attrs = {"long_name": "energy over that of the ground state, or order parameter"}
    data["n_sites"].attrs = {"long_name": "sites of the ring", "units": "site"}
    for name, (long_name, units) in _MEANINGS.items():
        data[name].attrs = {"long_name": long_name, "units": units}
        if f"{name}_error" in data:
            data[f"{name}_error"].attrs = {
                "long_name": f"standard error of the {long_name}",
                "units": units,
            }
    return data.assign({name: data[name].astype("float32") for name in _DENSITIES})


_MEANINGS = {
    "specific_heat": ("largest specific heat per site", "k_B"),
    "specific_heat_at": ("coupling J/T of the largest specific heat", "1"),
    "equal_height_at": ("coupling J/T at which the peaks are equally high", "1"),
    "barrier": ("log of the peaks over the dip between, at equal height", "1"),
    "disordered": ("energy of the disordered peak over that of the ground state", "1"),
    "ordered": ("energy of the ordered peak over that of the ground state", "1"),
    "separation": ("distance of the peaks over the energy of the ground state", "1"),
    "latent_heat": ("distance of the peaks per site, over the temperature", "1"),
    "n_passages": ("times that the energy went from one peak to the other", "1"),
    "n_sweeps": ("sweeps measured, all replicas", "1"),
    "autocorrelation_time": ("integrated autocorrelation time of the energy", "sweep"),
    "effective_share": ("effective share of the samples after reweighting", "1"),
    "noise": ("deviation of a counted energy over the energy of the ground state", "1"),
    "energy_density": ("density of the energy at the largest specific heat", "1"),
    "equal_height_density": ("density of the energy at equal height of the peaks", "1"),
    "order_density": ("density of the order parameter at the largest specific heat", "1"),
    "checked_density": ("density of counted energies where sampled", "1"),
    "summed_density": ("density of the same energies summed over all pairs", "1"),
}

_DENSITIES = [name for name in _MEANINGS if name.endswith("_density")]


def summary(data: xr.Dataset) -> dict[str, Any]:
    """The numbers of the README."""
    table = {}
    for n_experts in data["n_experts"].values:
        part = data.sel(n_experts=n_experts).dropna("n_sites", subset=["barrier"])
        largest = part.isel(n_sites=slice(-2, None))
        log_size = np.log(largest["n_sites"].values)
        rows = {
            str(n_sites): {
                str(name): _rounded(float(row[name])) for name in data if name not in _DENSITIES
            }
            for n_sites in part["n_sites"].values
            for row in [part.sel(n_sites=n_sites)]
        }
        heat, error = largest["specific_heat"].values, largest["specific_heat_error"].values
        table[str(n_experts)] = {
            "sizes": rows,
            "specific_heat_exponent": float(np.diff(np.log(heat))[0] / np.diff(log_size)[0]),
            "specific_heat_exponent_error": float(np.hypot(*(error / heat)) / np.diff(log_size)[0]),
        }
    return {"alpha": ALPHA, "n_replicas": N_REPLICAS, "n_experts": table}


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def main() -> None:
    """Sample or read, draw and conclude."""
    study = parse(__doc__, __file__)
    data = study.cached("transition.nc", lambda: compute(study))
    study.draw("histograms.png", histogram_figure(data))
    study.draw("scaling.png", scaling_figure(data))
    study.draw("noise.png", noise_figure(data))
    study.conclude(summary(data))


if __name__ == "__main__":
    main()
