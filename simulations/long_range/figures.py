"""Figures of the study."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from flow import solution
from matplotlib.figure import Figure

__all__ = ["inverse_square_figure", "short_range_figure"]


def _colours(n: int) -> np.ndarray:
    return plt.get_cmap("viridis")(np.linspace(0, 0.9, n))


def inverse_square_figure(data: xr.Dataset, flow: dict[str, Any]) -> Figure:
    """2 K <m^2> against the length, and against the coupling."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    K_c, a, b, c0, c1 = flow["parameters"]
    sizes = data["n_sites"].values
    fine = np.linspace(np.log(sizes[0]), np.log(4 * sizes[-1]), 200)
    helicity, error = 2 * data["K"] * data["square"], 2 * data["K"] * data["square_error"]
    for colour, K in zip(_colours(data.sizes["K"]), data["K"].values, strict=True):
        t = K - K_c
        left.errorbar(
            sizes, helicity.sel(K=K), error.sel(K=K), fmt="o", ms=4, color=colour, label=f"{K:.3f}"
        )
        line = 1 + solution(np.full_like(fine, a * t + b * t**2), fine + c0 + c1 * t)
        left.plot(np.exp(fine), line, "-", lw=1, color=colour)
    critical = 1 + solution(np.zeros_like(fine), fine + c0)
    left.plot(np.exp(fine), critical, "k--", lw=1, label=f"$K_c$ = {K_c:.4f}")
    left.axhline(1, color="0.6", lw=0.8)
    left.set(xscale="log", xlabel="sites $L$", ylabel="$2K\\langle m^2\\rangle$")
    left.legend(title="$K$", frameon=False, fontsize=8, ncols=2)

    for colour, n in zip(_colours(len(sizes)), sizes, strict=True):
        right.errorbar(
            data["K"],
            helicity.sel(n_sites=n),
            error.sel(n_sites=n),
            fmt="o-",
            ms=3,
            lw=1,
            color=colour,
            label=f"$2^{{{int(np.log2(n))}}}$",
        )
    right.axhline(1, color="0.6", lw=0.8)
    right.axvline(K_c, ls="--", color="k", lw=1)
    right.set(xlabel="coupling $K = J/T$", ylabel="$2K\\langle m^2\\rangle$")
    right.legend(title="sites", frameon=False, fontsize=8)
    return figure


def short_range_figure(data: xr.Dataset) -> Figure:
    """Order and cumulant at alpha = 2.5."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    names = ("order_parameter", "binder_cumulant")
    labels = ("$\\langle |m| \\rangle$", "Binder cumulant")
    for axis, name, label in zip(axes, names, labels, strict=True):
        for colour, n in zip(_colours(data.sizes["n_sites"]), data["n_sites"].values, strict=True):
            row = data.sel(n_sites=n)
            axis.errorbar(
                row["K"],
                row[name],
                row[f"{name}_error"],
                fmt="o-",
                ms=3,
                lw=1,
                color=colour,
                label=f"{n}",
            )
        axis.set(xlabel="coupling $K = J/T$", ylabel=label)
    axes[0].legend(title="sites", frameon=False, fontsize=8)
    return figure
