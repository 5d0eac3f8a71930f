"""What `capture` cannot record is told in one line."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models as small  # noqa: E402
from captures import Tiny, capture, stopping_after  # noqa: E402


@pytest.fixture(scope="module")
def olmoe():
    return small.causal("olmoe")


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
