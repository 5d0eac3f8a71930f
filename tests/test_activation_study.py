"""Parts of the study of activation over position: what the ids of a text carry."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import isingmoe as im

pytest.importorskip("torch")
FOLDER = Path(__file__).parents[1] / "fits" / "activation_over_position"
N_TEXTS, LENGTH, N_EXPERTS, N_IDS = 40, 64, 6, 12


@pytest.fixture(scope="module")
def study():
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("activation_study", FOLDER / "study.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
        sys.modules.pop("figures", None)
    return module


def drifting(rng, shape):
    """Numbers 0 .. 5 of which the large ones become likelier along the text."""
    lean = np.linspace(0, 2, shape[1])
    return np.minimum(rng.random(shape) * 6 * (0.5 + lean / 4), 5.999).astype(int)


def ragged(rng, n_layers, length, n_positions):
    experts = np.argsort(rng.random((n_layers, len(length), n_positions, N_EXPERTS)), -1)[..., :2]
    inside = np.arange(n_positions) < length[:, None]
    experts = np.where(inside[None, :, :, None], experts, -1)
    return im.traces_from_arrays(experts, num_experts=N_EXPERTS, length=length), inside


def traces_of(experts, token_id):
    second = (experts + 1) % N_EXPERTS
    traces = im.traces_from_arrays(np.stack([experts, second], -1)[None], num_experts=N_EXPERTS)
    return traces.assign(token_id=(("sequence", "position"), token_id.astype("int32")))


def test_drift_of_the_ids_stays_and_that_of_the_position_goes(study):
    rng = np.random.default_rng(1)
    shape = (N_TEXTS, LENGTH)
    drift = drifting(rng, shape)
    by_id = traces_of(drift, drift * 2 + rng.integers(0, 2, shape))
    by_position = traces_of(drift, rng.integers(0, N_IDS, shape))
    for traces, stays in ((by_id, True), (by_position, False)):
        whole = im.activation(traces, block_length=16)
        of_ids = im.activation(study.exchanged(traces, 0), block_length=16)
        assert whole["layer_drift_p_value"].item() < 1e-6
        left = of_ids["layer_drift_bits"].item()
        if stays:
            assert left == whole["layer_drift_bits"].item()
        else:
            assert left < 2 * of_ids["layer_drift_bits_null"].item()


def test_ids_keep_their_sets_and_layers_move_together(study):
    rng = np.random.default_rng(2)
    traces, inside = ragged(rng, 3, rng.integers(1, LENGTH + 1, N_TEXTS), LENGTH)
    token_id = np.where(inside, rng.integers(0, N_IDS, (N_TEXTS, LENGTH)), -1).astype("int32")
    traces = traces.assign(token_id=(("sequence", "position"), token_id))
    moved = study.exchanged(traces, 0)
    im.validate(moved)
    assert study.knows_ids(traces)
    rows = [
        one["expert_index"].transpose("sequence", "position", ...).values for one in (traces, moved)
    ]
    for number in range(N_IDS):
        old, new = (sorted(row[token_id == number].reshape(-1, 6).tolist()) for row in rows)
        assert old == new
    assert (rows[0] != rows[1]).any()


def test_the_beginning_is_cut_off(study):
    rng = np.random.default_rng(3)
    traces, _ = ragged(rng, 1, np.array([20, 5, 4, 9]), 20)
    rest = study.without_beginning(traces, 4)
    im.validate(rest)
    assert rest["length"].values.tolist() == [16, 1, 5]
    assert rest["start_position"].values.tolist() == [4, 4, 4]
    np.testing.assert_array_equal(
        rest["expert_index"].values[0, 0, :16], traces["expert_index"].values[0, 0, 4:]
    )
    assert not study.knows_ids(traces)
