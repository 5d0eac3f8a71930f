"""Correlations of the baselines: what each structure that is left gives by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe import _provenance
from isingmoe._kernels import shuffles
from isingmoe._schema import alike
from isingmoe._seeds import seed_sequence
from isingmoe._text import about
from isingmoe.centrings import Layer, centred_curves, check_centre, distances
from isingmoe.derived import BASELINES
from isingmoe.expected_baselines import expected_correlation
from isingmoe.traces import Track, each_layer

__all__ = ["baseline_correlation"]

Array = NDArray[np.floating]
Draws = Callable[[Layer], Iterator[Layer]]


def baseline_correlation(
    traces: xr.Dataset,
    *,
    kinds: Iterable[str] = BASELINES,
    primary: bool | None = None,
    centre: str = "global",
    max_distance: int = 64,
    n_draws: int = 20,
    seed: int = 0,
    track: Track | None = None,
) -> xr.Dataset:
    """Connected correlation, summed over experts, that baselines of a trace have.

    Parameters
    ----------
    traces : Dataset
    kinds : iterable of {"random", "shuffled", "position-shuffled"}
        As in `baseline`: a uniform router; the tokens of each sequence in random order; the
        tokens at each position exchanged between the sequences.
    primary : bool, optional
        Of the primary expert alone or of the whole set; by default the primary expert
        where the trace is ranked.
    centre : {"global", "position", "sequence"}
        The mean that is taken off, as in `correlation`.
    max_distance : int
        Largest distance; less where the sequences are shorter.
    n_draws : int
        Draws of each baseline, for its spread.
    seed : int
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        `baseline`, the exact expectation of C(d), and `baseline_spread`, the standard deviation
        over the draws (kind, layer, distance).

    Raises
    ------
    ValueError
        If an argument is out of range or no sequence has two tokens.
    TraceSchemaError
        If the Dataset is not a trace.

    Notes
    -----
    Only recorded tokens are exchanged: gaps stay where they are, and the pairs are those of the
    trace, which makes every expectation a closed form. (`baseline` moves gaps along with
    tokens.) A token of fewer than k experts has as many of a random router. The exchange is the
    same in all layers, as tokens keep their experts in all layers together.
    """
    traces = alike(traces)
    check_centre(traces, centre)
    kinds = _checked(kinds)
    if max_distance < 1 or n_draws < 2:
        raise ValueError(
            "max_distance, n_draws: expected at least 1, and 2 for a spread, "
            f"got {max_distance} and {n_draws}"
        )
    if primary is None:
        primary = bool(traces.attrs["ranked"])
    distance = distances(traces, max_distance)
    root = seed_sequence(seed)
    # By the number of the kind, so that a kind has the same draws whatever others there are.
    seeds: dict[str, np.random.SeedSequence] = dict(
        zip(BASELINES, root.spawn(len(BASELINES)), strict=True)
    )
    shape = traces["expert_index"].shape[1:3]
    drawing = [_drawing(kind, shape, n_draws, seeds[kind]) for kind in kinds]
    none = np.empty((0, traces.sizes["sequence"]))
    expected = np.empty((len(kinds), traces.sizes["layer"], len(distance)))
    spread = np.empty_like(expected)
    for place in each_layer(traces, track):
        layer = Layer.of(traces, place, int(distance[-1]), primary=primary)
        for number, kind in enumerate(kinds):
            drawn = [
                centred_curves(moved, centre, none, summed=True).value[0]
                for moved in drawing[number](layer)
            ]
            expected[number, place] = expected_correlation(layer, kind, centre)
            spread[number, place] = np.std(drawn, axis=0, ddof=1)
    arguments = {
        "kinds": list(kinds),
        "primary": primary,
        "centre": centre,
        "max_distance": max_distance,
        "n_draws": n_draws,
    }
    dims = ("kind", "layer", "distance")
    return xr.Dataset(
        {
            "baseline": (dims, expected, about("connected correlation expected of the baseline")),
            "baseline_spread": (dims, spread, about("its standard deviation over draws")),
        },
        coords={
            "kind": ("kind", list(kinds), about("baseline")),
            "layer": traces["layer"],
            "distance": ("distance", distance, about("distance", "token")),
        },
        attrs={
            "centre": centre,
            "states": "primary expert" if primary else "expert set",
            "provenance": _provenance.record(
                "baseline_correlation",
                arguments,
                inputs=_provenance.describe(traces),
                seed=seed,
            ),
        },
    )


def _checked(kinds: Iterable[str]) -> tuple[str, ...]:
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in kinds if kind not in BASELINES]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds: expected some of {', '.join(BASELINES)}, got {list(kinds)}")
    return kinds


def _drawing(
    kind: str, shape: tuple[int, ...], n_draws: int, seed: np.random.SeedSequence
) -> Draws:
    """What makes the draws of a layer, of sequences and positions of the given shape."""
    if kind == "random":
        return _RandomRouters(n_draws, seed)
    across = kind == "position-shuffled"
    rows, places = shape[::-1] if across else shape
    order = np.empty((n_draws, rows, places), np.int32)
    for number, child in enumerate(seed.spawn(n_draws)):
        order[number] = np.arange(places, dtype=np.int32)
        np.random.default_rng(child).permuted(order[number], axis=1, out=order[number])
    return _Exchanges(order, across)


@dataclass(frozen=True, eq=False)
class _Exchanges:
    """Tokens exchanged inside the sequences, or across them at each position.

    Attributes
    ----------
    order : int32 ndarray (draw, row, place)
        A permutation of the positions of each sequence, or of the sequences at each position.
    across : bool
        Which of the two.
    """

    order: NDArray[np.int32]
    across: bool

    def __call__(self, layer: Layer) -> Iterator[Layer]:
        index, recorded = self._turned(layer.index), self._turned(layer.recorded)
        for order in self.order:
            moved = self._turned(shuffles.reordered(index, recorded, order))
            yield Layer(moved, layer.n_experts, layer.max_distance)

    def _turned(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.swapaxes(0, 1)) if self.across else array


@dataclass(frozen=True, eq=False)
class _RandomRouters:
    """Experts of a uniform router; every layer has draws of its own."""

    n_draws: int
    seed: np.random.SeedSequence

    def __call__(self, layer: Layer) -> Iterator[Layer]:
        for child in self.seed.spawn(self.n_draws):
            words = child.generate_state(4 * layer.n_sequences, np.uint64).reshape(-1, 4)
            drawn = shuffles.random_experts(layer.index, layer.n_experts, words)
            yield Layer(drawn, layer.n_experts, layer.max_distance)
