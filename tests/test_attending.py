"""Attention of imposed range and encodings of position, against slow loops and by what is seen."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import set_seed

SIMULATIONS = Path(__file__).parents[1] / "simulations"
sys.path[:0] = [str(SIMULATIONS), str(SIMULATIONS / "attention_range")]

from trained_models.attending import ALIBI, Attending  # noqa: E402
from trained_models.recipes import Recipe  # noqa: E402
from trained_models.sizes import Size  # noqa: E402

ONE_LAYER = Size(
    vocab_size=64,
    context=24,
    hidden_size=16,
    intermediate_size=16,
    n_layers=1,
    n_heads=2,
    n_experts=4,
)
THREE_LAYERS = Size(**(vars(ONE_LAYER) | {"n_layers": 3}))
BIASED = (
    Attending("window-0", window=0),
    Attending("window-3", window=3),
    Attending("exponential", decay="exponential", rate=0.25),
    Attending("power-law", decay="power-law", rate=2.0),
    Attending("both", window=5, decay="power-law", rate=1.0),
    ALIBI,
)
ENCODED = (
    Recipe(),
    Attending("no positions", encoding="none"),
    Attending("sinusoidal", encoding="sinusoidal"),
    Attending("learned", encoding="learned"),
    ALIBI,
)
every = pytest.mark.parametrize("recipe", [*BIASED, *ENCODED[1:-1]], ids=lambda one: one.name)
biased = pytest.mark.parametrize("recipe", BIASED, ids=lambda one: one.name)


def built(recipe, size=ONE_LAYER, spread=0.5):
    """A model whose attention is not all but even, as it is with fresh weights."""
    set_seed(0)
    model = recipe.build(size)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj" in name or "places" in name:
                weight.copy_(torch.randn_like(weight) * spread)
    return model.eval()


def tokens(n_windows=2, length=ONE_LAYER.context, seed=0):
    return torch.randint(64, (n_windows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, input_ids, **given):
    return model(input_ids=input_ids, **given).logits


def naive_bias(recipe, n_heads, length):
    """What a weight is multiplied with, written out for each pair."""
    factor = np.zeros((n_heads, length, length))
    for head in range(n_heads):
        for i in range(length):
            for j in range(i + 1):
                d = i - j
                if recipe.window is not None and d > recipe.window:
                    continue
                factor[head, i, j] = {
                    "none": 1.0,
                    "exponential": math.exp(-recipe.rate * d),
                    "power-law": (d + 1.0) ** -recipe.rate,
                    "alibi": math.exp(-(2.0 ** (-8 * (head + 1) / n_heads)) * d),
                }[recipe.decay]
    return factor


@biased
def test_bias_is_the_logarithm_of_the_imposed_fall(recipe):
    factor = np.exp(recipe.bias(4, 12).numpy())
    np.testing.assert_allclose(
        np.broadcast_to(factor, (4, 12, 12)), naive_bias(recipe, 4, 12), rtol=1e-5
    )


def test_slopes_are_those_of_the_paper():
    """Of eight heads 1/2, 1/4, .., 1/256."""
    slopes = -ALIBI.bias(8, 2)[:, 1, 0]
    assert slopes.tolist() == [2.0**-n for n in range(1, 9)]


@biased
def test_attention_weights_have_the_bias(recipe):
    """The weights of the same queries and keys without it, times the fall, normalised."""
    same = Attending("same", encoding=recipe.encoding)
    weights = []
    for one in (recipe, same):
        model = built(one)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            weights.append(model(input_ids=tokens(), output_attentions=True).attentions[0].numpy())
    expected = weights[1] * naive_bias(recipe, 2, ONE_LAYER.context)
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights[0], expected, rtol=1e-4, atol=1e-7)


@biased
def test_sdpa_and_eager_agree(recipe):
    model = built(recipe, THREE_LAYERS)
    before = logits(model, tokens())
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model, tokens()), before, rtol=1e-4, atol=1e-5)


@every
def test_the_future_is_never_seen(recipe):
    model, ids = built(recipe, THREE_LAYERS), tokens()
    before = logits(model, ids)
    ids[:, 15:] = (ids[:, 15:] + 1) % 64
    after = logits(model, ids)
    torch.testing.assert_close(after[:, :15], before[:, :15], rtol=1e-5, atol=1e-6)
    assert (after[:, 15] - before[:, 15]).abs().max() > 1e-3


@pytest.mark.parametrize("window", [0, 1, 4])
@pytest.mark.parametrize("size", [ONE_LAYER, THREE_LAYERS], ids=["one layer", "three layers"])
def test_nothing_is_seen_beyond_the_window_of_all_layers(window, size):
    model, ids = built(Attending("window", window=window), size), tokens(8)
    before = logits(model, ids)
    ids[:, 3] = (ids[:, 3] + 1) % 64
    change = (logits(model, ids) - before).abs().amax((0, 2))
    end = 3 + size.n_layers * window
    assert change[end + 1 :].max() < 1e-5
    assert change[3] > 1e-3
    assert change[end] > 1e-5


def test_a_window_as_long_as_the_text_is_none():
    untouched, whole = built(Recipe()), built(Attending("window", window=ONE_LAYER.context - 1))
    torch.testing.assert_close(logits(whole, tokens()), logits(untouched, tokens()))


def test_pads_are_not_attended_to():
    model, ids = built(BIASED[4]), tokens()
    mask = torch.ones_like(ids)
    mask[:, :4] = 0
    before = logits(model, ids, attention_mask=mask)
    ids[:, :4] = (ids[:, :4] + 1) % 64
    after = logits(model, ids, attention_mask=mask)
    assert torch.isfinite(before).all()
    torch.testing.assert_close(after[:, 4:], before[:, 4:])


def test_a_cache_is_refused():
    with pytest.raises(ValueError, match="expected whole windows"):
        logits(built(BIASED[1]), tokens(), use_cache=True)


def test_rotary_encoding_is_left_as_it_is():
    """To the bit, weights and outputs."""
    models = []
    for recipe in (Recipe(), Attending("rope")):
        set_seed(0)
        models.append(recipe.build(THREE_LAYERS).eval())
    one, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one | other)
    assert torch.equal(*(logits(model, tokens()) for model in models))


@every
def test_weights_are_those_of_the_base_model(recipe):
    """So that differences between models of one seed are paired."""
    models = []
    for one in (Recipe(), recipe):
        set_seed(3)
        models.append(dict(one.build(THREE_LAYERS).named_parameters()))
    own = {name for name in models[1] if "places" in name}
    assert set(models[1]) - own == set(models[0])
    assert all(torch.equal(models[1][name], weight) for name, weight in models[0].items())


@pytest.mark.parametrize("recipe", ENCODED, ids=lambda one: one.name)
def test_only_without_positions_is_the_order_of_those_before_unseen(recipe):
    """By one layer; several see it through how much each token has before it."""
    ids = tokens(4)
    mixed = ids.clone()
    mixed[:, :-1] = ids[:, torch.randperm(23, generator=torch.Generator().manual_seed(1))]
    model = built(recipe)
    change = (logits(model, mixed) - logits(model, ids))[:, -1].abs().max()
    assert (change < 1e-5) == (recipe.name == "no positions")


def test_attention_without_absolute_positions_does_not_see_where_the_text_begins():
    """The same window further on: what one layer with a short window says is the same."""
    for recipe in (Attending("rope", window=4), Attending("none", window=4, encoding="none")):
        model, ids = built(recipe), tokens()
        one, other = logits(model, ids[:, :16]), logits(model, ids[:, 5:21])
        torch.testing.assert_close(one[:, 9:], other[:, 4:11], rtol=1e-4, atol=1e-5)
    learned = built(Attending("learned", window=4, encoding="learned"))
    one, other = logits(learned, ids[:, :16]), logits(learned, ids[:, 5:21])
    assert (one[:, 9:] - other[:, 4:11]).abs().max() > 1e-2


def test_added_positions_are_what_the_first_layer_receives():
    ids = tokens()
    for encoding in ("sinusoidal", "learned"):
        set_seed(0)
        model = Attending("added", encoding=encoding).build(ONE_LAYER)
        embedded = model.get_input_embeddings()
        place = embedded(ids) - torch.nn.functional.embedding(ids, embedded.weight)
        size = place.detach().square().mean().sqrt().item()
        assert size == pytest.approx(model.config.initializer_range, rel=0.15)
        torch.testing.assert_close(place[0], place[1])
        if encoding == "sinusoidal":
            angle = np.arange(24)[:, None] / 10_000 ** (np.arange(0, 16, 2) / 16)
            waves = np.concatenate([np.sin(angle), np.cos(angle)], -1)
            expected = 2**0.5 * model.config.initializer_range * waves
            np.testing.assert_allclose(place[0].detach().numpy(), expected, atol=1e-6)


def test_models_of_other_arms_are_others():
    """The store tells models apart by how their recipes are written."""
    assert len({repr(recipe) for recipe in (*BIASED, *ENCODED)}) == len(BIASED) + len(ENCODED) - 1
