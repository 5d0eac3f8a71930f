"""`capture` of what a model writes: prompt and continuation are one text."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models as small  # noqa: E402
from captures import assert_routing_same, assert_same, capture, tokens_in  # noqa: E402
from family_table import FAMILIES  # noqa: E402

from isingmoe.capturing.running import Continuation, _Draw, _inverse  # noqa: E402

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


# Of these small ones, no layer keeps a cache of attention, which `generate` asks for.
NO_CACHE = ("qwen3_next", "qwen3_5_moe", "qwen4_exp")
# They read images, canvases or speech instead of a text.
NO_TEXT = ("dots3_note vision", "vitpose_backbone", "diffusion_gemma", "qwen3_omni talker")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NO_TEXT])
def test_batches_do_not_matter_to_any_family(name):
    family = FAMILIES[name]
    if family.model_class() is None:
        pytest.skip(f"transformers has no {name}")
    model = family.build().eval()
    prompts = small.token_ids(5, 23, 14, 31)
    vocabulary = min(model.config.get_text_config().vocab_size, 60)
    prompts = [3 + ids % (vocabulary - 3) for ids in prompts]
    writes = hasattr(model, "generate") and name not in NO_CACHE
    for options in ({}, {"generate": 6, "temperature": 0.0})[: 1 + writes]:
        together, alone = (capture(model, prompts, batch_tokens=n, **options) for n in (4096, 1))
        stacks = (together, alone) if isinstance(together, dict) else ({0: together}, {0: alone})
        for stack in stacks[0]:
            assert_routing_same(stacks[0][stack], stacks[1][stack])
