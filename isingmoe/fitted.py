"""A fit: the chains it holds, its table and its file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._storage import check_content, read_dataset, write_dataset
from isingmoe._text import number, plain, render, report, with_errors
from isingmoe.chains import IsingChain, PottsChain
from isingmoe.likelihood import MaximumLikelihood

__all__ = ["CONVENTIONS", "Fit", "open_fit"]

CONVENTIONS = "isingmoe-fit-1"

# What a comparison and a report read.
_VARIABLES = (
    "layer",
    "expert",
    "J",
    "h",
    "J_spread",
    "self_coupling",
    "self_coupling_error",
    "correlation_length",
    "bits_per_token",
    "bits_load",
    "bits_uniform",
    "n_parameters",
)
_ATTRIBUTES = (
    "chain",
    "coupling",
    "field",
    "pseudocount",
    "max_iterations",
    "model",
    "num_experts",
    "top_k",
    "pair_counts_sha256",
)

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Fit:
    """Chains fitted to traces, one for each layer (and, for Ising, each expert).

    Attributes
    ----------
    data : Dataset
        `J`, `h` and their standard errors in the zero-sum gauge at T = 1, `self_coupling`
        (the mean coupling of an expert to itself, weighted with the load),
        `log_likelihood`, `bits_per_token` and the same of a uniform router and of the load
        alone, `n_parameters`, `n_pairs`, `converged`, `correlation_length` and `marginal`.
    """

    data: xr.Dataset

    @property
    def settings(self) -> dict[str, Any]:
        """What `fit` was asked for: chain, coupling, field and estimator."""
        attrs = self.data.attrs
        return {
            "chain": attrs["chain"],
            "coupling": attrs["coupling"],
            "field": attrs["field"],
            "estimator": MaximumLikelihood(
                pseudocount=None if attrs["pseudocount"] == "default" else attrs["pseudocount"],
                max_iterations=int(attrs["max_iterations"]),
            ),
        }

    def chain(self, layer: int, expert: int | None = None) -> IsingChain | PottsChain:
        """The fitted infinite chain of a layer.

        Cut to a finite length it should be periodic: the zero-sum gauge leaves a ring as it
        was, but not the ends of an open chain.

        Parameters
        ----------
        layer : int
            The model's own number.
        expert : int, optional
            Which of the Ising chains; not for Potts.

        Returns
        -------
        PottsChain or IsingChain

        Raises
        ------
        ValueError
            If there is no such layer or expert, or one is missing or not wanted.
        """
        known = self.data["layer"].values.tolist()
        if layer not in known:
            raise ValueError(f"layer: expected one of {known}, got {layer}")
        row = self.data.sel(layer=layer)
        if self.data.attrs["chain"] == "potts":
            if expert is not None:
                raise ValueError(f"expert: a Potts chain holds all experts, got {expert}")
            return PottsChain(J=row["J"].values, h=row["h"].values)
        n_experts = self.data.sizes["expert"]
        if expert is None or not 0 <= expert < n_experts:
            raise ValueError(
                f"expert: each expert has its own Ising chain; expected 0..{n_experts - 1}, "
                f"got {expert}"
            )
        return IsingChain(J=float(row["J"][expert]), h=float(row["h"][expert]))

    def log_weight(self) -> Array:
        """Logarithms of the transfer matrices.

        Returns
        -------
        ndarray (layer, q, q) or (layer, expert, 2, 2)
        """
        J, h = self.data["J"].values, self.data["h"].values
        if self.data.attrs["chain"] == "potts":
            return J + h[:, None, :]
        spin = IsingChain.spin
        return J[..., None, None] * np.outer(spin, spin) + h[..., None, None] * spin

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fit as NetCDF-4.

        Raises
        ------
        OSError
            If the file exists and `overwrite` is false, or it cannot be written.
        """
        write_dataset(self.data, path, overwrite=overwrite)

    def title(self) -> str:
        """One line that says what was fitted to what."""
        a = self.data.attrs
        return (
            f"{a['chain']} chain, coupling {a['coupling']}, field {a['field']}: "
            f"{plain(a['model'])}, {a['num_experts']} experts, top-{a['top_k']}"
        )

    def layer_length(self) -> Array:
        """Correlation length of each layer; of the slowest expert for Ising chains."""
        length = self.data["correlation_length"]
        return (length.max("expert") if "expert" in length.dims else length).values

    def __str__(self) -> str:
        data = self.data
        columns = {
            "layer": data["layer"].values,
            "self-coupling J": with_errors(
                data["self_coupling"].values, data["self_coupling_error"].values
            ),
            "spread of J": [number(v) for v in data["J_spread"].values],
            "ξ chain": [number(v, 2) for v in self.layer_length()],
            "bits/token": [number(v) for v in data["bits_per_token"].values],
            "load only": [number(v) for v in data["bits_load"].values],
            "uniform": [number(v) for v in data["bits_uniform"].values],
        }
        note = "J at T = 1, zero-sum gauge, ± standard error; ξ in tokens; bits in sample"
        if data.attrs["chain"] == "ising":
            note += "; ξ of the slowest expert; bits summed over the experts' chains"
        return render(*report(self.title(), columns, [note]))


def open_fit(path: str | os.PathLike[str]) -> Fit:
    """Read a fit that `Fit.save` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    Fit

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        If the file cannot be read or holds something else.
    """
    data = read_dataset(path)
    check_content(
        data,
        path,
        conventions=CONVENTIONS,
        variables=_VARIABLES,
        attributes=_ATTRIBUTES,
        remedy="make a fit with `isingmoe fit`",
    )
    return Fit(data)
