"""The maximum-entropy equilibrium of the load: reached, missed, collapsed or not decided."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import chi2
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._kernels import blocks
from isingmoe._numbers import check_integer
from isingmoe._schema import alike
from isingmoe._seeds import Seed, generators, seed_sequence
from isingmoe._text import about
from isingmoe.activations import Drift, drift_of, false_discovery_rates
from isingmoe.clustered import Scatter, ratio_errors, scatter
from isingmoe.equilibrium import load_balance, load_entropy
from isingmoe.fitted import Fit
from isingmoe.free_energies import free_energies
from isingmoe.position_blocks import LayerBlocks, coordinates, layer_blocks, partition_of
from isingmoe.traces import Track, each_layer

__all__ = ["mem"]

Array = NDArray[np.floating]

# What counts as improbable.
_LEVEL = 0.05
# A load this near to uniform, in nats, is at equilibrium for every practical purpose: the
# effective number of experts is above 99 % of them.
_NEAR = 0.01
# A test that sees this imbalance, in nats, can tell that there is none worth the name: the
# effective number of experts is above 95 % of them.
_SEEN = 0.05
# A load is collapsed below this share of the way from k to E effective experts.
_FEW = 0.25
# An owner serves more than this share of the tokens where it owns, and so many times its
# rate elsewhere.
_MOST, _TIMES = 0.5, 2.0
# A layer is collapsed where this share of the blocks is owned.
_RANGE = 0.1
# Tokens that chi-square needs: expected for each expert.
_EXPECTED = 20


def mem(
    traces: xr.Dataset,
    fit: Fit | None = None,
    *,
    n_blocks: int | None = None,
    n_simulations: int = 199,
    seed: Seed = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Say of every layer whether its load is at the maximum-entropy equilibrium.

    Parameters
    ----------
    traces : Dataset
    fit : Fit, optional
        Of the same layers, for the energy, entropy and free energy of its chains.
    n_blocks : int, optional
        Blocks of positions, at most; by default those of `activation`.
    n_simulations : int
        Random orders of the tokens, and draws of a uniform router where tokens are few.
    seed : int, SeedSequence or Generator
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        All of `load_balance`, per layer, whose `kl_p_value` takes tokens as independent; and

        - `mem_p_value` (layer): chance of a load as far from uniform, tokens of one sequence
          depending on each other as they do; `mem_kl_null` (layer), the 95 % quantile of `kl`
          of a balanced load, by the same test; `mem_state` (layer), the verdict.
        - `block_entropy`, `block_kl`, `block_effective_experts` (layer, block), corrected for
          bias as in `load_balance`; `block_kl_null` and `block_kl_p_value` of a uniform
          router and independent tokens; `block_p_value`, tokens of a sequence depending on
          each other; `block_start` and `block_tokens`.
        - `stability` (layer): variance of the rates over position, over that of the same
          tokens in random order inside their texts; `stability_p_value`, chance of rates as
          stable with independent tokens. `stability_clustered` and its `_p_value`: over
          what the scatter of the texts makes of it, for tokens that depend on each other.
        - `owned` (layer, expert, block): whether the expert owns the block; `owned_blocks`
          (layer, expert), how many; `n_owners` (layer), experts that own some.
        - with a fit `energy`, `entropy`, `free_energy`, `free_energy_uniform` (layer), in nats
          per token, at T = 1: `entropy` is energy less free energy and free of the gauge.

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    TypeError, ValueError
        If a layer has no token, an id is out of range, a number is out of its range or the
        fit is of other experts or layers.

    Notes
    -----
    **The verdict.** A load is *imbalanced* if `mem_p_value` is below 0.05 and its KL from
    uniform above 0.01 nat, as no load is exactly uniform and enough tokens tell. It is
    *collapsed* where, besides, the effective number of experts exp(H) is below
    k + (E - k)/4, or where experts own at least a tenth of the blocks of positions, whatever
    the load as a whole: an owner of less, such as of the words that every text begins with,
    is listed but makes no collapse. A load that is not imbalanced is *at equilibrium* if the
    test could have told: `mem_kl_null` is at most 0.05 nat, so that a KL of 0.05 nat would
    have been significant; or KL is at most 0.01 nat and `kl_null` at most 0.05 nat, as texts
    that differ only add to KL. Else it is *undecided*: there are too few texts to tell. With
    one sequence `mem_p_value` and `mem_kl_null` are NaN and `kl_p_value` and `kl_null` take
    their places.

    **Owners.** An expert owns a block if its rate there is above one half by more than
    Student's one-sided 95 % over sequences, is at least twice its rate in all blocks that it
    does not own, and its drift over position has a false discovery rate below 0.05 over all
    experts and layers. Blocks that follow each other make the range of positions that it
    owns: the phase of Bershatsky and Oseledets.

    **P-values.** `mem_p_value` squares the assignments of each expert beyond 1/E of all,
    summed over sequences, and compares it with what the scatter of the sequences makes of it
    (`isingmoe.clustered.scatter`); of texts that are all alike both it and `mem_kl_null`
    are those of independent tokens. The null of independent tokens is chi-square where every
    expert is expected 20 times or more, and simulated below; then the p-value is at least
    1/(n_simulations + 1).

    **Stability.** The dispersion is the sum over experts and blocks of the squared surplus of
    an expert in a block, each sequence against its own rate, over the tokens of the block and
    the rate. Its mean over random orders is known exactly, its lower tail is simulated.
    Tokens that repeat their neighbours' experts raise it above one, and so does drift; below
    one, rates over position are more alike than independent tokens would leave them.

    References
    ----------
    D. Bershatsky and I. Oseledets, arXiv:2504.04444 (2025); J. N. K. Rao and A. J. Scott,
    Ann. Stat. 12, 46 (1984); G. Miller, Note on the bias of information estimates (1955).

    Examples
    --------
    >>> import isingmoe as im
    >>> im.mem(im.example_traces()).mem_state.values.tolist()
    ['imbalanced', 'imbalanced', 'imbalanced', 'imbalanced']
    """
    check_integer("n_simulations", n_simulations, 1)
    traces = alike(traces)
    part = partition_of(traces, n_blocks)
    balance = load_balance(traces)
    # The same for every layer: it matters to none which others there are.
    orders, draws = seed_sequence(seed).spawn(2)
    uniform = _UniformRouter(traces, n_simulations, draws)
    words = generators(orders, n_simulations)
    rows, found = [], []
    with threadpool_limits(1, user_api="blas"):
        for place in each_layer(traces, track):
            counts = layer_blocks(traces, place, part)
            drift = drift_of(counts)
            index, length, *_, n_experts = part.arguments(traces, place)
            shuffled = blocks.shuffled_counts(index, length, counts.tokens, n_experts, words)
            distance = _of_blocks(counts, uniform, balance.isel(layer=place))
            rows.append({**distance, **_stability(counts, drift, shuffled)})
            found.append(_candidates(counts, drift))
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    columns["owned"] = _owned(found)
    columns["owned_blocks"] = columns["owned"].sum(2)
    columns["n_owners"] = (columns["owned_blocks"] > 0).sum(1)
    columns["mem_state"] = _verdicts(traces, balance, columns)
    data = balance.assign_coords(coordinates(traces, part)).assign(
        {
            name: (("layer", *dims), columns[name], about(text, units))
            for name, (dims, text, units) in _DECLARED.items()
        }
    )
    inputs = {"traces": _provenance.describe(traces)}
    if fit is not None:
        inputs["fit"] = _provenance.describe(fit.data)
        data = data.assign(free_energies(fit, traces).data_vars)
    arguments = {"n_blocks": n_blocks, "n_simulations": n_simulations}
    data.attrs = {
        "model": traces.attrs["model"],
        "num_experts": int(traces.attrs["num_experts"]),
        "top_k": int(traces.attrs["top_k"]),
        "block_length": part.block_length,
        "n_sequences": int((part.length > 0).sum()),
        "provenance": _provenance.record("mem", arguments, inputs=inputs, seed=seed),
    }
    return data


_DECLARED = {
    "mem_p_value": ((), "p-value of the distance from uniform, over sequences", "1"),
    "mem_kl_null": ((), "95 % quantile of kl for a balanced load, over sequences", "nat"),
    "mem_state": ((), "verdict on the equilibrium", "1"),
    "block_tokens": (("block",), "tokens in the block", "token"),
    "block_entropy": (("block",), "entropy of the load of a block, bias corrected", "nat"),
    "block_kl": (("block",), "distance of a block from the uniform load, corrected", "nat"),
    "block_kl_null": (("block",), "95 % quantile of block_kl for a uniform router", "nat"),
    "block_kl_p_value": (("block",), "p-value of block_kl, independent tokens", "1"),
    "block_p_value": (("block",), "p-value of the distance of a block, over sequences", "1"),
    "block_effective_experts": (("block",), "effective number of experts of a block", "1"),
    "stability": ((), "dispersion of rates over position, over that in random order", "1"),
    "stability_p_value": ((), "p-value of less dispersion, independent tokens", "1"),
    "stability_clustered": ((), "dispersion over what the scatter of texts makes of it", "1"),
    "stability_clustered_p_value": ((), "p-value of less dispersion, over sequences", "1"),
    "owned": (("expert", "block"), "whether the expert owns the block", "1"),
    "owned_blocks": (("expert",), "blocks that the expert owns", "1"),
    "n_owners": ((), "experts that own blocks", "1"),
}


class _UniformRouter:
    """Plug-in distance of the load of a router without preference."""

    def __init__(self, traces: xr.Dataset, n_draws: int, seed: np.random.SeedSequence) -> None:
        self.n_experts, self.k = int(traces.attrs["num_experts"]), int(traces.attrs["top_k"])
        self._n_draws, self._seed = n_draws, seed
        self._drawn: dict[int, Array] = {}

    def bias(self, n_tokens: int) -> float:
        """Mean distance, to first order."""
        return (self.n_experts - self.k) / (2 * self.k * n_tokens)

    def p_value(self, kl: float, n_tokens: int) -> float:
        """Chance of a distance as large."""
        drawn = self._draw(n_tokens)
        if drawn is not None:
            return float((1 + (drawn >= kl - 1e-12).sum()) / (1 + len(drawn)))
        freedom = max(self.n_experts - 1, 1)
        scale = self.bias(n_tokens) / freedom
        return float(chi2.sf(kl / scale, freedom)) if scale > 0 else 1.0

    def quantile(self, n_tokens: int) -> float:
        """Its 95 % quantile."""
        drawn = self._draw(n_tokens)
        if drawn is not None:
            return float(np.quantile(drawn, 1 - _LEVEL, method="higher"))
        freedom = max(self.n_experts - 1, 1)
        return float(self.bias(n_tokens) * chi2.isf(_LEVEL, freedom) / freedom)

    def _draw(self, n_tokens: int) -> Array | None:
        """Distances that were drawn, where chi-square would not do."""
        if self.k == self.n_experts or n_tokens * self.k >= _EXPECTED * self.n_experts:
            return None
        if n_tokens not in self._drawn:
            key = (*self._seed.spawn_key, n_tokens)
            seed = np.random.SeedSequence(self._seed.entropy, spawn_key=key)
            words = generators(seed, self._n_draws)
            counts = blocks.uniform_counts(n_tokens, self.n_experts, self.k, words)
            load = counts / (n_tokens * self.k)
            self._drawn[n_tokens] = np.log(self.n_experts) - load_entropy(load)
        return self._drawn[n_tokens]


def _of_blocks(counts: LayerBlocks, uniform: _UniformRouter, balance: xr.Dataset) -> dict[str, Any]:
    """Distance of the whole layer and of its blocks from the uniform load.

    Texts that are all alike have no scatter to compare with: what is left is independent tokens.
    """
    tokens, served = counts.tokens.sum(0), counts.served.sum(0)
    load = served / np.maximum(served.sum(1, keepdims=True), 1)
    n = np.where(tokens > 0, tokens, np.nan)
    bias = (np.count_nonzero(load, axis=1) - uniform.k) / (2 * uniform.k * n)
    plugin = load_entropy(load)
    kl = np.log(uniform.n_experts) - plugin
    known = np.flatnonzero(tokens)
    null, p_value = np.full((2, len(tokens)), np.nan)
    for b in known.tolist():
        null[b] = uniform.quantile(int(tokens[b])) - uniform.bias(int(tokens[b]))
        p_value[b] = uniform.p_value(float(kl[b]), int(tokens[b]))
    # Whole numbers, so that what is nought is nought: E times the assignments beyond 1/E.
    beyond = uniform.n_experts * counts.served - counts.served.sum(2, keepdims=True)
    present = counts.tokens > 0
    whole = scatter(beyond.sum(1)[:, None].astype(float), np.any(present, axis=1, keepdims=True))
    each = scatter(beyond.astype(float), present)
    alike = bool(whole.alike[0])
    return {
        "block_tokens": tokens,
        "block_entropy": plugin + bias,
        "block_kl": kl - bias,
        "block_kl_null": null,
        "block_kl_p_value": p_value,
        "block_p_value": np.where(each.alike, p_value, each.p_value()),
        "block_effective_experts": np.exp(plugin + bias),
        "mem_p_value": float(balance["kl_p_value"]) if alike else whole.p_value()[0],
        "mem_kl_null": float(balance["kl_null"]) if alike else _kl_null(whole, counts, uniform),
    }


def _kl_null(whole: Scatter, counts: LayerBlocks, uniform: _UniformRouter) -> float:
    """95 % quantile of the distance of the whole layer, corrected for bias, by the scatter.

    Near to uniform the distance is E/2 times the sum of (load - 1/E)^2.
    """
    assigned, n_tokens = float(counts.served.sum()), int(counts.tokens.sum())
    square = float(whole.quantile(1 - _LEVEL)[0])
    return square / (2 * uniform.n_experts * assigned**2) - uniform.bias(n_tokens)


def _stability(counts: LayerBlocks, drift: Drift, shuffled: NDArray[np.int64]) -> dict[str, float]:
    """Dispersion of the rates over position, beside that in random order."""
    whole, own = counts.tokens.sum(1), counts.own_rate()
    scale = counts.tokens.sum(0)[:, None] * counts.rate
    share = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    # Of a draw without replacement from the tokens of each sequence.
    part = counts.tokens * (1 - counts.tokens / np.maximum(whole, 1)[:, None])
    variance = own * (1 - own) * (whole / np.maximum(whole - 1, 1))[:, None]
    expected = float(((part.T @ variance) * share).sum())
    surplus = shuffled - np.einsum("sb,se->be", counts.tokens, own)
    drawn = (surplus**2 * share).sum((1, 2))
    value = float(drift.layer.value[0])
    as_stable = (drawn <= value * (1 + 1e-9)).sum()
    by_texts = drift.layer.expected[0]
    return {
        "stability": value / expected if expected > 0 else np.nan,
        "stability_p_value": float((1 + as_stable) / (1 + len(drawn))),
        "stability_clustered": float(value / by_texts) if by_texts > 0 else np.nan,
        "stability_clustered_p_value": float(drift.layer.p_value(lower=True)[0]),
    }


class _Candidates(NamedTuple):
    """What may be owned in a layer: blocks in which an expert serves most tokens, for sure."""

    most: NDArray[np.bool_]
    rate: Array
    elsewhere: Array
    p_value: Array


def _candidates(counts: LayerBlocks, drift: Drift) -> _Candidates:
    rate, error, factor = ratio_errors(counts.served, counts.tokens)
    most = rate - factor[:, None] * error > _MOST
    served = np.where(most, 0, counts.served.sum(0)).sum(0)
    tokens = np.where(most, 0, counts.tokens.sum(0)[:, None]).sum(0)
    elsewhere = np.where(tokens > 0, served / np.maximum(tokens, 1), np.inf)
    return _Candidates(most.T, rate.T, elsewhere, drift.experts.p_value())


def _owned(found: list[_Candidates]) -> NDArray[np.bool_]:
    """Which blocks each expert owns, (layer, expert, block)."""
    most, rate, elsewhere, p_value = (np.stack(column) for column in zip(*found, strict=True))
    drifts = false_discovery_rates(p_value) < _LEVEL
    return most & (rate >= _TIMES * elsewhere[..., None]) & drifts[..., None]


def _verdicts(traces: xr.Dataset, balance: xr.Dataset, columns: dict[str, Any]) -> NDArray[np.str_]:
    n_experts, k = int(traces.attrs["num_experts"]), int(traces.attrs["top_k"])
    kl, kl_null = balance["kl"].values, balance["kl_null"].values
    p_value, smallest = columns["mem_p_value"], columns["mem_kl_null"]
    p_value = np.where(np.isnan(p_value), balance["kl_p_value"].values, p_value)
    smallest = np.where(np.isnan(smallest), kl_null, smallest)
    uneven = (p_value < _LEVEL) & (kl > _NEAR)
    sure = (smallest <= _SEEN) | ((kl <= _NEAR) & (kl_null <= _SEEN))
    few = balance["effective_experts"].values < k + _FEW * (n_experts - k)
    state = np.where(
        uneven,
        np.where(few, "collapsed", "imbalanced"),
        np.where(sure, "equilibrium", "undecided"),
    )
    owned = columns["owned"].any(1).mean(1) >= _RANGE
    return np.where(owned, "collapsed", state)
