"""What bands of rotary frequencies read of the router's input, in models of several families."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import isingmoe as im

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sklearn")

import small_models as small  # noqa: E402


@pytest.fixture(scope="module")
def olmoe():

    model = small.causal("olmoe")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 2)
    return model


def test_wavelengths_are_those_of_the_formula(olmoe):
    made = im.rope_subspaces(olmoe)
    theta = olmoe.config.rope_parameters["rope_theta"]
    expected = 2 * np.pi * theta ** (np.arange(4) / 4)
    np.testing.assert_allclose(made["wavelength"], expected, rtol=1e-6)
    assert dict(made.sizes) == {"layer": 3, "band": 4, "direction": 8, "feature": 32}
    basis = made["basis"].values
    np.testing.assert_allclose(
        basis @ basis.swapaxes(-1, -2), np.broadcast_to(np.eye(8), (3, 4, 8, 8)), atol=1e-5
    )
    two = im.rope_subspaces(olmoe, layer=[1], n_bands=2, n_directions=3)
    assert two["basis"].shape == (1, 2, 3, 32)
    pairs = np.sqrt(expected[::2] * expected[1::2])
    np.testing.assert_allclose(two["wavelength"], pairs, rtol=1e-6)
    share = made["explained"].values
    assert ((share > 0.5) & (share <= 1 + 1e-9)).all()


@pytest.mark.parametrize("family", ["olmoe", "ernie4_5_moe", "glm4_moe", "cohere2_moe"])
def test_what_lies_outside_a_subspace_leaves_its_pair_alone(family, olmoe):
    """Of halves, of neighbours, of a part of the head, and with one norm for both."""

    model = olmoe if family == "olmoe" else small.causal(family)
    # Directions enough for all rows: 2 x (4 + 2) heads.
    made = im.rope_subspaces(model, n_directions=99)
    number = int(made["layer"][-1])
    layer = model.model.layers[number]
    attention = layer.self_attn
    rng = np.random.default_rng(0)
    basis = made["basis"].values[-1].astype(np.float64)
    after = getattr(layer, "post_attention_layernorm", layer.input_layernorm)
    before = layer.input_layernorm.weight.detach().double().numpy()
    ratio = before / after.weight.detach().double().numpy()
    n = len(basis)
    head = attention.head_dim
    neighbours = family in ("ernie4_5_moe", "cohere2_moe")
    for band in range(n):
        part = rng.normal(size=32)
        part -= basis[band].T @ (basis[band] @ part)
        read = torch.from_numpy(part * ratio).float()
        for weight in (attention.q_proj.weight, attention.k_proj.weight):
            turned = (weight.detach() @ read).reshape(-1, head).numpy()
            own = [2 * band, 2 * band + 1] if neighbours else [band, band + n]
            size = np.abs(turned).max()
            assert np.abs(turned[:, own]).max() < 1e-4 * size


def test_gains_of_queries_and_keys_say_what_leads(olmoe):
    """Of fewer directions than rows, those that the gains make large are kept."""
    model = copy.deepcopy(olmoe)
    attention = model.model.layers[1].self_attn
    rng = np.random.default_rng(0)
    gains = {}
    for name in ("q_norm", "k_norm"):
        weight = getattr(attention, name).weight
        gains[name] = np.exp(rng.normal(0, 1.5, len(weight)))
        weight.data.copy_(torch.from_numpy(gains[name]))
    made = im.rope_subspaces(model, layer=[1], n_directions=3)
    layer = model.model.layers[1]
    ratio = (layer.input_layernorm.weight / layer.post_attention_layernorm.weight).detach().numpy()
    head, n = attention.head_dim, attention.head_dim // 2
    for band in range(n):
        rows = []
        for proj, norm in (("q_proj", "q_norm"), ("k_proj", "k_norm")):
            weight = getattr(attention, proj).weight.detach().numpy() * ratio
            for place, row in enumerate(weight):
                if place % head in (band, band + n):
                    rows.append(row * gains[norm][place])
        _, values, directions = np.linalg.svd(np.array(rows), full_matrices=False)
        basis = made["basis"].values[0, band]
        overlap = np.linalg.norm(basis @ directions[:3].T) ** 2
        assert overlap == pytest.approx(3, rel=1e-3)
        share = (values[:3] ** 2).sum() / (values**2).sum()
        assert made["explained"].values[0, band] == pytest.approx(share, rel=1e-4)


def test_a_captured_model_is_probed(olmoe, tmp_path):

    im.capture(
        olmoe,
        small.token_ids(*[32] * 9),
        output=tmp_path / "traces.nc",
        record=("hidden_state", "router_logit"),
        progress=False,
    )
    traces = im.open_traces(tmp_path / "traces.nc", logits=True)
    found = im.probe(
        traces, block_length=16, n_shuffles=0, subspaces=im.rope_subspaces(olmoe, n_bands=2)
    )
    data = found.data
    assert data["input"].values.tolist() == ["hidden_state", "router_logit", "expert_index"]
    assert data["band_accuracy"].shape == (3, 2, 2, 2)
    assert data["random_accuracy"].isnull().all()
    assert str(found)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("deepseek_v2", "layer 1: expected attention with q_proj and k_proj, got none"),
        ("jamba", "layer 1: expected rotary position encoding .*, got none"),
        ("llama4_text", "layer 0: expected a rotation by rotate_half"),
        ("flex_olmo", "layer 0: expected a norm called input_layernorm"),
    ],
)
def test_models_without_bands(family, text):

    with pytest.raises(ValueError, match=text):
        im.rope_subspaces(small.causal(family))


def test_layers_that_turn_nothing():

    model = small.causal("afmoe", layer_types=["full_attention"] * 3)
    with pytest.raises(ValueError, match="expected attention that turns its queries"):
        im.rope_subspaces(model)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"n_bands": 0}, ValueError, "n_bands: expected at least 1, got 0"),
        ({"n_directions": 1.5}, TypeError, "n_directions: expected an integer or None"),
        ({"layer": [9]}, ValueError, "layer: expected some of 0, 1, 2, got 9"),
        ({"layer": []}, ValueError, "layer: expected some of 0, 1, 2, got none"),
        ({"dtype": "float32"}, TypeError, "dtype: expected with the name of a model"),
    ],
)
def test_arguments_out_of_range(olmoe, options, kind, text):
    with pytest.raises(kind, match=text):
        im.rope_subspaces(olmoe, **options)


def test_a_model_without_experts():

    with pytest.raises(ValueError, match="expected a model with routed experts"):
        im.rope_subspaces(torch.nn.Linear(2, 2))
