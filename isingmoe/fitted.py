"""A fit: the chains it holds, its table and its file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._schema import alike, validate_structure
from isingmoe._storage import Saved, read_content
from isingmoe._text import number, plain, render, report, with_errors
from isingmoe.chains import IsingChain, KineticChain, PottsChain
from isingmoe.estimators import MaximumLikelihood, Pseudolikelihood
from isingmoe.positions import Blocks, Cosines
from isingmoe.traces import trace_name

__all__ = ["CONVENTIONS", "Fit", "matching", "open_fit"]

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
    "correlation_error",
    "expert_correlation_error",
    "bits_per_token",
    "bits_load",
    "bits_uniform",
    "n_parameters",
)
_ATTRIBUTES = (
    "chain",
    "coupling",
    "field",
    "max_iterations",
    "uncertainty",
    "model",
    "num_experts",
    "top_k",
    "data_sha256",
)

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Fit(Saved):
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
        """What `fit` was asked for: chain, coupling, field, estimator and what else it has."""
        attrs = self.data.attrs
        common = {name: attrs[name] for name in ("chain", "coupling", "field")}
        max_iterations = int(attrs["max_iterations"])
        if not self.is_regressed:
            given = attrs["pseudocount"]
            estimator: Any = MaximumLikelihood(
                pseudocount=None if given == "default" else given, max_iterations=max_iterations
            )
            return common | {"estimator": estimator}
        l2 = None if attrs["prior"] == "default" else attrs["prior"]
        is_pseudo = attrs["chain"] != "kinetic"
        estimator = (Pseudolikelihood if is_pseudo else MaximumLikelihood)(
            l2=l2 if l2 is None or l2 == "cv" else float(l2), max_iterations=max_iterations
        )
        return common | {
            "reach": int(attrs["reach"]),
            "decay": None if attrs["decay"] == "none" else attrs["decay"],
            "position": _shape_of(attrs["position"]),
            "estimator": estimator,
        }

    @property
    def is_regressed(self) -> bool:
        """Whether it was fitted token by token, and not to pair counts."""
        return "prior" in self.data.attrs

    def chain(
        self, layer: int, expert: int | None = None
    ) -> IsingChain | PottsChain | KineticChain:
        """The fitted infinite chain of a layer.

        An equilibrium chain cut to a finite length should be periodic: the zero-sum gauge
        leaves a ring as it was, but not the ends of an open chain. Changes of the field over
        the text and between sequences are left out.

        Parameters
        ----------
        layer : int
            The model's own number.
        expert : int, optional
            Which of the Ising chains; not for the others.

        Returns
        -------
        KineticChain, PottsChain or IsingChain

        Raises
        ------
        ValueError
            If there is no such layer or expert, or one is missing or not wanted.
        """
        known = self.data["layer"].values.tolist()
        if layer not in known:
            raise ValueError(f"layer: expected one of {known}, got {layer}")
        row, name = self.data.sel(layer=layer), self.data.attrs["chain"]
        J, h = row["J"].values, row["h"].values
        if name != "ising" and expert is not None:
            raise ValueError(f"expert: a {name} chain holds all experts, got {expert}")
        top_k = int(self.data.attrs["top_k"])
        if name == "kinetic":
            return KineticChain(J=J, h=h, top_k=top_k)
        if name in ("potts", "topk"):
            return PottsChain(J=J, h=h, top_k=1 if name == "potts" else top_k)
        n_experts = self.data.sizes["expert"]
        if expert is None or not 0 <= expert < n_experts:
            raise ValueError(
                f"expert: each expert has its own Ising chain; expected 0..{n_experts - 1}, "
                f"got {expert}"
            )
        return IsingChain(J=float(J[expert]), h=float(h[expert]))

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

    def title(self) -> str:
        """One line that says what was fitted to what."""
        a = self.data.attrs
        return (
            f"{a['chain']} chain, coupling {a['coupling']}, field {a['field']}: "
            f"{plain(a['model'])}, {a['num_experts']} experts, top-{a['top_k']}"
        )

    def layer_length(self) -> Array:
        """Correlation length of each layer; of the slowest expert for Ising chains."""
        return self._slowest("correlation_length")

    def _slowest(self, name: str) -> Array:
        """A number of each layer; of its slowest expert if each has its own."""
        length, wanted = self.data["correlation_length"], self.data[name]
        if "expert" not in length.dims:
            return wanted.values
        return wanted.isel(expert=length.argmax("expert")).values

    def __str__(self) -> str:
        data = self.data
        columns = {
            "layer": data["layer"].values,
            "self-coupling J": with_errors(
                data["self_coupling"].values, data["self_coupling_error"].values
            ),
            "spread of J": [number(v) for v in data["J_spread"].values],
            "ξ chain": with_errors(
                self.layer_length(), self._slowest("correlation_length_error"), 2
            ),
            "bits/token": [number(v) for v in data["bits_per_token"].values],
            "load only": [number(v) for v in data["bits_load"].values],
            "uniform": [number(v) for v in data["bits_uniform"].values],
        }
        if "sequence_spread" in data:
            columns["spread between texts"] = with_errors(
                data["sequence_spread"].values, data["sequence_spread_error"].values
            )
        if "decay_parameter" in data:
            columns[data.attrs["decay"]] = with_errors(
                data["decay_parameter"].values, data["decay_parameter_error"].values
            )
        note = (
            f"J at T = 1, zero-sum gauge, ± standard error ({data.attrs['uncertainty']}); ξ in "
            "tokens; bits in sample"
        )
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
    data = read_content(
        path,
        conventions=CONVENTIONS,
        variables=_VARIABLES,
        attributes=_ATTRIBUTES,
        remedy="make a fit with `isingmoe fit`",
    )
    return Fit(data)


def matching(fit: Fit, traces: xr.Dataset) -> xr.Dataset:
    """The fit's layers of traces that it may be put beside.

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    ValueError
        If the traces are of another model, or do not have a layer of the fit.
    """
    validate_structure(traces)
    name = trace_name(traces)
    layers = fit.data["layer"].values
    known = np.isin(layers, traces["layer"].values)
    if known.any():
        traces = alike(traces.sel(layer=layers[known]))
    is_of_sets = fit.data.attrs["chain"] in ("kinetic", "topk")
    for attribute in ("num_experts", "top_k") if is_of_sets else ("num_experts",):
        expected, got = int(fit.data.attrs[attribute]), int(traces.attrs[attribute])
        if got != expected:
            raise ValueError(
                f"{name}: {attribute}: expected {expected} as in the fit, got {got}; these traces "
                "are of another model"
            )
    if not known.all():
        raise ValueError(
            f"{name}: layer: the fit has {layers[~known].tolist()}, the traces do not; fit again"
        )
    return traces


def _shape_of(text: str) -> Blocks | Cosines | str | None:
    """How a field changes over the text, from an attribute."""
    if text in ("none", "cv"):
        return None if text == "none" else "cv"
    name, n = text.split(":")
    return (Blocks if name == "blocks" else Cosines)(int(n))
