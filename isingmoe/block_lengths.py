"""Correlation lengths of block rates and inside windows, against the length of the block."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._schema import alike
from isingmoe._seeds import Seed, seed_sequence
from isingmoe._text import about
from isingmoe.block_sources import Sources, can_be_drawn
from isingmoe.block_sums import FEWEST_BLOCKS, N_LAGS, BlockGrid, Curves, block_correlation
from isingmoe.decay import decay_fit, length_variables
from isingmoe.derived import BASELINES
from isingmoe.fitted import Fit, matching
from isingmoe.neighbours import ratio
from isingmoe.observables import resampling_weights
from isingmoe.prediction import predicted_correlation
from isingmoe.traces import Track, each_layer, primary_expert, trace_name

__all__ = ["block_sizes"]

Array = NDArray[np.floating]

# The exact correlation of tokens is taken this far, and is nothing beyond where so small a
# part of it is left there.
_FURTHEST, _NOTHING = 2048, 1e-12
# A chain of more windows is not solved.
_FEW_WINDOWS = 256
# What its length is, the curve it is fitted to, and its dimension.
_KINDS = {
    "coarse": (
        "correlation length of the rates in blocks",
        "connected correlation of the rates in blocks",
        "lag",
    ),
    "window": (
        "correlation length inside windows, about the mean of each",
        "correlation inside windows, about the mean of each",
        "distance",
    ),
}
_ENDS = {
    "": "",
    "_low": ", lower end of the 95 % interval",
    "_high": ", upper end of the 95 % interval",
}


def block_sizes(
    traces: xr.Dataset,
    fit: Fit | None = None,
    *,
    block_lengths: Iterable[int] | None = None,
    baselines: Iterable[str] = BASELINES,
    primary: bool | None = None,
    n_simulations: int = 1,
    n_resamples: int = 100,
    seed: Seed = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Correlation lengths seen through blocks of growing length, and what would give them.

    Parameters
    ----------
    traces : Dataset
    fit : Fit, optional
        Its chains are drawn from, with the lengths and gaps of the traces, and measured alike.
    block_lengths : iterable of int, optional
        Tokens in a block; by default the powers of two up to the median sequence.
    baselines : iterable of {"random", "shuffled", "position-shuffled"}
        Those to measure; fewer take less time.
    primary : bool, optional
        Of the primary expert alone or of the whole set; by default what the fit describes,
        and without one the primary expert where the trace is ranked.
    n_simulations : int
        Data sets drawn of the chain and of each baseline. More give their lengths with less
        noise, and take as much longer.
    n_resamples : int
        Bootstrap resamples of the sequences, at least 2.
    seed : int, SeedSequence or Generator
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        Over (layer, source, block_length), in tokens: `coarse_length` of the rates in blocks
        and `window_length` inside windows, each with `_low` and `_high` of a 95 % interval and
        `_n_fitted`, the lags or distances that the fit used; `coarse_correlation` and
        `coarse_error` (.., lag), `window_correlation` and `window_error` (.., distance);
        `coarse_share`, C_b(1) over that measured, NaN where that is lost in its error.
        `coarse_sequences` (block_length): sequences of four blocks and more. With a fit whose
        chain can be solved, `coarse_length_exact` (layer, block_length).
        source: "measured"; "chain", where the fit's chains can be drawn from; the baselines.

    Raises
    ------
    ValueError
        If an argument is out of range, no sequence has four tokens, or the fit is of another
        model.
    TraceSchemaError
        If the Dataset is not a trace.

    Notes
    -----
    Every sequence is cut into consecutive blocks of b tokens from its first one on; what is
    left at its end is dropped. coarse: a block with x of its n recorded tokens at an expert has
    the rate x / n. The connected correlation of the rates of two blocks at a lag, summed over
    experts and weighted with n n', is the mean over pairs of tokens, one in each block, of the
    experts they share, less the sum of the squared mean rates. Sequences of fewer than four
    blocks are left out. The length is fitted by `decay_fit` to the lags up to 8, and is b times
    that in blocks: the decay on the scale of the block. window: as `correlation` with centre
    "sequence" of `windows(traces, b)`, at distances up to a quarter of the window; NaN where
    that is none.

    A stationary chain of nearest neighbours has one coarse length as long as two lags are seen.
    Once a block is longer than a few of it one lag is left, C_b(0) is the second point of the
    fit, and the length grows as b / ln b: compare with the source "chain", which does the same.
    A rate that drifts over the position alike in all texts is kept by "position-shuffled", texts
    that differ in load by "shuffled". Each has the length of what it keeps, whether that is much
    or little: its `coarse_share` says how much of the correlation between neighbouring blocks
    it accounts for. What no source has, and the window lengths above those of the chain, are a
    memory of the text longer than the chain's.

    Intervals: bootstrap over sequences. Those of drawn sources are prediction intervals: where
    the length of one data set of the source would lie, each fitted over the lags that it shows,
    the noise of the draws counted. They leave out that the fit itself is uncertain. Random
    routers are drawn once for all layers that recorded the same tokens. Draws of a chain begin
    at position 0.

    References
    ----------
    D. Bershatsky and I. Oseledets, arXiv:2504.04444 (2025).
    """
    traces = alike(traces) if fit is None else matching(fit, traces)
    kinds = _checked_kinds(baselines)
    if n_simulations < 1 or n_resamples < 2:
        raise ValueError(
            "n_simulations, n_resamples: expected at least 1 and 2, "
            f"got {n_simulations} and {n_resamples}"
        )
    primary = _checked_primary(traces, fit, primary)
    grid = BlockGrid(
        _checked_lengths(traces, block_lengths),
        int(traces.attrs["num_experts"]),
        1 if primary else int(traces.attrs["top_k"]),
    )
    drawn = fit if fit is not None and can_be_drawn(fit) else None
    sources = Sources(traces, drawn, kinds, n_simulations, primary)
    found = _measured(sources, grid, n_resamples, seed, track)
    found["coarse_share"] = _share(found)
    found["coarse_sequences"] = (
        "block_length",
        _n_sequences(traces, grid, FEWEST_BLOCKS),
        about("sequences of enough whole blocks for the rates"),
    )
    if fit is not None:
        found |= _exact(fit, found, grid)
    inputs = {"traces": _provenance.describe(traces)}
    if fit is not None:
        inputs["fit"] = _provenance.describe(fit.data)
    arguments = {
        "block_lengths": grid.block_length.tolist(),
        "baselines": list(kinds),
        "primary": primary,
        "n_simulations": n_simulations,
        "n_resamples": n_resamples,
    }
    return xr.Dataset(
        found,
        coords={
            "layer": traces["layer"],
            "source": ("source", sources.names, about("what was measured")),
            "block_length": ("block_length", grid.block_length, about("block length", "token")),
            "lag": ("lag", np.arange(N_LAGS + 1), about("distance of two blocks", "block")),
            "distance": (
                "distance",
                np.arange(grid.reach.max() + 1),
                about("distance inside a window", "token"),
            ),
        },
        attrs={
            "model": traces.attrs["model"],
            "states": "primary expert" if primary else "expert set",
            "provenance": _provenance.record("block_sizes", arguments, inputs=inputs, seed=seed),
        },
    )


def _measured(
    sources: Sources, grid: BlockGrid, n_resamples: int, seed: Seed, track: Track | None
) -> dict[str, Any]:
    """Variables of every layer, source and block length."""
    traces, n_lengths = sources.traces, len(grid.block_length)
    shape = (traces.sizes["layer"], len(sources.names), n_lengths)
    values = {f"{kind}_length{end}": np.full(shape, np.nan) for kind in _KINDS for end in _ENDS} | {
        f"{kind}_n_fitted": np.zeros(shape, np.int64) for kind in _KINDS
    }
    reach = {"coarse": N_LAGS, "window": int(grid.reach.max())}
    for kind, last in reach.items():
        empty: NDArray = np.full((*shape, last + 1), np.nan)
        values |= {f"{kind}_correlation": empty, f"{kind}_error": empty.copy()}
    own, drawn = _resamples(traces.sizes["sequence"], n_resamples, sources.n_draws, seed)
    seeds = seed_sequence(seed).spawn(shape[0])
    n_coarse, n_window = (_n_sequences(traces, grid, n) for n in (FEWEST_BLOCKS, 1))
    for layer in each_layer(traces, track):
        for source, sums in enumerate(sources.measured(grid, layer, seeds[layer])):
            weights = drawn if source else own
            for j, b in enumerate(grid.block_length.tolist()):
                place = (layer, source, j)
                _put(values, "coarse", place, sums.coarse(j, weights), int(n_coarse[j]), b)
                if grid.reach[j]:
                    _put(values, "window", place, sums.window(j, weights), int(n_window[j]))
    return _described(values)


def _n_sequences(traces: xr.Dataset, grid: BlockGrid, fewest: int) -> NDArray[np.int64]:
    """Sequences of at least so many whole blocks, (block_length,)."""
    return (traces["length"].values[:, None] // grid.block_length >= fewest).sum(0)


def _put(
    values: dict[str, NDArray],
    kind: str,
    place: tuple[int, int, int],
    curves: Curves,
    n_sequences: int,
    unit: int = 1,
) -> None:
    """Curves of so many sequences and their lengths, in a unit of so many tokens."""
    n = len(curves.value)
    values[f"{kind}_correlation"][place][:n] = curves.value
    values[f"{kind}_error"][place][:n] = curves.error
    if n < 2 or np.isnan(curves.value[1]):
        return
    resample = curves.resample[~np.isnan(curves.resample[:, 1])]
    found = length_variables(curves.value[None], curves.error[None], resample[None], n_sequences)
    lengths = {end: found[f"correlation_length{end}"][1][0] for end in _ENDS}
    if place[1] > 0 and len(resample):
        # Of what is drawn, where the data would lie: over the lags that each resample shows.
        own = decay_fit(resample, curves.error)[0]
        lengths["_low"], lengths["_high"] = np.quantile(own, [0.025, 0.975], method="nearest")
    for end, length in lengths.items():
        values[f"{kind}_length{end}"][place] = unit * length
    values[f"{kind}_n_fitted"][place] = found["n_fitted"][1][0]


def _described(values: dict[str, NDArray]) -> dict[str, Any]:
    """Variables with dims and attributes."""
    dims = ("layer", "source", "block_length")
    result: dict[str, Any] = {}
    for kind, (meaning, curve, dim) in _KINDS.items():
        for end, which in _ENDS.items():
            name = f"{kind}_length{end}"
            result[name] = (dims, values[name], about(meaning + which, "token"))
        name = f"{kind}_n_fitted"
        result[name] = (dims, values[name], about(f"{dim}s that the fit of the length used"))
        for part, what in (("correlation", ""), ("error", "standard error of the ")):
            name = f"{kind}_{part}"
            result[name] = ((*dims, dim), values[name], about(what + curve))
    return result


def _share(found: dict[str, Any]) -> tuple[Any, ...]:
    """What a source has of the measured correlation of neighbouring blocks, where that is seen."""
    first = found["coarse_correlation"][1][..., 1]
    seen = found["coarse_n_fitted"][1][:, :1] > 0
    share = ratio(first, np.where(seen, first[:, :1], 0.0))
    meaning = about("correlation of neighbouring blocks, over that measured")
    return ("layer", "source", "block_length"), share, meaning


def _exact(fit: Fit, found: dict[str, Any], grid: BlockGrid) -> dict[str, Any]:
    """Coarse length of the infinite chain, fitted as that of the drawn ones, where it is solved."""
    moves = {"h_position", "sequence_spread"} & set(fit.data)
    if moves or (fit.is_regressed and _n_windows(fit) > _FEW_WINDOWS):
        return {}
    # As far as a drawn chain would be seen; without one, as far as the data are.
    error = found["coarse_error"][1]
    error = error[:, 1 if can_be_drawn(fit) else 0]
    measured = grid.block_length[~np.isnan(error[..., 1]).all(0)]
    needed = (N_LAGS + 1) * int(measured.max(initial=1)) - 1
    tokens = predicted_correlation(fit, min(needed, _FURTHEST))["predicted"].values
    length = np.full((len(tokens), len(grid.block_length)), np.nan)
    for layer, curve in enumerate(tokens):
        if len(curve) <= needed and abs(curve[-1]) <= _NOTHING * curve[0]:
            curve = np.pad(curve, (0, needed + 1 - len(curve)))
        for j, b in enumerate(grid.block_length.tolist()):
            known = np.flatnonzero(~np.isnan(error[layer, j]))
            if known.size > 1 and len(curve) >= (N_LAGS + 1) * b:
                blocks = block_correlation(curve, b)[known]
                length[layer, j] = b * decay_fit(blocks, error[layer, j, known])[0]
    meaning = _KINDS["coarse"][0] + " of the infinite chain"
    dims = ("layer", "block_length")
    return {"coarse_length_exact": (dims, length, about(meaning, "token"))}


def _n_windows(fit: Fit) -> int:
    a = fit.data.attrs
    k = 1 if a["chain"] == "potts" else int(a["top_k"])
    return comb(int(a["num_experts"]), k) ** int(a["reach"])


def _resamples(n_sequences: int, n_resamples: int, n_draws: int, seed: Seed) -> tuple[Array, Array]:
    """How often each sequence is drawn, of the data and of drawn sets that lie together.

    Of n drawn sets, n / (n + 1) as many as the data have: the curve of a data set varies about
    that of n sets by (1 + 1 / n) times its own variance.
    """
    root = seed_sequence(seed)
    number = int(seed) if isinstance(seed, int | np.integer) else int(root.generate_state(1)[0])
    own = resampling_weights(n_sequences, n_resamples, number)
    n = n_draws * n_sequences
    n_drawn = max(round(n / (n_draws + 1)), 1)
    drawn = np.random.default_rng([number, n]).multinomial(n_drawn, np.full(n, 1 / n), n_resamples)
    return own, drawn.astype(float)


def _checked_kinds(baselines: Iterable[str]) -> tuple[str, ...]:
    kinds = (baselines,) if isinstance(baselines, str) else tuple(baselines)
    if not set(kinds) <= set(BASELINES) or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"baselines: expected any of {', '.join(BASELINES)}, once each, "
            f"got {', '.join(map(str, kinds))}"
        )
    return kinds


def _checked_lengths(traces: xr.Dataset, block_lengths: Iterable[int] | None) -> NDArray[np.int64]:
    length = traces["length"].values
    longest = int(length.max())
    if longest < FEWEST_BLOCKS:
        raise ValueError(
            f"{trace_name(traces)}: length: expected a sequence of at least {FEWEST_BLOCKS} "
            f"tokens, got {longest}; block lengths need longer sequences"
        )
    if block_lengths is None:
        typical = max(int(np.median(length)), FEWEST_BLOCKS)
        return 2 ** np.arange(typical.bit_length(), dtype=np.int64)
    given = list(block_lengths)
    whole = all(isinstance(b, int | np.integer) and not isinstance(b, bool) for b in given)
    if not (given and whole and min(given) >= 1 and max(given) <= longest):
        raise ValueError(
            f"{trace_name(traces)}: block_lengths: expected integers from 1 to {longest}, the "
            f"longest sequence, got {given}"
        )
    return np.unique(np.array(given, np.int64))


def _checked_primary(traces: xr.Dataset, fit: Fit | None, primary: bool | None) -> bool:
    if fit is not None:
        chain = fit.data.attrs["chain"]
        if primary is not None and primary != (chain == "potts"):
            what = "the primary expert alone" if chain == "potts" else "whole sets"
            raise ValueError(
                f"primary: expected {chain == 'potts'}, as {chain} chains are of {what}, "
                f"got {primary}; leave it out"
            )
        primary = chain == "potts"
    if primary is None:
        primary = bool(traces.attrs["ranked"])
    if primary:
        # Of traces in no order, that says so.
        primary_expert(traces)
    return primary
