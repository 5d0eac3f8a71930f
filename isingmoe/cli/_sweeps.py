"""What the commands that sweep share: their options, and the sweep itself."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import isingmoe as im
from isingmoe.cli._chain_options import FIELD_HELP, ChainSource
from isingmoe.cli._grid import parse_grid
from isingmoe.cli._options import check_target

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["AlgorithmName", "SweepOptions", "algorithm_named"]

_GRID: dict[str, Any] = {
    "metavar": "GRID",
    "rich_help_panel": "Grid: 0:2:41, log:0.1:10:21, 0,0.1,0.5 or 1",
}
_SAMPLED: dict[str, Any] = {"rich_help_panel": "Monte Carlo"}

AlgorithmName = Literal["exact", "heat-bath", "metropolis", "wolff", "swendsen-wang"]

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

# Enough to see what `simulate` returns.
_QUICK = {"n_samples": 2, "n_replicas": 1, "n_sweeps": 1, "n_equilibration": 0}


def algorithm_named(name: str) -> Any:
    """A Monte Carlo algorithm by its name on the command line."""
    return getattr(im, _ALGORITHMS[name])()


@dataclass(frozen=True)
class SweepOptions(ChainSource):
    """A grid of chains, and how each is solved or sampled."""

    J: Annotated[str | None, typer.Option("--J", help="Coupling of neighbours.", **_GRID)] = None
    h: Annotated[str | None, typer.Option("--h", help=FIELD_HELP, **_GRID)] = None
    temperature: Annotated[
        str | None, typer.Option(help="In units of J (default: 1).", **_GRID)
    ] = None
    n_sites: Annotated[str | None, typer.Option(help="Sites (default: infinite).", **_GRID)] = None
    n_experts: Annotated[str | None, typer.Option(help="States of a Potts chain.", **_GRID)] = None
    top_k: Annotated[str | None, typer.Option(help="Experts that a site holds.", **_GRID)] = None
    alpha: Annotated[str | None, typer.Option(help="Couplings fall as r**-alpha.", **_GRID)] = None
    length: Annotated[
        str | None, typer.Option(help="Couplings fall as exp(-(r - 1)/length).", **_GRID)
    ] = None
    algorithm: Annotated[
        AlgorithmName | None, typer.Option(help="Sample instead of solving exactly.", **_SAMPLED)
    ] = None
    samples: Annotated[
        int | None, typer.Option(min=1, help="Of each replica (default: 1000).", **_SAMPLED)
    ] = None
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Independent replicas (default: 8).", **_SAMPLED)
    ] = None
    sweeps: Annotated[
        int | None, typer.Option(min=1, help="Sweeps to a sample (default: 1).", **_SAMPLED)
    ] = None
    equilibration: Annotated[
        int | None,
        typer.Option(min=0, help="Samples discarded before (default: a fifth).", **_SAMPLED),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.", **_SAMPLED)] = 0
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes (default: all cores where it saves time)."),
    ] = None

    def run(
        self,
        output: Path | None,
        overwrite: bool,
        max_distance: int | None = None,
        check: Callable[[xr.Dataset, list[str]], object] | None = None,
    ) -> tuple[xr.Dataset, list[str]]:
        """The sweep that the options ask for.

        Parameters
        ----------
        output : Path or None
        overwrite : bool
        max_distance : int or None
            Default: that of `solve` or `simulate`.
        check : callable, optional
            Called before the sweep with the result at its first point alone, and the axes;
            it may raise.

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
            check_target(output, True, *self.inputs)
        single, swept = parse_grid(self.parameters(), _WHOLE)
        if not swept:
            raise typer.BadParameter("give a parameter several values, such as --J 0:2:41")
        verb = im.solve if self.algorithm is None else im.simulate
        chain = self.over(single, swept)

        def sweep(**more: Any) -> xr.Dataset:
            return im.sweep(verb, chain, drop_dims=_SERIES_DIMS, seed=self.seed, **more)

        options = self._options(max_distance)
        if check is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                quick = options if self.algorithm is None else {**options, **_QUICK}
                at_first = {name: values[:1] for name, values in swept.items()}
                check(sweep(options=quick, n_workers=1, progress=False, **at_first), list(swept))
        result = sweep(
            options=options,
            path=output,
            overwrite=overwrite,
            n_workers=self.workers,
            progress=sys.stderr.isatty(),
            **swept,
        )
        return result, list(swept)

    def _options(self, max_distance: int | None) -> dict[str, Any]:
        options: dict[str, Any] = {
            "n_samples": self.samples,
            "n_replicas": self.replicas,
            "n_sweeps": self.sweeps,
            "n_equilibration": self.equilibration,
        }
        options = {name: value for name, value in options.items() if value is not None}
        if self.algorithm is not None:
            options["algorithm"] = algorithm_named(self.algorithm)
        elif options:
            raise typer.BadParameter("the options of Monte Carlo need --algorithm")
        if max_distance is not None:
            options["max_distance"] = max_distance
        return options
