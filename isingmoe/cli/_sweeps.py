"""What the commands that sweep share: their options, and the sweep itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import isingmoe as im
from isingmoe.cli._chain_options import chosen_chain
from isingmoe.cli._grid import parse_grid
from isingmoe.cli._options import check_target

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Algorithm",
    "AlgorithmName",
    "Alpha",
    "Equilibration",
    "Field",
    "J",
    "Length",
    "NExperts",
    "NSites",
    "Replicas",
    "Samples",
    "Seed",
    "Sweeps",
    "Temperature",
    "TopK",
    "Workers",
    "algorithm_named",
    "run_sweep",
]

_GRID: dict[str, Any] = {
    "metavar": "GRID",
    "rich_help_panel": "Grid: 0:2:41, log:0.1:10:21, 0,0.1,0.5 or 1",
}
_SAMPLED: dict[str, Any] = {"rich_help_panel": "Monte Carlo"}

J = Annotated[str | None, typer.Option("--J", help="Coupling of neighbours.", **_GRID)]
Field = Annotated[str | None, typer.Option("--h", help="Field (default: 0).", **_GRID)]
Temperature = Annotated[str | None, typer.Option(help="In units of J (default: 1).", **_GRID)]
NSites = Annotated[str | None, typer.Option(help="Sites (default: infinite).", **_GRID)]
NExperts = Annotated[str | None, typer.Option(help="States of a Potts chain.", **_GRID)]
TopK = Annotated[str | None, typer.Option(help="Experts that a site holds.", **_GRID)]
Alpha = Annotated[str | None, typer.Option(help="Couplings fall as r**-alpha.", **_GRID)]
Length = Annotated[
    str | None, typer.Option(help="Couplings fall as exp(-(r - 1)/length).", **_GRID)
]
AlgorithmName = Literal["exact", "heat-bath", "metropolis", "wolff", "swendsen-wang"]
Algorithm = Annotated[
    AlgorithmName | None,
    typer.Option(help="Sample instead of solving exactly.", **_SAMPLED),
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Of each replica (default: 1000).", **_SAMPLED)
]
Replicas = Annotated[
    int | None, typer.Option(min=1, help="Independent replicas (default: 8).", **_SAMPLED)
]
Sweeps = Annotated[
    int | None, typer.Option(min=1, help="Sweeps to a sample (default: 1).", **_SAMPLED)
]
Equilibration = Annotated[
    int | None,
    typer.Option(min=0, help="Samples discarded before (default: a fifth).", **_SAMPLED),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the samples.", **_SAMPLED)]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes (default: all cores where it saves time)."),
]

_WHOLE = ("n_sites", "n_experts", "top_k")

_ALGORITHMS = {
    "exact": "Exact",
    "heat-bath": "HeatBath",
    "metropolis": "Metropolis",
    "wolff": "Wolff",
    "swendsen-wang": "SwendsenWang",
}
# Series of every sample would make the most of a file.
_SERIES_DIMS = ("replica", "sample", "discarded_sample")


def algorithm_named(name: str) -> Any:
    """A Monte Carlo algorithm by its name on the command line."""
    return getattr(im, _ALGORITHMS[name])()


def run_sweep(
    fit: Path | None,
    layer: int | None,
    expert: int | None,
    chain: str | None,
    boundary: str | None,
    texts: Mapping[str, str | None],
    algorithm: str | None,
    sampling: Mapping[str, int | None],
    max_distance: int | None,
    seed: int,
    workers: int | None,
    output: Path | None,
    overwrite: bool,
) -> tuple[xr.Dataset, list[str]]:
    """The sweep that the options ask for.

    Parameters
    ----------
    fit, layer, expert, chain, boundary
        Of the chain.
    texts : dict
        The grid as it was typed.
    algorithm : str or None
    sampling : dict
        Options that need an algorithm.
    max_distance : int or None
    seed : int
    workers : int or None
    output : Path or None
    overwrite : bool

    Returns
    -------
    Dataset
    axes : list of str
        The parameters that were swept.

    Raises
    ------
    typer.BadParameter
        If the options do not go together.
    ValueError, TypeError, OSError
        As `isingmoe.sweep` does.
    """
    if output is not None:
        # Whether what is there may stay, or go on, is for the sweep to say.
        check_target(output, True, *([] if fit is None else [fit]))
    single, swept = parse_grid(texts, _WHOLE)
    if not swept:
        raise typer.BadParameter("give a parameter several values, such as --J 0:2:41")
    first = {name: values[0].item() for name, values in swept.items()}
    first |= {name: int(first[name]) for name in _WHOLE if name in first}
    base = chosen_chain(fit, layer, expert, chain, boundary, {**first, **single})
    options: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    if algorithm is None and options:
        raise typer.BadParameter("the options of Monte Carlo need --algorithm")
    if algorithm is not None:
        options["algorithm"] = algorithm_named(algorithm)
    if max_distance is not None:
        options["max_distance"] = max_distance
    result = im.sweep(
        im.solve if algorithm is None else im.simulate,
        base,
        options=options,
        drop_dims=_SERIES_DIMS,
        seed=seed,
        path=output,
        overwrite=overwrite,
        n_workers=workers,
        progress=sys.stderr.isatty(),
        **swept,
    )
    return result, list(swept)
