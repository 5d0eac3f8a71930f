"""The Switch layer of the transformers that is installed, beside the paper's equations."""

import naive_switch as naive
import numpy as np
import pytest
import small_models as small

torch = pytest.importorskip("torch")
switch = pytest.importorskip("transformers.models.switch_transformers.modeling_switch_transformers")

import isingmoe as im  # noqa: E402
from isingmoe.moe import SwitchLoss  # noqa: E402

N_EXPERTS, N_SEQUENCES, N_TOKENS, WIDTH = 4, 3, 24, 16
FACTORS = pytest.mark.parametrize("factor", [0.25, 1.0, 1.25, N_EXPERTS])


def block_of(factor):
    """A feed-forward block with experts, its norm and its residual stream."""
    config = switch.SwitchTransformersConfig(
        d_model=WIDTH,
        d_ff=8,
        num_experts=N_EXPERTS,
        expert_capacity=naive.capacity(N_TOKENS, N_EXPERTS, factor),
    )
    torch.manual_seed(0)
    block = switch.SwitchTransformersLayerFF(config, is_sparse=True).double().eval()
    block.mlp.router.dtype = torch.float64
    for weight in block.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return block


def hidden_states():
    return torch.randn(
        N_SEQUENCES, N_TOKENS, WIDTH, dtype=torch.float64, generator=torch.manual_seed(1)
    )


@FACTORS
@torch.no_grad()
def test_router_is_that_of_the_equations(factor):
    router, hidden = block_of(factor).mlp.router, hidden_states()
    mask, gate, logits = router(hidden)
    expected = (hidden @ router.classifier.weight.T).numpy()
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-12)
    for sequence in range(N_SEQUENCES):
        for place, route in enumerate(naive.routes(expected[sequence], router.expert_capacity)):
            row = np.zeros(N_EXPERTS, int)
            row[route.expert] = route.is_served
            np.testing.assert_array_equal(mask[sequence, place].numpy(), row)
            assert float(gate[sequence, place]) == pytest.approx(route.gate, rel=1e-12)


@FACTORS
@torch.no_grad()
def test_block_is_that_of_the_equations(factor):
    block, hidden = block_of(factor), hidden_states()
    normed = block.layer_norm(hidden).numpy()
    experts = [
        lambda x, expert=expert: expert(torch.from_numpy(x)).numpy()
        for expert in block.mlp.experts.values()
    ]
    router = block.mlp.router
    out = block(hidden).numpy()
    for sequence in range(N_SEQUENCES):
        served = naive.layer(
            normed[sequence],
            router.classifier.weight.numpy(),
            experts,
            router.expert_capacity,
        )
        np.testing.assert_allclose(out[sequence], hidden[sequence].numpy() + served, atol=1e-12)


@torch.no_grad()
def test_places_are_those_of_each_sequence_and_go_to_those_that_come_first():
    router, hidden = block_of(0.5).mlp.router, hidden_states()
    mask = router(hidden)[0]
    is_served = mask.sum(-1).bool()
    assert not is_served.all()
    chosen = router.classifier(hidden).argmax(-1)
    for sequence in range(N_SEQUENCES):
        alone = router(hidden[sequence : sequence + 1])[0]
        np.testing.assert_array_equal(alone[0], mask[sequence])
        for expert in range(N_EXPERTS):
            of_expert = is_served[sequence][chosen[sequence] == expert]
            assert (of_expert[:-1] >= of_expert[1:]).all()


def test_loss_of_load_is_that_of_the_equations():
    logits = torch.randn(1, N_TOKENS, N_EXPERTS, dtype=torch.float64)
    expected = naive.load_loss(logits[0].numpy())
    theirs = switch.load_balancing_loss_func(logits.softmax(-1), logits.argmax(-1))
    assert float(theirs) == pytest.approx(expected, rel=1e-6)
    assert float(SwitchLoss(1)(logits)) == pytest.approx(expected, rel=1e-12)


def test_capture_has_what_the_equations_serve():
    stacks = im.capture(
        small.switch(expert_capacity=5),
        small.token_ids(30, 30),
        record=["router_logit"],
        progress=False,
    )
    for traces in stacks.values():
        for layer in range(traces.sizes["layer"]):
            for sequence, length in enumerate(traces["length"].values):
                one = traces.isel(layer=layer, sequence=sequence, position=slice(int(length)))
                routes = naive.routes(one["router_logit"].values, 5)
                expected = [route.expert if route.is_served else -1 for route in routes]
                np.testing.assert_array_equal(one["expert_index"].values[:, 0], expected)
                assert -1 in expected
