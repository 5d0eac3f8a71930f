"""The maximum-entropy equilibrium of an MoE layer, and the distance of a load from it."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import chi2

from isingmoe import _provenance
from isingmoe._kernels import overlaps
from isingmoe._schema import validate_structure
from isingmoe._text import about
from isingmoe.traces import pack_layer, trace_name

__all__ = ["load_balance", "load_entropy"]

Array = NDArray[np.floating]


def load_entropy(load: Array) -> Array:
    """Entropy of a load, in nats.

    Parameters
    ----------
    load : array_like (..., expert)
        Shares that sum to one.

    Returns
    -------
    ndarray (...)
    """
    return -xlogy(load, load).sum(-1)


def load_balance(traces: xr.Dataset) -> xr.Dataset:
    """Load of every expert, its entropy and its distance from the uniform load.

    Parameters
    ----------
    traces : Dataset

    Returns
    -------
    Dataset
        Per layer: `load` (layer, expert), the share of all assignments; `load_entropy` and
        `kl` = ln E - entropy, both corrected for the finite number of tokens, in nats;
        `kl_plugin`, not corrected; `kl_null`, the 95 % quantile of `kl` for a uniform
        router, and `kl_p_value`; `effective_experts` = exp(entropy).

    Raises
    ------
    TraceSchemaError
        If the Dataset is not a trace.
    ValueError
        If a layer has no token, or an id is out of range.

    Notes
    -----
    N tokens with k different experts each bias the plug-in entropy by -(m - k) / (2 k N),
    m the number of experts in use; for k = 1 this is the correction of Miller (1955). For
    a uniform router 2 k N (E - 1) / (E - k) times the plug-in distance is chi-square with
    E - 1 degrees of freedom. Both take tokens as independent; neighbours that share
    experts make the true spread wider.

    References
    ----------
    G. Miller, Note on the bias of information estimates, in Information Theory in
    Psychology (1955); D. Bershatsky and I. Oseledets, arXiv:2504.04444 (2025).
    """
    validate_structure(traces)
    n_experts, k = int(traces.attrs["num_experts"]), int(traces.attrs["top_k"])
    tokens, served = [], []
    for place in range(traces.sizes["layer"]):
        sets = pack_layer(traces, place, primary=False)
        n, occupied = overlaps.occupancy_counts(sets, n_experts)
        if not n.sum():
            raise ValueError(
                f"{trace_name(traces)}: expert_index: expected a token in layer "
                f"{int(traces['layer'][place])}, got none; leave the layer out"
            )
        tokens.append(n.sum())
        served.append(occupied.sum(0))
    n_tokens, assignments = np.array(tokens), np.array(served, float)
    load = assignments / assignments.sum(1, keepdims=True)
    bias = ((load > 0).sum(1) - k) / (2 * k * n_tokens)
    plugin = load_entropy(load)
    entropy = plugin + bias
    kl_plugin = np.log(n_experts) - plugin
    freedom = n_experts - 1
    # One choice alone (k = E) leaves no freedom: the load is uniform by construction.
    scale = (n_experts - k) / (2 * k * n_tokens * max(freedom, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = np.where(scale > 0, chi2.sf(kl_plugin / scale, freedom), 1.0)
    quantile = scale * chi2.ppf(0.95, freedom) - (n_experts - k) / (2 * k * n_tokens)
    expert = np.arange(n_experts)
    declared = {
        "load": (load, "share of the assignments", "1"),
        "load_entropy": (entropy, "entropy of the load, bias corrected", "nat"),
        "kl": (kl_plugin - bias, "distance from the uniform load, bias corrected", "nat"),
        "kl_plugin": (kl_plugin, "distance from the uniform load, plug-in", "nat"),
        "kl_null": (quantile, "95 % quantile of kl for a uniform router", "nat"),
        "kl_p_value": (p_value, "p-value of the distance for a uniform router", "1"),
        "effective_experts": (np.exp(entropy), "effective number of experts", "1"),
    }
    return xr.Dataset(
        {
            name: (
                ("layer", "expert")[: values.ndim],
                values,
                about(long_name, units),
            )
            for name, (values, long_name, units) in declared.items()
        },
        coords={"layer": traces["layer"], "expert": expert},
        attrs={
            "provenance": _provenance.record(
                "load_balance", {}, inputs=_provenance.describe(traces)
            )
        },
    )
