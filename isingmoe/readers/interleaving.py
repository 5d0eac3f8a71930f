"""Rows of several sequences that take turns: seen by the overlap at a lag of their number."""

from __future__ import annotations

import xarray as xr

__all__ = ["warn_if_interleaved"]


def warn_if_interleaved(traces: xr.Dataset) -> None:
    """Warn where tokens share more experts with those some rows on than with the next."""
