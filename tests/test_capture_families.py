"""Every family of models with experts that transformers has: what is recorded is what ran."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from family_table import FAMILIES
from torch import Tensor, nn
from truths import run, summed, used_experts, watch

from isingmoe.capturing import Call, find_sites, logit_meaning, recorded

IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
RELEASE = tuple(map(int, transformers.__version__.split(".")[:2]))
STACKS = {
    "jetmoe": {"attention", "mlp"},
    "switch_transformers": {"encoder", "decoder"},
    "nllb_moe": {"encoder", "decoder"},
    "diffusion_gemma": {"encoder", "decoder"},
    "ernie4_5_vl_moe": {"text", "vision"},
    "ernie4_5_vl_moe with images": {"text", "vision"},
}


@cache
def built(name: str) -> tuple[nn.Module, dict[str, Any]] | None:
    if FAMILIES[name].model_class() is None:
        return None
    return FAMILIES[name].build(), FAMILIES[name].inputs()


@pytest.fixture
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, Any]]:
    made = built(request.param)
    if made is None:
        pytest.skip(f"transformers {transformers.__version__} has no {request.param} that runs")
    return made


each_family = pytest.mark.parametrize("family", FAMILIES, indirect=True)


def record(model: nn.Module, inputs: dict[str, Any], **asked: bool) -> tuple[list[Call], list]:
    with recorded(model, **asked) as recorder:
        outputs = run(model, inputs)
        return recorder.take(), outputs


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(one, other, strict=True)
    )


def dense(call: Call) -> np.ndarray:
    """Weight of every expert (row, expert); an id that occurs twice counts twice."""
    index, weight = call.expert_index.numpy(), call.gate_weight.double().numpy()
    total = np.zeros((len(index), call.site.num_experts))
    for row, rank in zip(*np.nonzero(index >= 0), strict=True):
        total[row, index[row, rank]] += weight[row, rank]
    return total


@each_family
def test_what_is_recorded_is_what_ran(family, request):
    model, inputs = family
    before = run(model, inputs)
    seen = watch(model, inputs)
    calls, outputs = record(model, inputs)
    assert same_bits(outputs, before)
    assert same_bits(run(model, inputs), before)
    assert len({call.site.label for call in calls}) == len(calls) > 0
    for call in calls:
        index, weight = call.expert_index, call.gate_weight
        assert index.dtype == torch.int32
        assert index.shape == weight.shape
        used, real = used_experts(
            model, inputs, call.site.label, seen, len(index), call.site.num_experts
        )
        np.testing.assert_array_equal((dense(call) != 0)[:, real], used[:, real])
        assert used.any()
        amounts = summed(model, call.site.label, seen, index.long(), weight)
        if amounts is None:
            np.testing.assert_allclose(weight, _by_rule(model, call, seen), rtol=1e-5)
        else:
            torch.testing.assert_close(*amounts, rtol=1e-4, atol=1e-5)


def _by_rule(model: nn.Module, call: Call, seen: dict[str, Any]) -> Tensor:
    """Weights of experts whose sum shows nowhere, from the scores of all experts."""
    router = call.site.router
    x = next(a for a in seen[call.site.label].args if isinstance(a, Tensor)).flatten(0, -2)
    with torch.no_grad():
        if hasattr(router, "router_gate"):
            keys = router.router_gate(x).view(2, len(x), -1)
            score = (keys[0][:, :, None] + keys[1][:, None, :]).flatten(1)
        else:
            score = router.layer(x)
    index = call.expert_index.long()
    assert (score.topk(index.shape[1]).indices.sort().values == index.sort().values).all()
    return score.gather(1, index).softmax(-1)


@each_family
def test_sites_say_where_they_are(family, request):
    model, inputs = family
    name = request.node.callspec.params["family"]
    sites = find_sites(model)
    assert {site.stack for site in sites} == STACKS.get(name, {""})
    for stack in STACKS.get(name, {""}):
        layers = [site.layer for site in sites if site.stack == stack]
        assert layers == sorted(set(layers))
    for site in sites:
        assert f".{site.layer}." in f".{site.label}."
        assert site.module is model.get_submodule(site.label)
    for call in record(model, inputs)[0]:
        width = call.expert_index.shape[1]
        assert call.site.top_k == width
        assert {site.top_k for site in sites if site.label == call.site.label} <= {width, None}
        assert int(call.expert_index.min()) >= -1
        assert int(call.expert_index.max()) < call.site.num_experts


@each_family
def test_experts_implementations_record_the_same(family):
    model, inputs = family
    kept = model.config._experts_implementation
    records = {}
    try:
        for name in IMPLEMENTATIONS:
            try:
                model.set_experts_implementation(name)
            except ValueError:
                continue
            before = run(model, inputs)
            calls, outputs = record(model, inputs)
            assert same_bits(outputs, before)
            records[name] = calls
    finally:
        model.set_experts_implementation(kept)
    assert "eager" in records
    for calls in records.values():
        for call, eager in zip(calls, records["eager"], strict=True):
            assert torch.equal(call.expert_index, eager.expert_index)
            torch.testing.assert_close(call.gate_weight, eager.gate_weight)


@each_family
def test_logits_follow_from_hidden_states(family, request):
    model, inputs = family
    name = request.node.callspec.params["family"]
    if name in ("doge", "vitpose_backbone"):
        with pytest.raises(ValueError, match="capture without logits"):
            record(model, inputs, logits=True)
        return
    try:
        calls, outputs = record(model, inputs, logits=True, hidden=True)
    except ValueError as error:
        if RELEASE >= (5, 20) or "capture without" not in str(error):
            raise
        pytest.skip(f"the router of transformers {transformers.__version__} shows no logits")
    assert same_bits(outputs, run(model, inputs))
    for call in calls:
        n_rows = len(call.expert_index)
        assert call.router_logit.shape == (n_rows, call.site.num_experts)
        assert len(call.hidden) == n_rows
        here = ~call.hidden.isnan().any(-1)
        if "images" in name:
            assert (here == (call.expert_index >= 0).any(-1)).all()
        else:
            assert here.all()
        meaning = logit_meaning(model, call.router_logit[here])
        weights = [p for p in call.site.router.parameters() if p.dim() == 2 and len(p) >= 4]
        if len(weights) != 1 or name in ("gemma4", "diffusion_gemma"):
            continue
        bias = getattr(call.site.router, "bias", None)
        logit = nn.functional.linear(call.hidden[here], weights[0], bias)
        logit = logit[:, : call.site.num_experts].detach()
        if meaning == "softmax probabilities":
            logit = logit.softmax(-1)
        elif meaning == "scaled logits":
            logit = logit * call.site.router.output_multiplier
        elif meaning == "soft-capped logits":
            cap = call.site.router.router_logit_softcapping
            logit = (logit / cap).tanh() * cap
        torch.testing.assert_close(call.router_logit[here].float(), logit)


def test_meaning_of_logits():
    meanings = {}
    for name in ("olmoe", "gemma4", "laguna", "muse_spark"):
        made = built(name)
        if made is not None:
            calls, _ = record(*made, logits=True)
            meanings[name] = logit_meaning(made[0], calls[0].router_logit)
            if name != "olmoe":
                assert logit_meaning(made[0]) == meanings[name]
    known = {
        "olmoe": "raw logits",
        "gemma4": "softmax probabilities",
        "laguna": "soft-capped logits",
        "muse_spark": "scaled logits",
    }
    if RELEASE < (5, 6):
        known["olmoe"] = "softmax probabilities"
    assert meanings == {name: known[name] for name in meanings}
