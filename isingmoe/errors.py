"""Errors and warnings that a caller can act on."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConvergenceError",
    "DegenerateTraceWarning",
    "InterleavedTraceWarning",
    "ShortRunWarning",
    "ShortTraceWarning",
    "TraceSchemaError",
]


class TraceSchemaError(ValueError):
    """A Dataset that is not a trace, with everything that is wrong with it.

    Attributes
    ----------
    faults : tuple of str
        One sentence for each fault: the variable, what was expected and what was got.
    """

    def __init__(self, where: str, faults: list[str]) -> None:
        self.faults = tuple(faults)
        count = "" if len(faults) == 1 else f"{len(faults)} faults: "
        super().__init__(f"{where}: {count}{'; '.join(faults)}")


class ConvergenceError(RuntimeError):
    """A fit that stopped before its gradient vanished.

    Attributes
    ----------
    fit : Fit or None
        The unfinished fit; its variable `converged` tells which layers are affected.
    """

    def __init__(self, message: str, fit: Any) -> None:
        self.fit = fit
        super().__init__(message)


class ShortTraceWarning(UserWarning):
    """A trace with too few tokens for the number of parameters asked for."""


class DegenerateTraceWarning(UserWarning):
    """A trace that says nothing of some of what was asked for."""


class InterleavedTraceWarning(UserWarning):
    """A trace whose rows seem to be of several sequences that take turns."""


class ShortRunWarning(UserWarning):
    """A Monte Carlo run too short for its errors to be trusted."""
