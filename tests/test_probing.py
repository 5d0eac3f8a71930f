"""Position probes: what is planted is found, what is not there is not, and texts do not leak."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import planted
import pytest
import xarray as xr
from scipy.stats import binom, t

import isingmoe as im
from isingmoe import linear_probes
from isingmoe.linear_probes import (
    Scored,
    counting_error,
    interval_of,
    prediction_interval,
    scored,
)
from isingmoe.probe_tokens import Target, Tokens, chosen_tokens, few_arrangements, shifted, shuffled

pytest.importorskip("sklearn")

INPUTS = ["hidden_state", "router_logit", "expert_index"]


def probe(traces, **options):
    return im.probe(traces, **{"block_length": planted.BLOCK, "n_shuffles": 4, **options})


def within(one, control="shifted"):
    """Whether accuracies lie in the interval of a control."""
    of = one.sel(control=control)
    return (of["control_low"] <= one["accuracy"]) & (one["accuracy"] <= of["control_high"])


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    return planted.traces_of(planted.blocks(), tmp_path_factory.mktemp("b") / "traces.nc")


@pytest.fixture(scope="module")
def found(blocks):
    return probe(blocks, n_shuffles=3)


def test_blocks_that_are_planted_are_found_in_every_input(found):
    data = found.data.isel(layer=0)
    assert data["input"].values.tolist() == INPUTS
    assert data["split"].values.tolist() == ["token", "sequence"]
    block = data.sel(target="block 16")
    assert (block["accuracy"].sel(input="hidden_state") > 0.9).all()
    assert (block["accuracy"] > block["control_high"].max("control") + 0.05).all()
    assert (block["p_value"] < 0.05).all()
    np.testing.assert_allclose(block["majority"], 0.25, atol=0.02)
    # Nothing of parity was planted.
    parity = data.sel(target="parity")
    assert within(parity).all()
    assert (parity["p_value"] > 0.01).all()


def test_parity_that_is_planted_is_found(tmp_path):
    traces = planted.traces_of(planted.parities(), tmp_path / "traces.nc")
    options = {"inputs": ["expert_index"], "targets": ["parity"], "n_shuffles": 8}
    parity = probe(traces, **options).data.isel(layer=0, input=0, target=0)
    assert (parity["accuracy"] > 0.75).all()
    assert (parity["accuracy"] > parity["control_high"].max("control") + 0.05).all()
    assert (parity["p_value"] < 0.05).all()


@pytest.mark.parametrize("made", ["noise", "wandering"])
def test_where_nothing_is_planted_accuracies_are_those_of_the_control(tmp_path, made):
    traces = planted.traces_of(getattr(planted, made)(3), tmp_path / "traces.nc")
    data = probe(traces, inputs=["hidden_state"], n_shuffles=8).data
    # Of four 95 % intervals, all but one.
    assert within(data).sum() >= 3
    assert (data["p_value"] > 0.01).all()


def test_what_only_the_text_tells_leaks_through_the_split_by_token(tmp_path):
    """Known blocks of known texts tell the others of theirs; of other texts they tell nothing."""
    traces = planted.traces_of(planted.texts(), tmp_path / "traces.nc")
    data = probe(traces, inputs=["hidden_state"], targets=["block"]).data.isel(
        layer=0, input=0, target=0
    )
    token, sequence = (data.sel(split=split) for split in ("token", "sequence"))
    assert token["accuracy"] > 0.8
    assert token["control_high"].sel(control="shuffled") < 0.4
    # Labels that lost their position are told as well: it is not position that is told.
    assert within(token)
    assert token["p_value"] > 0.05
    assert 0.15 < sequence["accuracy"] < 0.35
    assert within(sequence)


def rejections(n, split, n_draws, level=0.05):
    """How many of some data sets without position are taken to have it, at a level."""
    target, n_sequences, length = Target(8), 12, 32
    position = np.tile(np.arange(length), n_sequences)
    tokens = Tokens(np.repeat(np.arange(n_sequences), length), position, position)
    labels, low = target.labels(position), 0
    for seed in range(n):
        states = planted.wandering(seed, n_sequences, length)
        states = states.reshape(len(labels), -1).astype(np.float32)
        rng = np.random.default_rng(seed)

        def accuracy(of, states=states, seed=seed):
            found = scored(states, of, tokens.sequence, split=split, n_folds=2, seed=seed)
            return found.correct.mean()

        draws = [accuracy(shifted(target, labels, tokens, rng)) for _ in range(n_draws)]
        low += prediction_interval(draws, accuracy(labels))[1] < level
    return low


def test_few_of_some_data_sets_without_position_seem_to_have_it():
    assert rejections(8, "sequence", 4) <= binom.ppf(0.999, 8, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["token", "sequence"])
def test_size_of_the_test(split):
    n = 400
    assert binom.ppf(0.0005, n, 0.03) <= rejections(n, split, 10) <= binom.ppf(0.9995, n, 0.05)


@pytest.mark.parametrize("split", ["token", "sequence"])
def test_accuracy_is_what_scikit_learn_gives(blocks, found, split):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states = im.open_hidden(blocks.encoding["source"].replace(".nc", ".hidden"), 7)
    position = np.tile(np.arange(planted.LENGTH), planted.N_SEQUENCES)
    group = np.repeat(np.arange(planted.N_SEQUENCES), planted.LENGTH)
    label = position // planted.BLOCK
    folding = {"token": StratifiedKFold, "sequence": StratifiedGroupKFold}[split]
    state = int(np.random.SeedSequence(0).generate_state(1)[0])
    folds = folding(3, shuffle=True, random_state=state)
    if split == "token":
        parts = folds.split(states, label)
    else:
        parts = list(folds.split(states, label, group))
        assert all(not set(group[a]) & set(group[b]) for a, b in parts)
    right = np.zeros(len(label), bool)
    for train, test in parts:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
        right[test] = model.fit(states[train], label[train]).predict(states[test]) == label[test]
    one = found.data.isel(layer=0).sel(input="hidden_state", target="block 16", split=split)
    assert float(one["accuracy"]) == right.mean()
    # The error by the means of the sequences, which are of equal length.
    means = right.reshape(planted.N_SEQUENCES, -1).mean(1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert float(one["accuracy_error"]) == pytest.approx(error)
    half = t.ppf(0.975, len(means) - 1) * error
    assert float(one["accuracy_low"]) == pytest.approx(right.mean() - half)
    assert float(one["accuracy_high"]) == pytest.approx(min(right.mean() + half, 1))


def test_errors_and_intervals():
    assert interval_of(np.array([True, False]), np.array([4, 4]))[0] == 0.5
    assert np.isnan(interval_of(np.array([True, False]), np.array([4, 4]))[1:]).all()
    draws = np.random.default_rng(0).normal(0.5, 0.01, 12)
    interval, p = prediction_interval(draws, 0.5)
    spread = draws.std(ddof=1) * np.sqrt(13 / 12)
    assert interval.value == draws.mean()
    assert interval.high == pytest.approx(draws.mean() + t.ppf(0.975, 11) * spread)
    assert p == pytest.approx(t.sf((0.5 - draws.mean()) / spread, 11))
    assert np.isnan(prediction_interval([], 0.5)[1])
    assert prediction_interval([0.5, 0.5], 0.5)[1] == 1
    assert prediction_interval([0.5, 0.5], 0.6, 0.1)[1] == pytest.approx(t.sf(1, 1))
    wide = prediction_interval(draws, 0.6, 1.0)
    assert wide[0] == interval
    assert wide[1] > prediction_interval(draws, 0.6)[1]


def test_a_few_tokens_beyond_the_commonest_class_are_chance():
    """Where all controls tell the commonest class they do not scatter, but tokens do."""
    majority = np.arange(1000) < 900
    correct = majority.copy()
    correct[[900, 901]] = True
    error = counting_error(Scored(correct, majority, 0, 3))
    assert error == pytest.approx(np.sqrt(2) / 1000)
    assert prediction_interval([0.9] * 10, correct.mean())[1] == 1
    assert prediction_interval([0.9] * 9 + [0.9001], correct.mean())[1] < 1e-6
    assert prediction_interval([0.9] * 9 + [0.9001], correct.mean(), error)[1] > 0.05
    correct[900:] = True
    error = counting_error(Scored(correct, majority, 0, 3))
    assert prediction_interval([0.9] * 10, correct.mean(), error)[1] < 1e-4


@pytest.mark.parametrize("target", [Target(0), Target(5)])
def test_shifts_keep_what_is_not_position(target):
    sequence = np.repeat([0, 1, 2], [12, 7, 1])
    position = np.concatenate([np.arange(3, 15), np.arange(7), [9]])
    tokens = Tokens(sequence, position, position)
    labels = target.labels(position)
    seen = set()
    for seed in range(60):
        made = shifted(target, labels, tokens, np.random.default_rng(seed))
        for s in range(3):
            own, new = labels[sequence == s], made[sequence == s]
            assert sorted(own) == sorted(new)
            # As many runs, but for the one that the ends of the circle meet in.
            assert abs((np.diff(own) != 0).sum() - (np.diff(new) != 0).sum()) <= 1
        seen.add(tuple(made))
    numbers = (2, 2, 1) if not target.block_length else (3, 2, 1)
    assert len(seen) == np.prod(numbers)
    share = few_arrangements(target, labels, tokens)
    assert share == pytest.approx(max(numbers) / np.prod(numbers))


def test_shuffles_stay_in_their_sequence_where_sequences_are_held_out():
    tokens = Tokens(np.repeat([0, 1], 50), *[np.tile(np.arange(50), 2)] * 2)
    labels = np.repeat([0, 1], 50)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(shuffled(labels, tokens, True, rng), labels)
    mixed = shuffled(labels, tokens, False, rng)
    assert sorted(mixed) == sorted(labels)
    assert 10 < mixed[:50].sum() < 40


def test_whole_sequences_are_drawn_or_pairs_of_long_ones(make_traces):
    many = make_traces(n_sequences=80, n_positions=20, ragged=True)
    tokens = chosen_tokens(many, 500, np.random.default_rng(0))
    length = many["length"].values
    held = np.unique(tokens.sequence)
    assert 400 < len(tokens.sequence) <= 500
    np.testing.assert_array_equal(np.bincount(tokens.sequence, minlength=80)[held], length[held])
    assert len(chosen_tokens(many, 10**6, np.random.default_rng(0)).sequence) == length.sum()
    few = make_traces(n_sequences=4, n_positions=400)
    tokens = chosen_tokens(few, 200, np.random.default_rng(0))
    assert np.bincount(tokens.sequence).tolist() == [50] * 4
    assert (np.bincount(tokens.position % 2) == 100).all()
    again = chosen_tokens(few, 200, np.random.default_rng(0))
    assert all((a == b).all() for a, b in zip(tokens, again, strict=True))


def test_positions_count_from_where_the_text_begins(tmp_path):
    """Blocks of the text, not of what was recorded of it: with starts, the plant is lost."""
    start = np.random.default_rng(1).integers(0, 2, planted.N_SEQUENCES)
    states = planted.noise()
    mean = np.where((start[:, None] + np.arange(planted.LENGTH)) % 2, 1, -1)[..., None]
    traces = planted.traces_of(states + mean, tmp_path / "traces.nc", start=start)
    options = {"inputs": ["hidden_state"], "targets": ["parity"], "splits": ["sequence"]}
    assert probe(traces, **options).data["accuracy"].item() > 0.9
    other = probe(traces.drop_vars("start_position"), **options)
    assert other.data["accuracy"].item() < 0.7


def test_tokens_without_experts_are_left_out(tmp_path):
    gaps = np.random.default_rng(2).random((1, planted.N_SEQUENCES, planted.LENGTH)) < 0.3
    states = planted.blocks()
    states[gaps[0]] = np.nan
    traces = planted.traces_of(states, tmp_path / "traces.nc", gaps=gaps)
    data = probe(traces, n_shuffles=0).data.isel(layer=0)
    assert (data["n_tokens"] == (~gaps).sum()).all()
    assert (data["accuracy"].sel(input="hidden_state", target="block 16") > 0.9).all()
    assert np.isnan(data["p_value"]).all()


@pytest.mark.filterwarnings("ignore:.*block 20. 2, 3 left out")
def test_several_block_lengths_and_ragged_texts(tmp_path):
    length = np.full(planted.N_SEQUENCES, 40)
    length[:2] = planted.LENGTH
    traces = planted.traces_of(planted.noise(), tmp_path / "traces.nc", length=length)
    told = "traces.nc: block 8: 5, 6, 7 left out, held by fewer than 3 sequences"
    with pytest.warns(im.ShortTraceWarning, match=told):
        found = probe(traces, targets=["block"], block_length=[8, 20], inputs=["expert_index"])
    data = found.data
    assert data["target"].values.tolist() == ["block 8", "block 20"]
    assert data["block_length"].values.tolist() == [8, 20]
    assert data["n_classes"].values.tolist() == [[5, 2]]


def test_a_single_text_proves_nothing(tmp_path):
    traces = planted.traces_of(planted.blocks()[:1], tmp_path / "traces.nc")
    with pytest.warns(im.ShortTraceWarning, match="1 sequences are fewer than 3 folds"):
        data = probe(traces, inputs=["hidden_state"]).data.isel(layer=0, input=0)
    assert data["split"].values.tolist() == ["token"]
    assert data["accuracy"].sel(target="block 16").item() > 0.8
    assert data["accuracy_error"].isnull().all()
    # Any names of its blocks are as good.
    assert (data["p_value"] > 0.3).all()
    with pytest.raises(ValueError, match=r"splits: expected at least 3 sequences, .* got 1"):
        probe(traces, splits=["sequence"])


def test_same_seed_same_numbers_whatever_else_is_probed(tmp_path):
    states = np.stack([planted.noise(1), planted.blocks()])
    traces = planted.traces_of(states, tmp_path / "traces.nc", layer=(2, 5))
    options = {"n_shuffles": 2, "max_tokens": 1000, "inputs": ["expert_index"]}
    both = probe(traces, **options).data
    xr.testing.assert_identical(both, probe(traces, **options).data)
    alone = probe(traces.sel(layer=[5]), targets=["block"], **options).data
    pick = {"layer": [5], "target": ["block 16"]}
    for name in alone.data_vars:
        np.testing.assert_array_equal(alone[name], both.sel(pick)[name].values, err_msg=name)
    other = probe(traces, seed=1, **options).data
    assert not other["accuracy"].equals(both["accuracy"])


def test_a_probe_is_a_file_and_back(found, tmp_path):
    found.save(tmp_path / "probe.nc")
    again = im.open_probe(tmp_path / "probe.nc")
    xr.testing.assert_identical(again.data, found.data)
    assert str(again) == str(found)
    with pytest.raises(OSError, match="exists and is kept"):
        found.save(tmp_path / "probe.nc")
    im.save_traces(im.example_traces().isel(sequence=[0]), tmp_path / "traces.nc")
    with pytest.raises(ValueError, match="make one with `isingmoe probe`"):
        im.open_probe(tmp_path / "traces.nc")
    for variable in found.data.variables.values():
        assert variable.dtype.kind in "US" or {"long_name", "units"} <= set(variable.attrs)


def test_report_has_a_row_for_each_probe(found):
    text = str(found)
    assert "planted: position told from what routers see (3 folds)" in text
    rows = [line for line in text.splitlines() if line.startswith("     7")]
    assert len(rows) == 2 * 3 * 2
    assert all(word in text for word in ("hidden state", "router logit", "expert index"))


def test_regressions_that_do_not_converge_are_told_once(blocks, monkeypatch):
    monkeypatch.setattr(linear_probes, "MAX_ITERATIONS", 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        probe(blocks, inputs=["hidden_state"], n_shuffles=0)
    (one,) = told
    assert "12 of 12 regressions stopped" in str(one.message)


def test_without_scikit_learn_the_line_that_installs_it_is_told(blocks, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r"pip install 'isingmoe\[probe\]'"):
        probe(blocks)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"inputs": ["logits"]}, ValueError, "inputs: expected different ones of .*, got logits"),
        ({"inputs": []}, ValueError, "inputs: expected different ones of .*, got none"),
        ({"targets": ["phase"]}, ValueError, "targets: expected some of parity, block, got"),
        ({"targets": []}, ValueError, "targets: expected different ones, at least one, got none"),
        ({"block_length": 0}, ValueError, "block_length: expected at least 1, got 0"),
        ({"block_length": 2.5}, TypeError, "block_length|iterable"),
        ({"block_length": [8, 8]}, ValueError, "targets: expected different ones"),
        ({"splits": ["text"]}, ValueError, "splits: expected different ones of token, sequence"),
        ({"n_folds": 1}, ValueError, "n_folds: expected at least 2, got 1"),
        ({"n_folds": 2.0}, TypeError, "n_folds: expected an integer, got 2.0"),
        ({"n_folds": 30, "splits": ["sequence"]}, ValueError, "at least 30 sequences"),
        ({"n_shuffles": 1}, ValueError, "n_shuffles: expected 0, or at least 2"),
        ({"max_tokens": 0}, ValueError, "max_tokens: expected at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed: expected a whole number from 0"),
        ({"block_length": 64}, ValueError, "block 64: expected two blocks .* got 1; choose a shor"),
        ({"hidden": "absent"}, FileNotFoundError, "absent: no hidden states are there"),
    ],
)
def test_what_cannot_be_probed_is_refused(blocks, options, kind, text):
    with pytest.raises(kind, match=text):
        probe(blocks, **options)


def test_inputs_that_are_not_there(tmp_path):
    traces = planted.traces_of(planted.noise(), tmp_path / "traces.nc")
    bare = traces.drop_vars("router_logit")
    with pytest.raises(ValueError, match="router_logit: expected router logits, got none"):
        probe(bare, inputs=["router_logit"])
    bare.encoding.clear()
    assert probe(bare, n_shuffles=0).data["input"].values.tolist() == ["expert_index"]
    with pytest.raises(ValueError, match="hidden: expected a folder of hidden states, got none"):
        probe(bare, inputs=["hidden_state"])
    moved = traces.copy()
    moved.encoding["source"] = str(tmp_path / "elsewhere.nc")
    with pytest.raises(FileNotFoundError, match=r"elsewhere.hidden: no hidden states are there"):
        probe(moved, inputs=["hidden_state"])


def test_hidden_states_that_do_not_go_with_the_traces(tmp_path):
    states = planted.noise()
    traces = planted.traces_of(states, tmp_path / "traces.nc")
    with pytest.raises(ValueError, match=r"hidden states of 5 sequences, as .*, got 24"):
        probe(traces.isel(sequence=slice(5)))
    length = np.full(planted.N_SEQUENCES, planted.LENGTH)
    length[3] = 60
    other = planted.traces_of(states, tmp_path / "other.nc", length=length)
    with pytest.raises(ValueError, match=r"expected 60 tokens in sequence 3, as .*, got 64"):
        probe(other, hidden=tmp_path / "traces.hidden")
    with pytest.raises(ValueError, match="layer: expected one of 7, got 8"):
        probe(other.assign_coords(layer=[8]), hidden=tmp_path / "other.hidden")
    states[2, 5, 1] = np.inf
    bad = planted.traces_of(states, tmp_path / "bad.nc")
    with pytest.raises(ValueError, match=r"bad.hidden: layer 7: .* at sequence 2, position 5"):
        probe(bad)
    with pytest.raises(ValueError, match="router_logit: layer 7: expected finite values"):
        probe(bad, inputs=["router_logit"])


def test_texts_that_are_too_short(tmp_path):
    one = planted.traces_of(planted.noise(length=1), tmp_path / "one.nc")
    with pytest.raises(ValueError, match=r"parity: expected two parities .*, got 1; give longer"):
        probe(one)
    single = planted.traces_of(planted.noise(n_sequences=1, length=1), tmp_path / "single.nc")
    with (
        pytest.warns(im.ShortTraceWarning, match="only tokens"),
        pytest.raises(ValueError, match="expected two parities that at least 3 tokens"),
    ):
        probe(single)
    none = one.assign(length=one["length"] * 0, expert_index=one["expert_index"] * 0 - 1)
    with pytest.raises(ValueError, match="length: expected a token in some sequence, got none"):
        probe(none, inputs=["expert_index"])


@pytest.mark.shared
@pytest.mark.parametrize("model", ["gpt-oss-20b", "flame-moe-290m"])
def test_real_traces(shared_traces, model):
    traces = im.open_traces(shared_traces / f"{model}.nc")
    traces = traces.isel(layer=[traces.sizes["layer"] // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", im.ShortTraceWarning)
        data = im.probe(traces, max_tokens=4000, n_shuffles=3, block_length=64).data
    assert data["input"].values.tolist() == ["expert_index"]
    assert ((data["accuracy"] > 0) & (data["accuracy"] < 1)).all()
    # Of neighbouring tokens, neither has a parity of its own.
    parity = data.sel(target="parity", split="sequence")
    assert abs(parity["accuracy"] - 0.5).item() < 0.06
