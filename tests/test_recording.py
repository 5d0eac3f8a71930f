"""The recording itself: what it refuses, what it leaves alone, how it is taught new modules."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_table import FAMILIES
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from truths import run

import isingmoe as im
from isingmoe.capturing import adapters, find_sites, logit_meaning, recorded

E, K, H = 6, 2, 8


class Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.top_k = K
        self.weight = nn.Parameter(torch.randn(E, H))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = x @ self.weight.T
        weight, index = logits.softmax(-1).topk(self.top_k)
        return logits, weight, index


class Experts(nn.Module):
    """Overwrites what it was given, as a kernel might."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts = E
        self.down_proj = nn.Parameter(torch.randn(E, H, H))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        each = torch.einsum("rh,rkho->rko", hidden_states, self.down_proj[top_k_index])
        total = (each * top_k_weights[..., None]).sum(1)
        if not torch.is_grad_enabled():
            top_k_index.zero_()
            top_k_weights.zero_()
        return total


class Block(nn.Module):
    def __init__(self, experts: type[nn.Module] = Experts) -> None:
        super().__init__()
        self.router, self.experts = Router(), experts()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        _, weight, index = self.router(rows)
        return x + self.experts(rows, index, weight).view_as(x)


class Model(nn.Module):
    def __init__(self, experts: type[nn.Module] = Experts, checkpoints: bool | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block(experts) for _ in range(3))
        self.checkpoints = checkpoints

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.checkpoints is None:
                x = layer(x)
            else:
                x = checkpoint(layer, x, use_reentrant=self.checkpoints)
        return x


def model(*args: Any, **kwargs: Any) -> Model:
    return Model(*args, **kwargs).eval()


def states(seed: int = 1) -> Tensor:
    return torch.randn(2, 5, H, generator=torch.Generator().manual_seed(seed))


def routed(m: Model, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Input, ids and weights of every layer, computed aside."""
    found = []
    for layer in m.layers:
        rows = x.flatten(0, 1)
        _, weight, index = layer.router(rows)
        found.append((rows, index, weight))
        x = layer(x)
    return found


def hooks(m: nn.Module) -> int:
    return sum(len(x._forward_hooks) + len(x._forward_pre_hooks) for x in m.modules())


@pytest.fixture
def unregistered(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(adapters, "_ADAPTERS", dict(adapters._ADAPTERS))


def test_calls_come_in_order_and_once():
    m, x, y = model(), states(1), states(2)
    with torch.no_grad(), recorded(m, logits=True, hidden=True) as recorder:
        for text in (x, y):
            m(text)
            calls = recorder.take()
            assert [call.site.layer for call in calls] == [0, 1, 2]
            for call, (rows, index, weight) in zip(calls, routed_copy(m, text), strict=True):
                assert torch.equal(call.expert_index, index.int())
                assert torch.equal(call.gate_weight, weight)
                assert torch.equal(call.hidden, rows)
                assert torch.equal(call.router_logit.topk(K).indices, index)
        assert recorder.take() == []


def routed_copy(m: Model, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    twin = model()
    twin.load_state_dict(m.state_dict())
    with torch.enable_grad():
        return routed(twin, x)


def test_only_what_is_asked_for_is_kept():
    m = model()
    with torch.no_grad(), recorded(m, weights=False) as recorder:
        m(states())
        for call in recorder.take():
            assert call.gate_weight is call.router_logit is call.hidden is None


def test_hooks_are_gone_however_the_block_is_left():
    m = model()
    before = hooks(m)
    with recorded(m, logits=True, hidden=True):
        assert hooks(m) > before
    assert hooks(m) == before
    with pytest.raises(KeyboardInterrupt), recorded(m):
        raise KeyboardInterrupt
    assert hooks(m) == before


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_pass_replayed_for_its_gradient_counts_once(reentrant):
    grads = []
    for record in (False, True):
        m, x = model(checkpoints=reentrant), states().requires_grad_()
        if not record:
            m(x).sum().backward()
        else:
            with recorded(m, logits=True, hidden=True) as recorder:
                m(x).sum().backward()
                calls = recorder.take()
            assert [call.site.layer for call in calls] == [0, 1, 2]
            for call, (rows, index, weight) in zip(calls, routed(m, states()), strict=True):
                assert torch.equal(call.expert_index, index.int())
                assert torch.equal(call.gate_weight, weight)
                assert torch.equal(call.hidden, rows)
                assert not call.gate_weight.requires_grad
        grads.append([x.grad, *(p.grad for p in m.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_forward_wrapped_by_others_is_read():
    m = model()
    for layer in m.layers:
        inside = layer.experts.forward
        layer.experts.forward = lambda *args, inside=inside, **kwargs: inside(*args, **kwargs)
    with torch.no_grad(), recorded(m) as recorder:
        m(states())
        assert [len(call.expert_index) for call in recorder.take()] == [10, 10, 10]


def test_dense_model_is_refused():
    refused = pytest.raises(ValueError, match=r"^Sequential: expected a model with routed experts")
    with refused, recorded(nn.Sequential(nn.Linear(2, 2)).eval()):
        pass


def test_train_mode_is_refused():
    m = model()
    refused = pytest.raises(ValueError, match=r"^Model: expected a model in eval.*model.eval\(\)")
    with refused, recorded(m.train()):
        pass
    with torch.no_grad(), recorded(m.eval()) as recorder:
        m.train()(states())
        m.eval()
        with pytest.raises(ValueError, match=r"^layers.2.experts: expected a model in eval mode"):
            recorder.take()


def test_compiled_model_is_refused():
    m = model()
    compiled = torch.compile(m, backend="eager")
    refused = pytest.raises(ValueError, match=r"^OptimizedModule: .*model\._orig_mod")
    with refused, recorded(compiled):
        pass
    m.layers[1].compile(backend="eager")
    with pytest.raises(ValueError, match=r"^layers.1: .*torch.compile"), recorded(m):
        pass


def test_model_that_calls_no_hook_is_refused():
    m = model()
    never = pytest.raises(ValueError, match=r"3 expert modules, got none; run.*torch\.compile")
    with recorded(m) as recorder, never:
        recorder.take()
    hidden = torch.compile(m.forward, backend="eager")
    with torch.no_grad():
        hidden(states())
        with recorded(m) as recorder:
            hidden(states())
            with pytest.raises(ValueError, match=r"got none; run.*torch\.compile"):
                recorder.take()


def test_wrong_ids_and_weights_are_refused():
    class Floating(Experts):
        def forward(self, hidden_states, top_k_index, top_k_weights):
            return hidden_states

    m = model(Floating)
    with recorded(m), pytest.raises(TypeError, match=r"integers, got torch\.float32"):
        m.layers[0].experts(states()[0], torch.rand(5, K), None)
    with recorded(m), pytest.raises(ValueError, match=r"one for each of \(5, 2\).*got \(5, 6\)"):
        m.layers[0].experts(states()[0], torch.zeros(5, K, dtype=torch.int64), torch.rand(5, E))


class Secretive(nn.Module):
    """A gate whose ids go by no known name."""

    def __init__(self) -> None:
        super().__init__()
        self.many, self.table = E, nn.Embedding(E, H)

    def forward(self, x: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor, float]:
        weight, index = (x @ self.table.weight.T * scale).softmax(-1).topk(K)
        self.table(index)
        return weight, index, 0.0


@pytest.mark.usefixtures("unregistered")
def test_adapters_are_registered_by_class_name():
    gate = nn.Sequential(Secretive()).eval()
    assert find_sites(gate) == ()

    @im.capture_adapter("Secretive", num_experts="many", inner=("table",))
    def read(module: Any, arguments: Any, output: Any) -> tuple[Any, ...]:
        assert arguments["scale"] == 2.0
        assert torch.equal(arguments["table"], output[1])
        return output[1], output[0], arguments["x"] @ module.table.weight.T

    x = states()
    with torch.no_grad(), recorded(gate, logits=True, hidden=True) as recorder:
        weight, index, _ = gate[0](x, scale=2.0)
        (call,) = recorder.take()
    assert call.site.num_experts == E
    assert torch.equal(call.expert_index, index.view(-1, K).int())
    assert torch.equal(call.gate_weight, weight.view(-1, K))
    assert torch.equal(call.hidden, x.view(-1, H))
    assert call.router_logit.shape == (10, E)

    class Derived(Secretive):
        pass

    assert [site.top_k for site in find_sites(Derived())] == [None]
    im.capture_adapter("Derived")(read)
    with pytest.raises(ValueError, match=r"^Derived: num_experts: expected .* num_experts=\.\.\."):
        find_sites(Derived())


@pytest.mark.parametrize("names", [(), (Secretive,), ("Gate", None)])
def test_adapters_want_names_of_classes(names):
    with pytest.raises(TypeError, match="class_names: expected the names of classes, got"):
        im.capture_adapter(*names)


def test_stacks_and_layers_come_from_names():
    def stack(n: int, *path: str) -> nn.Module:
        layers = nn.ModuleList()
        for _ in range(n):
            inner: nn.Module = Experts()
            for name in reversed(path):
                inner = nn.ModuleDict({name: inner})
            layers.append(inner)
        return nn.ModuleDict({"layers": layers})

    def places(m: nn.Module) -> list[tuple[str, int]]:
        return [(site.stack, site.layer) for site in find_sites(m)]

    one = nn.ModuleDict({"model": stack(2, "mlp", "experts")})
    assert places(one) == [("", 0), ("", 1)]
    two = nn.ModuleDict({"thinker": stack(1, "mlp"), "talker": stack(2, "mlp")})
    assert places(two) == [("thinker", 0), ("talker", 0), ("talker", 1)]
    both = nn.ModuleDict({"text_model": stack(1, "mlp"), "vision_tower": stack(1, "moe")})
    assert places(both) == [("text", 0), ("vision", 0)]
    # Blocks of two names, each layer with one of them, are one stack.
    mixed = stack(2, "mlp")
    mixed["layers"][1] = nn.ModuleDict({"mixer": Experts()})
    assert places(mixed) == [("", 0), ("", 1)]
    assert places(Experts()) == [("", 0)]


def test_probabilities_are_told_from_logits():
    m = model()
    assert logit_meaning(m) == logit_meaning(m, torch.randn(4, E)) == "raw logits"
    assert logit_meaning(m, torch.randn(4, E).softmax(-1)) == "softmax probabilities"


class Counted(TorchDispatchMode):
    """Counts what waits for the device, and the widest that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.wide = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"):
            self.waits[name] += 1
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.dim() and output.shape[-1] >= 1024:
            self.wide += 1
        return output


@pytest.mark.parametrize(
    "name",
    [
        "olmoe",
        "zaya",
        "llama4",
        "doge",
        "nllb_moe",
        "switch_transformers",
        "vitpose_backbone",
        "ernie4_5_vl_moe with images",
    ],
)
def test_recording_waits_for_no_device(name):
    if FAMILIES[name].model_class() is None:
        pytest.skip("absent from this release")
    m, inputs = FAMILIES[name].build(), FAMILIES[name].inputs()
    counts = []
    for record in (False, True):
        with Counted() as counted:
            if record:
                with recorded(m, hidden=name != "vitpose_backbone") as recorder:
                    run(m, inputs)
                    assert recorder.take()
            else:
                run(m, inputs)
        counts.append(counted.waits)
    assert counts[0] == counts[1]


def test_many_experts_are_never_spread_out():
    doge = pytest.importorskip("transformers.models.doge.modeling_doge")
    config = SimpleNamespace(
        hidden_size=8,
        intermediate_size=8,
        hidden_act="silu",
        num_experts=1024,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        mlp_bias=False,
    )
    block = doge.DogeCDMoE(config).eval()
    wide = []
    for record in (False, True):
        with torch.no_grad(), Counted() as counted:
            if record:
                with recorded(block) as recorder:
                    block(states())
                    (call,) = recorder.take()
            else:
                block(states())
        wide.append(counted.wide)
    assert wide[0] == wide[1] > 0
    assert call.expert_index.shape == call.gate_weight.shape == (10, 4)
    torch.testing.assert_close(call.gate_weight.sum(-1), torch.ones(10))


def test_a_kind_of_row_that_is_absent():
    """Images alone: the experts of text are given nothing, and none of their rows is filled."""
    name = "ernie4_5_vl_moe with images"
    m, inputs = FAMILIES[name].build(), FAMILIES[name].inputs()
    inputs["moe_mm_token_type_ids"] = torch.ones_like(inputs["moe_mm_token_type_ids"])
    with recorded(m, hidden=True) as recorder:
        run(m, inputs)
        calls = recorder.take()
    for call in calls:
        assert ((call.expert_index >= 0) == (call.site.stack == "vision")).all()
        assert (call.hidden.isnan() == (call.site.stack == "text")).all()


def test_gpt_oss_in_mxfp4(monkeypatch):
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    if not hasattr(mxfp4, "Mxfp4GptOssMLP"):
        pytest.skip("this release calls the experts")
    config = SimpleNamespace(num_local_experts=E, intermediate_size=32, hidden_size=32)
    router = Router()
    router.weight.data, router.bias, router.hidden_dim = torch.randn(E, 32), None, 32
    # Two experts with equal logits: the kernel takes the first.
    router.weight.data[4] = router.weight.data[1]
    experts = mxfp4.Mxfp4GptOssExperts(config)
    kernels = SimpleNamespace(routing=lambda logits, top_k: (None, None, None))
    hub = SimpleNamespace(routing=kernels)
    monkeypatch.setattr(mxfp4, "triton_kernels_hub", hub, raising=False)
    monkeypatch.setattr(experts, "forward_routed", lambda x, *plan: x)
    m = nn.Sequential(mxfp4.Mxfp4GptOssMLP(router, experts)).eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad(), recorded(m, logits=True, hidden=True) as recorder:
        m(x)
        (call,) = recorder.take()
    logits = x.view(10, 32) @ router.weight.T.detach()
    torch.testing.assert_close(call.router_logit, logits)
    assert torch.equal(call.hidden, x.view(10, 32))
    for row, (index, weight) in enumerate(zip(call.expert_index, call.gate_weight, strict=True)):
        best = sorted(range(E), key=lambda e: (-float(logits[row, e]), e))[:K]
        assert index.tolist() == best
        torch.testing.assert_close(weight, logits[row, best].softmax(-1))
    assert call.site.num_experts == E


def test_gpt_oss_in_mxfp4_as_it_was():
    class Mxfp4GptOssExperts(nn.Module):
        num_experts = E

        def forward(self, hidden_states, routing_data, gather_idx, scatter_idx):
            return hidden_states

    index = torch.rand(10, E).argsort(-1)[:, :K].sort(-1).values
    weight = torch.rand(10, K)
    slot = index.flatten().argsort(stable=True)
    plan = SimpleNamespace(
        gate_scal=weight.flatten()[slot],
        expt_hist=index.flatten().bincount(minlength=E).int(),
        n_expts_act=K,
    )
    m = Mxfp4GptOssExperts().eval()
    with recorded(m) as recorder:
        m(states(), plan, SimpleNamespace(src_indx=slot.int()), None)
        (call,) = recorder.take()
    assert torch.equal(call.expert_index, index.int())
    assert torch.equal(call.gate_weight, weight)


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v3", "gpt_oss", "jetmoe", "llama4"])
def test_half_precision_records_what_ran(name):
    m, inputs = FAMILIES[name].build().to(torch.bfloat16), FAMILIES[name].inputs()
    before = run(m, inputs)
    with recorded(m) as recorder:
        after = run(m, inputs)
        calls = recorder.take()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for call in calls:
        assert call.gate_weight.dtype in (torch.bfloat16, torch.float32)
        assert (call.expert_index >= 0).all()
