"""Loss-free biases: moved as written out slowly, kept with the weights, and they balance."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models as small  # noqa: E402

from isingmoe.capturing import recorded  # noqa: E402
from isingmoe.moe import LossFreeBias, insert_router, remove_router  # noqa: E402


def batches(n, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(3, 320, (4, 24))) for _ in range(n)]


def test_biases_move_as_written_out():
    model = small.causal("olmoe", 2).train()
    router = LossFreeBias(0.01)
    bias = np.zeros((3, 8))
    with insert_router(model, router):
        for ids in batches(5):
            logits = model(input_ids=ids, output_router_logits=True).router_logits
            router.update()
            for layer in range(3):
                score = logits[layer].softmax(-1).detach().numpy()
                load = np.zeros(8)
                for row in score:
                    for e in sorted(range(8), key=lambda e: -(row[e] + bias[layer, e]))[:2]:
                        load[e] += 1
                for e in range(8):
                    if load[e] != load.mean():
                        bias[layer, e] += 0.01 if load[e] < load.mean() else -0.01
                np.testing.assert_allclose(router.bias(layer).numpy(), bias[layer], atol=1e-6)


def test_chosen_by_biased_scores_and_weighed_by_plain_ones():
    model = small.causal("olmoe", 2)
    router = LossFreeBias()
    ids = batches(1)[0]
    with insert_router(model, router), recorded(model, logits=True) as recorder:
        router.bias(0).copy_(torch.linspace(-0.5, 0.5, 8))
        model(input_ids=ids)
        call = recorder.take()[0]
    score = call.router_logit.softmax(-1)
    expected = (score + torch.linspace(-0.5, 0.5, 8)).topk(2, dim=-1).indices
    assert torch.equal(call.expert_index.sort(-1).values, expected.sort(-1).values.int())
    torch.testing.assert_close(call.gate_weight, score.gather(-1, call.expert_index.long()))


def test_load_becomes_even_on_fixed_weights():
    """Scores that favour few experts; biases alone even them out."""
    model = small.causal("olmoe", 3).train()
    for layer in model.model.layers:
        layer.mlp.gate.weight.data[:2] *= 3
    router = LossFreeBias(0.003)

    def spread():
        with recorded(model.eval()) as recorder:
            model(input_ids=torch.cat(batches(8, seed=9)))
            sent = [call.expert_index.numpy().ravel() for call in recorder.take()]
        model.train()
        return np.array([np.bincount(one, minlength=8).max() * 8 / len(one) for one in sent])

    with torch.no_grad(), insert_router(model, router):
        before = spread()
        for ids in batches(200):
            model(input_ids=ids)
            router.update()
        after = spread()
    assert (before > 1.5).any()
    assert (after < 1.3).all()


def test_eval_mode_counts_nothing_and_pads_neither():
    model = small.causal("olmoe", 2)
    router, ids = LossFreeBias(), batches(1)[0]
    with insert_router(model, router), torch.no_grad():
        model(input_ids=ids)
        assert not router.get_buffer("load_0").any()
        model.train()
        mask = torch.ones_like(ids)
        mask[:, :10] = 0
        model(input_ids=ids, attention_mask=mask)
    assert router.get_buffer("load_0").sum() == 2 * mask.sum()


def test_biases_are_kept_with_the_weights():
    model = small.causal("olmoe", 2).train()
    router = LossFreeBias(0.1)
    insert_router(model, router)
    model.add_module("balancing", router)
    model(input_ids=batches(1)[0])
    router.update()
    state = model.state_dict()
    assert state["balancing.bias_1"].any()
    assert not any("load" in name for name in state)
    other = LossFreeBias(0.1)
    insert_router(fresh := small.causal("olmoe", 2), other)
    fresh.add_module("balancing", other)
    fresh.load_state_dict(state)
    assert torch.equal(other.bias(1), router.bias(1))
    remove_router(model)


def test_biases_keep_their_digits_in_a_model_of_fewer_bits():
    model, router = small.causal("olmoe", 2), LossFreeBias()
    insert_router(model, router)
    model.add_module("balancing", router)
    model.to(torch.bfloat16)
    assert router.bias(0).dtype == torch.float32
    assert model.model.layers[0].mlp.gate.weight.dtype == torch.bfloat16
    remove_router(model)


def test_another_number_of_experts_is_refused():
    router = LossFreeBias()
    with insert_router(small.causal("olmoe", 2), router):
        pass
    with pytest.raises(ValueError, match="router: expected 4 experts, as layer 0 has, got 8"):
        insert_router(small.causal("olmoe", 2, num_experts=4), router)
