"""Options that say which kind of chain is fitted, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

import isingmoe as im

__all__ = ["KindOptions", "Position", "position_of"]

_KIND = "Kind of chain"

Position = Annotated[
    str | None,
    typer.Option(
        metavar="cosines:N|blocks:N|cv",
        help="How fields change along the text (default: cosines:4).",
        rich_help_panel=_KIND,
    ),
]


@dataclass(frozen=True)
class KindOptions:
    """What is fitted."""

    coupling: Annotated[
        Literal["none", "uniform", "diagonal", "symmetric", "full"] | None,
        typer.Option(
            help="Of states at a distance (default: full; diagonal for ising).",
            rich_help_panel=_KIND,
        ),
    ] = None
    field: Annotated[
        str,
        typer.Option(
            metavar="none|expert|position|sequence|SUM",
            help="none; expert; position: it changes along the text; sequence: and between "
            "texts, at random; or a sum such as position+sequence.",
            rich_help_panel=_KIND,
        ),
    ] = "expert"
    reach: Annotated[
        int, typer.Option(min=1, help="Largest distance of a coupling.", rich_help_panel=_KIND)
    ] = 1
    decay: Annotated[
        Literal["power-law", "exponential"] | None,
        typer.Option(
            help="One coupling for all distances, and how it falls.", rich_help_panel=_KIND
        ),
    ] = None
    position: Position = None
    l2: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|cv",
            help="Penalty l2/2 of squared couplings (default: by evidence).",
            rich_help_panel=_KIND,
        ),
    ] = None
    max_iterations: Annotated[
        int,
        typer.Option(min=1, help="Limit of a fit without a closed form.", rich_help_panel=_KIND),
    ] = 500

    def settings(self) -> dict[str, Any]:
        """Arguments of `im.fit`, but for the estimator."""
        return {
            "coupling": self.coupling,
            "field": self.field,
            "reach": self.reach,
            "decay": self.decay,
            "position": position_of(self.position),
        }

    def penalty(self) -> float | str | None:
        """The penalty, as the estimators take it.

        Raises
        ------
        ValueError
            If it is neither a number nor "cv".
        """
        if self.l2 is None or self.l2 == "cv":
            return self.l2
        try:
            return float(self.l2)
        except ValueError:
            raise ValueError(f"l2: expected a number from 0 up or 'cv', got {self.l2!r}") from None


def position_of(text: str | None) -> im.Blocks | im.Cosines | str | None:
    """How fields change along the text, from what was typed.

    Raises
    ------
    ValueError
        If it is none of the forms.
    """
    if text is None or text == "cv":
        return text
    name, _, n = text.partition(":")
    known = {"cosines": im.Cosines, "blocks": im.Blocks}
    if name not in known or not n.isdigit():
        raise ValueError(f"position: expected cosines:N, blocks:N or cv, got {text!r}")
    return known[name](int(n))
