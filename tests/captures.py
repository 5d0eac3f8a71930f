"""What the tests of `capture` share: models that do as they are told, and comparisons."""

from __future__ import annotations

import numpy as np
import torch

import isingmoe as im
from isingmoe.capturing import recorded


def capture(model, texts, **options):
    return im.capture(model, texts, progress=False, **options)


def tokens_in(traces):
    pairs = zip(traces["token_id"].values, traces["length"].values, strict=True)
    return [ids[:n].copy() for ids, n in pairs]


def assert_same(one, other):
    """Same content; the other may have other lengths of padding and another order of variables."""
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.variables:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))


def assert_routing_same(one, other):
    names = ["expert_index", "length", "token_id"]
    assert_same(one[names], other[names])


def direct(model, ids):
    """The experts of one text, straight from the hooks: (layer, token, rank) by falling weight."""
    with torch.no_grad(), recorded(model) as recorder:
        model(input_ids=torch.from_numpy(ids.astype(np.int64))[None])
        calls = recorder.take()
    found = []
    for call in calls:
        order = call.gate_weight.argsort(dim=-1, descending=True, stable=True)
        found.append(call.expert_index.gather(-1, order).numpy())
    return np.stack(found)


class Gate(torch.nn.Module):
    def forward(self, hidden, top_k_index, top_k_weights):
        return hidden


class Tiny(torch.nn.Module):
    """Layers whose experts are what the test says."""

    def __init__(self, index, weight, layers=2):
        super().__init__()
        self.index, self.weight = index, weight
        self.layers = torch.nn.ModuleList([Gate() for _ in range(layers)])
        for layer in self.layers:
            layer.num_experts = 4

    def forward(self, input_ids, attention_mask=None):
        n = input_ids.numel()
        for layer in self.layers:
            layer(input_ids, self.index.expand(n, -1), top_k_weights=self.weight.expand(n, -1))


class StoppedError(Exception):
    """What ends a capture in a test."""


def stopping_after(model, n_calls, error=StoppedError):
    """Let a model run so many times and no more."""
    left = [n_calls]

    def stop(*_):
        left[0] -= 1
        if left[0] < 0:
            raise error

    return model.register_forward_pre_hook(stop)
