"""Figures of the study."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from flow import solution
from matplotlib.figure import Figure
from scipy.special import zeta

__all__ = ["critical_figure", "inverse_square_figure", "short_range_figure"]


def _colours(n: int) -> np.ndarray:
    return plt.get_cmap("viridis")(np.linspace(0, 0.9, n))


def critical_figure(
    data: xr.Dataset, table: list[dict[str, float]], flow: dict[str, Any], mean_field_binder: float
) -> Figure:
    """T_c against alpha, and the cumulants of one alpha."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    K_c = np.array([row["K_c"] for row in table])
    error = np.array([row["K_c_error"] for row in table])
    fine = np.linspace(1.05, 2.0, 200)
    left.plot(fine, 2 * zeta(fine), "--", color="0.5", label="mean field, $2\\zeta(\\alpha)$")
    left.errorbar(
        data["alpha"], 1 / K_c, error / K_c**2, fmt="o", ms=5, color="C0", label="Binder crossings"
    )
    jump, jump_error = 1 / flow["K_c"], flow["K_c_error"] / flow["K_c"] ** 2
    left.errorbar(
        2, jump, jump_error, fmt="s", ms=6, color="C3", label="$\\alpha = 2$, with a jump of $m$"
    )
    left.plot([2, 2], [0.5, jump], ":", color="C3")
    left.axvspan(2, 2.6, color="0.94", lw=0)
    left.text(2.3, 1.2, "no transition\nat T > 0", ha="center", color="0.3")
    left.set(
        xlabel="decay exponent $\\alpha$",
        ylabel="critical temperature $T_c/J$",
        xlim=(1.05, 2.6),
        ylim=(0.9, 40),
        yscale="log",
    )
    left.legend(frameon=False)

    shown = data.sel(alpha=1.8)
    for colour, n in zip(_colours(data.sizes["n_sites"]), data["n_sites"].values, strict=True):
        row = shown.sel(n_sites=n)
        right.errorbar(
            row["K"],
            row["binder_cumulant"],
            row["binder_cumulant_error"],
            fmt="o-",
            ms=3,
            lw=1,
            color=colour,
            label=f"{n}",
        )
    at = table[int(np.flatnonzero(data["alpha"] == shown["alpha"])[0])]
    right.axvspan(at["K_c"] - at["K_c_error"], at["K_c"] + at["K_c_error"], color="0.85", lw=0)
    right.set(
        xlabel="coupling $K = J/T$",
        ylabel="Binder cumulant",
        title=f"$\\alpha$ = {float(shown['alpha']):.1f}",
    )
    right.legend(title="sites", frameon=False, fontsize=8)
    inset = right.inset_axes((0.62, 0.12, 0.35, 0.35))
    U, U_error = ([row[name] for row in table] for name in ("binder", "binder_error"))
    inset.errorbar(data["alpha"], U, U_error, fmt="o", ms=3, color="C0")
    inset.axhline(mean_field_binder, ls="--", color="0.5", lw=1)
    inset.set_title("cumulant at last crossing", fontsize=8)
    inset.set_xlabel("$\\alpha$", fontsize=8, labelpad=0)
    inset.tick_params(labelsize=7)
    return figure


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
