"""The options of a study that trains models."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from common import Study, folder_of, options

from trained_models.sizes import CPU, GPU, QUICK
from trained_models.store import Store
from trained_models.subjects import Pretrained

__all__ = ["ModelStudy", "parse"]

# What a study of trained models begins from if it is there.
_KEPT = ("measured.nc", "runs")
_TRAINED = Path(__file__).resolve().parent / "trained"


@dataclass(frozen=True)
class ModelStudy(Study):
    """A study of trained models.

    Attributes
    ----------
    store : Store
        Of the models, which the studies share.
    pretrained : tuple of Pretrained
        What is looked at in place of them.
    """

    store: Store = field(kw_only=True)
    pretrained: tuple[Pretrained, ...] = ()


def parse(description: str | None, file: str, *, takes_pretrained: bool = False) -> ModelStudy:
    """Options: where it writes, how large its models are, and what else it may look at."""
    parser = options(description)
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the scale's number")
    parser.add_argument("--batch", type=int, help="windows of a step, instead of the scale's")
    parser.add_argument("--seeds", type=int, help="trainings of each kind, instead of the scale's")
    parser.add_argument("--windows", type=int, help="held-out windows, instead of the scale's")
    parser.add_argument(
        "--models", type=Path, help="folder of trained models, which the studies share"
    )
    if takes_pretrained:
        parser.add_argument(
            "--model",
            nargs="+",
            default=[],
            metavar="NAME",
            help="pretrained models of the Hugging Face hub, or folders, in place of small ones",
        )
        parser.add_argument(
            "--traces",
            nargs="+",
            type=Path,
            default=[],
            metavar="FILE",
            help="traces that are there already, in place of small models",
        )
        parser.add_argument(
            "--layers", nargs="+", type=int, help="of --model and --traces; all by default"
        )
        parser.add_argument(
            "--max-tokens", type=int, default=1024, help="of a speech that --model reads (1024)"
        )
        parser.add_argument(
            "--texts", type=int, default=64, help="speeches that --model reads (default 64)"
        )
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else {"cpu": CPU, "gpu": GPU}[chosen.scale]
    changed = {"steps": chosen.steps, "batch_size": chosen.batch}
    changed |= {"n_seeds": chosen.seeds, "n_windows": chosen.windows}
    size = replace(size, **{name: value for name, value in changed.items() if value is not None})
    size = replace(size, n_followed=min(size.n_followed, size.n_windows))
    pretrained = ()
    if takes_pretrained:
        sources = (*chosen.model, *chosen.traces)
        asked = chosen.max_tokens, chosen.texts, chosen.layers
        pretrained = tuple(Pretrained(one, *asked) for one in sources)
        names = [one.name for one in pretrained]
        if len(set(names)) < len(names):
            parser.error(f"--model, --traces: expected different names, got {', '.join(names)}")
    if not pretrained:
        # Nothing is looked up on the hub.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = "results" if chosen.scale == "cpu" else f"results_{chosen.scale}"
    output = folder_of(chosen, file, folder, _KEPT)
    models = chosen.models or (output / "models" if chosen.quick else _TRAINED)
    return ModelStudy(output, chosen.quick, store=Store(models, size), pretrained=pretrained)
