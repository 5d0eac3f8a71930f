"""The options of a study that trains models."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from common import Study, folder_of, options

from trained_models.sizes import CPU, GPU, QUICK
from trained_models.store import Store

__all__ = ["ModelStudy", "parse"]

_TRAINED = Path(__file__).resolve().parent / "trained"


@dataclass(frozen=True)
class ModelStudy(Study):
    """A study of trained models.

    Attributes
    ----------
    store : Store
        Of the models, which the studies share.
    """

    store: Store = field(kw_only=True)


def parse(description: str | None, file: str) -> ModelStudy:
    """Options: where it writes, and how large its models are."""
    parser = options(description)
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the scale's number")
    parser.add_argument("--seeds", type=int, help="trainings of each kind, instead of the scale's")
    parser.add_argument("--windows", type=int, help="held-out windows, instead of the scale's")
    parser.add_argument(
        "--models", type=Path, help="folder of trained models, which the studies share"
    )
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else {"cpu": CPU, "gpu": GPU}[chosen.scale]
    asked = {"steps": chosen.steps, "n_seeds": chosen.seeds, "n_windows": chosen.windows}
    size = replace(size, **{name: value for name, value in asked.items() if value is not None})
    size = replace(size, n_followed=min(size.n_followed, size.n_windows))
    # Nobody reports to a server, and nothing is looked up there.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    output = folder_of(chosen, file)
    models = chosen.models or (output / "models" if chosen.quick else _TRAINED)
    return ModelStudy(output, chosen.quick, store=Store(models, size))
