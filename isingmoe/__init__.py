"""Statistical physics of expert routing in Mixture-of-Experts models.

The names below are bound on first use: importing the package loads neither numba nor
matplotlib nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isingmoe.algorithms import Exact, HeatBath, Metropolis, SwendsenWang, Wolff
    from isingmoe.budgets import Budget, budget, open_budget
    from isingmoe.chains import IsingChain, KineticChain, PottsChain
    from isingmoe.comparison import Comparison, compare, open_comparison
    from isingmoe.couplings import exponential, power_law
    from isingmoe.derived import baseline, windows
    from isingmoe.equilibrium import irreversibility, load_balance
    from isingmoe.errors import (
        ConvergenceError,
        DegenerateTraceWarning,
        ShortRunWarning,
        ShortTraceWarning,
        TraceSchemaError,
    )
    from isingmoe.estimators import MaximumLikelihood, Pseudolikelihood
    from isingmoe.fitted import Fit, open_fit
    from isingmoe.generation import generate
    from isingmoe.inference import cross_validate, fit
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
    )
    from isingmoe.positions import Blocks, Cosines
    from isingmoe.reports import Report, report
    from isingmoe.sampling import simulate
    from isingmoe.summary import TraceInfo, info
    from isingmoe.sweeping import sweep
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
    "algorithms": ("Exact", "HeatBath", "Metropolis", "SwendsenWang", "Wolff"),
    "budgets": ("Budget", "budget", "open_budget"),
    "chains": ("IsingChain", "KineticChain", "PottsChain"),
    "comparison": ("Comparison", "compare", "open_comparison"),
    "couplings": ("exponential", "power_law"),
    "derived": ("baseline", "windows"),
    "equilibrium": ("irreversibility", "load_balance"),
    "errors": (
        "ConvergenceError",
        "DegenerateTraceWarning",
        "ShortRunWarning",
        "ShortTraceWarning",
        "TraceSchemaError",
    ),
    "estimators": ("MaximumLikelihood", "Pseudolikelihood"),
    "fitted": ("Fit", "open_fit"),
    "generation": ("generate",),
    "inference": ("cross_validate", "fit"),
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
    ),
    "positions": ("Blocks", "Cosines"),
    "reports": ("Report", "report"),
    "sampling": ("simulate",),
    "summary": ("TraceInfo", "info"),
    "sweeping": ("sweep",),
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
    "Exact",
    "Fit",
    "HeatBath",
    "IsingChain",
    "KineticChain",
    "MaximumLikelihood",
    "Metropolis",
    "PottsChain",
    "Pseudolikelihood",
    "Report",
    "ShortRunWarning",
    "ShortTraceWarning",
    "SwendsenWang",
    "TraceInfo",
    "TraceSchemaError",
    "Wolff",
    "baseline",
    "budget",
    "compare",
    "correlation",
    "cross_validate",
    "example_traces",
    "expert_set",
    "exponential",
    "fit",
    "generate",
    "info",
    "irreversibility",
    "load_balance",
    "neighbour_overlap",
    "occupancy",
    "open_budget",
    "open_comparison",
    "open_fit",
    "open_traces",
    "plot_block_sizes",
    "plot_budget",
    "plot_ck",
    "plot_coupling",
    "plot_decay",
    "plot_layers",
    "plot_lengths",
    "plot_phase_diagram",
    "power_law",
    "primary_expert",
    "report",
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
