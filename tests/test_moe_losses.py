"""Losses of load: against loops, transformers' own, closed forms and finite differences."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from isingmoe.moe import MEMLoss, SwitchLoss, ZLoss, gate_distribution  # noqa: E402

UNKNOWN: Any = "token"


def drawn(seed=0, n_layers=3, shape=(4, 10), num_experts=6, scale=2.0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    layers = rng.normal(0, scale, (n_layers, *shape, num_experts))
    mask = (rng.random(shape) < 0.8).astype(int)
    return [torch.tensor(one, dtype=dtype) for one in layers], torch.tensor(mask)


def softmax(row):
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [w / sum(weights) for w in weights]


def tokens(layer, mask):
    """Position and logits of each token that counts."""
    for s, row in enumerate(layer.tolist()):
        for i, logits in enumerate(row):
            if mask[s, i]:
                yield i, logits


def divergence(parts):
    """From the uniform distribution, of the mean of some distributions."""
    mean = [sum(column) / len(parts) for column in zip(*parts, strict=True)]
    return sum(p * math.log(p * len(mean)) for p in mean if p > 0)


def slow_mem(layers, mask, per, block_length=1):
    gates = [[(i, softmax(x)) for i, x in tokens(layer, mask)] for layer in layers]
    if per == "whole":
        return divergence([p for layer in gates for _, p in layer])
    of_layers = []
    for layer in gates:
        blocks = {}
        for i, p in layer:
            blocks.setdefault(0 if per == "layer" else i // block_length, []).append(p)
        total = sum(len(parts) * divergence(parts) for parts in blocks.values())
        of_layers.append(total / len(layer))
    return sum(of_layers) / len(of_layers)


def slow_switch(layers, mask, top_k, per):
    groups = [list(tokens(layer, mask)) for layer in layers]
    if per == "whole":
        groups = [[token for group in groups for token in group]]
    values = []
    for group in groups:
        n_experts = len(group[0][1])
        share, mean = [0.0] * n_experts, [0.0] * n_experts
        for _, logits in group:
            for e in sorted(range(n_experts), key=lambda e: -logits[e])[:top_k]:
                share[e] += 1 / len(group)
            for e, p in enumerate(softmax(logits)):
                mean[e] += p / len(group)
        values.append(n_experts * sum(f * p for f, p in zip(share, mean, strict=True)))
    return sum(values) / len(values)


CASES = [
    (MEMLoss(), lambda x, m: slow_mem(x, m, "layer")),
    (MEMLoss("whole"), lambda x, m: slow_mem(x, m, "whole")),
    (MEMLoss("block", block_length=3), lambda x, m: slow_mem(x, m, "block", 3)),
    (MEMLoss("block", block_length=1), lambda x, m: slow_mem(x, m, "block", 1)),
    (SwitchLoss(2), lambda x, m: slow_switch(x, m, 2, "whole")),
    (SwitchLoss(1, "layer"), lambda x, m: slow_switch(x, m, 1, "layer")),
    (
        ZLoss(),
        lambda x, m: np.mean(
            [
                np.mean([np.log(np.exp(row).sum()) ** 2 for _, row in tokens(layer, m)])
                for layer in x
            ]
        ),
    ),
]


@pytest.mark.parametrize(("loss", "slow"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_loops(loss, slow, seed):
    layers, mask = drawn(seed)
    assert loss(layers, mask).item() == pytest.approx(float(slow(layers, mask)), rel=1e-12)
    everything = torch.ones_like(mask)
    assert loss(layers).item() == pytest.approx(float(slow(layers, everything)), rel=1e-12)
    # As transformers gives them: a row for each token.
    rows = tuple(layer.flatten(0, 1) for layer in layers)
    torch.testing.assert_close(loss(rows, mask), loss(layers, mask))


@pytest.mark.parametrize("loss", [loss for loss, _ in CASES])
def test_gradients_are_finite_differences(loss):
    layers, mask = drawn(4, n_layers=2, shape=(2, 5), num_experts=4)
    values = torch.stack(layers).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(list(x), mask), (values,))
    (slope,) = torch.autograd.grad(loss(list(values), mask), values)
    assert slope.abs().max() > 0
    assert (slope[:, mask == 0] == 0).all()


@pytest.mark.parametrize("loss", [loss for loss, _ in CASES])
def test_half_precision_is_computed_in_single(loss):
    layers, mask = drawn(dtype=torch.bfloat16)
    found = loss(layers, mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss([one.float() for one in layers], mask))


def test_limits():
    for per in ("layer", "whole"):
        mem = MEMLoss(per)
        assert mem(torch.zeros(7, 5)).item() == pytest.approx(0, abs=1e-6)
        collapsed = torch.zeros(7, 5)
        collapsed[:, 2] = 1e4
        assert mem(collapsed).item() == pytest.approx(math.log(5))
    # Uniform on average, though every token knows its expert.
    assert MEMLoss()(1e4 * torch.eye(5)).item() == pytest.approx(0, abs=1e-6)
    assert MEMLoss("block", block_length=1)(1e4 * torch.eye(5)[None]).item() == pytest.approx(
        math.log(5)
    )
    for k in (1, 2, 5):
        assert SwitchLoss(k)(torch.zeros(7, 5)).item() == pytest.approx(k)
    assert ZLoss()(torch.zeros(7, 5)).item() == pytest.approx(math.log(5) ** 2)
    one = torch.full((3, 1), 2.0)
    assert MEMLoss()(one).item() == 0
    assert SwitchLoss(1)(one).item() == 1


@pytest.mark.parametrize("loss", [loss for loss, _ in CASES])
def test_experts_without_load_and_batches_without_tokens(loss):
    logits = torch.zeros(2, 4, 3)
    logits[..., 0] = -1e9
    logits.requires_grad_()
    value = loss(logits)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    logits.grad = None
    value = loss(logits, torch.zeros(2, 4))
    value.backward()
    assert value.item() == 0
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "qwen2_moe", "gpt_oss"])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_switch_loss_is_that_of_transformers(family, top_k):
    pytest.importorskip("transformers")
    models = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    layers, mask = drawn(2, dtype=torch.float32)
    rows = tuple(layer.flatten(0, 1) for layer in layers)
    for given in (None, mask):
        theirs = models.load_balancing_loss_func(rows, 6, top_k, given)
        torch.testing.assert_close(SwitchLoss(top_k)(rows, given), theirs)


def test_losses_of_switch_are_those_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.switch_transformers import modeling_switch_transformers as theirs

    ((logits,), _) = drawn(3, n_layers=1, dtype=torch.float32)
    torch.testing.assert_close(ZLoss()(logits), torch.as_tensor(theirs.router_z_loss_func(logits)))
    # Theirs is the mean over the sequences of a batch.
    of_sequences = [SwitchLoss()(one[None]) for one in logits]
    found = theirs.load_balancing_loss_func(logits.softmax(-1), logits.argmax(-1))
    torch.testing.assert_close(torch.stack(of_sequences).mean(), torch.as_tensor(found))


def test_gate_distribution_is_a_mean_of_distributions():
    layers, mask = drawn(5)
    found = gate_distribution(layers, mask)
    assert found.shape == (3, 6)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, dtype=torch.float64))
    expected = torch.stack([one.softmax(-1)[mask == 1].mean(0) for one in layers])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MEMLoss(UNKNOWN), "per: expected layer, block or whole, got 'token'"),
        (lambda: MEMLoss("block"), "block_length: expected a number of positions with per='block'"),
        (lambda: MEMLoss(block_length=4), "block_length: expected a number of positions with"),
        (lambda: MEMLoss("block", block_length=0), "block_length: expected at least 1, got 0"),
        (lambda: SwitchLoss(0), "top_k: expected at least 1, got 0"),
        (lambda: SwitchLoss(per=UNKNOWN), "per: expected whole or layer, got 'token'"),
        (lambda: SwitchLoss(4)(torch.zeros(2, 3)), "top_k: expected at most 3, the number of"),
        (lambda: MEMLoss()([]), "gate_logits: expected those of some layer, got none"),
        (lambda: MEMLoss()(torch.zeros(3)), r"gate_logits: expected floats \(token, expert\)"),
        (lambda: MEMLoss()(torch.zeros(3, 2, dtype=torch.int64)), "got torch.int64"),
        (
            lambda: MEMLoss()(torch.zeros(6, 2), torch.ones(2, 4)),
            r"gate_logits: expected rows for \(2, 4\) \(sequence, position\)",
        ),
        (
            lambda: MEMLoss("block", block_length=2)(torch.zeros(6, 2)),
            "gate_logits: expected .* for blocks of positions, got .* alone",
        ),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", [MEMLoss(), SwitchLoss(2), ZLoss()])
def test_probabilities_are_refused(loss):
    """Releases of transformers before 5.6 give them as router logits."""
    logits = torch.randn(40, 8)
    with pytest.raises(ValueError, match="expected router logits, got rows of probabilities"):
        loss((logits.softmax(-1),))
    assert torch.isfinite(loss((torch.zeros(0, 8),)))
    assert torch.isfinite(loss((torch.zeros(5, 8),)))
