"""Trained models on disk: one that was trained before is not trained again."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
import xarray as xr
from safetensors.torch import load_model, save_model
from tqdm import tqdm
from transformers import PreTrainedModel, set_seed

from trained_models.learning import train
from trained_models.measuring import is_silent, measure
from trained_models.recipes import Recipe
from trained_models.sizes import Size
from trained_models.text import Text, prepare

__all__ = [
    "Job",
    "Store",
    "in_parallel",
    "measured_of_each",
    "on_device",
    "train_missing",
    "trained",
]

# To be raised where a change of the code makes the models others than before.
_VERSION = 2


@dataclass(frozen=True)
class Job:
    """A model to be trained: of which kind and from which seed."""

    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Store:
    """A folder of models of one size.

    Attributes
    ----------
    folder : Path
    size : Size
    """

    folder: Path
    size: Size

    @cached_property
    def text(self) -> Text:
        """The text of all models of this size."""
        return prepare(self.size)

    def place(self, job: Job) -> Path:
        """Folder of a model and of what was measured on it."""
        versions = (_VERSION, torch.__version__, transformers.__version__)
        # How many there are changes none of them.
        told = repr((versions, job.recipe, replace(self.size, n_seeds=0), job.seed))
        return self.folder / f"{job.recipe.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def make(self, job: Job) -> Path:
        """Train, measure and save a model, unless that was done before."""
        place = self.place(job)
        if place.exists():
            return place
        model, followed = train(job.recipe, self, job.seed)
        measured = measure(job.recipe, model, self.text.held_out.token_id)
        followed = followed.rename({name: f"{name}_followed" for name in followed.data_vars})
        part = place.with_name(f".{place.name}-{os.getpid()}")
        part.mkdir(parents=True)
        save_model(model, str(part / "model.safetensors"))
        whole = xr.merge([measured, followed]).assign_coords(seed=job.seed, recipe=job.recipe.name)
        whole.to_netcdf(part / "measured.nc", engine="h5netcdf")
        try:
            part.replace(place)
        except OSError:
            # Another process was faster, with the same result.
            shutil.rmtree(part)
        return place

    def model(self, job: Job) -> PreTrainedModel:
        """A trained model, in evaluation mode, with what its recipe puts into it."""
        place = self.make(job)
        set_seed(job.seed)
        model = job.recipe.build(self.size)
        job.recipe.prepare(model, self, job.seed)
        load_model(model, str(place / "model.safetensors"))
        return on_device(model)

    def measured(self, job: Job) -> xr.Dataset:
        """What was measured on a trained model, and on its way there."""
        measured = xr.load_dataset(self.make(job) / "measured.nc", engine="h5netcdf")
        # Names are as long there as that of this recipe.
        return measured.drop_encoding()


def on_device(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to the GPU, if there is one, in evaluation mode."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def train_missing(store: Store, recipes: Sequence[Recipe]) -> None:
    """Train what is not there of every recipe and seed, as many at once as there are cores."""
    jobs = [Job(recipe, seed) for recipe in recipes for seed in range(store.size.n_seeds)]
    missing = [job for job in jobs if not store.place(job).exists()]
    in_parallel(store.make, missing, is_toy=store.size.is_toy)


def trained(store: Store, recipes: Sequence[Recipe]) -> xr.Dataset:
    """Train every recipe from every seed, as many at once as there are cores.

    Returns
    -------
    Dataset (recipe, seed, ..)
        As `measuring.measure` and `measuring.follow` say.
    """
    train_missing(store, recipes)
    rows = [
        xr.concat([store.measured(Job(one, s)) for s in range(store.size.n_seeds)], "seed")
        for one in recipes
    ]
    return xr.concat(rows, "recipe", join="outer")


def measured_of_each(
    store: Store, recipes: Sequence[Recipe], measure: Callable[[Store, Job], xr.Dataset]
) -> xr.Dataset:
    """Measure every recipe from every seed, as many at once as there are cores.

    Returns
    -------
    Dataset (recipe, seed, ..)
    """
    seeds = range(store.size.n_seeds)
    jobs = [Job(one, seed) for one in recipes for seed in seeds]
    found = in_parallel(partial(measure, store), jobs, is_toy=store.size.is_toy)
    rows = [
        xr.concat(found[place : place + len(seeds)], xr.Variable("seed", list(seeds)))
        for place in range(0, len(jobs), len(seeds))
    ]
    names = xr.Variable("recipe", [one.name for one in recipes])
    return xr.concat(rows, names, combine_attrs="override")


def in_parallel(work: Any, jobs: Sequence[Any], *, is_toy: bool = False) -> list[Any]:
    """Do work for each job, in processes with a core each; one after another on a GPU.

    Toys are done before a process would have started, and get none.
    """
    cores = len(os.sched_getaffinity(0))
    workers = 1 if torch.cuda.is_available() or is_toy else min(cores, len(jobs))
    bar = {"total": len(jobs), "disable": is_silent() or not jobs, "unit": "model"}
    if workers < 2:
        return list(tqdm(map(work, jobs), **bar))
    # A forked process would inherit the threads of torch in an unknown state.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_core) as pool:
        return list(tqdm(pool.map(work, jobs), **bar))


def _one_core() -> None:
    import numba

    torch.set_num_threads(1)
    numba.set_num_threads(1)
