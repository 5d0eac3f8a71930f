"""The figures of a report, each with its caption; none of them empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from isingmoe.plotting import (
    plot_block_sizes,
    plot_budget,
    plot_ck,
    plot_coupling,
    plot_decay,
    plot_layers,
    plot_mem,
    plot_rates,
)
from isingmoe.plotting.style import LABEL_DEPTH
from isingmoe.reports.findings import Findings, shares_of
from isingmoe.reports.svg import STYLE, inline_svg

__all__ = ["Panel", "depth_panels", "layer_panels"]

# Margins in inches: for ticks and label at the left, for a colour bar at the right.
_LEFT, _RIGHT, _TOP, _BAR, _PAD = 0.68, 0.12, 0.1, 0.66, 0.04

# Of a summary over depth: name, title, caption, size in inches.
_SUMMARY = (
    (
        "self-coupling",
        "Self-coupling",
        "Mean coupling of an expert to itself, weighted with the load, ± one standard error; "
        "zero for independent tokens.",
        (4.8, 3.6),
    ),
    (
        "lengths",
        "Correlation length by estimator",
        "Of the fitted chain, by the decay that is measured, and by its second moment, with 95 % "
        "intervals. Of a right chain all are alike. A triangle: no upper end.",
        (4.8, 4.2),
    ),
    (
        "load",
        "Distance of the load from uniform",
        "Corrected for the bias of few tokens, beside what 95 % of uniform routers stay below.",
        (4.8, 3.6),
    ),
    (
        "bits",
        "Bits gained over a uniform router",
        "By the load alone, and with the chain; zero for a router without any preference.",
        (4.8, 3.6),
    ),
)


@dataclass(frozen=True)
class Panel:
    """A figure on the page.

    Attributes
    ----------
    name : str
        Id on the page.
    title, caption : str
    svg : str
        The element; safe to put on a page as it is.
    """

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class _Plan:
    """A figure to draw: size in inches, what draws it, and what stands below it."""

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Axes], Any]

    def drawn(self, place: str) -> Panel:
        with _style():
            figure = _canvas(self.size)
            self.draw(figure.subplots())
            _set(figure)
            name = f"{self.name}-{place}" if place else self.name
            svg = inline_svg(figure, name, f"{self.title}. {self.caption}")
        return Panel(name, self.title, self.caption, svg)


def depth_panels(found: Findings) -> list[Panel]:
    """Figures over the depth of the model."""
    plans = [plan.drawn("") for plan in _over_depth(found)]
    return (_summary(found) if found.traces.sizes["layer"] > 1 else []) + plans


def layer_panels(found: Findings, layer: int) -> list[Panel]:
    """Figures of one layer."""
    return [plan.drawn(str(layer)) for plan in _of_layer(found, layer)]


def _canvas(size: tuple[float, float]) -> Figure:
    """A figure that no window knows of, with something to measure letters by."""
    figure = Figure(figsize=size, dpi=72)
    FigureCanvasAgg(figure)
    return figure


def _set(figure: Figure) -> None:
    """Margins for what stands around the axes; a layout engine draws all of it to find them."""
    first, *bars = figure.axes
    for ax in figure.axes:
        ax.set_title("")
    width, height = figure.get_size_inches()
    dpi, legend = figure.dpi, first.get_legend()
    below = 0.0
    if legend is not None and legend.get_bbox_to_anchor().y0 < first.bbox.y0:
        below = legend.get_window_extent().height / dpi
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - (_BAR if bars else _RIGHT) / width,
        top=1 - _TOP / height,
        bottom=(LABEL_DEPTH + below + _PAD) / height,
    )
    label = first.yaxis.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    if label is not None:
        figure.subplots_adjust(left=(_PAD + (first.bbox.x0 - label.x0) / dpi) / width)


def _style() -> Any:
    return mpl.rc_context({**STYLE})


def _over_depth(found: Findings) -> Iterator[_Plan]:
    if "mem" in found.parts:
        yield _Plan(
            "mem",
            "Load and its maximum-entropy equilibrium",
            "How much of the entropy of a uniform router the load of each layer has, beside what "
            "chance leaves of it.",
            (4.8, 4.0),
            lambda ax: plot_mem(found.comparison.data, ax=ax),
        )
    budget = found.budget or shares_of(found.comparison)
    if budget is not None:
        yield _Plan(
            "budget",
            "Where the bits of routing go",
            "Bits per token on held-out texts that each step gains over those below it; where it "
            "is known, a bar of one standard error.",
            (4.8, 4.2),
            lambda ax: plot_budget(budget, ax=ax),
        )


def _summary(found: Findings) -> list[Panel]:
    """The panels of a summary over depth, a figure each."""
    with _style():
        figures = [_canvas(size) for *_, size in _SUMMARY]
        plot_layers(found.comparison, axes=np.array([figure.subplots() for figure in figures]))
        panels = []
        for figure, (name, title, caption, _) in zip(figures, _SUMMARY, strict=True):
            _set(figure)
            svg = inline_svg(figure, name, f"{title}. {caption}")
            panels.append(Panel(name, title, caption, svg))
    return panels


def _of_layer(found: Findings, layer: int) -> Iterator[_Plan]:
    yield _Plan(
        "decay",
        "Decay of correlations",
        "C(d)/C(0) against distance on log axes with bands of 95 %; triangles on the floor are "
        "values below it. A power law is straight here, an exponential bends down.",
        (4.8, 4.6),
        lambda ax: plot_decay(found.comparison, layer, ax=ax),
    )
    if "next_expert" in found.fit.data["J"].dims:
        yield _Plan(
            "coupling",
            "Couplings",
            "J at T = 1 in the zero-sum gauge, experts in the order of a clustering: blue "
            "attracts, orange repels.",
            (4.8, 4.2),
            lambda ax: plot_coupling(found.fit, layer, ax=ax),
        )
    if "activation" in found.parts:
        yield _Plan(
            "rates",
            "Rates over position",
            "Rate of every expert in blocks of positions, against its mean.",
            (4.8, 4.0),
            lambda ax: plot_rates(found.parts["activation"], layer, ax=ax),
        )
    if "blocks" in found.parts and _has_lengths(found, layer):
        yield _Plan(
            "blocks",
            "Correlation length against block size",
            "Of rates in blocks and inside windows, measured, of the fitted chain and of the "
            "baselines.",
            (4.8, 4.2),
            lambda ax: plot_block_sizes(found.parts["blocks"], layer, ax=ax),
        )
    if "ck" in found.parts:
        yield _Plan(
            "ck",
            "Chapman-Kolmogorov test",
            "Probability that an expert returns after d tokens, against that of d single steps. "
            "Without longer memory all points are on the line.",
            (4.8, 4.2),
            lambda ax: plot_ck(found.parts["ck"], layer, ax=ax),
        )


def _has_lengths(found: Findings, layer: int) -> bool:
    row = found.parts["blocks"].sel(layer=layer)
    return bool(np.isfinite(row["coarse_length"].values).any())
