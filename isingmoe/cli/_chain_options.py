"""The chain that a command works on: one of a fit, or one given by its parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

import isingmoe as im

__all__ = ["FIELD_HELP", "ChainOptions", "ChainSource"]

# Of a fitted chain nothing else can be changed and it still be that of the fit.
_OF_A_FIT = ("n_sites", "temperature")
_PARAMETERS = ("J", "h", "temperature", "n_sites", "n_experts", "top_k", "alpha", "length")
_OF_POTTS = ("n_experts", "top_k")

FIELD_HELP = "Field, of a Potts chain on expert 0 alone (default: 0)."


@dataclass(frozen=True)
class ChainSource:
    """Where a chain comes from: a fit, or parameters that a subclass holds."""

    fit: Annotated[
        Path | None,
        typer.Argument(metavar="[FIT]", help="fit.nc; or give --chain and its parameters"),
    ] = None
    layer: Annotated[int | None, typer.Option(help="Which layer of the fit.")] = None
    expert: Annotated[int | None, typer.Option(help="Which expert of a fit with Ising chains.")] = (
        None
    )
    chain: Annotated[
        Literal["ising", "potts"] | None, typer.Option(help="Without a fit (default: ising).")
    ] = None
    boundary: Annotated[
        Literal["open", "periodic"] | None,
        typer.Option(
            help="What joins the ends (default: open; periodic for a fit of an equilibrium chain)."
        ),
    ] = None

    @property
    def inputs(self) -> list[Path]:
        """Files that are read."""
        return [] if self.fit is None else [self.fit]

    def parameters(self) -> dict[str, Any]:
        """The parameters of the chain that were given."""
        values = {name: getattr(self, name) for name in _PARAMETERS}
        return {name: value for name, value in values.items() if value is not None}

    def made(self, given: dict[str, Any]) -> Any:
        """The chain of the fit, or the one with the given parameters.

        Raises
        ------
        typer.BadParameter
            If the options do not go together.
        """
        if self.fit is not None:
            return self._fitted(given)
        if self.layer is not None or self.expert is not None:
            raise typer.BadParameter("--layer and --expert need a fit")
        if "J" not in given:
            raise typer.BadParameter("give a fit, or --J")
        if "alpha" in given and "length" in given:
            raise typer.BadParameter("give one of --alpha and --length")
        given = {"boundary": self.boundary or "open", **given}
        for name, decay in (("alpha", im.power_law), ("length", im.exponential)):
            if name in given:
                given["decay"] = decay(given.pop(name))
        if self.chain == "potts":
            return _potts(**given)
        for name in _OF_POTTS:
            if name in given:
                raise typer.BadParameter(f"{_option(name)} needs --chain potts")
        return im.IsingChain(**given)

    def over(self, single: dict[str, Any], swept: dict[str, NDArray]) -> Any:
        """What a sweep over some parameters takes: a chain, or a function that makes them.

        Raises
        ------
        typer.BadParameter
            If the options do not go together.
        """
        from isingmoe._grids import Grid
        from isingmoe._makers import in_words

        chain = self.made({**Grid.of(swept).at(0), **single})
        if self.chain != "potts" or not ("h" in swept or ("n_experts" in swept and "h" in single)):
            return chain
        # The field of each expert follows h and the number of experts.

        def make(**values: Any) -> Any:
            return self.made({**single, **values})

        field = "" if "h" in swept else f"={single['h']:g}"
        words = in_words(chain, [*swept, "h"]).removesuffix(")")
        make.__qualname__ = f"{words}, h{field} on expert 0)"
        return make

    def _fitted(self, given: dict[str, Any]) -> Any:
        unfit = [_option(name) for name in given if name not in _OF_A_FIT]
        unfit += ["--chain"] if self.chain is not None else []
        if self.layer is None or unfit:
            without = f", and no {', '.join(unfit)}" if unfit else ""
            raise typer.BadParameter(f"a fit needs --layer{without}")
        chain = im.open_fit(self.inputs[0]).chain(self.layer, self.expert)
        if not isinstance(chain, im.KineticChain):
            return replace(chain, boundary=self.boundary or "periodic", **given)
        if self.boundary == "periodic":
            raise typer.BadParameter("--boundary periodic: a kinetic chain has a first token")
        return replace(chain, **given)


@dataclass(frozen=True)
class ChainOptions(ChainSource):
    """One chain."""

    J: Annotated[float | None, typer.Option("--J", help="Coupling of neighbours.")] = None
    h: Annotated[float | None, typer.Option("--h", help=FIELD_HELP)] = None
    temperature: Annotated[float | None, typer.Option(help="In units of J (default: 1).")] = None
    n_sites: Annotated[int | None, typer.Option(help="Sites (default: infinite).")] = None
    n_experts: Annotated[int | None, typer.Option(help="States of a Potts chain.")] = None
    top_k: Annotated[
        int | None, typer.Option(help="Experts that a site of a Potts chain holds.")
    ] = None
    alpha: Annotated[float | None, typer.Option(help="Couplings fall as r**-alpha.")] = None
    length: Annotated[
        float | None, typer.Option(help="Couplings fall as exp(-(r - 1)/length).")
    ] = None

    def make(self) -> Any:
        """The chain.

        Raises
        ------
        typer.BadParameter
            If the options do not go together.
        """
        return self.made(self.parameters())


def _potts(h: float = 0.0, **given: Any) -> im.PottsChain:
    """A Potts chain in a field on expert 0: one on all experts alike would do nothing."""
    chain = im.PottsChain(**given)
    return replace(chain, h=h * (np.arange(chain.n_states) == 0)) if h else chain


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
