"""Texts of different kinds: what could make a correlation length grow with the block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import isingmoe as im

# Inverse critical temperature of the power-law chain with alpha = 2 (Luijten and Messingfeld,
# Phys. Rev. Lett. 86, 5305 (2001)).
K_CRITICAL = 0.6552
# Of the drift over half a text, and sqrt(3) times the spread between texts: as large.
FIELD = 0.05


@dataclass(frozen=True)
class Size:
    """How many texts: independent sets, texts in each and tokens in each."""

    n_sets: int
    n_texts: int
    n_tokens: int

    @property
    def largest_block(self) -> int:
        """Eight lags and more fit into a text."""
        return min(128, self.n_tokens // 16)


@dataclass(frozen=True)
class Texts:
    """Labels of tokens, in sets that are independent of each other.

    Attributes
    ----------
    label : str
        In figures and tables.
    group : str
        Panel of the figures.
    n_states : int
    sets : list of ndarray (text, token)
    length : float
        Correlation length that the chain has; NaN where it has none.
    """

    label: str
    group: str
    n_states: int
    sets: list[NDArray[np.integer]]
    length: float = np.nan


def simulated(size: Size, seed: int) -> dict[str, Texts]:
    """Texts of every kind of chain.

    The chains of nearest neighbours are drawn by `Exact`, the power laws by `SwendsenWang`
    on rings of twice the length, of which the text is a half.
    """
    n = size.n_tokens
    fitted = im.fit(im.example_traces(), chain="potts", coupling="full").chain(layer=3)
    fields = np.linspace(-FIELD, FIELD, n)
    ring: dict[str, Any] = {"n_sites": n, "boundary": "periodic"}
    stationary = {
        "independent": ("independent tokens, q = 8", im.PottsChain(J=0.0, n_experts=8, **ring)),
        "ising": ("Ising", im.IsingChain(J=1.0, **ring)),
        "potts": ("Potts, q = 8", im.PottsChain(J=3.5, n_experts=8, **ring)),
        "fitted": ("Potts fitted to layer 3", im.PottsChain(J=fitted.J, h=fitted.h, **ring)),
    }
    children = np.random.SeedSequence(seed).spawn(8)
    texts = {}
    for child, (name, (label, chain)) in zip(children, stationary.items(), strict=False):
        xi = float(im.solve(chain, max_distance=1).correlation_length)
        group = "stationary, nearest neighbours"
        texts[name] = Texts(label, group, chain.n_states, drawn(chain, size, child), xi)
    group = "drift, disorder, long range"
    drifting = im.IsingChain(J=1.0, h=fields, n_sites=n)
    texts["drift"] = Texts("Ising, field drifts", group, 2, drawn(drifting, size, children[4]))
    texts["disorder"] = Texts(
        "Ising, field of each text", group, 2, disordered(size, ring, children[5])
    )
    for child, name, K in zip(children[6:], ("critical", "above"), (K_CRITICAL, 0.5), strict=True):
        chain = im.IsingChain(J=K, n_sites=2 * n, boundary="periodic", decay=im.power_law(2.0))
        sets = drawn(chain, size, child, im.SwendsenWang(), n_sweeps=20)
        texts[name] = Texts(
            f"Ising, J = {K:g} r⁻²", group, 2, [labels[:, :n].copy() for labels in sets]
        )
    return texts


def drawn(
    chain: Any, size: Size, seed: np.random.SeedSequence, algorithm: Any = None, n_sweeps: int = 1
) -> list[NDArray[np.integer]]:
    """Texts of one chain; each replica is a set."""
    run = im.simulate(
        chain,
        algorithm or im.Exact(),
        n_samples=size.n_texts,
        n_replicas=size.n_sets,
        n_sweeps=n_sweeps,
        max_distance=-1,
        keep_states=True,
        seed=seed,
    )
    return list(run["state"].values)


def disordered(
    size: Size, ring: dict[str, Any], seed: np.random.SeedSequence
) -> list[NDArray[np.integer]]:
    """Texts of an Ising chain, each with a normal random field of its own."""
    spread, inside = seed.spawn(2)
    n_texts = size.n_sets * size.n_texts
    fields = np.random.default_rng(spread).normal(0, FIELD / np.sqrt(3), n_texts)
    run = im.sweep(
        im.simulate,
        im.IsingChain(J=1.0, **ring),
        options={
            "algorithm": im.Exact(),
            "n_samples": 1,
            "n_replicas": 1,
            "max_distance": -1,
            "keep_states": True,
        },
        seed=inside,
        n_workers=1,
        progress=False,
        h=fields,
    )
    return list(run["state"].values.reshape(size.n_sets, size.n_texts, -1))


def real(seed: int) -> dict[str, Texts]:
    """Layers of the bundled traces: the primary expert, a set for each speech.

    Beside them the last layer with the tokens of each text in random order.
    """
    traces = im.example_traces()
    speech = traces["speech"].values
    shuffled = im.baseline(traces, "shuffled", seed=seed)

    def of_layer(layer: int, source: Any, label: str) -> Texts:
        labels = im.primary_expert(source).sel(layer=layer).values
        sets = [labels[speech == name] for name in np.unique(speech)]
        n_states = int(traces.attrs["num_experts"])
        return Texts(label, "example traces (real text)", n_states, sets)

    layers = [int(layer) for layer in traces["layer"]]
    texts = {f"layer_{k}": of_layer(k, traces, f"layer {k}") for k in layers}
    last = layers[-1]
    texts["shuffled"] = of_layer(last, shuffled, f"layer {last}, order destroyed")
    return texts
