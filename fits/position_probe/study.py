"""How much of a token's position can be read off what its router sees.

Small models, trained, untrained and ruled by chance; with --model pretrained ones, with --traces
what was captured before.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "simulations"))
from figures import accuracy_figure, band_figure
from trained_models.intervals import significant, told
from trained_models.options import ModelStudy, parse
from trained_models.results import kept
from trained_models.subjects import Stack, each_seed, look_at

import isingmoe as im

# That of the paper, and one that more blocks of a short text have.
BLOCK_LENGTHS = (32, 128)


def told_positions(
    stack: Stack, *, block_lengths: tuple[int, ...], n_shuffles: int, max_tokens: int
) -> xr.Dataset:
    """Probes of all that a trace has, by wavelength where the model turns its queries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", im.ShortTraceWarning)
        return im.probe(
            stack.traces,
            block_length=[one for one in block_lengths if one < stack.traces.sizes["position"]],
            n_folds=min(3, stack.traces.sizes["sequence"]),
            n_shuffles=n_shuffles,
            max_tokens=max_tokens,
            subspaces=None if stack.model is None else subspaces_of(stack.model),
        ).data


def subspaces_of(model: Any) -> xr.Dataset | None:
    """What its rotary encoding reads, if it has one."""
    try:
        return im.rope_subspaces(model, n_bands=8)
    except ValueError:
        return None


def small_models(data: xr.Dataset) -> dict[str, dict[str, dict[str, str]]]:
    """Accuracies of each kind of model, means over layers with intervals over seeds."""
    rows = {}
    for name in data["subject"].values.tolist():
        one = data.sel(subject=name)
        rows[one["label"].item()] = {
            question: {
                "accuracy": _mean(at["accuracy"]),
                "majority": _mean(at["majority"]),
                "shuffled": _mean(at["control_accuracy"].sel(control="shuffled")),
                "shifted": _mean(at["control_accuracy"].sel(control="shifted")),
                "beyond shifted": _mean(
                    at["accuracy"] - at["control_accuracy"].sel(control="shifted")
                ),
                "p < 0.05": significant(at["p_value"]),
            }
            for question, at in _questions(one)
        }
    return rows


def _mean(values: xr.DataArray) -> str:
    return told(values.mean("layer"), 3)


def of_layers(data: xr.Dataset) -> dict[str, dict[str, dict[str, str]]]:
    """The same of each layer of one model, with intervals over texts."""
    return {
        f"layer {layer}": {
            question: {
                "accuracy": _within(at, "accuracy"),
                "majority": f"{at['majority'].item():.3f}",
                "shuffled": _within(at.sel(control="shuffled"), "control_accuracy", "control"),
                "shifted": _within(at.sel(control="shifted"), "control_accuracy", "control"),
                "p": f"{at['p_value'].item():.2g}",
            }
            for question, at in _questions(data.sel(layer=layer))
        }
        for layer in data["layer"].values
    }


def _within(at: xr.Dataset, name: str, interval: str = "accuracy") -> str:
    low, high = at[f"{interval}_low"].item(), at[f"{interval}_high"].item()
    return f"{at[name].item():.3f} [{low:.3f}..{high:.3f}]"


def _questions(data: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    names = [data[dim].values.tolist() for dim in ("input", "target", "split")]
    for name, target, split in product(*names):
        at = data.sel(input=name, target=target, split=split)
        yield f"{name}, {target}, {split}s held out", at


def main(study: ModelStudy) -> None:
    """Capture, probe, draw, and conclude."""
    settings = {"block_lengths": BLOCK_LENGTHS, "n_shuffles": 6, "max_tokens": 16_384}
    if study.quick:
        settings = {"block_lengths": (8,), "n_shuffles": 2, "max_tokens": 10_240}
    elif not study.pretrained:
        # Fewer of each of the many models.
        settings |= {"n_shuffles": 4, "max_tokens": 10_240}
    look = partial(told_positions, **settings)
    if not study.pretrained:
        data = kept(study, __file__, lambda: each_seed(study.store, look).sortby("block_length"))
        study.draw("accuracy.png", accuracy_figure(data))
        study.draw("bands.png", band_figure(data))
        study.conclude(small_models(data))
        return
    for pretrained in study.pretrained:
        for name, data in look_at(pretrained, look).items():
            study.save(f"{name}.nc", data)
            study.draw(f"{name}.png", im.plot_probe(im.Probe(data)).flat[0].figure)
            study.conclude(of_layers(data), f"{name}.json")


if __name__ == "__main__":
    main(parse(__doc__, __file__, takes_pretrained=True))
