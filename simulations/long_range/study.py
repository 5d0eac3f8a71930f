"""The power-law Ising chain: where it orders, and where it cannot.

Energy -J sum s_i s_j / r^alpha over the pairs of a ring, each at its shorter distance.
Three parts: 1 < alpha < 2 from crossings of the Binder cumulant; alpha = 2 from the flow of
K <m^2> with the length; alpha = 2.5, which never orders.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.special import gamma, zeta

import isingmoe as im

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import Study, parse
from crossings import critical_coupling, follow
from figures import critical_figure, inverse_square_figure, short_range_figure
from flow import fit_flow
from rings import ring, sample
from speed import time_per_site

PUBLISHED = 0.6552, 0.0002
# At criticality, where fluctuations are those of mean field (alpha <= 3/2): Brezin and
# Zinn-Justin, Nucl. Phys. B 257, 867 (1985).
MEAN_FIELD_BINDER = 1 - gamma(0.25) ** 4 / (24 * np.pi**2)


def described(data: xr.Dataset) -> xr.Dataset:
    """With long names and units."""
    names = {
        "binder_cumulant": "Binder cumulant 1 - <m^4>/(3 <m^2>^2)",
        "order_parameter": "mean modulus of the magnetization",
        "square": "second moment of the magnetization",
    }
    for name, long_name in names.items():
        data[name].attrs = {"long_name": long_name, "units": "1"}
        data[f"{name}_error"].attrs = {"long_name": f"error of the {long_name}", "units": "1"}
    data["time"].attrs = {"long_name": "autocorrelation time of m^2", "units": "sweep"}
    data["n_sites"].attrs = {"long_name": "sites of the ring", "units": "site"}
    data["K"].attrs = {"long_name": "coupling over the temperature", "units": "1"}
    return data


def between(study: Study) -> xr.Dataset:
    """1 < alpha < 2: Binder cumulants about the crossings, stored alpha by alpha."""
    alphas = np.round(np.arange(1.1, 2.0, 0.1), 1)
    options = {"sizes": tuple(2**k + 1 for k in range(8, 17, 2)), "n_samples": 5000}
    if study.quick:
        alphas, options = alphas[[3, 7]], {"sizes": (65, 257, 513), "n_samples": 1500}
    data = im.sweep(
        follow,
        ring(1.0, 65, 1.5),
        alpha=alphas,
        options=options,
        seed=study.seed,
        path=study.output / "binder.nc",
    )
    return described(data)


def inverse_square(study: Study) -> xr.Dataset:
    """Alpha = 2: the flow of K <m^2>."""
    K = np.array([0.645, 0.65, 0.655, 0.66, 0.665])
    sizes, work = [2**k for k in range(8, 20, 2)], 1.5e6
    if study.quick:
        K, sizes, work = K[::2], [2**6, 2**8, 2**10], 2e4
    # Fewer samples of longer chains, but more work: there the flow has got furthest.
    samples = [int(min(work / n**0.5, 270 * work / n)) for n in sizes]
    runs = [
        sample(K, n, 2.0, count, (study.seed, 20)) for n, count in zip(sizes, samples, strict=True)
    ]
    return described(xr.concat(runs, "n_sites").assign_coords(n_sites=sizes))


def short_range(study: Study) -> xr.Dataset:
    """Alpha = 2.5: longer chains lose what order shorter ones seem to have."""
    K = np.linspace(0.4, 2.0, 17)
    sizes, n_samples = [2**k for k in range(6, 15, 2)], 2500
    if study.quick:
        K, sizes, n_samples = K[::4], [32, 64], 500
    runs = [sample(K, n, 2.5, n_samples, (study.seed, 25)) for n in sizes]
    return described(xr.concat(runs, "n_sites").assign_coords(n_sites=sizes))


def main() -> None:
    """Run the parts, draw them and write the summary."""
    study = parse(__doc__, __file__)
    binder = between(study)
    square = study.cached("inverse_square.nc", lambda: inverse_square(study))
    disordered = study.cached("short_range.nc", lambda: short_range(study))
    speed = study.cached("speed.nc", lambda: time_per_site(ring, study.quick))

    rng = np.random.default_rng(study.seed)
    alphas = binder["alpha"].values
    table = [critical_coupling(binder.sel(alpha=alpha), rng) for alpha in alphas]
    flow = fit_flow(square)
    study.draw("critical.png", critical_figure(binder, table, flow, MEAN_FIELD_BINDER))
    study.draw("inverse_square.png", inverse_square_figure(square, flow))
    study.draw("short_range.png", short_range_figure(disordered))
    largest = disordered.isel(n_sites=-1)
    study.conclude(
        {
            "critical": {
                str(alpha): {
                    **{name: round(value, 6) for name, value in row.items()},
                    "T_c": round(1 / row["K_c"], 4),
                    "K_c_over_mean_field": round(2 * zeta(alpha) * row["K_c"], 5),
                }
                for alpha, row in zip(alphas.tolist(), table, strict=True)
            },
            "mean_field_binder": round(MEAN_FIELD_BINDER, 6),
            "inverse_square": {
                "published": PUBLISHED[0],
                "published_error": PUBLISHED[1],
                **{name: round(float(flow[name]), 6) for name in flow if np.ndim(flow[name]) == 0},
            },
            "short_range_order_parameter_at_K_1": float(largest["order_parameter"].interp(K=1.0)),
            "speed": {
                str(int(n)): round(float(value), 2)
                for n, value in zip(speed["n_sites"], speed["time"], strict=True)
            },
        }
    )


if __name__ == "__main__":
    main()
