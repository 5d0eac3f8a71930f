"""A probe as a table for people."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
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
    return _rows(
        {
            "layer": layer,
            "target": target,
            "classes": int(one["n_classes"]),
            "input": source.replace("_", " "),
            "split": split,
            "accuracy": _with_interval(one, "accuracy"),
            "majority": number(float(one["majority"])),
            "shuffled": _with_interval(one.sel(control="shuffled"), "control"),
            "shifted": _with_interval(one.sel(control="shifted"), "control"),
            "p": p_text(float(one["p_value"])),
        }
        for (layer, target, source, split), one in _each(data, "layer", "target", "input", "split")
    )


def _band_columns(data: xr.Dataset) -> dict[str, list[Any]]:
    """The best band of each layer, target and split."""
    rows = []
    for (layer, target, split), one in _each(data, "layer", "target", "split"):
        best = int(np.argmax(one["band_accuracy"].values))
        told = number(float(one["band_accuracy"][best]))
        error = float(one["band_accuracy_error"][best])
        rows.append(
            {
                "layer": layer,
                "target": target,
                "split": split,
                "best at": f"{float(data['wavelength'][best]):.4g}",
                "accuracy": told if np.isnan(error) else f"{told} ± {number(error)}",
                "random": _with_interval(one, "random"),
            }
        )
    return _rows(rows)


def _each(data: xr.Dataset, *dims: str) -> Iterator[tuple[tuple[Any, ...], xr.Dataset]]:
    """The labels along some dims, the last fastest, and what is there."""
    for labels in itertools.product(*(data[dim].values.tolist() for dim in dims)):
        yield labels, data.sel(dict(zip(dims, labels, strict=True)))


def _rows(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows of a table as its columns."""
    every = list(rows)
    return {name: [row[name] for row in every] for name in every[0]}


def _with_interval(one: xr.Dataset, name: str) -> str:
    value = one["accuracy" if name == "accuracy" else f"{name}_accuracy"]
    return interval(float(value), float(one[f"{name}_low"]), float(one[f"{name}_high"]), 3)
