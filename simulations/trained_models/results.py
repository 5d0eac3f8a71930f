"""Results of models of one size, kept for the next run of a study."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import xarray as xr

import isingmoe as im
from trained_models.options import ModelStudy

__all__ = ["kept"]


def kept(study: ModelStudy, file: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """What an earlier run measured on models of this size, or what is measured now.

    Parameters
    ----------
    study : ModelStudy
    file : str
        That of the study, which its folder names.
    compute : callable
        Measures.

    Raises
    ------
    SystemExit
        If the results that are there are of models of another size.
    """
    size = asdict(study.store.size)
    name = f"simulations/{Path(file).resolve().parent.name}"
    record = json.dumps({"study": name, "version": im.__version__, "size": size})
    data = study.cached("measured.nc", lambda: compute().assign_attrs(provenance=record))
    found = json.loads(data.attrs["provenance"])["size"]
    if found != size:
        raise SystemExit(
            f"{study.output / 'measured.nc'}: expected results of models of {size}, got those of "
            f"{found}; give another folder with --output, or --again"
        )
    return data
