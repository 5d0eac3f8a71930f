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

from isingmoe._kernels.ranking import rank_experts  # noqa: E402
from isingmoe.capturing import recorded  # noqa: E402
from isingmoe.capturing.batches import pad, plan_batches  # noqa: E402
from isingmoe.capturing.running import Continuation, _Draw, _inverse, batching  # noqa: E402
from isingmoe.capturing.sinks import FileSink  # noqa: E402
from isingmoe.hidden_states import hidden_offsets, open_hidden  # noqa: E402

CAUSAL = (
    "olmoe",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "gpt_oss",
    "deepseek_v2",
    "deepseek_v3",
    "granitemoe",
    "ernie4_5_moe",
    "glm4_moe",
    "jamba",
)


@pytest.fixture(scope="module")
def olmoe():
    return small.causal("olmoe")


def capture(model, texts, **options):
    return im.capture(model, texts, progress=False, **options)


def tokens_in(traces):
    pairs = zip(traces["token_id"].values, traces["length"].values, strict=True)
    return [ids[:n].copy() for ids, n in pairs]


def assert_same(one, other):
    """Same content; the other may have other lengths of padding and another order of variables."""
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.variables:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))


def assert_routing_same(one, other):
    names = ["expert_index", "length", "token_id"]
    assert_same(one[names], other[names])


def direct(model, ids):
    """The experts of one text, straight from the hooks: (layer, token, rank) by falling weight."""
    with torch.no_grad(), recorded(model) as recorder:
        model(input_ids=torch.from_numpy(ids.astype(np.int64))[None])
        calls = recorder.take()
    found = []
    for call in calls:
        order = call.gate_weight.argsort(dim=-1, descending=True, stable=True)
        found.append(call.expert_index.gather(-1, order).numpy())
    return np.stack(found)


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


@pytest.mark.parametrize("family", CAUSAL)
def test_generation_is_one_pass_over_its_tokens(family):
    """Prompts padded on the left, texts padded on the right, and texts alone, all agree."""
    model = small.causal(family, seed=1)
    prompts = small.token_ids(5, 12, 8, 8, seed=2)
    written = capture(model, prompts, generate=9, seed=3)
    whole = tokens_in(written)
    assert [len(ids) for ids in whole] == [13, 20, 16, 16]
    for ids, prompt in zip(whole, prompts, strict=True):
        np.testing.assert_array_equal(ids[: len(prompt)], prompt)
    assert_routing_same(written, capture(model, whole))
    assert_routing_same(written, capture(model, whole, batch_tokens=1))
    alone = capture(model, prompts, generate=9, seed=3, batch_tokens=1)
    assert_routing_same(written, alone)


def test_generation_of_switch_is_one_pass_over_its_tokens():
    model = small.switch()
    prompts = small.token_ids(5, 12, 8, 8, seed=2)
    written = capture(model, prompts, generate=9, seed=3)
    assert set(written) == {"encoder", "decoder"}
    read = tokens_in(written["decoder"])
    assert [len(ids) for ids in read] == [9] * 4
    assert all(ids[0] == 0 for ids in read)
    whole = capture(model, prompts, targets=[ids[1:] for ids in read])
    alone = capture(model, prompts, targets=[ids[1:] for ids in read], batch_tokens=1)
    for stack in ("encoder", "decoder"):
        assert written[stack].attrs["stack"] == stack
        assert_routing_same(written[stack], whole[stack])
        assert_routing_same(written[stack], alone[stack])


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


def test_sampling_is_of_the_softmax(olmoe):
    prompt = small.token_ids(4)[0]
    n = 3000
    written = capture(olmoe, [prompt] * n, generate=2, temperature=0.7, seed=5)
    drawn = np.array([ids[-1] for ids in tokens_in(written)])
    with torch.no_grad():
        logits = olmoe(input_ids=torch.from_numpy(prompt.astype(np.int64))[None]).logits[0, -1]
    expected = n * (logits.double() / 0.7).softmax(-1).numpy()
    assert expected.min() > 1
    observed = np.bincount(drawn, minlength=len(expected))
    chi2 = ((observed - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)


def test_temperature_zero_takes_the_most_probable(olmoe):
    prompt = small.token_ids(4)[0]
    written = tokens_in(capture(olmoe, [prompt], generate=4, temperature=0.0))[0]
    with torch.no_grad():
        logits = olmoe(input_ids=torch.from_numpy(written.astype(np.int64))[None]).logits[0]
    np.testing.assert_array_equal(written[4:], logits.argmax(-1)[3:-1].numpy())


def test_generation_ends_where_the_model_ends_it():
    model = small.causal("olmoe")
    prompts = small.token_ids(4, 6, 5, 4, 7, 5, seed=1)
    free = tokens_in(capture(model, prompts, generate=20, seed=1))
    ends = {int(free[0][8]), int(free[1][10])}
    model.generation_config.eos_token_id = sorted(ends)
    stopped = tokens_in(capture(model, prompts, generate=20, seed=1))
    for long, short, prompt in zip(free, stopped, prompts, strict=True):
        n = len(prompt)
        places = np.flatnonzero(np.isin(long[n:], list(ends)))
        # The last token is drawn and never read: it is not in `long`, and may end it too.
        assert len(short) == n + (places[0] if places.size else len(long) - n)
        np.testing.assert_array_equal(short, long[: len(short)])


def test_windows_that_overlap_are_read_with_their_context(olmoe):
    (ids,) = small.token_ids(60)
    traces = capture(olmoe, [ids], max_tokens=20, stride=15)
    assert traces["start_position"].values.tolist() == [0, 5, 5, 5]
    assert traces["length"].values.tolist() == [20, 15, 15, 10]
    read = direct(olmoe, ids[15:35])
    np.testing.assert_array_equal(traces["expert_index"].values[:, 1, :15], read[:, 5:])
    np.testing.assert_array_equal(np.concatenate(tokens_in(traces)), ids)


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


class Gate(torch.nn.Module):
    def forward(self, hidden, top_k_index, top_k_weights):
        return hidden


class Tiny(torch.nn.Module):
    """Layers whose experts are what the test says."""

    def __init__(self, index, weight, layers=2):
        super().__init__()
        self.index, self.weight = index, weight
        self.layers = torch.nn.ModuleList([Gate() for _ in range(layers)])
        for layer in self.layers:
            layer.num_experts = 4

    def forward(self, input_ids, attention_mask=None):
        n = input_ids.numel()
        for layer in self.layers:
            layer(input_ids, self.index.expand(n, -1), top_k_weights=self.weight.expand(n, -1))


def test_experts_of_no_weight_are_none_and_repeated_ones_one():
    index, weight = torch.tensor([[1, 3, 1]]), torch.tensor([[0.2, 0.3, 0.25]])
    traces = capture(Tiny(index, weight), [[1, 2]])
    assert traces["expert_index"].values[0, 0].tolist() == [[1, 3, -1]] * 2
    np.testing.assert_allclose(traces["gate_weight"].values[0, 0, 0, :2], [0.45, 0.3])
    traces = capture(Tiny(index, torch.tensor([[0.2, 0.0, 0.0]])), [[1, 2]])
    assert traces["expert_index"].values[0, 0].tolist() == [[1, -1, -1]] * 2


@pytest.mark.parametrize(
    ("index", "weight", "message"),
    [
        ([[1, 2]], [[0.5, float("nan")]], "layers.0: expected finite weights, got .*nan"),
        ([[1, 4]], [[0.5, 0.4]], "layers.0: expected ids below 4, its number of experts, got 4"),
    ],
)
def test_what_cannot_be_routing_is_refused(index, weight, message):
    model = Tiny(torch.tensor(index), torch.tensor(weight))
    with pytest.raises(ValueError, match=message):
        capture(model, [[1, 2]])


def test_model_that_reads_its_tokens_otherwise_is_refused():
    class Half(Tiny):
        def forward(self, input_ids, attention_mask=None):
            super().forward(input_ids[:, : -(-input_ids.shape[1] // 2)])

    model = Half(torch.tensor([[0]]), torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match="expected 6 rows, 6 of each of 1 sequences, got 3"):
        capture(model, [[1] * 6])


def test_layer_that_is_never_called_is_named():
    class Short(Tiny):
        def forward(self, input_ids, attention_mask=None):
            n = input_ids.numel()
            self.layers[0](input_ids, self.index.expand(n, -1), self.weight.expand(n, -1))

    model = Short(torch.tensor([[0]]), torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match=r"layers.1: expected a call of every layer's experts"):
        capture(model, [[1, 2]])


def test_model_without_a_call_is_refused():
    class Silent(Tiny):
        def forward(self, input_ids, attention_mask=None):
            return None

    model = Silent(torch.tensor([[0]]), torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match=r"Silent: expected calls .* torch.compile"):
        capture(model, [[1, 2]])


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
def test_dense_and_compiled_models_are_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    dense = LlamaForCausalLM(
        LlamaConfig(vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                    num_attention_heads=2)
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"LlamaForCausalLM: expected a model with routed experts"):
        capture(dense, [[1, 2]])
    compiled = torch.compile(small.causal("olmoe"))
    with pytest.raises(ValueError, match=r"torch.compile holds"):
        capture(compiled, [[1, 2]])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"texts": ["words"]}, ValueError, "text 0: tokenizer: expected one for a text, got none"),
        ({"tokenizer": 3}, TypeError, "tokenizer: expected one of transformers, or a function"),
        ({"texts": [[]]}, ValueError, "texts: expected some tokens, got none"),
        ({"texts": [[1, 400]]}, ValueError, "token 1: expected an id below 320"),
        ({"max_tokens": 97}, ValueError, "max_tokens: expected at most 96, what .* can read"),
        ({"max_tokens": 90, "generate": 7}, ValueError, "max_tokens and generate together"),
        ({"record": ["weights"]}, ValueError, "record: expected some of gate_weight"),
        ({"record": "gate_weight"}, ValueError, "record: expected some of gate_weight"),
        ({"record": ["hidden_state"]}, ValueError, "record: hidden states are written to files"),
        ({"generate": -1}, ValueError, "generate: expected at least 1 token, got -1"),
        ({"generate": 1, "temperature": -1.0}, ValueError, "temperature: expected a finite"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens: expected at least 1, got 0"),
        ({"targets": [[1]]}, ValueError, "targets: expected none for a model without an encoder"),
        ({"dtype": "float32"}, TypeError, "dtype: expected with the name of a model"),
        ({"output": "traces.txt"}, ValueError, "expected a name that ends in .nc or .zarr"),
        ({"output": "no/such/traces.nc"}, NotADirectoryError, "no folder no/such"),
    ],
)
def test_bad_arguments_are_named(olmoe, options, error, message):
    texts = options.pop("texts", [[1, 2, 3]])
    with pytest.raises(error, match=message):
        capture(olmoe, texts, **options)


def test_targets_go_with_texts_one_by_one():
    model = small.switch()
    with pytest.raises(ValueError, match="targets: expected one for each of 2 texts, got 1"):
        capture(model, small.token_ids(3, 4), targets=[[5, 6]])
    with pytest.raises(ValueError, match=r"texts: expected texts of one sequence .* text 1, which"):
        capture(model, small.token_ids(3, 9), targets=[[5], [6]], max_tokens=5)
    with pytest.raises(ValueError, match=r"got none in one of number 1; leave out both"):
        capture(model, [[1], [], [2]], targets=[[5], [6], []])
    for option in ({"generate": 3}, {"pack": True}):
        with pytest.raises(ValueError, match=f"targets: .* leave out {next(iter(option))}"):
            capture(model, [[1]], targets=[[5]], **option)


def test_models_that_read_no_text_or_cannot_write_are_refused(olmoe):
    with pytest.raises(ValueError, match="generate: expected a model that can write"):
        capture(olmoe.model, [[1]], generate=2)

    class Vision(Tiny):
        def forward(self, pixel_values):
            return None

    with pytest.raises(ValueError, match=r"Vision: expected a model that reads token ids"):
        capture(Vision(torch.tensor([[0]]), torch.tensor([[1.0]])), [[1]])
    with pytest.raises(TypeError, match="model: expected a name, a folder or a Module, got int"):
        capture(3, [[1]])


def test_finished_and_foreign_files_are_kept(olmoe, tmp_path):
    path = tmp_path / "traces.nc"
    capture(olmoe, [[1, 2, 3]], output=path).close()
    with pytest.raises(FileExistsError, match="exists and is kept"):
        capture(olmoe, [[1, 2, 3]], output=path)
    capture(olmoe, [[1, 2]], output=path, overwrite=True).close()
    assert im.open_traces(path)["length"].values.tolist() == [2]


class StoppedError(Exception):
    """What ends a capture in a test."""


def stopping_after(model, n_calls, error=StoppedError):
    """Let a model run so many times and no more."""
    left = [n_calls]

    def stop(*_):
        left[0] -= 1
        if left[0] < 0:
            raise error

    return model.register_forward_pre_hook(stop)


@pytest.mark.parametrize("generate", [0, 4])
@pytest.mark.parametrize("n_calls", [2, 12])
def test_stopped_capture_goes_on_to_the_same_end(olmoe, tmp_path, generate, n_calls):
    texts = small.token_ids(*np.random.default_rng(1).integers(1, 40, 60))
    path = tmp_path / "traces.nc"
    options = {
        "record": ["gate_weight", "hidden_state"],
        "batch_tokens": 100,
        "generate": generate,
    }
    handle = stopping_after(olmoe, n_calls * (1 + generate))
    with pytest.raises(StoppedError):
        capture(olmoe, texts, output=path, **options)
    handle.remove()
    store = tmp_path / "traces.partial.zarr"
    if n_calls > 2:
        assert 0 < im.open_traces(store).sizes["sequence"] < 60
    calls = []
    handle = olmoe.register_forward_pre_hook(lambda *_: calls.append(1))
    with capture(olmoe, texts, output=path, **options) as resumed:
        handle.remove()
        whole_path = tmp_path / "whole.nc"
        with capture(olmoe, texts, output=whole_path, **options) as whole:
            assert_same(whole, resumed)
    for layer in range(3):
        np.testing.assert_array_equal(
            open_hidden(tmp_path / "traces.hidden", layer),
            open_hidden(tmp_path / "whole.hidden", layer),
        )
    assert not store.exists()


def test_other_captures_do_not_go_on_with_an_unfinished_one(olmoe, tmp_path):
    path = tmp_path / "traces.nc"
    texts = small.token_ids(*[30] * 12)
    handle = stopping_after(olmoe, 4)
    with pytest.raises(StoppedError):
        capture(olmoe, texts, output=path, batch_tokens=30)
    handle.remove()
    with pytest.raises(ValueError, match=r"texts: expected .* with which this capture was begun"):
        capture(olmoe, texts[1:], output=path, batch_tokens=30)
    with pytest.raises(ValueError, match="weights: expected"):
        capture(small.causal("olmoe", seed=9), texts, output=path, batch_tokens=30)
    with capture(olmoe, texts[1:], output=path, batch_tokens=30, overwrite=True) as traces:
        assert traces.sizes["sequence"] == 11


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


def test_a_place_finds_its_state_and_never_an_impossible_one():
    law = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]] * 4, dtype=torch.float64)
    places = torch.tensor([0.0, 0.25 - 2**-40, 0.25, 1 - 2**-53], dtype=torch.float64)
    assert _inverse(law, places)[:, 0].tolist() == [1, 1, 3, 3]
    # So small a total that a place is rounded to it.
    assert _inverse(law[:1] * 5e-324, places[-1:]).item() == 3


def test_tokens_that_cannot_be_are_never_drawn(olmoe):
    draw = _Draw(Continuation(1, seed=3), np.arange(2000))
    scores = torch.full((2000, 50_000), -torch.inf)
    scores[:, [7, 11]] = torch.tensor([1.0, 0.0])
    chosen = draw(torch.zeros(2000, 1), scores).argmax(-1)
    assert set(chosen.tolist()) == {7, 11}
    share = (chosen == 7).double().mean().item()
    assert abs(share - 1 / (1 + np.exp(-1))) < 5 * 0.5 / np.sqrt(2000)


def test_a_token_that_is_the_pad_is_read_as_any_other(olmoe):
    """Without a pad of its own, a model has 0 for it, which is a token of many vocabularies."""
    assert olmoe.config.pad_token_id in (None, 0)
    prompts = [np.array([0, 5, 0, 7]), np.array([9, 0, 0, 4])]
    written = capture(olmoe, prompts, generate=6, temperature=0.0)
    assert_routing_same(written, capture(olmoe, tokens_in(written), batch_tokens=1))
    with_pads = capture(olmoe, [*prompts, np.arange(3, 12)], generate=6, temperature=0.0)
    assert_routing_same(written, with_pads.isel(sequence=slice(2), position=slice(9)))


def test_settings_of_the_checkpoint_do_not_decide_what_is_written():
    model = small.causal("olmoe")
    prompts = small.token_ids(5, 12)
    plain = capture(model, prompts, generate=8, seed=2)
    drawn = int(tokens_in(plain)[0][5])
    own = model.generation_config
    own.suppress_tokens, own.no_repeat_ngram_size, own.min_length = [drawn], 1, 7
    own.stop_strings = ["a"]
    again = capture(model, prompts, generate=8, seed=2)
    assert_same(plain, again)
    assert model.generation_config is own
    assert own.suppress_tokens == [drawn]
    told = json.loads(plain.attrs["provenance"])["arguments"]
    assert told["eos_token_id"] == ([] if own.eos_token_id is None else [own.eos_token_id])


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


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_memory_that_runs_out_is_told(olmoe, tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    handle = olmoe.register_forward_pre_hook(full)
    with pytest.raises(MemoryError, match="model: its weights leave no room"):
        capture(olmoe, small.token_ids(9))
    handle.remove()
    handle = stopping_after(olmoe, 2, error)
    with pytest.raises(MemoryError, match=r"batch_tokens: 9 tokens at once .* lower it"):
        capture(olmoe, small.token_ids(9, 9, 9), batch_tokens=9)
    handle.remove()
    folder = small.save(small.causal("olmoe"), tmp_path / "model")
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(MemoryError, match=r"model: its weights are more than cpu has memory for"):
        capture(folder, small.token_ids(9), device="cpu")


def test_bad_texts_are_told_before_the_weights_are_read(tmp_path, monkeypatch):
    folder = small.save(small.causal("olmoe"), tmp_path / "model")
    monkeypatch.setattr("isingmoe.capturing.preparing.load_model", None)
    (tmp_path / "bad.txt").write_bytes(b"ab\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"bad\.txt: byte 2: expected utf-8 text"):
        capture(folder, ["one text", tmp_path / "bad.txt"])


@pytest.mark.parametrize("n_written", [0, 1])
def test_stacks_that_were_not_all_finished_are_gone_on_with(tmp_path, monkeypatch, n_written):
    model, path = small.switch(), tmp_path / "traces.nc"
    texts, options = small.token_ids(5, 9, 7), {"record": ["gate_weight", "hidden_state"]}
    write, left = FileSink.write, [n_written]

    def stopped(self):
        left[0] -= 1
        if left[0] < 0:
            raise StoppedError
        write(self)

    monkeypatch.setattr(FileSink, "write", stopped)
    with pytest.raises(StoppedError):
        capture(model, texts, output=path, **options)
    monkeypatch.undo()
    assert (tmp_path / "traces.encoder.nc").exists() == (n_written == 1)
    for stack in ("encoder", "decoder"):
        assert open_hidden(tmp_path / f"traces.{stack}.hidden", 1).shape[0] > 0
    again = capture(model, texts, output=path, **options)
    whole = capture(model, texts)
    for stack in ("encoder", "decoder"):
        with again[stack]:
            assert_routing_same(whole[stack], again[stack])
    assert not list(tmp_path.glob("*.partial.zarr"))


def test_hidden_states_of_a_finished_trace_are_kept_whatever_comes_after(
    olmoe, tmp_path, monkeypatch
):
    def stopped(*_):
        raise StoppedError

    monkeypatch.setattr("isingmoe.capturing.sinks.open_as_used", stopped)
    path = tmp_path / "traces.nc"
    with pytest.raises(StoppedError):
        capture(olmoe, small.token_ids(8), output=path, record=["hidden_state"])
    assert im.open_traces(path).sizes["sequence"] == 1
    assert open_hidden(tmp_path / "traces.hidden", 0).shape[0] == 8


def test_a_capture_that_replaces_goes_on_by_the_same_call(olmoe, tmp_path):
    path, texts = tmp_path / "traces.nc", small.token_ids(*[30] * 12)
    capture(olmoe, [[1, 2]], output=path).close()
    options = {"output": path, "batch_tokens": 30, "record": ["hidden_state"], "overwrite": True}
    handle = stopping_after(olmoe, 7)
    with pytest.raises(StoppedError):
        capture(olmoe, texts, **options)
    handle.remove()
    assert im.open_traces(path).sizes["sequence"] == 1
    n_kept = im.open_traces(tmp_path / "traces.partial.zarr").sizes["sequence"]
    assert n_kept > 0
    calls = []
    handle = olmoe.register_forward_pre_hook(lambda *_: calls.append(1))
    capture(olmoe, texts, **options).close()
    handle.remove()
    # The first one is a trial.
    assert len(calls) == 1 + 12 - n_kept
    assert im.open_traces(path).sizes["sequence"] == 12


def test_hidden_states_that_are_gone_are_missed(olmoe, tmp_path):
    path, texts = tmp_path / "traces.nc", small.token_ids(*[30] * 12)
    options = {"output": path, "batch_tokens": 30, "record": ["hidden_state"]}
    handle = stopping_after(olmoe, 7)
    with pytest.raises(StoppedError):
        capture(olmoe, texts, **options)
    handle.remove()
    (tmp_path / "traces.hidden").rename(tmp_path / "elsewhere.hidden")
    with pytest.raises(FileNotFoundError, match=r"traces\.hidden"):
        capture(olmoe, texts, **options)
    with capture(olmoe, texts, **options, overwrite=True) as traces:
        assert traces.sizes["sequence"] == 12
    assert open_hidden(tmp_path / "traces.hidden", 0).shape[0] == 12 * 30


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
