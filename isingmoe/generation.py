"""Traces drawn from fitted chains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._seeds import Seed, seed_sequence
from isingmoe.chains import KineticChain
from isingmoe.fitted import Fit
from isingmoe.forward import draw
from isingmoe.stationary import markov_chain
from isingmoe.traces import Track, traces_from_arrays

__all__ = ["Law", "check_drawable", "draw_sets", "generate", "law_of"]

Array = NDArray[np.floating]

# Tokens drawn and discarded before the first, for a sequence to forget how it began.
_N_BURN = 256


def generate(
    fit: Fit,
    *,
    n_sequences: int = 100,
    length: int = 512,
    seed: Seed = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Draw router traces from the fitted chains, exactly.

    Parameters
    ----------
    fit : Fit
        Of kinetic chains, or of Potts chains of largest likelihood.
    n_sequences, length : int
    seed : int, SeedSequence or Generator
        Every sequence of every layer draws from a child of its own.
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        Traces with the layers of the fit. Fields change over the text as fitted, and every
        sequence has a random field of its own where the fit has them. Sets are in no order;
        Potts chains give the primary expert alone.

    Raises
    ------
    ValueError
        If the fit's chains have no law of a token given those before, or a number is out of
        range.
    """
    for name, value in (("n_sequences", n_sequences), ("length", length)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    check_drawable(fit)
    data, chain = fit.data, fit.data.attrs["chain"]
    n_layers = data.sizes["layer"]
    seeds = seed_sequence(seed).spawn(n_layers)
    places = range(n_layers) if track is None else track(range(n_layers))
    index = np.stack(
        [draw_sets(law_of(fit, p), n_sequences, length, seed=seeds[p]) for p in places]
    )
    traces = traces_from_arrays(
        index,
        num_experts=int(data.attrs["num_experts"]),
        layer=data["layer"].values,
        ranked=chain == "potts" or int(data.attrs["top_k"]) == 1,
        model=f"{chain} chain of {data.attrs['model']}",
    )
    arguments = {"n_sequences": n_sequences, "length": length}
    provenance = _provenance.record(
        "generate", arguments, inputs=_provenance.describe(data), seed=seed
    )
    return traces.assign_attrs(provenance=provenance)


def check_drawable(fit: Fit) -> None:
    """Raise a ValueError where the chains have no law of a token given those before."""
    chain = fit.data.attrs["chain"]
    if chain == "ising" or (fit.is_regressed and chain != "kinetic"):
        what = "Ising chains say of each expert alone whether it is on"
        if chain != "ising":
            what = f"{chain} chains by pseudolikelihood need simulate(fit.chain(layer), HeatBath())"
        raise ValueError(f"fit: expected kinetic or potts chains to draw from, got {chain}; {what}")


@dataclass(frozen=True)
class Law:
    """What sequences of sets are drawn by.

    Attributes
    ----------
    coupling : ndarray (reach, expert, expert)
    field : ndarray (block, expert)
        Of blocks of equal length of the text.
    top_k : int
    spread : float
        Standard deviation of the random field between sequences; 0 for none.
    end : int
        Position at which the last block ends.
    """

    coupling: Array
    field: Array
    top_k: int
    spread: float
    end: int

    def field_at(self, position: NDArray[np.integer]) -> Array:
        """The field at positions (..,) of the text, (.., expert); past the end, the last."""
        n_blocks = len(self.field)
        return self.field[np.minimum(position * n_blocks // self.end, n_blocks - 1)]


def law_of(fit: Fit, place: int) -> Law:
    """The law of one layer, by its place, of a fit that `check_drawable` has nothing against."""
    row, attrs = fit.data.isel(layer=place), fit.data.attrs
    end = int(attrs.get("last_position", 1))
    if not fit.is_regressed:
        # Of one expert to a token the transition matrix is all there is.
        transition = markov_chain(fit.log_weight()[place])[1]
        return Law(np.log(transition)[None], np.zeros((1, len(transition))), 1, 0.0, end)
    change = row["h_position"].values if "h_position" in row else np.zeros((1, 1))
    spread = float(row["sequence_spread"]) if "sequence_spread" in row else 0.0
    coupling = np.ascontiguousarray(row["J"].values)
    return Law(coupling, row["h"].values + change, int(attrs["top_k"]), spread, end)


def draw_sets(
    law: Law,
    n_sequences: int,
    length: int,
    *,
    first: NDArray[np.integer] | None = None,
    seed: Seed = 0,
) -> NDArray[np.int16]:
    """Draw sequences of sets.

    Parameters
    ----------
    law : Law
    n_sequences, length : int
    first : int ndarray (sequence,), optional
        Position in its text at which each sequence begins; 0 by default.
    seed : int, SeedSequence or Generator

    Returns
    -------
    int16 ndarray (sequence, position, rank)
        Members of each set, rising.
    """
    field, between = law.field, None
    draws, spread = seed_sequence(seed).spawn(2)
    if law.spread:
        shape = (n_sequences, field.shape[1])
        between = np.random.default_rng(spread).normal(scale=law.spread, size=shape)
        between -= between.mean(1, keepdims=True)
    if len(field) == 1:
        # Every position has the same field, wherever a sequence begins.
        chain, first = KineticChain(J=law.coupling, h=field[0], top_k=law.top_k), None
    else:
        n_sites = length if first is None else int(first.max(initial=0)) + length
        field = law.field_at(np.arange(n_sites))
        chain = KineticChain(J=law.coupling, h=field, top_k=law.top_k, n_sites=n_sites)
    return draw(
        chain,
        n_sequences,
        length,
        by_sequence=between,
        first=first,
        n_burn=_N_BURN,
        seed=draws,
    )
