"""The chain that a command works on: one of a fit, or one given by its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import isingmoe as im

__all__ = [
    "Alpha",
    "Boundary",
    "ChainKind",
    "Coupling",
    "Expert",
    "Field",
    "FitFile",
    "Layer",
    "Length",
    "NExperts",
    "NSites",
    "Temperature",
    "TopK",
    "chosen_chain",
]

FitFile = Annotated[
    Path | None,
    typer.Argument(metavar="[FIT]", help="fit.nc; or give --chain and its parameters"),
]
Layer = Annotated[int | None, typer.Option(help="Which layer of the fit.")]
Expert = Annotated[int | None, typer.Option(help="Which expert of a fit with Ising chains.")]
ChainKind = Annotated[
    Literal["ising", "potts"] | None, typer.Option(help="Without a fit (default: ising).")
]
Boundary = Annotated[
    Literal["open", "periodic"] | None,
    typer.Option(help="What joins the ends (default: open; periodic for a fit)."),
]
Coupling = Annotated[float | None, typer.Option("--J", help="Coupling of neighbours.")]
Field = Annotated[float | None, typer.Option("--h", help="Field (default: 0).")]
Temperature = Annotated[float | None, typer.Option(help="In units of J (default: 1).")]
NSites = Annotated[int | None, typer.Option(help="Sites (default: infinite).")]
NExperts = Annotated[int | None, typer.Option(help="States of a Potts chain.")]
TopK = Annotated[int | None, typer.Option(help="Experts that a site of a Potts chain holds.")]
Alpha = Annotated[float | None, typer.Option(help="Couplings fall as r**-alpha.")]
Length = Annotated[float | None, typer.Option(help="Couplings fall as exp(-(r - 1)/length).")]

# Of a fitted chain nothing else can be changed and it still be that of the fit.
_OF_A_FIT = ("n_sites", "temperature")
_OF_POTTS = ("n_experts", "top_k")


def chosen_chain(
    fit: Path | None,
    layer: int | None,
    expert: int | None,
    kind: str | None,
    boundary: str | None,
    values: Mapping[str, Any],
) -> Any:
    """The chain of a fit, or one from its parameters.

    Parameters
    ----------
    fit, layer, expert
        Where it is taken from, if not from its parameters.
    kind : {"ising", "potts"} or None
    boundary : {"open", "periodic"} or None
    values : dict
        The parameters that were given.

    Raises
    ------
    typer.BadParameter
        If the options do not go together.
    """
    from dataclasses import replace

    given = {name: value for name, value in values.items() if value is not None}
    ends = boundary or ("open" if fit is None else "periodic")
    if fit is not None:
        others = [_option(name) for name in given if name not in _OF_A_FIT]
        if layer is None or others or kind is not None:
            unfit = [*others, *(["--chain"] if kind is not None else [])]
            without = f", and no {', '.join(unfit)}" if unfit else ""
            raise typer.BadParameter(f"a fit needs --layer{without}")
        return replace(im.open_fit(fit).chain(layer, expert), boundary=ends, **given)
    if layer is not None or expert is not None:
        raise typer.BadParameter("--layer and --expert need a fit")
    if "J" not in given:
        raise typer.BadParameter("give a fit, or --J")
    if "alpha" in given and "length" in given:
        raise typer.BadParameter("give one of --alpha and --length")
    for name, decay in (("alpha", im.power_law), ("length", im.exponential)):
        if name in given:
            given["decay"] = decay(given.pop(name))
    if kind == "potts":
        return im.PottsChain(boundary=ends, **given)
    for name in _OF_POTTS:
        if name in given:
            raise typer.BadParameter(f"{_option(name)} needs --chain potts")
    return im.IsingChain(boundary=ends, **given)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
