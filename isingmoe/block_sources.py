"""Data sets to measure side by side: traces, what their fit would give, and baselines."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numba
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe.block_sums import BlockGrid, BlockSums
from isingmoe.derived import baseline
from isingmoe.fitted import Fit
from isingmoe.generation import check_drawable, draw_sets, law_of
from isingmoe.traces import pack_layer, primary_expert

__all__ = ["Sources", "can_be_drawn"]


def can_be_drawn(fit: Fit) -> bool:
    """Whether a chain has a law of each token given those before."""
    try:
        check_drawable(fit)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class Sources:
    """Where data sets of a layer come from.

    Attributes
    ----------
    traces : Dataset
        Of the layers of the fit.
    fit : Fit or None
        Whose chains can be drawn from.
    kinds : tuple of str
        Baselines.
    n_draws : int
        Data sets of the chain and of each baseline.
    primary : bool
        Of the primary expert alone, or of the whole set.
    """

    traces: xr.Dataset
    fit: Fit | None
    kinds: tuple[str, ...]
    n_draws: int
    primary: bool
    _random: dict[bytes, BlockSums] = field(default_factory=dict, init=False, repr=False)

    @property
    def names(self) -> list[str]:
        """The traces themselves first."""
        return ["measured", *(["chain"] if self.fit is not None else []), *self.kinds]

    def measured(
        self, grid: BlockGrid, place: int, seed: np.random.SeedSequence
    ) -> Iterator[BlockSums]:
        """Sums of each source in one layer, draws together.

        Random routers are drawn once for all layers that recorded the same tokens.
        """
        traces = self._layer(place)
        length = traces["length"].values.astype(np.int64)
        recorded = np.packbits(traces["expert_index"].values >= 0).tobytes()
        # Packing and drawing use all cores by themselves, and may not be called side by side.
        with ThreadPoolExecutor(numba.get_num_threads()) as pool:
            pending = {}
            for name, child in zip(self.names, seed.spawn(len(self.names)), strict=True):
                if name == "random" and recorded in self._random:
                    continue
                pending[name] = [
                    pool.submit(grid.sums, sets, length)
                    for sets in self._drawn(traces, name, place, child)
                ]
            for name in self.names:
                if name not in pending:
                    yield self._random[recorded]
                    continue
                sums = BlockSums.pooled([part.result() for part in pending[name]])
                if name == "random":
                    self._random[recorded] = sums
                yield sums

    def _layer(self, place: int) -> xr.Dataset:
        """One layer of what is measured, without what else the traces have."""
        traces = self.traces[["expert_index", "length"]].isel(layer=[place])
        if not self.primary:
            return traces
        first = primary_expert(traces).expand_dims("rank", -1)
        return traces.isel(rank=[0]).assign(expert_index=first).assign_attrs(top_k=1, ranked=1)

    def _drawn(
        self, traces: xr.Dataset, name: str, place: int, seed: np.random.SeedSequence
    ) -> Iterator[NDArray[np.uint64]]:
        """Bit sets of each data set of a source."""
        if name == "measured":
            yield pack_layer(traces, 0, primary=False)
            return
        for child in seed.spawn(self.n_draws):
            if name == "chain" and self.fit is not None:
                drawn = self._of_chain(self.fit, traces, place, child)
            else:
                number = int(child.generate_state(1, np.uint64)[0])
                drawn = baseline(traces, name, seed=number)
            yield pack_layer(drawn, 0, primary=False)

    def _of_chain(
        self, fit: Fit, traces: xr.Dataset, place: int, seed: np.random.SeedSequence
    ) -> xr.Dataset:
        """Traces of the fitted chain with the lengths and gaps of a layer."""
        recorded = traces["expert_index"].values >= 0
        first = self.traces.get("start_position")
        draws, ranks = seed.spawn(2)
        index = draw_sets(
            law_of(fit, place),
            *recorded.shape[1:3],
            first=None if first is None else first.values.astype(np.int64),
            seed=draws,
        )
        if (recorded != recorded[..., :1]).any():
            # Members rise: which of them are lost must not depend on their number.
            index = np.random.default_rng(ranks).permuted(index, axis=-1)
        drawn = np.where(recorded, index, np.int16(-1))
        return traces.assign(expert_index=traces["expert_index"].copy(data=drawn))
