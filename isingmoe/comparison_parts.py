"""The parts of a comparison: each one measurement, left out where a trace does not allow it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from isingmoe.activations import activation
from isingmoe.baselines import baseline_correlation
from isingmoe.block_lengths import block_sizes
from isingmoe.errors import ConvergenceError
from isingmoe.expert_correlations import expert_correlation
from isingmoe.fitted import Fit
from isingmoe.goodness import goodness_of_fit
from isingmoe.markov_test import chapman_kolmogorov
from isingmoe.mem_states import mem
from isingmoe.neighbours import near_distances, neighbour_overlap
from isingmoe.ranked_laws import decay_laws

__all__ = ["PARTS", "Subject", "checked_parts", "measured_parts"]

LayerTrack = Callable[[Iterable[int]], Iterable[int]]
Track = Callable[[Iterable[int], str], Iterable[int]]

# What a measurement raises where a trace does not have what it needs.
_EXPECTED = (ValueError, ConvergenceError, np.linalg.LinAlgError)


@dataclass(frozen=True)
class Subject:
    """What is compared, and how much is spent on it.

    Attributes
    ----------
    fit : Fit
    traces : Dataset
    measured : Dataset
        C(d) about the global mean, with its resamples; see `correlation`.
    predicted : Dataset
        See `predicted_correlation`.
    is_primary : bool
        Whether the chain is of primary experts alone.
    n_resamples, n_shuffles : int
    n_simulations : int or None
        None for what each test takes by default.
    seed : int
    track : callable, optional
        Wraps an iteration, given what it is for.
    """

    fit: Fit
    traces: xr.Dataset
    measured: xr.Dataset
    predicted: xr.Dataset
    is_primary: bool
    n_resamples: int
    n_shuffles: int
    n_simulations: int | None
    seed: int
    track: Track | None

    @property
    def max_distance(self) -> int:
        """Largest distance of the curves."""
        return self.measured.sizes["distance"] - 1

    def named(self, what: str) -> LayerTrack | None:
        """The progress bar of one part."""
        track = self.track
        return None if track is None else lambda layers: track(layers, what)

    def simulations(self) -> dict[str, Any]:
        """The number of simulations, where one was asked for."""
        return {} if self.n_simulations is None else {"n_simulations": self.n_simulations}


def _overlap(subject: Subject) -> xr.Dataset:
    near = neighbour_overlap(
        subject.traces,
        distances=near_distances(subject.traces),
        n_shuffles=subject.n_shuffles,
        seed=subject.seed,
        track=subject.named("overlap of neighbours"),
    )
    return near.rename(distance="overlap_distance")


def _experts(subject: Subject) -> xr.Dataset:
    found = expert_correlation(
        subject.traces,
        primary=subject.is_primary,
        max_distance=subject.max_distance,
        n_resamples=subject.n_resamples,
        seed=subject.seed,
        track=subject.named("C(d) of every expert"),
    )
    value, error = found["correlation"], found["correlation_error"]
    predicted = subject.predicted
    spread = np.hypot(error, predicted["expert_predicted_spread"].fillna(0))
    z = ((value - predicted["expert_predicted"]) / spread).where(spread > 0)
    z.attrs = {"long_name": "measured less predicted, over the error of both", "units": "1"}
    return predicted[["expert_predicted", "expert_predicted_spread"]].assign(
        expert_measured=value, expert_measured_error=error, expert_z=z
    )


def _baselines(subject: Subject) -> xr.Dataset:
    return baseline_correlation(
        subject.traces,
        primary=subject.is_primary,
        max_distance=subject.max_distance,
        n_draws=subject.n_shuffles,
        seed=subject.seed,
        track=subject.named("baselines"),
    )


def _goodness(subject: Subject) -> xr.Dataset:
    return goodness_of_fit(
        subject.fit,
        subject.traces,
        max_distance=subject.max_distance,
        **subject.simulations(),
        seed=subject.seed,
        track=subject.named("goodness of fit"),
    )


def _kolmogorov(subject: Subject) -> xr.Dataset:
    found = chapman_kolmogorov(
        subject.traces,
        **subject.simulations(),
        n_resamples=subject.n_resamples,
        seed=subject.seed,
        track=subject.named("Chapman-Kolmogorov"),
    )
    n_simulations = int(found.attrs["n_simulations"])
    return found.assign(ck_p_value=found["ck_p_value"].assign_attrs(n_simulations=n_simulations))


def _blocks(subject: Subject) -> xr.Dataset:
    return block_sizes(
        subject.traces,
        subject.fit,
        n_resamples=min(subject.n_resamples, 100),
        seed=subject.seed,
        track=subject.named("block sizes"),
    ).rename(distance="window_distance", lag="block_lag")


def _activation(subject: Subject) -> xr.Dataset:
    return activation(subject.traces, track=subject.named("rates over position"))


def _mem(subject: Subject) -> xr.Dataset:
    return mem(
        subject.traces, subject.fit, seed=subject.seed, track=subject.named("MEM equilibrium")
    )


# What each is called in a sentence, and how it is measured.
_MEASURES: dict[str, tuple[str, Callable[[Subject], xr.Dataset]]] = {
    "overlap": ("overlaps", _overlap),
    "experts": ("correlation of single experts", _experts),
    "baselines": ("baselines", _baselines),
    "laws": ("decay laws", lambda subject: decay_laws(subject.measured)),
    "goodness": ("goodness of fit", _goodness),
    "ck": ("Chapman-Kolmogorov test", _kolmogorov),
    "blocks": ("block sizes", _blocks),
    "activation": ("rates over position", _activation),
    "mem": ("MEM equilibrium", _mem),
}
PARTS = tuple(_MEASURES)


def checked_parts(parts: Iterable[str]) -> tuple[str, ...]:
    """Names of parts, in their order.

    Raises
    ------
    ValueError
        If one is unknown.
    """
    chosen = (parts,) if isinstance(parts, str) else tuple(parts)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        raise ValueError(f"parts: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}")
    return tuple(name for name in PARTS if name in chosen)


def measured_parts(
    subject: Subject, parts: tuple[str, ...], absent: dict[str, str]
) -> Iterator[xr.Dataset]:
    """Measure parts one after the other.

    Parameters
    ----------
    subject : Subject
    parts : tuple of str
    absent : dict of str to str
        Takes the sentence that says why a part could not be measured.

    Yields
    ------
    Dataset
        Every variable says of which part it is, in its attribute `part`.
    """
    for name in parts:
        words, measure = _MEASURES[name]
        try:
            found = measure(subject)
        except _EXPECTED as error:
            absent[name] = f"no {words}: {' '.join(str(error).split())}"
            continue
        yield _marked(found, name)


def _marked(found: xr.Dataset, part: str) -> xr.Dataset:
    marked: dict[Any, xr.DataArray] = {
        name: variable.assign_attrs(part=part) for name, variable in found.data_vars.items()
    }
    return found.assign(marked).drop_attrs(deep=False)
