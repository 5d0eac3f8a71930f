"""Routers put into models: what they choose, what the experts get, and that nothing is left."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest

import isingmoe as im

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import naive  # noqa: E402
import small_models as small  # noqa: E402
from captures import capture  # noqa: E402
from family_table import FAMILIES  # noqa: E402
from truths import run  # noqa: E402

from isingmoe.capturing import recorded  # noqa: E402
from isingmoe.generation import Law  # noqa: E402
from isingmoe.moe import (  # noqa: E402
    ChainRouter,
    HashRouter,
    LossFreeBias,
    RandomRouter,
    Router,
    StaticRouter,
    insert_router,
    mean_gate_weight,
    remove_router,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*experts that are never chosen"),
    pytest.mark.filterwarnings("ignore:.*pairs of tokens for"),
    pytest.mark.filterwarnings("ignore::isingmoe.ShortTraceWarning"),
]

LENGTH = 24
# Families whose experts take no ids, or whose layers see only some of the tokens.
REFUSED = {
    "aria",
    "diffusion_gemma",
    "doge",
    "dots3_note vision",
    "ernie4_5_vl_moe with images",
    "jetmoe",
    "llama4",
    "nllb_moe",
    "vitpose_backbone",
    "zaya",
}


@cache
def olmoe(seed=0):
    return small.causal("olmoe", seed)


@cache
def read():
    """Texts, and the traces of the model's own router."""
    texts = small.token_ids(*[LENGTH] * 24)
    return np.stack(texts), capture(olmoe(), texts)


def drawn_laws(seed=0, reach=2, n_blocks=3, q=8, k=2, layers=(0, 1, 2)):
    rng = np.random.default_rng(seed)
    laws = {}
    for layer in layers:
        coupling = rng.normal(0, 0.7, (reach, q, q))
        coupling -= coupling.mean(1, keepdims=True)
        coupling -= coupling.mean(2, keepdims=True)
        laws[layer] = Law(coupling, rng.normal(0, 0.7, (n_blocks, q)), k, 0.0, LENGTH)
    return laws


def sets_of(traces):
    return np.sort(traces["expert_index"].values, -1)


def routed(router, texts=None, **more):
    texts = list(read()[0]) if texts is None else texts
    with insert_router(olmoe(), router, **more):
        return capture(olmoe(), texts)


class Turned(Router):
    """The experts behind the model's own."""

    def choose(self, tokens):
        return (tokens.chosen.clamp(min=0) + 1) % tokens.num_experts


def _run_turned(model, inputs):
    with insert_router(model, Turned(), weights=0.5):
        run(model, inputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_put_in_and_taken_out_of_every_family(name):
    if FAMILIES[name].model_class() is None:
        pytest.skip("this release of transformers has none that runs")
    model, inputs = FAMILIES[name].build(), FAMILIES[name].inputs()
    before = run(model, inputs)
    with recorded(model) as recorder:
        run(model, inputs)
        own = [call.expert_index for call in recorder.take()]
    if name in REFUSED:
        with pytest.raises(ValueError, match="expected"):
            _run_turned(model, inputs)
    else:
        inserted = insert_router(model, Turned(), weights=0.5)
        with recorded(model) as recorder:
            changed = run(model, inputs)
            calls = recorder.take()
        # Layers behind see other inputs; the first of each stack is told what was told before.
        first = calls[0]
        expected = (own[0].clamp(min=0) + 1) % first.site.num_experts
        torch.testing.assert_close(first.expert_index, expected)
        assert (first.gate_weight == 0.5).all()
        assert any(not torch.equal(a, b) for a, b in zip(before, changed, strict=True))
        inserted.remove()
    after = run(model, inputs)
    for a, b in zip(before, after, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize(
    "name", ["olmoe", "mixtral", "qwen3_moe", "gpt_oss", "dbrx", "deepseek_v2", "flint"]
)
def test_weights_by_the_gate_are_the_models_own(name):
    """With biases of zero, the same experts get the same weights: the law of the gate is found."""
    model, inputs = FAMILIES[name].build(), FAMILIES[name].inputs()
    before = run(model, inputs)
    with insert_router(model, LossFreeBias()):
        same = run(model, inputs)
    for a, b in zip(before, same, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_sigmoid_scores_are_found():
    model, inputs = FAMILIES["deepseek_v3"].build(), FAMILIES["deepseek_v3"].inputs()
    with recorded(model, logits=True) as recorder:
        run(model, inputs)
        own = recorder.take()[0]
    with insert_router(model, Turned()), recorded(model) as recorder:
        run(model, inputs)
        other = recorder.take()[0]
    score = own.router_logit.sigmoid()
    scale = own.gate_weight.sum(-1, keepdim=True)
    chosen = score.gather(-1, other.expert_index.long())
    torch.testing.assert_close(other.gate_weight, scale * chosen / chosen.sum(-1, keepdim=True))


def test_static_router_follows_its_table():
    rng = np.random.default_rng(0)
    sets = {n: rng.permuted(np.tile(np.arange(8), (10, 1)), axis=1)[:, :2] for n in range(3)}
    traces = routed(StaticRouter(sets, num_experts=8))
    position = np.minimum(np.arange(LENGTH), 9)
    for place, layer in enumerate(traces["layer"].values):
        expected = np.sort(sets[layer][position], -1)
        assert (sets_of(traces)[place] == expected).all()


def test_static_router_takes_the_largest_fields():
    _, traces = read()
    fit = im.fit(traces, coupling="none", field="position", position=im.Blocks(4))
    found = sets_of(routed(StaticRouter.from_fit(fit)))
    for place, layer in enumerate(fit.data["layer"].values):
        row = fit.data.sel(layer=layer)
        for i in range(LENGTH):
            field = row["h"].values + row["h_position"].values[i * 4 // LENGTH]
            best = np.sort(np.argsort(-field)[:2])
            assert (found[place, :, i] == best).all()


def test_static_router_knows_a_position_that_decides():
    """The first token of a text, which has none before it, is not fitted; the second is."""
    texts = read()[0].copy()
    texts[:, :2] = 5
    traces = capture(olmoe(), list(texts))
    fit = im.fit(traces, coupling="none", field="position", position=im.Blocks(LENGTH))
    found = sets_of(routed(StaticRouter.from_fit(fit), list(texts)))
    assert (found[0, :, 1] == sets_of(traces)[0, :, 1]).all()


@pytest.mark.parametrize("seed", range(3))
def test_chain_router_given_the_gate_is_that_of_loops(seed):
    laws = drawn_laws(seed)
    found = sets_of(routed(ChainRouter(laws, given="gate", rule="likely")))
    own = read()[1]["expert_index"].values[0]
    expected = naive.likely_sets(laws[0], own)
    assert (found[0] == np.sort(expected, -1)).all()


@pytest.mark.parametrize("seed", range(3))
def test_chain_router_on_its_own_is_that_of_loops(seed):
    laws = drawn_laws(seed)
    found = sets_of(routed(ChainRouter(laws, rule="likely")))
    for place, law in enumerate(laws.values()):
        made = naive.likely_run(law, LENGTH)
        assert (found[place] == np.sort(made, -1)[None]).all()


@pytest.mark.parametrize("given", ["own", "gate"])
def test_chain_router_draws_from_the_chain(given):
    """Couplings and fields of its choices are those that it draws by."""
    laws = drawn_laws(4, reach=1, n_blocks=1)
    texts = small.token_ids(*[LENGTH] * 400, seed=3)
    router = ChainRouter(laws, given=given, seed=1)
    if given == "own":
        traces = routed(router, texts)
        fit = im.fit(traces, chain="kinetic", coupling="full")
        for layer, law in laws.items():
            row = fit.data.sel(layer=layer)
            chain = im.KineticChain(J=law.coupling, h=law.field[0], top_k=2)
            z = (row["J"].values - chain.J) / row["J_error"].values
            assert np.abs(z).max() < 5
            assert np.mean(z**2) < 2
        return
    # Given sets that are not its own, each is drawn by the law of its token.
    own = capture(olmoe(), texts[:60])["expert_index"].values[0]
    found = sets_of(routed(router, texts[:60]))[0]
    rate = naive.inclusion_rates(laws[0], own)
    count = np.stack([(found == e).any(-1).sum() for e in range(8)])
    n = found[..., 0].size
    error = np.sqrt(n * (rate * (1 - rate)).mean((0, 1)))
    assert (np.abs(count - rate.sum((0, 1))) < 5 * error).all()


def test_draws_are_those_of_the_seed():
    laws = drawn_laws()
    router = ChainRouter(laws, seed=5)
    first, again = sets_of(routed(router)), sets_of(routed(router))
    assert (first == again).all()
    assert (first != sets_of(routed(ChainRouter(laws, seed=6)))).any()
    chance = RandomRouter(2)
    assert (sets_of(routed(chance)) == sets_of(routed(chance))).all()


def test_random_router_is_uniform_over_sets():
    found = sets_of(routed(RandomRouter(0), small.token_ids(*[LENGTH] * 100)))
    code = (found[..., 0] * 8 + found[..., 1]).reshape(-1)
    counts = np.unique(code, return_counts=True)[1]
    assert len(counts) == 28
    expected = code.size / 28
    assert ((counts - expected) ** 2 / expected).sum() < 60


def test_hash_router_sends_an_id_to_the_same_experts_everywhere():
    texts, _ = read()
    found = sets_of(routed(HashRouter(3)))
    for layer in found:
        for token in np.unique(texts)[:50]:
            here = layer[texts == token]
            assert (here == here[0]).all()
            assert here[0, 0] != here[0, 1]
    assert (found[0] != found[1]).any()
    assert (found != sets_of(routed(HashRouter(4)))).any()
    load = np.bincount(found.ravel(), minlength=8) / found.size
    assert np.abs(load - 1 / 8).max() < 0.03


def test_hash_router_of_traces_takes_what_a_token_was_sent_to_most():
    texts, traces = read()
    router = HashRouter.from_traces(traces, seed=3)
    found, hashed = sets_of(routed(router)), sets_of(routed(HashRouter(3)))
    own = traces["expert_index"].values
    for layer in range(3):
        for token in np.unique(texts)[:40]:
            counts = np.bincount(own[layer][texts == token].ravel(), minlength=8)
            best = np.sort(np.argsort(-counts, kind="stable")[:2])
            assert (found[layer][texts == token] == best).all()
    # Ids that are not in the traces are hashed.
    few = traces.isel(sequence=slice(0, 1))
    rest = sets_of(routed(HashRouter.from_traces(few, seed=3)))
    new = ~np.isin(texts, few["token_id"].values)
    assert (rest[:, new] == hashed[:, new]).all()


ROUTERS = {
    "hash": lambda: HashRouter(1),
    "chain": lambda: ChainRouter(drawn_laws(), rule="likely"),
    "gate": lambda: ChainRouter(drawn_laws(), given="gate", rule="likely"),
    "static": lambda: StaticRouter(
        {n: (np.arange(LENGTH)[:, None] + [0, 3]) % 8 for n in range(3)}, num_experts=8
    ),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_with_a_cache_the_choices_are_those_of_one_pass(name):
    ids = torch.from_numpy(read()[0][:4].astype(np.int64))
    with insert_router(olmoe(), ROUTERS[name]()), recorded(olmoe()) as recorder, torch.no_grad():
        olmoe()(input_ids=ids, use_cache=False)
        whole = [c.expert_index.reshape(4, LENGTH, -1) for c in recorder.take()]
        cache, parts = None, []
        for part in (ids[:, :7], ids[:, 7:8], ids[:, 8:11], ids[:, 11:]):
            cache = olmoe()(input_ids=part, past_key_values=cache, use_cache=True)
            cache = cache.past_key_values
            parts.append([c.expert_index.reshape(4, -1, 2) for c in recorder.take()])
    for layer in range(3):
        joined = torch.cat([part[layer] for part in parts], 1)
        assert torch.equal(joined.sort(-1).values, whole[layer].sort(-1).values)


@pytest.mark.parametrize("name", ROUTERS)
def test_pads_count_nothing(name):
    """A text behind pads is routed as it is without them."""
    ids = torch.from_numpy(read()[0][0].astype(np.int64))
    short = ids[:15]
    padded = torch.cat([torch.zeros(LENGTH - 15, dtype=torch.int64), short])
    both, mask = torch.stack([ids, padded]), torch.ones(2, LENGTH, dtype=torch.int64)
    mask[1, : LENGTH - 15] = 0
    place = (mask.cumsum(1) - 1).clamp(min=0)
    with insert_router(olmoe(), ROUTERS[name]()), recorded(olmoe()) as recorder, torch.no_grad():
        olmoe()(input_ids=short[None], use_cache=False)
        alone = [c.expert_index.sort(-1).values for c in recorder.take()]
        olmoe()(input_ids=both, attention_mask=mask, position_ids=place, use_cache=False)
        beside = [c.expert_index.reshape(2, LENGTH, -1)[1, -15:] for c in recorder.take()]
    assert torch.equal(alone[0], beside[0].sort(-1).values)


def test_numbers_for_weights():
    texts, traces = read()
    mean = mean_gate_weight(traces)
    index, weight = (traces[name].values for name in ("expert_index", "gate_weight"))
    for layer in range(3):
        for expert in range(8):
            chosen = weight[layer][index[layer] == expert]
            expected = chosen.mean() if chosen.size else weight[layer].mean()
            assert float(mean.sel(layer=layer, expert=expert)) == pytest.approx(expected, rel=1e-5)
    found = routed(RandomRouter(), list(texts), weights=mean)
    for layer in range(3):
        experts = found["expert_index"].values[layer]
        np.testing.assert_allclose(
            found["gate_weight"].values[layer], mean.values[layer][experts], rtol=1e-6
        )
    assert (routed(RandomRouter(), weights=0.25)["gate_weight"] == 0.25).all()


def test_gradients_reach_the_gate_only_where_it_weighs():
    ids = torch.from_numpy(read()[0][:2].astype(np.int64))
    model = olmoe()
    gate = model.model.layers[1].mlp.gate.weight
    for weights, has_gradient in (("gate", True), (0.5, False)):
        model.zero_grad()
        with insert_router(model, RandomRouter(), weights=weights):
            model(input_ids=ids, labels=ids).loss.backward()
        assert (gate.grad is not None and bool(gate.grad.any())) == has_gradient
    model.zero_grad()


def test_only_some_layers():
    own = sets_of(read()[1])
    found = sets_of(routed(HashRouter(0), layers=[2]))
    assert (found[:2] == own[:2]).all()
    assert (found[2] != own[2]).any()


def test_taken_out_by_the_model():
    model = olmoe()
    insert_router(model, RandomRouter())
    with pytest.raises(ValueError, match="has a router of insert_router already; call remove"):
        insert_router(model, HashRouter())
    remove_router(model)
    with pytest.raises(ValueError, match="expected a router of insert_router, got none"):
        remove_router(model)


def test_what_does_not_fit_is_refused():
    model, (_, traces) = olmoe(), read()
    potts = im.fit(traces, chain="potts")
    sets = np.array([[0, 1]])
    cases = [
        (lambda: StaticRouter.from_fit(potts), "fit: expected kinetic chains, got potts"),
        (lambda: ChainRouter.from_fit(potts), "fit: expected kinetic chains, got potts"),
        (lambda: ChainRouter({}, given="all"), "given: expected own or gate"),
        (lambda: ChainRouter({}, rule="best"), "rule: expected draw or likely"),
        (lambda: StaticRouter({0: sets * 9}, num_experts=8), "sets: layer 0: expected ids of 0"),
        (lambda: StaticRouter({0: sets * 0}, num_experts=8), "expected different experts in a"),
        (lambda: StaticRouter({0: sets[:0]}, num_experts=8), "at least one position"),
        (lambda: HashRouter(-1), "seed: expected a whole number"),
        (lambda: LossFreeBias(0.0), "rate: expected a positive number"),
        (lambda: HashRouter.from_traces(traces.drop_vars("token_id")), "token_id: expected"),
        (lambda: mean_gate_weight(traces.drop_vars("gate_weight")), "gate_weight: expected"),
        (lambda: insert_router(torch.nn.Linear(2, 2), RandomRouter()), "got a dense one"),
        (lambda: insert_router(model, RandomRouter(), layers=[9]), "layers: expected some of"),
        (lambda: insert_router(model, RandomRouter(), weights="even"), "weights: expected gate"),
        (
            lambda: insert_router(
                model, RandomRouter(), weights=mean_gate_weight(traces).sel(layer=[0])
            ),
            "weights: expected an array",
        ),
        (
            lambda: insert_router(model, StaticRouter({0: sets}, num_experts=8)),
            "router: expected layer 1 of the model among its own",
        ),
        (
            lambda: insert_router(model, StaticRouter({0: sets}, num_experts=9), layers=[0]),
            "router: expected 8 experts, as layer 0 has, got 9",
        ),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
    # Nothing is left of what was refused.
    assert not any(module._forward_pre_hooks for module in model.modules())
    ids = torch.zeros((1, 4), dtype=torch.int64)
    with insert_router(model, HashRouter()), pytest.raises(ValueError, match="embeddings alone"):
        model(inputs_embeds=model.get_input_embeddings()(ids))
    few = {n: Law(np.zeros((1, 8, 8)), np.zeros((1, 8)), 3, 0.0, 1) for n in range(3)}
    with (
        insert_router(model, ChainRouter(few)),
        pytest.raises(ValueError, match="chains of sets of 2, as layer 0 has, got 3"),
    ):
        model(input_ids=ids)
    with (
        insert_router(model, StaticRouter(dict.fromkeys(range(3), sets[:, :1]), num_experts=8)),
        pytest.raises(ValueError, match="sets: expected sets of 2"),
    ):
        model(input_ids=ids)


def test_a_cache_of_others_is_refused():
    model, ids = olmoe(), torch.ones((1, 4), dtype=torch.int64)
    cache = model(input_ids=ids, use_cache=True).past_key_values
    router = ChainRouter(drawn_laws(), given="gate")
    with insert_router(model, router), pytest.raises(ValueError, match="cache of others"):
        model(input_ids=ids, past_key_values=cache)


def test_checkpointed_gradients_are_refused():
    model = small.causal("olmoe", 1)
    model.model.gradient_checkpointing = True
    with pytest.raises(ValueError, match="without gradient checkpointing"):
        insert_router(model, RandomRouter())


def test_switch_gets_one_expert_to_a_token():
    model = small.switch()
    texts = small.token_ids(20, 20)
    made = {}
    for weights in ("gate", 0.5):
        with insert_router(model, HashRouter(2), weights=weights):
            made[weights] = capture(model, texts)
    for stack in ("encoder", "decoder"):
        index = made["gate"][stack]["expert_index"].values
        # Its own router drops what is past the capacity; one put in drops nothing.
        assert (index >= 0).sum() == index.shape[0] * made["gate"][stack]["length"].sum()
        weight = made[0.5][stack]["gate_weight"].values
        assert (weight[~np.isnan(weight) & (weight > 0)] == 0.5).all()


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_a_lone_token_does_not_tell_how_scaled_weights_are_made(name):
    """Normalised and multiplied by 2.5, or by what happens to fit: two tokens tell them apart."""
    model = FAMILIES[name].build()
    model.config.routed_scaling_factor = 2.5
    for module in model.modules():
        if hasattr(module, "routed_scaling_factor"):
            module.routed_scaling_factor = 2.5
    ids = torch.from_numpy(read()[0][:2].astype(np.int64) % model.config.vocab_size)
    with torch.no_grad():
        inserted = insert_router(model, Turned())
        with pytest.raises(ValueError, match="tell whether weights are normalised"):
            model(input_ids=ids[:1, :1])
        whole = model(input_ids=ids).logits
        # What one text told is known for a lone token.
        lone = model(input_ids=ids[:1, :1]).logits
        inserted.remove()
    torch.testing.assert_close(lone[0, 0], whole[0, 0], rtol=1e-4, atol=1e-5)


def test_routers_that_know_layers_are_for_one_stack():
    model, texts = small.switch(), small.token_ids(20, 20)
    own = capture(model, texts)["encoder"]
    layers, num_experts = own["layer"].values.tolist(), int(own.attrs["num_experts"])
    table = StaticRouter({n: np.array([[n % 2]]) for n in layers}, num_experts=num_experts)
    for router in (table, LossFreeBias()):
        with pytest.raises(ValueError, match=r"got layer \d of decoder and encoder; name one"):
            insert_router(model, router)
    with pytest.raises(ValueError, match="stack: expected one of decoder, encoder, got 'vision'"):
        insert_router(model, table, stack="vision")
    with insert_router(model, table, stack="decoder"):
        made = capture(model, texts)
    assert made["encoder"]["expert_index"].equals(own["expert_index"])
    for place, layer in enumerate(made["decoder"]["layer"].values):
        index = made["decoder"]["expert_index"].values[place]
        assert (index[index >= 0] == layer % 2).all()
    # Biases of its own for each stack.
    biases = {stack: LossFreeBias() for stack in ("encoder", "decoder")}
    for stack, router in biases.items():
        insert_router(model, router, stack=stack)
    capture(model.train(), texts)
    remove_router(model)


def test_ids_that_are_no_experts_are_refused():
    class Own(Router):
        def choose(self, tokens):
            return tokens.chosen - 9

    ids = torch.ones((1, 4), dtype=torch.int64)
    with insert_router(olmoe(), Own()), pytest.raises(ValueError, match="Own: expected ids of 0"):
        olmoe()(input_ids=ids)


def test_a_model_with_a_router_can_be_forgotten():
    model = small.causal("olmoe", 4)
    insert_router(model, RandomRouter())
    model(input_ids=torch.ones((1, 4), dtype=torch.int64)).logits.sum().backward()
    alive = weakref.ref(model.model.layers[0].mlp.experts)
    del model
    gc.collect()
    assert alive() is None


def test_texts_that_are_packed_have_positions_of_their_own():
    rng = np.random.default_rng(0)
    sets = {n: rng.permuted(np.tile(np.arange(8), (12, 1)), axis=1)[:, :2] for n in range(3)}
    ids = torch.from_numpy(read()[0][:2].astype(np.int64))
    place = torch.arange(LENGTH) % (LENGTH // 2)
    router = StaticRouter(sets, num_experts=8)
    with insert_router(olmoe(), router), recorded(olmoe()) as recorder, torch.no_grad():
        olmoe()(input_ids=ids, position_ids=place[None], use_cache=False)
        found = recorder.take()[0].expert_index.reshape(2, LENGTH, 2).numpy()
    assert (np.sort(found, -1) == np.sort(sets[0][place.numpy()], -1)).all()


def packed_choices(router=None):
    """Experts (text, position, rank) of the first layer, of two texts in one row."""
    ids = torch.from_numpy(read()[0][:1].astype(np.int64))
    place = (torch.arange(LENGTH) % (LENGTH // 2))[None]
    inserted = nullcontext() if router is None else insert_router(olmoe(), router)
    with inserted, recorded(olmoe()) as recorder, torch.no_grad():
        olmoe()(input_ids=ids, position_ids=place, use_cache=False)
        return recorder.take()[0].expert_index.numpy().reshape(2, LENGTH // 2, 2)


@pytest.mark.parametrize("given", ["own", "gate"])
def test_chains_of_packed_texts_begin_anew(given):
    laws = drawn_laws(2)
    found = packed_choices(ChainRouter(laws, given=given, rule="likely"))
    if given == "own":
        expected = np.stack([naive.likely_run(laws[0], LENGTH // 2)] * 2)
    else:
        expected = naive.likely_sets(laws[0], packed_choices())
    assert (np.sort(found, -1) == np.sort(expected, -1)).all()


def test_packed_texts_are_drawn_each_for_itself():
    found = np.sort(packed_choices(ChainRouter(drawn_laws(2), seed=1)), -1)
    assert (found[0] != found[1]).any()


def test_tables_of_another_model_are_refused():
    router = HashRouter(0, {n: np.array([[0, 3]]) for n in range(3)}, num_experts=4)
    with pytest.raises(ValueError, match="router: expected 8 experts, as layer 0 has, got 4"):
        insert_router(olmoe(), router)
    with pytest.raises(ValueError, match="num_experts: expected the number of experts"):
        HashRouter(0, {0: np.array([[0, 3]])})
    with pytest.raises(TypeError, match="seed: expected a whole number, got Generator"):
        HashRouter(np.random.default_rng(0))
