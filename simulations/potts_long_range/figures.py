"""The study's three figures."""

from __future__ import annotations

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73")
_MARKERS = ("o", "s", "^")


def histogram_figure(data: xr.Dataset) -> Figure:
    """Draw the densities of energy and order parameter at the transition, a column for each q."""
    experts = data["n_experts"].values
    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    axes = figure.subplots(2, len(experts), squeeze=False)
    for column, n_experts in enumerate(experts):
        part = data.sel(n_experts=n_experts).dropna("n_sites", subset=["barrier"])
        upper, lower = axes[:, column]
        sizes = part["n_sites"].values
        for n_sites, colour in zip(sizes, _shades(len(sizes)), strict=True):
            row = part.sel(n_sites=n_sites)
            for panel, name in ((upper, "equal_height_density"), (lower, "order_density")):
                panel.plot(data["bin"], _shown(row[name]), color=colour, lw=1.5, label=n_sites)
        upper.set(title=f"q = {n_experts}", yscale="log", xlim=(0, 1.15))
        upper.set(xlabel="energy / ground-state energy")
        lower.set(xlabel="order parameter", xlim=(0, 1), yscale="log")
        for panel in (upper, lower):
            panel.set_ylim(3e-3, 60)
            panel.grid(alpha=0.25)
        lower.legend(title="sites", fontsize=8, title_fontsize=8, loc="upper center", ncols=3)
    axes[0, 0].set_ylabel("density of the energy\n(peaks equally high)")
    axes[1, 0].set_ylabel("density of the order parameter\n(specific heat largest)")
    return figure


def scaling_figure(data: xr.Dataset) -> Figure:
    """Draw against the length what tells a first-order transition from a continuous one."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    heat, latent, barrier = figure.subplots(1, 3)
    for n_experts, colour, marker in zip(data["n_experts"].values, _COLOURS, _MARKERS, strict=True):
        part = data.sel(n_experts=n_experts).dropna("n_sites", subset=["barrier"])
        style = {"color": colour, "marker": marker, "ms": 5, "lw": 1, "capsize": 3}
        label = f"q = {n_experts}"
        sizes = part["n_sites"].values
        _points(heat, sizes, part, "specific_heat", 1 / sizes, label=label, **style)
        _points(barrier, sizes, part, "barrier", 1, label=label, **style)
        _points(latent, sizes, part, "separation", 1, label=label, **style)
    heat.set(yscale="log", ylabel="largest specific heat / sites")
    latent.set(ylim=(0, 1), ylabel="distance of the two energy peaks\n/ ground-state energy")
    barrier.set(ylabel="log of peaks over dip")
    barrier.axhline(0, color="0.3", lw=0.8)
    for panel in (heat, latent, barrier):
        panel.set_xlim(data["n_sites"].values.min() / 1.5, data["n_sites"].values.max() * 1.5)
        panel.set_xscale("log", base=2)
        panel.set_xlabel("sites")
        panel.grid(alpha=0.25)
    heat.legend()
    return figure


def noise_figure(data: xr.Dataset) -> Figure:
    """Draw energies counted from the events beside those summed over all pairs."""
    experts = data["n_experts"].values
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(experts)))
    for n_experts, panel in zip(experts, axes, strict=True):
        part = data.sel(n_experts=n_experts).dropna("n_sites", subset=["summed_density"])
        row = part.isel(n_sites=0)
        panel.step(
            data["bin"],
            _shown(row["summed_density"]),
            "k",
            where="mid",
            lw=1,
            label="summed over all pairs",
        )
        panel.step(
            data["bin"],
            _shown(row["checked_density"]),
            _COLOURS[1],
            where="mid",
            lw=1,
            label="counted by events",
        )
        panel.set(title=f"q = {n_experts}, {int(row['n_sites'])} sites", xlim=(0, 1.15))
        panel.set(xlabel="energy / ground-state energy", yscale="log", ylim=(3e-3, 60))
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("density")
    axes[0].legend(fontsize=8, loc="upper left")
    return figure


def _points(
    panel: Axes, sizes: np.ndarray, part: xr.Dataset, name: str, factor: np.ndarray | float, **style
) -> None:
    error = part[f"{name}_error"].values * factor
    panel.errorbar(sizes, part[name].values * factor, yerr=error, **style)


def _shown(density: xr.DataArray) -> np.ndarray:
    """Without empty bins, which have no place on a logarithmic axis."""
    return np.where(density > 0, density, np.nan)


def _shades(n: int) -> np.ndarray:
    return matplotlib.colormaps["viridis_r"](np.linspace(0.12, 0.95, n))
