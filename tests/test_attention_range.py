"""What the study of the range of attention measures, against slow twins."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import set_seed

import isingmoe as im

SIMULATIONS = Path(__file__).parents[1] / "simulations"
sys.path[:0] = [str(SIMULATIONS), str(SIMULATIONS / "attention_range")]

from couplings import at_distances  # noqa: E402
from ranks import rank_correlation  # noqa: E402
from trained_models.attending import ALIBI, Attending  # noqa: E402
from trained_models.exchanging import exchanged  # noqa: E402
from trained_models.measuring import capture  # noqa: E402
from trained_models.profiles import attention_profile  # noqa: E402
from trained_models.sizes import Size  # noqa: E402

SIZE = Size(
    vocab_size=12,
    context=24,
    hidden_size=16,
    intermediate_size=16,
    n_layers=2,
    n_heads=2,
    n_experts=4,
)
WINDOWS = np.random.default_rng(0).integers(12, size=(6, 24)).astype(np.int32)


def built(recipe):
    set_seed(0)
    return recipe.build(SIZE).eval()


def test_profile_is_the_mean_weight_at_each_distance():
    """Pair by pair; the model's own attention is as it was before."""
    model = built(ALIBI)
    profile = attention_profile(model, WINDOWS, 5, batch_size=4)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    given = model(input_ids=torch.from_numpy(WINDOWS.astype(int)), output_attentions=True)
    weights = [one.detach().numpy() for one in given.attentions]
    for layer, of_layer in enumerate(weights):
        for lag in range(6):
            pairs = [of_layer[:, :, i, i - lag].mean() for i in range(5, 24)]
            assert profile.sel(layer=layer, lag=lag) == pytest.approx(np.mean(pairs), rel=1e-5)


@pytest.mark.parametrize("window", [0, 2, 5])
def test_profile_of_a_window_is_whole_and_ends_with_it(window):
    profile = attention_profile(built(Attending("window", window=window)), WINDOWS, 8)
    np.testing.assert_allclose(profile.sel(lag=slice(window + 1, None)), 0, atol=1e-9)
    np.testing.assert_allclose(profile.sum("lag"), 1, rtol=1e-5)


def test_exchange_keeps_the_experts_of_each_id_and_moves_whole_tokens():
    traces = capture(built(Attending("all")), WINDOWS)
    mixed = exchanged(traces, seed=1)
    im.validate(mixed)
    before, after = (one["expert_index"].values.transpose(1, 2, 0, 3) for one in (traces, mixed))
    ids = traces["token_id"].values
    n_moved = 0
    for token_id in np.unique(ids):
        rows = [sorted(one[ids == token_id].reshape(-1, 4).tolist()) for one in (before, after)]
        assert rows[0] == rows[1]
        n_moved += int((before != after)[ids == token_id].any((1, 2)).sum())
    assert n_moved > 0


def test_exchange_changes_nothing_where_the_token_alone_is_seen():
    traces = capture(built(Attending("itself", window=0)), WINDOWS)
    mixed = exchanged(traces, seed=0)
    np.testing.assert_array_equal(
        np.sort(mixed["expert_index"], -1), np.sort(traces["expert_index"], -1)
    )


def test_couplings_are_those_that_experts_were_drawn_with():
    """An expert repeats itself two tokens later, in one layer of two that never changes."""
    rng = np.random.default_rng(0)
    J = np.zeros((2, 4, 4))
    J[1] = 1.5 * (np.eye(4) - 0.25)
    chain = im.KineticChain(J=J, h=np.zeros(4), n_sites=128)
    drawn = im.simulate(chain, im.Exact(), n_samples=40, keep_states=True, n_replicas=1, seed=rng)
    index = np.zeros((2, 40, 128, 1), int)
    index[1, ..., 0] = drawn["state"].values.reshape(40, 128)
    found = at_distances(im.traces_from_arrays(index, num_experts=4), 3, 16)
    assert np.isnan(found["strength"].sel(layer=0)).all()
    strength = found["strength"].sel(layer=1)
    assert strength.sel(distance=2) == pytest.approx(np.sqrt((J[1] ** 2).mean()), rel=0.1)
    assert strength.sel(distance=[1, 3]).max() < 0.05
    # The mean of the diagonal, times q / (q - 1): J of J delta_ab.
    assert found["self_coupling"].sel(layer=1, distance=2) == pytest.approx(1.5, rel=0.1)
    assert found["correlation"].sel(layer=1, lag=0) == 1
    assert found["correlation"].sel(layer=1, lag=2) > 0.2 > found["correlation"].sel(layer=1, lag=1)


def test_nothing_is_fitted_where_nothing_varies():
    found = at_distances(im.traces_from_arrays(np.zeros((2, 5, 40, 1), int), num_experts=4), 3, 16)
    assert dict(found.sizes) == {"layer": 2, "distance": 3, "lag": 17}
    assert all(found[name].isnull().all() for name in found)


def test_rank_correlation():
    one = xr.DataArray([[1.0, 2, 3, 4], [1, 1, 1, 1], [1, np.nan, 2, 3]], dims=("row", "arm"))
    other = xr.DataArray([[2.0, 4, 8, 1], [1, 2, 3, 4], [3, 9, 2, 1]], dims=("row", "arm"))
    found = rank_correlation(one, other, "arm")
    assert found[0] == pytest.approx(1 - 6 * (1 + 1 + 1 + 9) / (4 * 15))
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(-1)
