"""Figures of traces, fits and comparisons; nothing else imports matplotlib."""

from isingmoe.plotting.blocks import plot_block_sizes
from isingmoe.plotting.budgets import plot_budget
from isingmoe.plotting.coupling import plot_coupling
from isingmoe.plotting.decay import plot_decay
from isingmoe.plotting.kolmogorov import plot_ck
from isingmoe.plotting.layers import plot_layers
from isingmoe.plotting.lengths import plot_lengths
from isingmoe.plotting.mem import plot_mem
from isingmoe.plotting.probes import plot_probe
from isingmoe.plotting.rates import plot_rates
from isingmoe.plotting.saving import check_figure, save_figure

__all__ = [
    "check_figure",
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
    "save_figure",
]
