"""Models whose routing is looked at: trained here or elsewhere, untrained, ruled by chance."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from transformers import PreTrainedModel, set_seed

import isingmoe as im
from isingmoe.moe import RandomRouter, insert_router
from trained_models import corpus
from trained_models.measuring import EVERYTHING
from trained_models.recipes import Recipe
from trained_models.store import Job, Store, in_parallel, on_device, train_missing
from trained_models.switching import SwitchRecipe

__all__ = ["SUBJECTS", "Look", "Pretrained", "Stack", "Subject", "each_seed", "look_at"]


class Stack(NamedTuple):
    """What is looked at.

    Attributes
    ----------
    name : str
        Empty where the model has one alone.
    traces : Dataset
        Hidden states lie beside their file.
    model : PreTrainedModel, str or None
        Or its name; None where there are traces alone.
    is_inside : bool ndarray (sequence,), optional
        Sequences that do not begin a text, where that is known.
    """

    name: str
    traces: xr.Dataset
    model: PreTrainedModel | str | None
    is_inside: np.ndarray | None = None


class Look(Protocol):
    """What is measured on a stack."""

    def __call__(self, stack: Stack, /) -> xr.Dataset:
        """Measure it."""
        ...


@dataclass(frozen=True)
class Subject:
    """A kind of small model, of which there is one for each seed.

    Attributes
    ----------
    name, label : str
        For files, and for people.
    recipe : Recipe
    is_trained : bool
        Whether it was trained, or has its first weights.
    is_random : bool
        Whether chance decides in place of its router.
    """

    name: str
    label: str
    recipe: Recipe
    is_trained: bool = True
    is_random: bool = False

    def model(self, store: Store, seed: int) -> PreTrainedModel:
        """The model in evaluation mode, with its own router."""
        if self.is_trained:
            return store.model(Job(self.recipe, seed))
        set_seed(seed)
        return on_device(self.recipe.build(store.size))

    @contextmanager
    def stacks(self, store: Store, seed: int) -> Iterator[list[Stack]]:
        """Its stacks on the held-out windows, until the context is left."""
        model, held_out = self.model(store, seed), store.text.held_out
        router = insert_router(model, RandomRouter(seed)) if self.is_random else nullcontext()
        with tempfile.TemporaryDirectory() as folder, router:
            traces = self.recipe.traces(model, held_out.token_id, Path(folder) / "traces.nc")
            yield [one._replace(is_inside=held_out.offset > 0) for one in _stacks(traces, model)]


@dataclass(frozen=True)
class Pretrained:
    """A model that others trained, by its name or folder, or traces of one.

    Attributes
    ----------
    source : str or Path
        The path is that of traces.
    max_tokens : int
        Longest sequence.
    n_texts : int
        Held-out speeches that a model reads, cut into sequences.
    layers : list of int, optional
        That are looked at; all by default.
    """

    source: str | Path
    max_tokens: int
    n_texts: int
    layers: list[int] | None = None

    @property
    def name(self) -> str:
        """For files."""
        return Path(self.source).stem if isinstance(self.source, Path) else Path(self.source).name

    @contextmanager
    def stacks(self) -> Iterator[list[Stack]]:
        """Its stacks, until the context is left."""
        if isinstance(self.source, Path):
            yield _stacks(im.open_traces(self.source), None, self.layers)
            return
        _, held_out = corpus.split_speeches(np.random.default_rng(0))
        with tempfile.TemporaryDirectory() as folder:
            traces = im.capture(
                self.source,
                held_out["text"].tolist()[: self.n_texts],
                max_tokens=self.max_tokens,
                output=Path(folder) / "traces.nc",
                record=EVERYTHING,
            )
            yield _stacks(traces, self.source, self.layers)


SUBJECTS = (
    Subject("olmoe", "OLMoE", Recipe()),
    Subject("olmoe-untrained", "OLMoE, untrained", Recipe(), is_trained=False),
    Subject("olmoe-random", "OLMoE, random router", Recipe(), is_random=True),
    Subject("switch", "Switch", SwitchRecipe()),
    Subject("switch-untrained", "Switch, untrained", SwitchRecipe(), is_trained=False),
)


def each_seed(store: Store, look: Look) -> xr.Dataset:
    """Look at every subject from every seed, as many at once as there are cores.

    Returns
    -------
    Dataset (subject, seed, ..)
        A subject with several stacks is one for each.
    """
    # Subjects share recipes.
    train_missing(store, list(dict.fromkeys(one.recipe for one in SUBJECTS)))
    tasks = [(one, seed) for one in SUBJECTS for seed in range(store.size.n_seeds)]
    found = in_parallel(partial(_look_at_subject, store, look), tasks, is_toy=store.size.is_toy)
    rows: dict[tuple[str, str], list[xr.Dataset]] = {}
    for parts in found:
        for name, label, part in parts:
            rows.setdefault((name, label), []).append(part)
    seeds = xr.Variable("seed", range(store.size.n_seeds))
    names, labels = (list(column) for column in zip(*rows, strict=True))
    data = _concat(
        [_concat(parts, seeds) for parts in rows.values()], xr.Variable("subject", names)
    )
    return data.assign_coords(label=("subject", labels))


def look_at(pretrained: Pretrained, look: Look) -> dict[str, xr.Dataset]:
    """Look at each stack of a pretrained model, by the name that its results have."""
    with pretrained.stacks() as stacks:
        return {_joined(pretrained.name, stack.name, "-"): look(stack) for stack in stacks}


def _look_at_subject(
    store: Store, look: Look, task: tuple[Subject, int]
) -> list[tuple[str, str, xr.Dataset]]:
    subject, seed = task
    with subject.stacks(store, seed) as stacks:
        return [
            (
                _joined(subject.name, stack.name, "-"),
                _joined(subject.label, stack.name, ", "),
                look(stack),
            )
            for stack in stacks
        ]


def _concat(parts: list[xr.Dataset], dim: xr.Variable) -> xr.Dataset:
    """Join them; what some lack, such as a layer or a band, is not a number there."""
    return xr.concat(
        parts, dim, join="outer", coords="minimal", compat="no_conflicts", combine_attrs="override"
    )


def _stacks(
    traces: Any, model: PreTrainedModel | str | None, layers: list[int] | None = None
) -> list[Stack]:
    named = traces if isinstance(traces, dict) else {"": traces}
    if layers is not None:
        named = {name: one.sel(layer=layers) for name, one in named.items()}
    return [Stack(name, one, model) for name, one in named.items()]


def _joined(name: str, stack: str, between: str) -> str:
    return f"{name}{between}{stack}" if stack else name
