"""The figures of the study."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)
from models import MODELS, Model, field_lines

# Okabe and Ito's colours, told apart with any colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#888888"
LAYER_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")

# Below it the field axis is linear, above it logarithmic; of a Potts chain.
LINEAR_FIELD = 0.005

MAPS = (
    ("correlation_length", "correlation length ξ (sites)", "viridis", LogNorm(0.1, 500)),
    ("magnetization", "magnetization", "PuOr", Normalize(-1, 1)),
    ("susceptibility", "susceptibility × T", "cividis", LogNorm(1e-4, 500)),
)


def maps(of_chain: dict[str, xr.Dataset]) -> Figure:
    """Correlation length, magnetization and susceptibility over coupling and field."""
    figure = Figure(figsize=(11.5, 13.2), layout="constrained")
    models = [model for model in MODELS if model.name in of_chain]
    axes = figure.subplots(len(models), len(MAPS))
    image: Any = None
    for column, (name, title, colours, norm) in enumerate(MAPS):
        for row, model in enumerate(models):
            ax, data = axes[row, column], of_chain[model.name]
            values = data[name].values.T
            if isinstance(norm, LogNorm):
                values = np.maximum(values, norm.vmin or 0)
            image = ax.pcolormesh(
                data["J"], data["h"], values, cmap=colours, norm=norm, shading="gouraud"
            )
            image.set_rasterized(True)
            field_axis(ax, model)
            if name == "correlation_length":
                equal_lengths(ax, data)
                crossovers(ax, model, data, "white")
            else:
                crossovers(ax, model, data, "black" if name == "magnetization" else "white")
            if column == 0:
                ax.set_ylabel(f"{model.label}\n\nfield h/T")
            if row == len(models) - 1:
                ax.set_xlabel("coupling J/T")
        figure.colorbar(
            image, ax=axes[0, column], location="top", label=title, aspect=25, extend=ends(norm)
        )
    handles = [
        Line2D([], [], color="0.35", ls="-", label="expert with the field has load 0.854"),
        Line2D([], [], color="0.35", ls="--", label="load 0.146"),
        Line2D([], [], color=ORANGE, ls="-.", label="half of the neighbours equal (q > 2)"),
        Line2D([], [], color="0.35", ls=":", label="constant ξ = 1, 10, 100 sites"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncol=4, frameon=False)
    return figure


def ends(norm: Normalize) -> str:
    """Whether values lie below what the colours show."""
    return "min" if isinstance(norm, LogNorm) else "neither"


def field_axis(ax: Axes, model: Model) -> None:
    """A field axis that is linear about zero and logarithmic farther out."""
    ax.set_yscale("asinh", linear_width=LINEAR_FIELD * model.unit)
    ticks = [-1, -0.1, -0.01, 0, 0.01, 0.1, 1]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def equal_lengths(ax: Axes, data: xr.Dataset) -> None:
    """Lines of constant correlation length."""
    lines = ax.contour(
        data["J"],
        data["h"],
        data["correlation_length"].values.T,
        levels=[1, 10, 100],
        colors="white",
        linestyles=":",
        linewidths=1.3,
    )
    for level, paths in zip(lines.levels, lines.allsegs, strict=True):
        path = max(paths, key=len)
        # Beside the line where it crosses a small negative field, away from the other lines.
        x, _ = path[np.argmin(np.abs(path[:, 1] + 0.4 * LINEAR_FIELD))]
        ax.annotate(
            f"{level:g}",
            (x, -0.4 * LINEAR_FIELD),
            xytext=(-3, 0),
            textcoords="offset points",
            color="white",
            fontsize=9,
            ha="right",
            va="center",
        )


def crossovers(ax: Axes, model: Model, data: xr.Dataset, colour: str) -> None:
    """The fields at which the expert takes over, and where half of the neighbours are equal."""
    J = np.linspace(0, model.strongest, 400)
    lines = field_lines(model.q, J)
    ax.plot(model.unit * J, model.unit * lines["upper"], "-", color=colour, lw=1.4)
    ax.plot(model.unit * J, model.unit * lines["lower"], "--", color=colour, lw=1.4)
    if model.q > 2:
        ax.contour(
            data["J"],
            data["h"],
            data["equal_neighbours"].values.T,
            levels=[0.5],
            colors=ORANGE,
            linestyles="-.",
            linewidths=1.6,
        )
    ax.set_xlim(0, float(data["J"][-1]))
    ax.set_ylim(float(data["h"][0]), float(data["h"][-1]))


CUTS = (
    ("neighbour_length", "length from neighbours, −1 / ln(C(1)/C(0)) (sites)", "log"),
    ("magnetization", "magnetization", "linear"),
    ("susceptibility", "susceptibility × T", "log"),
)


def cuts(of_chain: dict[str, xr.Dataset], along: str) -> Figure:
    """Exact lines on rings, and Monte Carlo points with their errors."""
    other = "h" if along == "J" else "J"
    figure = Figure(figsize=(11.5, 12.4), layout="constrained")
    models = [model for model in MODELS if model.name in of_chain]
    axes = figure.subplots(len(models), len(CUTS))
    for row, model in enumerate(models):
        data = of_chain[model.name]
        for column, (name, title, scale) in enumerate(CUTS):
            ax = axes[row, column]
            for place, colour, marker in ((0, BLUE, "o"), (1, ORANGE, "s")):
                line = data.isel({other: place})
                label = f"{other}/T = {float(line[other]):.3g}"
                ax.plot(line[along], line[name], color=colour, lw=1.2)
                ax.errorbar(
                    line[along],
                    line[f"{name}_sampled"],
                    yerr=line[f"{name}_error_sampled"],
                    fmt=marker,
                    ms=4.2,
                    mfc="white",
                    color=colour,
                    capsize=2,
                    lw=1,
                    label=label,
                )
                if name == "neighbour_length":
                    ax.plot(line[along], line["correlation_length"], "--", color=colour, lw=0.9)
            ax.set_yscale(scale)
            if scale == "log":
                one_two_five(ax)
            if row == 0:
                ax.set_title(title, fontsize=11)
            if row == len(models) - 1:
                ax.set_xlabel("coupling J/T" if along == "J" else "field h/T")
        axes[row, 0].set_ylabel(model.label)
        axes[row, 0].legend(fontsize=8.5, frameon=False)
    handles = [
        Line2D([], [], color="0.3", lw=1.2, label="exact, ring of 128 sites"),
        Line2D([], [], color="0.3", lw=0.9, ls="--", label="exact, ξ of the infinite chain"),
        Line2D([], [], color="0.3", ls="", marker="o", mfc="white", label="Monte Carlo, one error"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncol=3, frameon=False)
    return figure


def one_two_five(ax: Axes) -> None:
    """A logarithmic axis with plain numbers, as many as it has room for."""
    low, high = ax.get_ylim()
    steps = (1, 2, 5) if high < 100 * low else (1, 3) if high < 1e3 * low else (1,)
    ax.yaxis.set_major_locator(LogLocator(subs=steps))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def lengths(fitted: xr.Dataset) -> Figure:
    """Correlation length against coupling without field, and the fits of the example traces."""
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    ax = figure.subplots()
    J = np.linspace(0.01, 10, 600)
    n_experts = int(fitted.attrs["num_experts"])
    styles = {2: "-", 8: "--", n_experts: "-", 64: "-."}
    for q, style in styles.items():
        own = q == n_experts
        xi = -1 / np.log(np.expm1(J) / (np.exp(J) + q - 1))
        colour = "black" if own else GREY
        ax.plot(J, xi, style, color=colour, lw=1.8 if own else 1.3)
        ax.annotate(
            f"q = {q}",
            (np.interp(100, xi, J), 100),
            xytext=(5, -9) if q >= n_experts else (-5, 4),
            textcoords="offset points",
            ha="left" if q >= n_experts else "right",
            fontsize=9,
        )
        if q > 2:
            half = np.log(q - 1)
            ax.plot(half, np.interp(half, J, xi), "|", color="black", ms=11, mew=1.5)
    for kind, marker in (("uniform", "o"), ("full", "D")):
        for colour, layer in zip(LAYER_COLOURS, fitted["layer"].values, strict=False):
            point = fitted.sel(coupling=kind, layer=layer)
            ax.errorbar(
                float(point["self_coupling"]),
                float(point["correlation_length"]),
                xerr=float(point["self_coupling_error"]),
                fmt=marker,
                ms=7,
                color=colour,
                mec="black",
                mew=0.7,
                capsize=2,
                zorder=3,
            )
    handles = [Line2D([], [], ls="", marker="|", color="black", ms=11, mew=1.5)]
    names = ["J/T = ln(q − 1)"]
    for kind, marker in (("one coupling J δ(a, b)", "o"), ("full matrix J(a, b)", "D")):
        handles.append(Line2D([], [], ls="", marker=marker, color="white", mec="black", ms=7))
        names.append(f"example traces, {kind}")
    for colour, layer in zip(LAYER_COLOURS, fitted["layer"].values, strict=False):
        handles.append(Line2D([], [], ls="", marker="s", color=colour, ms=8))
        names.append(f"layer {layer}")
    ax.legend(handles, names, fontsize=8.5, frameon=False, loc="upper left")
    ax.set_yscale("log")
    ax.set_ylim(0.1, 1000)
    ax.set_xlim(-0.2, 10.2)
    ax.set_xlabel("coupling of equal neighbours, J/T")
    ax.set_ylabel("correlation length ξ (sites or tokens)")
    return figure
