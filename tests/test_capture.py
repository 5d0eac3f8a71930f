"""`capture`: what is recorded is what the experts were given, however the text was read."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import isingmoe as im

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import naive  # noqa: E402
import small_models as small  # noqa: E402
from captures import Tiny, assert_routing_same, assert_same, capture, direct, tokens_in  # noqa: E402

from isingmoe._kernels.ranking import rank_experts  # noqa: E402
from isingmoe.hidden_states import hidden_offsets, open_hidden  # noqa: E402


@pytest.fixture(scope="module")
def olmoe():
    return small.causal("olmoe")


def test_traces_are_what_the_experts_were_given(olmoe):
    texts = small.token_ids(5, 30, 17, 9)
    traces = capture(olmoe, texts)
    im.validate(traces)
    assert traces.attrs["ranked"] == 1
    assert traces["length"].values.tolist() == [5, 30, 17, 9]
    for number, ids in enumerate(texts):
        found = traces["expert_index"].values[:, number, : len(ids)]
        np.testing.assert_array_equal(found, direct(olmoe, ids))
        np.testing.assert_array_equal(tokens_in(traces)[number], ids)
    weight = traces["gate_weight"].values
    assert (np.diff(weight, axis=-1)[~np.isnan(weight[..., 1:])] <= 0).all()


def test_switch_drops_what_is_past_the_capacity():
    model = small.switch(expert_capacity=3)
    traces = capture(model, small.token_ids(30, 30, 12))["encoder"]
    index = traces["expert_index"].values[..., 0]
    assert (index == -1)[:, 0].any()
    for sequence in range(3):
        for layer in index[:, sequence]:
            assert np.bincount(layer[layer >= 0]).max() <= 3
    assert set(traces.attrs) >= {"router", "position_encoding"}
    assert "expert_capacity 3" in traces.attrs["router"]
    assert traces.attrs["position_encoding"].startswith("relative bias")


def test_decoder_reads_the_text_behind_its_first_token():
    texts = small.token_ids(6, 9)
    traces = capture(small.switch(), texts)
    for ids, read in zip(texts, tokens_in(traces["decoder"]), strict=True):
        np.testing.assert_array_equal(read, [0, *ids])


def test_windows_that_overlap_are_read_with_their_context(olmoe):
    (ids,) = small.token_ids(60)
    traces = capture(olmoe, [ids], max_tokens=20, stride=15)
    assert traces["start_position"].values.tolist() == [0, 5, 5, 5]
    assert traces["length"].values.tolist() == [20, 15, 15, 10]
    read = direct(olmoe, ids[15:35])
    np.testing.assert_array_equal(traces["expert_index"].values[:, 1, :15], read[:, 5:])
    np.testing.assert_array_equal(np.concatenate(tokens_in(traces)), ids)


def test_logits_and_hidden_states_where_they_are_asked_for(olmoe, tmp_path):
    texts = small.token_ids(7, 20, 11)
    assert "router_logit" not in capture(olmoe, texts)
    traces = capture(
        olmoe,
        texts,
        output=tmp_path / "traces.nc",
        record=["router_logit", "hidden_state"],
        max_tokens=16,
        stride=12,
    )
    with traces:
        assert "gate_weight" not in traces
        assert traces.attrs["ranked"] == 1
        assert traces.attrs["logit_meaning"] == "raw logits"
        folder = tmp_path / "traces.hidden"
        offset = hidden_offsets(folder)
        np.testing.assert_array_equal(np.diff(offset), traces["length"].values)
        for place, number in enumerate(traces["layer"].values):
            hidden = torch.tensor(np.array(open_hidden(folder, int(number))))
            weight = dict(olmoe.named_modules())[f"model.layers.{number}.mlp.gate"].weight
            expected = (hidden @ weight.detach().T).numpy()
            for sequence, n in enumerate(traces["length"].values):
                logit = traces["router_logit"].values[place, sequence]
                rows = slice(offset[sequence], offset[sequence + 1])
                np.testing.assert_allclose(logit[:n], expected[rows], atol=1e-5)
                best = logit[:n].argmax(-1)
                index = traces["expert_index"].values[place, sequence, :n, 0]
                np.testing.assert_array_equal(index, best)


def test_layers_that_differ_are_padded():
    model = small.causal("olmoe")
    layer = model.model.layers[1].mlp
    layer.gate.top_k = 1
    traces = capture(model, small.token_ids(10, 14))
    im.validate(traces)
    assert traces.attrs["top_k"] == 2
    assert traces["top_k"].values.tolist() == [2, 1, 2]
    assert (traces["expert_index"].values[1, ..., 1] == -1).all()
    assert (traces["expert_index"].values[0, 0, :10, 1] >= 0).all()


def test_file_is_what_memory_would_hold(olmoe, tmp_path):
    texts = small.token_ids(40, 3, 25, 60)
    held = capture(olmoe, texts, max_tokens=24)
    for name in ("traces.nc", "traces.zarr"):
        with capture(olmoe, texts, max_tokens=24, output=tmp_path / name) as traces:
            assert_same(held, traces)
            assert {**held.attrs} == {**traces.attrs}
        assert_same(held, im.open_traces(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["traces.nc", "traces.zarr"]


def test_stacks_have_files_of_their_own(tmp_path):
    made = capture(small.switch(), small.token_ids(8, 12), output=tmp_path / "traces.nc")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "traces.decoder.nc",
        "traces.encoder.nc",
    ]
    for stack, traces in made.items():
        traces.close()
        kept = im.open_traces(tmp_path / f"traces.{stack}.nc")
        assert kept.attrs["stack"] == stack


def test_attributes_say_what_ran(olmoe):
    texts = ["one text", "and another one"]
    traces = capture(olmoe, texts, tokenizer=small.tokenizer(), seed=4)
    attrs = traces.attrs
    assert attrs["architecture"] == "OlmoeForCausalLM"
    assert attrs["dtype"] == "float32"
    assert attrs["device"] == "cpu"
    assert attrs["torch_version"] == torch.__version__
    assert attrs["experts_implementation"] in ("eager", "batched_mm", "grouped_mm")
    assert attrs["router"].startswith("softmax, top-k, weights normalised if norm_topk_prob;")
    assert '"rope_theta": 10000.0' in attrs["position_encoding"]
    assert f"{small.VOCABULARY} tokens, sha256" in attrs["tokenizer"]
    assert attrs["seed"] == "4"
    assert all(isinstance(value, str | int) for value in attrs.values())
    assert not any(isinstance(value, bool) for value in attrs.values())
    told = json.loads(attrs["provenance"])
    assert told["verb"] == "capture"
    listed = told["input"]["texts"]["texts"]
    assert [entry["sequences"] for entry in listed] == [1, 1]
    assert len({entry["sha256"] for entry in listed}) == 2


def test_rules_of_families_are_told():
    for family, words in (
        ("deepseek_v3", ("sigmoid of the logits plus a bias", "n_group 2")),
        ("gpt_oss", ("softmax over the k",)),
        ("mixtral", ("softmax, top-k, weights normalised", "MixtralTopKRouter")),
    ):
        router = capture(small.causal(family), small.token_ids(4)).attrs["router"]
        assert all(word in router for word in words), router


def test_packed_texts_are_joined_by_the_end_of_text(olmoe):
    tokenizer = small.tokenizer()
    texts = ["one text", "and another one"]
    traces = capture(olmoe, texts, tokenizer=tokenizer, pack=True, max_tokens=8)
    end = tokenizer.eos_token_id
    stream = [token for ids in tokenizer(texts)["input_ids"] for token in (*ids, end)]
    np.testing.assert_array_equal(np.concatenate(tokens_in(traces)), stream)


def test_train_mode_is_left_and_entered_again():
    model = small.causal("olmoe").train()
    model.model.layers[0].eval()
    traces = capture(model, small.token_ids(9))
    assert model.training
    assert not model.model.layers[0].training
    assert_same(traces, capture(model.eval(), small.token_ids(9)))


def test_outputs_are_the_same_to_the_bit_afterwards(olmoe):
    ids = torch.from_numpy(small.token_ids(20)[0].astype(np.int64))[None]
    with torch.no_grad():
        before = olmoe(input_ids=ids).logits
        capture(olmoe, small.token_ids(20))
        assert torch.equal(before, olmoe(input_ids=ids).logits)


def test_half_precision_keeps_the_ids_that_ran():
    model = small.causal("olmoe").bfloat16()
    texts = small.token_ids(20)
    traces = capture(model, texts, record=["gate_weight", "router_logit"])
    assert traces["router_logit"].dtype == np.float16
    np.testing.assert_array_equal(traces["expert_index"].values[:, 0], direct(model, texts[0]))


def test_experts_of_no_weight_are_none_and_repeated_ones_one():
    index, weight = torch.tensor([[1, 3, 1]]), torch.tensor([[0.2, 0.3, 0.25]])
    traces = capture(Tiny(index, weight), [[1, 2]])
    assert traces["expert_index"].values[0, 0].tolist() == [[1, 3, -1]] * 2
    np.testing.assert_allclose(traces["gate_weight"].values[0, 0, 0, :2], [0.45, 0.3])
    traces = capture(Tiny(index, torch.tensor([[0.2, 0.0, 0.0]])), [[1, 2]])
    assert traces["expert_index"].values[0, 0].tolist() == [[1, -1, -1]] * 2


def test_a_map_of_devices_changes_nothing(tmp_path):
    pytest.importorskip("accelerate")
    folder = small.save(small.causal("mixtral"), tmp_path / "model", with_tokenizer=False)
    texts = small.token_ids(10, 7)
    plain = capture(folder, texts, device="cpu")
    spread = capture(folder, texts, device_map={"": "cpu"})
    assert_routing_same(plain, spread)


def test_warnings_are_not_given(olmoe, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = capture(olmoe, small.token_ids(10), generate=3, output=tmp_path / "t.nc")
        assert isinstance(made, xr.Dataset)
        made.close()


@pytest.mark.gpu
def test_device_gives_what_the_host_gives():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    texts = small.token_ids(*np.random.default_rng(1).integers(1, 90, 200))
    model = small.causal("olmoe").double()
    model.config._experts_implementation = "eager"
    host = capture(model, texts, batch_tokens=500)
    device = capture(model.to("cuda"), texts, batch_tokens=500)
    assert_routing_same(host, device)


def test_another_adapter_is_another_capture(tmp_path):
    """What reads a module decides what is recorded."""
    attrs = capture(small.causal("olmoe"), small.token_ids(5)).attrs
    assert attrs["adapters"] == "none"
    assert attrs["isingmoe_version"] == im.__version__
    switch = capture(small.switch(), small.token_ids(5))["encoder"].attrs
    assert switch["adapters"].startswith("isingmoe.capturing.adapters.")


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans())
def test_ranks_are_those_of_sorting_by_hand(seed, n_ranks, weighted):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, 5, (2, 3, 2, n_ranks)).astype(np.int16)
    # Sixteenths, so that sums are exact, and ties are common.
    weights = (rng.integers(0, 8, ids.shape) / 16).astype(np.float32)
    given_ids, given_weights = ids.copy(), weights.copy()
    start, stop = np.array([0, 1]), np.array([3, 2])
    faults = rank_experts(ids, weights if weighted else weights[:0], start, stop, np.array([5, 5]))
    assert (faults == -1).all()
    looked_at = np.zeros(ids.shape[:2], bool)
    for row, (first, last) in enumerate(zip(start, stop, strict=True)):
        looked_at[row, first:last] = True
    for at in np.ndindex(ids.shape[:3]):
        if not looked_at[at[:2]]:
            assert (ids[at] == given_ids[at]).all()
        elif weighted:
            expected = naive.ranked(given_ids[at].tolist(), given_weights[at].tolist())
            missing = [(-1, np.nan)] * (n_ranks - len(expected))
            np.testing.assert_array_equal(
                list(zip(ids[at].tolist(), weights[at].tolist(), strict=True)), expected + missing
            )
        else:
            seen = [e if e not in given_ids[at][:r] else -1 for r, e in enumerate(given_ids[at])]
            assert ids[at].tolist() == seen
