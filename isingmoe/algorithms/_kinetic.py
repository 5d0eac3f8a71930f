"""Independent sequences of a kinetic chain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.forward import draw_in_turn
from isingmoe.algorithms._sampler import label_dtype
from isingmoe.chains import KineticChain
from isingmoe.forward import tables

__all__ = ["KineticSampler"]


class KineticSampler:
    """Draws a sequence from its start, every site given those before it."""

    lanes = 1
    is_independent = True
    offset = 0.0

    def __init__(self, chain: KineticChain) -> None:
        n_sites = int(chain.n_sites)  # type: ignore[arg-type]
        self._tables = tables(chain, n_sites)
        self._shape = (n_sites,) if chain.top_k == 1 else (n_sites, chain.top_k)
        self._dtype = label_dtype(chain.n_states)

    def start(self, words: NDArray[np.uint64]) -> NDArray:
        """A first sample."""
        out = np.empty((1, *self._shape), self._dtype)
        self.advance(out[0], words, out, 1)
        return out[0]

    def advance(
        self, state: NDArray, words: NDArray[np.uint64], out: NDArray, n_sweeps: int
    ) -> None:
        """Fill `out` with independent samples; more sweeps would make no difference."""
        draw_in_turn(*self._tables, words[None], out if out.ndim == 3 else out[..., None])
        state[:] = out[-1]
