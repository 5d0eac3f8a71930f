"""A probe as a table for people."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from isingmoe._text import interval, number, p_text, plain, render, report

__all__ = ["table"]


def table(data: xr.Dataset) -> str:
    """Accuracies of a probe beside what they would be by chance.

    Parameters
    ----------
    data : Dataset
        Of a `Probe`.
    """
    title = (
        f"{plain(data.attrs['model'])}: position told from what routers see "
        f"({data.attrs['n_folds']} folds)"
    )
    notes = [
        "Accuracy on tokens that were not fitted, with its 95 % interval over sequences; split: "
        "what was held out. Only where sequences are, a text cannot give itself away. majority: "
        "the commonest class. shuffled: labels at random; shifted: moved along each sequence, so "
        "that they keep their runs and lose their position; with 95 % intervals of one more "
        "draw. p: of an accuracy as large where no position is told, against shifted labels.",
    ]
    parts = [*report(title, _columns(data), notes)]
    if "band_accuracy" in data:
        told = (
            "Hidden states inside one band of the position encoding; all bands are in the file and "
            "the figure. random: subspaces of the same dimension, with the 95 % interval of one; "
            f"the best of {data.sizes['band']} is above it more often."
        )
        parts += ["", *report("By wavelength, in tokens", _band_columns(data), [told])]
    return render(*parts)


def _columns(data: xr.Dataset) -> dict[str, list[Any]]:
    names = ("layer", "target", "classes", "input", "split", "accuracy", "majority")
    rows: list[list[Any]] = []
    for layer in data["layer"].values.tolist():
        for target in data["target"].values.tolist():
            for source in data["input"].values.tolist():
                for split in data["split"].values.tolist():
                    of_target = data.sel(layer=layer, target=target)
                    one = of_target.sel(input=source, split=split)
                    rows.append(
                        [
                            layer,
                            target,
                            int(of_target["n_classes"]),
                            source.replace("_", " "),
                            split,
                            _with_interval(one, "accuracy"),
                            number(float(one["majority"])),
                            *(
                                _with_interval(one.sel(control=c), "control")
                                for c in ("shuffled", "shifted")
                            ),
                            p_text(float(one["p_value"])),
                        ]
                    )
    every = (*names, "shuffled", "shifted", "p")
    return {name: [row[place] for row in rows] for place, name in enumerate(every)}


def _band_columns(data: xr.Dataset) -> dict[str, list[Any]]:
    """The best band of each layer, target and split."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("layer", "target", "split", "best at", "accuracy", "random")
    }
    for layer in data["layer"].values.tolist():
        for target in data["target"].values.tolist():
            for split in data["split"].values.tolist():
                one = data.sel(layer=layer, target=target, split=split)
                best = int(np.argmax(one["band_accuracy"].values))
                told = number(float(one["band_accuracy"][best]))
                error = float(one["band_accuracy_error"][best])
                row = (
                    layer,
                    target,
                    split,
                    f"{float(data['wavelength'][best]):.4g}",
                    told if np.isnan(error) else f"{told} ± {number(error)}",
                    _with_interval(one, "random"),
                )
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(value)
    return columns


def _with_interval(one: xr.Dataset, name: str) -> str:
    value = one["accuracy" if name == "accuracy" else f"{name}_accuracy"]
    return interval(float(value), float(one[f"{name}_low"]), float(one[f"{name}_high"]), 3)
