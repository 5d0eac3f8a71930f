"""Figures of traces, fits and comparisons; nothing else imports matplotlib."""

from isingmoe.plotting.budgets import plot_budget
from isingmoe.plotting.decay import plot_decay
from isingmoe.plotting.layers import plot_layers
from isingmoe.plotting.saving import check_figure, save_figure

__all__ = ["check_figure", "plot_budget", "plot_decay", "plot_layers", "save_figure"]
