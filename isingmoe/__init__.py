"""Statistical physics of expert routing in Mixture-of-Experts models.

The names below are bound on first use: importing the package loads neither numba nor
matplotlib nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isingmoe.activations import activation
    from isingmoe.algorithms import Exact, HeatBath, Metropolis, SwendsenWang, Wolff
    from isingmoe.baselines import baseline_correlation
    from isingmoe.block_lengths import block_sizes
    from isingmoe.budgets import Budget, budget, open_budget
    from isingmoe.capturing import capture_adapter
    from isingmoe.capturing.rope import rope_subspaces
    from isingmoe.capturing.verb import capture
    from isingmoe.chains import IsingChain, KineticChain, PottsChain
    from isingmoe.comparison import Comparison, compare, open_comparison
    from isingmoe.couplings import exponential, power_law
    from isingmoe.derived import baseline, windows
    from isingmoe.endpoint_requests import Patience
    from isingmoe.endpoint_servers import Endpoint
    from isingmoe.endpoints import capture_endpoint
    from isingmoe.equilibrium import irreversibility, load_balance
    from isingmoe.errors import (
        ConvergenceError,
        DegenerateTraceWarning,
        InterleavedTraceWarning,
        ShortRunWarning,
        ShortTraceWarning,
        TraceSchemaError,
    )
    from isingmoe.estimators import MaximumLikelihood, Pseudolikelihood
    from isingmoe.expert_correlations import expert_correlation
    from isingmoe.fitted import Fit, open_fit
    from isingmoe.generation import generate
    from isingmoe.goodness import goodness_of_fit
    from isingmoe.hidden_states import hidden_offsets, open_hidden
    from isingmoe.inference import cross_validate, fit
    from isingmoe.length_estimates import correlation_lengths
    from isingmoe.markov_test import chapman_kolmogorov
    from isingmoe.mem_states import mem
    from isingmoe.neighbours import neighbour_overlap
    from isingmoe.observables import correlation
    from isingmoe.phase_diagrams import plot_phase_diagram
    from isingmoe.plotting import (
        plot_block_sizes,
        plot_budget,
        plot_ck,
        plot_coupling,
        plot_decay,
        plot_layers,
        plot_lengths,
        plot_mem,
        plot_probe,
        plot_rates,
    )
    from isingmoe.positions import Blocks, Cosines
    from isingmoe.probing import Probe, open_probe, probe
    from isingmoe.ranked_laws import decay_laws
    from isingmoe.readers import import_traces
    from isingmoe.reports import Report, report
    from isingmoe.sampling import simulate
    from isingmoe.subspaces import open_subspaces, save_subspaces
    from isingmoe.summary import TraceInfo, info
    from isingmoe.sweeping import sweep
    from isingmoe.texts import TextDataset, TextFile
    from isingmoe.traces import (
        example_traces,
        expert_set,
        occupancy,
        open_traces,
        primary_expert,
        save_traces,
        traces_from_arrays,
        validate,
    )
    from isingmoe.transfer import solve

_HOME = {
    "activations": ("activation",),
    "algorithms": ("Exact", "HeatBath", "Metropolis", "SwendsenWang", "Wolff"),
    "baselines": ("baseline_correlation",),
    "block_lengths": ("block_sizes",),
    "budgets": ("Budget", "budget", "open_budget"),
    "capturing": ("capture_adapter",),
    "capturing.rope": ("rope_subspaces",),
    "capturing.verb": ("capture",),
    "chains": ("IsingChain", "KineticChain", "PottsChain"),
    "markov_test": ("chapman_kolmogorov",),
    "comparison": ("Comparison", "compare", "open_comparison"),
    "length_estimates": ("correlation_lengths",),
    "couplings": ("exponential", "power_law"),
    "ranked_laws": ("decay_laws",),
    "derived": ("baseline", "windows"),
    "endpoint_requests": ("Patience",),
    "endpoint_servers": ("Endpoint",),
    "endpoints": ("capture_endpoint",),
    "equilibrium": ("irreversibility", "load_balance"),
    "errors": (
        "ConvergenceError",
        "DegenerateTraceWarning",
        "InterleavedTraceWarning",
        "ShortRunWarning",
        "ShortTraceWarning",
        "TraceSchemaError",
    ),
    "estimators": ("MaximumLikelihood", "Pseudolikelihood"),
    "expert_correlations": ("expert_correlation",),
    "fitted": ("Fit", "open_fit"),
    "generation": ("generate",),
    "hidden_states": ("hidden_offsets", "open_hidden"),
    "goodness": ("goodness_of_fit",),
    "inference": ("cross_validate", "fit"),
    "mem_states": ("mem",),
    "neighbours": ("neighbour_overlap",),
    "observables": ("correlation",),
    "phase_diagrams": ("plot_phase_diagram",),
    "plotting": (
        "plot_block_sizes",
        "plot_budget",
        "plot_ck",
        "plot_coupling",
        "plot_decay",
        "plot_layers",
        "plot_lengths",
        "plot_mem",
        "plot_probe",
        "plot_rates",
    ),
    "positions": ("Blocks", "Cosines"),
    "probing": ("Probe", "open_probe", "probe"),
    "readers": ("import_traces",),
    "reports": ("Report", "report"),
    "sampling": ("simulate",),
    "subspaces": ("open_subspaces", "save_subspaces"),
    "summary": ("TraceInfo", "info"),
    "sweeping": ("sweep",),
    "texts": ("TextDataset", "TextFile"),
    "traces": (
        "example_traces",
        "expert_set",
        "occupancy",
        "open_traces",
        "primary_expert",
        "save_traces",
        "traces_from_arrays",
        "validate",
    ),
    "transfer": ("solve",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Blocks",
    "Budget",
    "Comparison",
    "ConvergenceError",
    "Cosines",
    "DegenerateTraceWarning",
    "Endpoint",
    "Exact",
    "Fit",
    "HeatBath",
    "InterleavedTraceWarning",
    "IsingChain",
    "KineticChain",
    "MaximumLikelihood",
    "Metropolis",
    "Patience",
    "PottsChain",
    "Probe",
    "Pseudolikelihood",
    "Report",
    "ShortRunWarning",
    "ShortTraceWarning",
    "SwendsenWang",
    "TextDataset",
    "TextFile",
    "TraceInfo",
    "TraceSchemaError",
    "Wolff",
    "activation",
    "baseline",
    "baseline_correlation",
    "block_sizes",
    "budget",
    "capture",
    "capture_adapter",
    "capture_endpoint",
    "chapman_kolmogorov",
    "compare",
    "correlation",
    "correlation_lengths",
    "cross_validate",
    "decay_laws",
    "example_traces",
    "expert_correlation",
    "expert_set",
    "exponential",
    "fit",
    "generate",
    "goodness_of_fit",
    "hidden_offsets",
    "import_traces",
    "info",
    "irreversibility",
    "load_balance",
    "mem",
    "neighbour_overlap",
    "occupancy",
    "open_budget",
    "open_comparison",
    "open_fit",
    "open_hidden",
    "open_probe",
    "open_subspaces",
    "open_traces",
    "plot_block_sizes",
    "plot_budget",
    "plot_ck",
    "plot_coupling",
    "plot_decay",
    "plot_layers",
    "plot_lengths",
    "plot_mem",
    "plot_phase_diagram",
    "plot_probe",
    "plot_rates",
    "power_law",
    "primary_expert",
    "probe",
    "report",
    "rope_subspaces",
    "save_subspaces",
    "save_traces",
    "simulate",
    "solve",
    "sweep",
    "traces_from_arrays",
    "validate",
    "windows",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("isingmoe._provenance").software_version()
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'isingmoe' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"isingmoe.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
