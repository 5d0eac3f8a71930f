"""Activation of experts against the position in the text."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import false_discovery_control
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._schema import alike
from isingmoe._text import about
from isingmoe.clustered import Scatter, ratio_errors, scatter
from isingmoe.position_blocks import LayerBlocks, coordinates, layer_blocks, partition_of
from isingmoe.traces import Track, each_layer

__all__ = ["Drift", "activation", "drift_of", "false_discovery_rates"]

Array = NDArray[np.floating]


class Drift(NamedTuple):
    """How far the rates of a layer depend on position.

    Attributes
    ----------
    within : ndarray (expert, block)
        Rates with the differences between sequences taken out.
    experts, layer : Scatter
        Of the surplus of each expert over the blocks, and of all experts together.
    bits, layer_bits : ndarray (expert,), float
        Plug-in information between block and expert.
    per_square, layer_per_square : ndarray (expert,), float
        Information for each unit of the squares, to second order.
    """

    within: Array
    experts: Scatter
    layer: Scatter
    bits: Array
    layer_bits: float
    per_square: Array
    layer_per_square: float

    def corrected(self) -> tuple[Array, Array, Array, Array]:
        """Information without its bias and its 95 % quantile without drift: experts, layer."""
        expected = self.per_square * self.experts.expected
        layer_expected = self.layer_per_square * self.layer.expected
        return (
            self.bits - expected,
            self.per_square * self.experts.quantile(0.95) - expected,
            self.layer_bits - layer_expected,
            self.layer_per_square * self.layer.quantile(0.95) - layer_expected,
        )


def activation(
    traces: xr.Dataset,
    *,
    n_blocks: int | None = None,
    block_length: int | None = None,
    track: Track | None = None,
) -> xr.Dataset:
    """Rate of every expert against the absolute position in the text, and whether it drifts.

    Parameters
    ----------
    traces : Dataset
        Positions count from `start_position`, where the traces have it.
    n_blocks : int, optional
        Blocks, at most, that the positions are divided into.
    block_length : int, optional
        Positions of a block, in place of `n_blocks`. By default a power of two, such that
        there are at most 16 blocks, and no more than sequences (but two).
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        `block_start` (block), the first position of each block, and `block_tokens` (layer,
        block). `rate` and `rate_error` (layer, expert, block): share of the tokens that the
        expert serves, and its standard error over sequences; `rate_within`, the same with
        differences between the texts taken out. `uniformity_p_value` and
        `uniformity_q_value` (layer, expert): chance of rates that vary as much over position
        where none does, and the false discovery rate if all experts of all layers with a
        value as low are taken to drift. `drift_bits` (layer, expert), the mutual information
        between the block and whether the expert serves, `layer_drift_bits` (layer), that
        between the block and the expert of an assignment, both in bits and corrected for
        bias; `drift_bits_null`, `layer_drift_bits_null`: 95 % quantiles without drift, and
        `layer_drift_p_value` (layer).

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    TypeError, ValueError
        If both or unusable sizes of the blocks are given, a layer has no token, or an id is
        out of range.

    Notes
    -----
    A text may prefer experts of its own, and texts of different lengths fill different
    blocks. What is tested is therefore each sequence against itself: the tokens of an expert
    in a block, less what its rate in that sequence makes of the tokens there. Without drift
    this has mean zero, whatever the texts prefer and however long tokens remember. Summed
    over sequences, squared, over the tokens of each block, it is compared with what the
    scatter of the sequences makes of it, by the test of Rao and Scott (1984) with few-
    sequence corrections (`isingmoe.clustered.scatter`); only sequences are taken as
    independent. Drift that differs from text to text is no drift here. On simulated chains of
    correlation lengths 0 to 20 tokens, texts that differ, ragged lengths and starts, a size of
    5 % was measured as 5 % with 142 sequences and 2 to 4 % with 4 or 8, there 1 % or less for
    a layer as a whole. With one sequence, or one block, p-values and corrected informations
    are NaN.

    False discovery rates are those of Benjamini and Hochberg.

    References
    ----------
    J. N. K. Rao and A. J. Scott, Ann. Stat. 12, 46 (1984); Y. Benjamini and Y. Hochberg,
    J. R. Stat. Soc. B 57, 289 (1995); D. Bershatsky and I. Oseledets, arXiv:2504.04444 (2025).

    Examples
    --------
    >>> import isingmoe as im
    >>> drift = im.activation(im.example_traces())
    >>> drift["rate"].dims
    ('layer', 'expert', 'block')
    """
    traces = alike(traces)
    part = partition_of(traces, n_blocks, block_length)
    rows: list[dict[str, Any]] = []
    with threadpool_limits(1, user_api="blas"):
        for place in each_layer(traces, track):
            counts = layer_blocks(traces, place, part)
            rows.append(_layer_variables(counts, drift_of(counts)))
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    columns["uniformity_q_value"] = false_discovery_rates(columns["uniformity_p_value"])
    arguments = {"n_blocks": n_blocks, "block_length": part.block_length}
    return xr.Dataset(
        {name: (*_DECLARED[name][:1], columns[name], _explained(name)) for name in _DECLARED},
        coords=coordinates(traces, part),
        attrs={
            "model": traces.attrs["model"],
            "block_length": part.block_length,
            "n_sequences": int((part.length > 0).sum()),
            "provenance": _provenance.record(
                "activation", arguments, inputs=_provenance.describe(traces)
            ),
        },
    )


_RATES, _EXPERTS = ("layer", "expert", "block"), ("layer", "expert")
_DECLARED = {
    "block_tokens": (("layer", "block"), "tokens in the block", "token"),
    "rate": (_RATES, "share of the tokens that the expert serves", "1"),
    "rate_error": (_RATES, "standard error of the rate, over sequences", "1"),
    "rate_within": (_RATES, "rate, differences between sequences taken out", "1"),
    "uniformity_p_value": (_EXPERTS, "p-value of the drift, over sequences", "1"),
    "uniformity_q_value": (_EXPERTS, "false discovery rate of the drift", "1"),
    "drift_bits": (_EXPERTS, "information between block and expert, bias corrected", "bit"),
    "drift_bits_null": (_EXPERTS, "95 % quantile of drift_bits without drift", "bit"),
    "layer_drift_bits": (("layer",), "information between block and choice, corrected", "bit"),
    "layer_drift_bits_null": (("layer",), "95 % quantile without drift", "bit"),
    "layer_drift_p_value": (("layer",), "p-value of the layer's drift, over sequences", "1"),
}


def _explained(name: str) -> dict[str, str]:
    return about(*_DECLARED[name][1:])


def _layer_variables(counts: LayerBlocks, drift: Drift) -> dict[str, Any]:
    rate, error, _ = ratio_errors(counts.served, counts.tokens)
    bits, null, layer_bits, layer_null = drift.corrected()
    return {
        "block_tokens": counts.tokens.sum(0),
        "rate": rate.T,
        "rate_error": error.T,
        "rate_within": drift.within,
        "uniformity_p_value": drift.experts.p_value(),
        "drift_bits": bits,
        "drift_bits_null": null,
        "layer_drift_bits": layer_bits[0],
        "layer_drift_bits_null": layer_null[0],
        "layer_drift_p_value": drift.layer.p_value()[0],
    }


def drift_of(counts: LayerBlocks) -> Drift:
    """Compare the rates in blocks with those of whole sequences."""
    rate, tokens = counts.rate, counts.tokens.sum(0)
    surplus, n_tokens = counts.surplus(), tokens.sum()
    root = np.sqrt(np.maximum(tokens, 1))[:, None]
    # A sequence in one block alone has nothing to compare.
    compared = (counts.tokens > 0).sum(1) > 1
    parts = (surplus / root)[compared]
    n_experts = len(rate)
    present = np.ones((len(parts), n_experts), bool)
    moves = (rate > 0) & (rate < 1)
    scale = np.where(rate > 0, np.sqrt(np.where(rate > 0, rate, 1)), np.inf)
    together = (parts / scale).reshape(len(parts), 1, surplus[0].size)
    within = np.clip(rate + surplus.sum(0) / root**2, 0, 1)
    plugin, layer_plugin = _information(within, counts.weight)
    variance = np.where(moves, rate * (1 - rate), np.inf)
    assignments = counts.served.sum()
    return Drift(
        np.where(tokens > 0, within.T, np.nan),
        scatter(parts.transpose(0, 2, 1), present),
        scatter(together, present[:, :1]),
        plugin,
        layer_plugin,
        1 / (2 * np.log(2) * n_tokens * variance),
        1 / (2 * np.log(2) * assignments),
    )


def _information(within: Array, weight: Array) -> tuple[Array, float]:
    """Information between block and each expert, and the choice, (block, expert), in bits."""

    def entropy(p: Array) -> Array:
        return -xlogy(p, p) - xlogy(1 - p, 1 - p)

    each = entropy(weight @ within) - weight @ entropy(within)
    share = within / within.sum(1, keepdims=True)
    choice = weight @ xlogy(share, share).sum(1) - xlogy(weight @ share, weight @ share).sum()
    return each / np.log(2), float(choice / np.log(2))


def false_discovery_rates(p_value: Array) -> Array:
    """Rates of Benjamini and Hochberg over all values that are known."""
    known = ~np.isnan(p_value)
    result = np.full(p_value.shape, np.nan)
    if known.any():
        result[known] = false_discovery_control(p_value[known])
    return result
