from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isingmoe as im
from isingmoe.texts import read_texts
from isingmoe.tokens import Cut, tokenize


def letters(strings):
    """A tokenizer of one token to a character."""
    return [[ord(letter) for letter in text] for text in strings]


def tokens_of(texts, **cut):
    return tokenize(read_texts(texts), letters, Cut(**{"max_tokens": 4, **cut}))


def recorded(sequences):
    """What each sequence adds to the record."""
    return [sequences[n][sequences.context[n] :].tolist() for n in range(len(sequences))]


def as_text(sequences):
    return ["".join(map(chr, ids)) for ids in recorded(sequences)]


def contents(texts):
    return [
        text.content if isinstance(text.content, str) else text.content.tolist()
        for text in read_texts(texts)
    ]


def test_strings_and_token_ids_are_texts():
    array = np.arange(6).reshape(2, 3)
    assert contents(["one", [1, 2], array]) == ["one", [1, 2], [0, 1, 2], [3, 4, 5]]
    assert contents("alone") == ["alone"]


def test_files_lines_and_folders(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text('{"body": "first"}\n\n"bare"\n{"body": [7, 8]}\n')
    (tmp_path / ".hidden").write_bytes(b"\xff")
    found = contents(im.TextFile(tmp_path, field="body"))
    assert found == ["first", "bare", [7, 8], "second"]
    assert contents([tmp_path / "b.txt"]) == ["second"]
    names = [text.name for text in im.TextFile(tmp_path, field="body").read()]
    assert names[2] == f"{tmp_path / 'a' / 'x.jsonl'}:4"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["t.txt", "t.jsonl"])
def test_byte_order_marks_are_heeded(tmp_path, encoding, name):
    content = "naïve ξ" if name == "t.txt" else '{"text": "naïve ξ"}\n'
    (tmp_path / name).write_text(content, encoding=encoding)
    assert contents(tmp_path / name) == ["naïve ξ"]


@pytest.mark.parametrize("n_before", [0, 3, (1 << 20) - 1, 1 << 20, (1 << 20) + 5])
@pytest.mark.parametrize("name", ["t.txt", "t.jsonl"])
def test_bytes_that_are_no_text_are_named(tmp_path, name, n_before):
    (tmp_path / name).write_bytes(b"\n" * n_before + "ξ".encode() + b"\xff\xfe")
    with pytest.raises(ValueError, match=rf"{name}: byte {n_before + 2}: expected utf-8 .* 0xff"):
        contents(tmp_path / name)
    latin = im.TextFile(tmp_path / "t.txt", encoding="latin-1")
    (tmp_path / "t.txt").write_bytes(b"caf\xe9")
    assert contents(latin) == ["café"]


def test_character_cut_at_the_end_is_named(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"abc\xe2\x82")
    with pytest.raises(ValueError, match="byte 3"):
        contents(tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"t.jsonl:2: expected JSON"),
        ('{"title": "a", "body": "b"}', r"t.jsonl:2: expected a field 'text', got title, body"),
        ('{"text": 3}', r"t.jsonl:2: expected a string or token ids, got int"),
        ('{"text": [1, -2]}', r"t.jsonl:2: token 1: expected an id from 0 up, got -2"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    (tmp_path / "t.jsonl").write_text(f'{{"text": "good"}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        contents(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (3, TypeError, "expected a str, a Path or token ids, got int"),
        ([b"bytes"], TypeError, "text 0: .* got bytes"),
        ([[1.5, 2.0]], TypeError, "got float"),
        (np.array([1.5]), TypeError, "expected token ids as integers"),
        (im.TextFile("no/such/file"), FileNotFoundError, "no/such/file: no such file"),
        (im.TextFile(".", encoding="klingon"), ValueError, "encoding: expected one that Python"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, monkeypatch, texts, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(error, match=message):
        contents(texts)


def test_name_of_a_file_is_no_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech.txt").write_text("a")
    with pytest.raises(ValueError, match=r"speech.txt: expected a text, got the name of a file"):
        contents(["speech.txt"])


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected files of text, got an empty folder"):
        contents(tmp_path)


def fake_datasets(monkeypatch, rows, error=None):
    module = ModuleType("datasets")
    asked = {}

    def load_dataset(name, config, **options):
        asked.update(name=name, config=config, **options)
        if error is not None:
            raise error
        return iter(rows)

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_datasets_are_read_by_column(monkeypatch):
    asked = fake_datasets(monkeypatch, [{"body": f"row {n}"} for n in range(5)])
    source = im.TextDataset("some/corpus", field="body", split="test", config="en", limit=3)
    assert contents(source) == ["row 0", "row 1", "row 2"]
    assert asked == {
        "name": "some/corpus",
        "config": "en",
        "split": "test",
        "revision": None,
        "streaming": True,
    }


def test_datasets_that_cannot_be_had_are_named(monkeypatch):
    fake_datasets(monkeypatch, [{"body": "a"}])
    with pytest.raises(ValueError, match="some/corpus:train:0: expected a column 'text', got body"):
        contents(im.TextDataset("some/corpus"))
    fake_datasets(monkeypatch, [], ConnectionError("no\nroute"))
    with pytest.raises(ValueError, match=r"some/corpus: .* ConnectionError \(no route\)"):
        contents(im.TextDataset("some/corpus"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        contents(im.TextDataset("some/corpus"))


def test_texts_are_cut():
    found = tokens_of(["abcdefghij", "", "xy"])
    assert as_text(found) == ["abcd", "efgh", "ij", "xy"]
    assert found.text.tolist() == [0, 0, 0, 1]
    assert found.offset.tolist() == [0, 4, 8, 0]
    assert found.names == ["text 0", "text 2"]
    assert found.n_empty == 1


def test_windows_that_overlap_record_a_token_once():
    found = tokens_of(["abcdefghij"], stride=3)
    assert ["".join(map(chr, found[n])) for n in range(len(found))] == ["abcd", "defg", "ghij"]
    assert as_text(found) == ["abcd", "efg", "hij"]


def test_windows_may_leave_tokens_out():
    assert as_text(tokens_of(["abcdefghij"], stride=6)) == ["abcd", "ghij"]


def test_packed_texts_are_one_stream():
    separator = ord("|")
    found = tokens_of(["abc", "de", "fghij|"], pack=True, separator=separator)
    assert as_text(found) == ["abc|", "de|f", "ghij", "|"]
    assert found.text.tolist() == [0, 1, 2, 2]
    assert found.offset.tolist() == [0, 0, 1, 5]


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    max_tokens=st.integers(1, 12),
    stride=st.integers(1, 12),
    pack=st.booleans(),
)
def test_every_token_is_recorded_once_where_windows_touch(lengths, max_tokens, stride, pack):
    texts = [np.arange(n) for n in lengths]
    if not any(lengths):
        with pytest.raises(ValueError, match="expected some tokens, got none"):
            tokenize(read_texts(texts), None, Cut(max_tokens, stride, pack))
        return
    found = tokenize(read_texts(texts), None, Cut(max_tokens, stride, pack))
    assert found.length.max() <= max_tokens
    assert (found.context < found.length).all()
    if stride <= max_tokens:
        stream = [token for ids in recorded(found) for token in ids]
        assert stream == [token for text in texts for token in text.tolist()]
    assert found.n_recorded == sum(map(len, recorded(found)))


def test_hash_is_that_of_tokens_and_windows():
    one, same = tokens_of(["abcdef", "gh"]), tokens_of(["abcdef", "gh"])
    assert one.sha256 == same.sha256
    others = [tokens_of(["abcdef", "gi"]), tokens_of(["abcdef", "gh"], stride=3)]
    others.append(tokens_of(["abcd", "efgh"]))
    assert len({one.sha256, *(other.sha256 for other in others)}) == 4
    texts = read_texts(["ξ", np.array([1, 2])])
    assert len({text.sha256() for text in texts}) == 2


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["", ""], {}, r"texts: expected some tokens, got none \(empty texts: 2\)"),
        ([[1, 2, 99]], {"vocab_size": 50}, "text 0: token 2: expected an id below 50"),
        (["words"], {"encode": None}, "text 0: tokenizer: expected one for a text, got none"),
    ],
)
def test_what_cannot_be_tokens_is_refused(texts, options, message):
    encode = options.pop("encode", letters)
    with pytest.raises(ValueError, match=message):
        tokenize(read_texts(texts), encode, Cut(4), **options)


@pytest.mark.parametrize("name", ["max_tokens", "stride"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        tokens_of(["a"], **{name: 0})


def test_many_texts_are_given_to_the_tokenizer_in_turn(tmp_path):
    lines = [f"text {n} " + "x" * 1000 for n in range(3000)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    calls = []

    def encode(strings):
        calls.append(len(strings))
        return letters(strings)

    found = tokenize(read_texts(tmp_path / "t.jsonl"), encode, Cut(5000))
    assert as_text(found) == lines
    assert len(calls) > 1
    assert sum(calls) == 3000
