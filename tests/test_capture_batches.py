"""Batches of `capture`: what is together, and for how long it waits."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models as small  # noqa: E402
from captures import assert_routing_same, capture  # noqa: E402

from isingmoe.capturing.batches import batching, pad, plan_batches  # noqa: E402


@pytest.fixture(scope="module")
def olmoe():
    return small.causal("olmoe")


def test_batches_are_a_matter_of_speed(olmoe):
    texts = small.token_ids(*np.random.default_rng(0).integers(1, 60, 40))
    whole = capture(olmoe, texts, max_tokens=50)
    for batch_tokens in (1, 64, 300):
        other = capture(olmoe, texts, max_tokens=50, batch_tokens=batch_tokens)
        assert_routing_same(whole, other)
        np.testing.assert_allclose(
            whole["gate_weight"].values, other["gate_weight"].values, rtol=1e-4
        )


def test_plan_keeps_to_its_budget():
    length = np.random.default_rng(0).integers(1, 70, 500)
    for equal in (False, True):
        batches = list(plan_batches(length, 256, equal=equal))
        assert np.sort(np.concatenate(batches)).tolist() == list(range(500))
        for batch in batches:
            assert len(batch) * length[batch].max() <= 256
            assert not equal or len(set(length[batch])) == 1
    assert [b.tolist() for b in plan_batches(np.array([9, 3]), 4)] == [[0], [1]]


def test_pads_are_where_they_are_asked_for():
    rows = [np.array([1, 2, 3], np.int32), np.array([4], np.int32)]
    left, right = pad(rows, 7, left=True), pad(rows, 7)
    assert left.token_id.tolist() == [[1, 2, 3], [7, 7, 4]]
    assert right.token_id.tolist() == [[1, 2, 3], [4, 7, 7]]
    assert left.start == [0, 2]
    assert left.mask is not None
    assert left.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert pad(rows[:1], 7).mask is None


def test_sequences_are_together_where_they_leave_each_other_alone(olmoe):
    def of(model, writes=False, paired=False):
        return tuple(batching(model, 100, writes=writes, paired=paired).values())

    assert of(olmoe) == of(olmoe, writes=True) == (100, False)
    assert of(small.switch()) == (100, True)
    assert of(small.switch(), paired=True) == (1, True)
    for kind in ("deepseek_v4", "minimax_m3_vl"):
        model = small.causal("olmoe")
        # Blocks of their attention are counted from the first column.
        model.config.model_type = kind
        assert of(model) == (100, False)
        assert of(model, writes=True) == (100, True)


def test_a_cache_is_not_kept_where_nothing_is_written():
    for family in ("olmoe", "granitemoe", "jamba"):
        model, caches = small.causal(family), []
        model.register_forward_hook(
            lambda _, __, output, kept=caches: kept.append(output.get("past_key_values"))
        )
        capture(model, small.token_ids(5))
        assert caches == [None] * len(caches)


def test_large_records_wait_for_few_others():
    length = np.random.default_rng(0).integers(1, 70, 500)
    waits = {}
    for n_sorted in (1, 8):
        done, most = set(), 0
        n_whole = 0
        for batch in plan_batches(length, 256, n_sorted=n_sorted):
            done |= set(batch.tolist())
            while n_whole in done:
                done.remove(n_whole)
                n_whole += 1
            most = max(most, sum(length[list(done)]))
        waits[n_sorted] = most
    assert waits[1] <= 2 * 256 < waits[8]
