"""Capturing the routing of models as they run; the only part of the package that needs torch."""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "capturing needs torch and transformers: pip install 'isingmoe[capture]'"
    ) from error

from isingmoe.capturing.adapters import capture_adapter
from isingmoe.capturing.recording import Call, Recorder, recorded
from isingmoe.capturing.sites import Site, find_sites, logit_meaning

__all__ = [
    "Call",
    "Recorder",
    "Site",
    "capture_adapter",
    "find_sites",
    "logit_meaning",
    "recorded",
]
