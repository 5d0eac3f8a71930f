"""Traces whose routers see what the test says, with logits and hidden states beside them."""

from __future__ import annotations

import numpy as np

import isingmoe as im
from isingmoe.hidden_states import HiddenWriter

N_SEQUENCES, LENGTH, BLOCK, FEATURES, EXPERTS = 24, 64, 16, 6, 8


def traces_of(states, path, *, layer=(7,), start=None, length=None, gaps=None):
    """Traces, with logits, of states (layer, sequence, position, feature), in files."""
    rng = np.random.default_rng(99)
    states = np.asarray(states, np.float32)
    if states.ndim == 3:
        states = states[None]
    weight = rng.normal(size=(states.shape[-1], EXPERTS))
    logit = (states @ weight).astype(np.float32)
    index = np.argsort(-logit, -1)[..., :2]
    length = np.full(states.shape[1], states.shape[2]) if length is None else length
    index[:, np.arange(states.shape[2]) >= length[:, None]] = -1
    if gaps is not None:
        index[gaps] = -1
    more = {} if start is None else {"start_position": np.asarray(start)}
    traces = im.traces_from_arrays(
        index,
        num_experts=EXPERTS,
        layer=list(layer),
        length=length,
        router_logit=logit,
        model="planted",
        **more,
    )
    im.save_traces(traces, path)
    folder = path.with_name(f"{path.stem}.hidden")
    with HiddenWriter.create(
        folder, layers=layer, n_features=states.shape[-1], dtype="float32"
    ) as writer:
        writer.append([[one[s, :n] for one in states] for s, n in enumerate(length)])
    return im.open_traces(path, logits=True)


def noise(seed=0, n_sequences=N_SEQUENCES, length=LENGTH, features=FEATURES):
    return np.random.default_rng(seed).normal(size=(n_sequences, length, features))


def blocks(size=2.0, seed=0, block=BLOCK):
    """Every block has a mean of its own, the same in all sequences."""
    mean = np.random.default_rng(seed + 1).normal(size=(-(-LENGTH // block), FEATURES))
    return noise(seed) + size * mean[np.arange(LENGTH) // block]


def parities(size=1.0, seed=0):
    """Even and odd positions differ."""
    mean = np.random.default_rng(seed + 1).normal(size=FEATURES)
    return noise(seed) + size * np.where(np.arange(LENGTH) % 2, 1, -1)[:, None] * mean


def texts(size=3.0, seed=0, features=200):
    """Every block of every sequence has a mean of its own: position says nothing."""
    mean = np.random.default_rng(seed + 1).normal(size=(N_SEQUENCES, LENGTH // BLOCK, features))
    return noise(seed, features=features) + size * np.repeat(mean, BLOCK, axis=1)


def wandering(seed=0, n_sequences=N_SEQUENCES, length=LENGTH, features=3, memory=0.95):
    """A stationary process that remembers, about a mean that differs between sequences."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_sequences, length, features))
    for t in range(1, length):
        x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * x[:, t]
    return x + 0.5 * rng.normal(size=(n_sequences, 1, features))
