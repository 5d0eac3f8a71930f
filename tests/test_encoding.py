"""Token ids of long texts: pieces, joined, are the tokens of the whole."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_models as small
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from isingmoe.capturing import encoding

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def trained(model, trainer, **parts):
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    made.train_from_iterator(small.speeches(), trainer)
    made.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[(t, made.token_to_id(t)) for t in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def tokenizers():
    options = {"special_tokens": list(SPECIAL.values()), "show_progress": False}
    return {
        "bytes": small.tokenizer(),
        "unigram": trained(
            models.Unigram(),
            UnigramTrainer(vocab_size=400, unk_token="<unk>", **options),
            normalizer=normalizers.NFKC(),
            pre_tokenizer=pre_tokenizers.Metaspace(),
        ),
        "words": trained(
            models.WordPiece(unk_token="<unk>"),
            WordPieceTrainer(vocab_size=400, **options),
            normalizer=normalizers.BertNormalizer(lowercase=True, strip_accents=True),
            pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        ),
    }


def text(seed):
    """A speech with letters of several bytes, accents that combine, and odd spaces in it."""
    rng = np.random.default_rng(seed)
    words = small.speeches(1)[0].split(" ")
    strange = ["naïve", "e\u0301cole", "東京", "🙂🙂", "\n\n\n", "   ", "ﬁn", "(2,000.5)"]
    return " ".join(str(rng.choice(strange)) if rng.random() < 0.1 else word for word in words)


@pytest.fixture(params=["bytes", "unigram", "words"], scope="module")
def tokenizer(request):
    return tokenizers()[request.param]


@pytest.mark.parametrize("seed", range(4))
def test_pieces_are_joined_to_the_whole(tokenizer, monkeypatch, seed):
    monkeypatch.setattr(encoding, "_SHARED", 1024)
    monkeypatch.setattr(encoding, "_AGREED", 16)
    long, short = text(seed), "a short one"
    whole = tokenizer([long, short], verbose=False)["input_ids"]
    encode = encoding.encoder_of(tokenizer)
    # Between characters at every place, and right at the end of the text.
    for size in (len(long) - 1, len(long) - 100, 2048 + seed, 3001 + seed, 5000):
        monkeypatch.setattr(encoding, "_PIECE", size)
        assert encoding._joined(tokenizer, long) is not None
        found = encode([long, short])
        np.testing.assert_array_equal(found[0], whole[0])
        assert list(found[1]) == whole[1]


def test_pieces_that_do_not_agree_are_read_as_a_whole(tokenizer, monkeypatch):
    """A run of letters without an end is cut by how it begins."""
    monkeypatch.setattr(encoding, "_PIECE", 2048)
    monkeypatch.setattr(encoding, "_SHARED", 1024)
    long = "ab" * 5001 + " " * 9001 + "end"
    (found,) = encoding.encoder_of(tokenizer)([long])
    np.testing.assert_array_equal(found, tokenizer([long], verbose=False)["input_ids"][0])


def test_tokenizers_that_know_no_places_read_the_whole(monkeypatch):
    monkeypatch.setattr(encoding, "_PIECE", 4)
    encode = encoding.encoder_of(lambda strings: [[len(s)] for s in strings])
    assert encode(["a long text", "b"]) == [[11], [1]]
    assert encoding.encoder_of(None) is None
    with pytest.raises(TypeError, match="tokenizer: expected one of transformers, or a function"):
        encoding.encoder_of(3)
