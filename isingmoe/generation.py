"""Traces drawn from fitted chains."""

from __future__ import annotations

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

__all__ = ["generate"]

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
    data, chain = fit.data, fit.data.attrs["chain"]
    if chain == "ising" or (fit.is_regressed and chain != "kinetic"):
        what = "Ising chains say of each expert alone whether it is on"
        if chain != "ising":
            what = f"{chain} chains by pseudolikelihood need simulate(fit.chain(layer), HeatBath())"
        raise ValueError(f"fit: expected kinetic or potts chains to draw from, got {chain}; {what}")
    k = 1 if chain == "potts" else int(data.attrs["top_k"])
    n_layers = data.sizes["layer"]
    index = np.empty((n_layers, n_sequences, length, k), np.int16)
    seeds = seed_sequence(seed).spawn(n_layers)
    for place in range(n_layers) if track is None else track(range(n_layers)):
        coupling, field = _tables(fit, place)
        draws, spread = seeds[place].spawn(2)
        between = None
        if "sequence_spread" in data:
            deviation = float(data["sequence_spread"].values[place])
            between = np.random.default_rng(spread).normal(
                scale=deviation, size=(n_sequences, field.shape[1])
            )
            between -= between.mean(1, keepdims=True)
        end = int(data.attrs.get("last_position", length))
        block = np.minimum(np.arange(length) * len(field) // end, len(field) - 1)
        chain_ = KineticChain(J=coupling, h=field[block], top_k=k, n_sites=length)
        index[place] = draw(
            chain_, n_sequences, length, by_sequence=between, n_burn=_N_BURN, seed=draws
        )
    traces = traces_from_arrays(
        index,
        num_experts=int(data.attrs["num_experts"]),
        layer=data["layer"].values,
        ranked=k == 1,
        model=f"{chain} chain of {data.attrs['model']}",
    )
    arguments = {"n_sequences": n_sequences, "length": length}
    number = int(seed) if isinstance(seed, int | np.integer) else None
    provenance = _provenance.record(
        "generate", arguments, inputs=_provenance.describe(data), seed=number
    )
    return traces.assign_attrs(provenance=provenance)


def _tables(fit: Fit, place: int) -> tuple[Array, Array]:
    """Couplings (reach, expert, expert) and fields (block, expert) to draw with."""
    row = fit.data.isel(layer=place)
    if not fit.is_regressed:
        # Of one expert to a token the transition matrix is all there is.
        transition = markov_chain(fit.log_weight()[place])[1]
        return np.log(transition)[None], np.zeros((1, len(transition)))
    change = row["h_position"].values if "h_position" in row else np.zeros((1, 1))
    return np.ascontiguousarray(row["J"].values), row["h"].values + change
