"""What is wrong in a file of a plain format is said in one line, with the file and the line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from isingmoe.readers import columns, import_traces

LONG = "sequence,position,layer,rank,expert,weight\n"
WIDE = "sequence,position,layer,expert_0,expert_1\n"


def record(**change: Any) -> dict[str, Any]:
    """A record of a token in a layer; a field that is changed to ... is left out."""
    whole = {"sequence": 0, "position": 1, "layer": 2, "experts": [1, 0], "weights": [0.6, 0.4]}
    return {name: value for name, value in (whole | change).items() if value is not ...}


def jsonl(*records: Any) -> Callable[[Path], object]:
    """The first record, then these; a text stands for itself."""
    lines = [record(position=0), *records]
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in lines)
    return lambda path: path.write_text(text)


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def npz(**change: Any) -> Callable[[Path], object]:
    """An archive of 3 tokens, 2 layers and 2 ranks; an array changed to ... is left out."""
    whole = {
        "expert_index": np.array([[[0, 1], [2, 3]]] * 3),
        "offsets": np.array([0, 1, 3]),
        "gate_weight": np.full((3, 2, 2), 0.5, np.float32),
        "layer": np.array([4, 5]),
    }
    arrays = {name: value for name, value in (whole | change).items() if value is not ...}
    return lambda path: np.savez(path, **arrays)


def parquet(**change: Any) -> Callable[[Path], object]:
    whole = {"sequence": [0, 0], "position": [0, 1], "expert_0": [0, 1], "expert_1": [2, 3]}
    table = {name: value for name, value in (whole | change).items() if value is not ...}
    return lambda path: pd.DataFrame(table).to_parquet(path)


def moe_trace(change: Callable[[list[str]], object]) -> Callable[[Path], object]:
    """50 tokens, one after another, in layers 0 to 3 with 2 of 8 experts each."""
    rng = np.random.default_rng(0)
    lines = [
        f"{layer},{expert}"
        for _ in range(50)
        for layer in range(4)
        for expert in rng.permutation(8)[:2]
    ]
    return lambda path: (change(lines), path.write_text("\n".join(lines) + "\n"))


def put(number: int, line: str) -> Callable[[list[str]], object]:
    return lambda lines: lines.__setitem__(number - 1, line)


def drop(first: int, last: int | None = None) -> Callable[[list[str]], object]:
    return lambda lines: lines.__delitem__(slice(first - 1, last))


@dataclass(frozen=True)
class Case:
    """A file, and what is said of it after its name; options change the usual ones."""

    make: Callable[[Path], object]
    said: str
    options: dict[str, Any] = field(default_factory=dict)


JSONL = {
    "no JSON": Case(jsonl('{"sequence": 0,'), "line 2: expected JSON, got "),
    "no object": Case(jsonl([1, 2]), "line 2: expected an object, got '[1, 2]'"),
    "first line no object": Case(text("[1, 2]\n"), "line 1: expected an object, got '[1, 2]'"),
    "no UTF-8": Case(
        lambda path: path.write_bytes(json.dumps(record()).encode() + b"\n\xff\xfe\n"),
        "line 2: expected UTF-8 text, got other bytes",
    ),
    "empty": Case(text("\n\n"), "empty file; expected records"),
    "field missing": Case(
        jsonl(record(), record(position=...)),
        "line 3: position: expected a field 'position' as in the first record, got sequence",
    ),
    "field never there": Case(
        jsonl(record()),
        "line 1: token_id: expected a field 'tok', got sequence, position,",
        {"fields": {"token_id": "tok"}},
    ),
    "no experts": Case(
        text('{"ids": [1]}\n'),
        "line 1: experts: expected a field 'experts', got ids; name it, on the command line "
        "--field experts=NAME",
    ),
    "experts no list": Case(
        jsonl(record(experts="1 0")), "line 2: experts: expected a list, got '1 0'"
    ),
    "expert no number": Case(
        jsonl(record(experts=[1, "0"])), "line 2: experts: expected whole numbers, got '0'"
    ),
    "expert a fraction": Case(
        jsonl(record(experts=[1, 0.5])), "line 2: experts: expected whole numbers, got '0.5'"
    ),
    "expert a truth": Case(
        jsonl(record(experts=[1, True])), "line 2: experts: expected whole numbers, got 'True'"
    ),
    "expert past the last": Case(
        jsonl(record(experts=[1, 8])),
        "line 2: expert: expected ids of 0 to 7, or -1 for none, got 8",
    ),
    "expert far past": Case(
        jsonl(record(experts=[1, 10**30])), "line 2: experts: expected whole numbers, got '1000"
    ),
    "expert below none": Case(
        jsonl(record(experts=[1, -2])),
        "line 2: expert: expected ids of 0 to 7, or -1 for none, got -2",
    ),
    "expert twice": Case(
        jsonl(record(experts=[1, 1])),
        "line 2: expert: expected different experts for one token, got 1 twice",
    ),
    "too few weights": Case(
        jsonl(record(weights=[0.5])), "line 2: weights: expected as many as experts, 2, got 1"
    ),
    "weight no number": Case(
        jsonl(record(weights=[0.5, None])), "line 2: weights: expected finite numbers, got 'None'"
    ),
    "weight infinite": Case(
        jsonl(record(weights=[0.5, float("inf")])),
        "line 2: weights: expected finite numbers, got 'inf'",
    ),
    "weight too large": Case(
        jsonl(record(weights=[0.5, 10**400])), "line 2: weights: expected finite numbers, got '1000"
    ),
    "position a text": Case(
        jsonl(record(position="1")), "line 2: position: expected whole numbers, got '1'"
    ),
    "position below 0": Case(
        jsonl(record(position=-1)), "line 2: position: expected 0 to 2147483647, got -1"
    ),
    "position far away": Case(
        jsonl(record(position=2_000_000_000)),
        "line 2: position: expected near the 2 others of its sequence, which starts at 0, got 2000",
    ),
    "sequence a list": Case(
        jsonl(record(sequence=[0])), "line 2: sequence: expected a number or a text, got '[0]'"
    ),
    "token twice": Case(
        jsonl(record(), record(), record(position=5)),
        "line 3: expected each token once, got this sequence, position and layer a second time",
    ),
    "token ids that differ": Case(
        text(
            "".join(
                json.dumps(record(layer=layer, token_id=token)) + "\n"
                for layer, token in ((0, 7), (1, 8))
            )
        ),
        "line 1: token_id: expected the same in every row of a token, got 7",
    ),
    "layers of another number": Case(
        text('{"sequence": 0, "experts": [[1], [2]]}\n{"sequence": 0, "experts": [[1]]}\n'),
        "line 2: experts: expected a list of 2, one for each layer, got 1",
    ),
    "no layers": Case(
        text('{"sequence": 0, "experts": [[1], [2]]}\n'),
        "layers: expected the model's numbers of its layers with experts, as 0-23, which the file "
        "does not say (it has 2 of them); give layers, on the command line --layers",
    ),
    "layers without positions": Case(
        text("".join(json.dumps(record(position=..., layer=i)) + "\n" for i in (0, 1, 1))),
        "line 3: position: expected as many rows in every layer of a sequence, got 2 in layer 1 "
        "and 1 in layer 0",
    ),
    "no sequences": Case(
        text('{"layer": 3, "experts": [1]}\n'),
        "sequences: expected to know where they start among 1 tokens, which the file does not say; "
        "name the field",
    ),
    "no number of experts": Case(
        jsonl(),
        "num_experts: expected the number of routed experts, which the file does not say (its "
        "largest id is 1); give num_experts, on the command line --num-experts",
        {"num_experts": None},
    ),
    "no order of the ranks": Case(
        text('{"sequence": 0, "experts": [1, 2]}\n'),
        "ranked: expected whether the experts of a token are in the order of their weights",
        {"ranked": None},
    ),
    "layers twice said": Case(
        jsonl(), "layers: expected none, since the file has them, got [4]", {"layers": [4]}
    ),
    "sequences twice said": Case(
        jsonl(),
        "single_sequence: expected none, since the file says the sequence",
        {"single_sequence": True},
    ),
    "unknown part": Case(
        jsonl(), "fields: expected names for some of sequence,", {"fields": {"expert": "e"}}
    ),
    "one name for two": Case(
        jsonl(),
        "fields: expected different names, got 'layer' for",
        {"fields": {"position": "layer"}},
    ),
    "uneven cut": Case(
        text('{"layer": 3, "experts": [1]}\n' * 5),
        "sequence_length: expected a divisor of 5, the tokens in the file, got 2",
        {"sequence_length": 2},
    ),
}

TABLE = {
    "no experts": Case(
        text("a,b,c\n1,2,3\n"), "expert: expected a column 'expert', or expert_0, expert_1, .., got"
    ),
    "column never there": Case(
        text(WIDE + "0,0,0,1,2\n"),
        "weight: expected a column 'w', or w_0, w_1, .., got",
        {"fields": {"weight": "w"}},
    ),
    "columns of one name": Case(
        text("layer,expert_0,layer\n0,1,2\n"),
        "expected columns of different names, got 'layer' twice",
    ),
    "no header": Case(text("a\rb,c\n"), "line 1: expected names of columns ("),
    "too many entries": Case(
        text(WIDE + "0,0,0,1,2\n0,1,0,1,2,3\n"),
        "line 3: expected 5 entries, as in the first line, got 6",
    ),
    "too many in all lines": Case(
        text(WIDE + "0,0,0,1,2,3\n"), "line 2: expected 5 entries, as in the first line, got 6"
    ),
    "too few entries": Case(
        text(WIDE + "0,0,0,1,2\n0,1,0,1\n"),
        "line 3: expected 5 entries, as in the first line, got 4",
    ),
    "blank line": Case(
        text("position,expert_0,expert_1\n0,1,2\n\n2,1,2\n"),
        "line 3: expected 3 entries, as in the first line, got 0; mend the line",
    ),
    "position missing": Case(
        text(WIDE + "0,0,0,1,2\n0,,0,1,2\n"), "line 3: position: expected a whole number, got none"
    ),
    "position a text": Case(
        text(WIDE + "0,0,0,1,2\n0,x,0,1,2\n"), "line 3: position: expected a whole number, got 'x'"
    ),
    "position a fraction": Case(
        text(WIDE + "0,0,0,1,2\n0,1.5,0,1,2\n"),
        "line 3: position: expected a whole number, got '1.5'",
    ),
    "expert a text": Case(
        text(WIDE + "0,0,0,1,2\n0,1,0,1,two\n"),
        "line 3: expert_1: expected a whole number, got 'two'",
    ),
    "expert a truth": Case(
        text(WIDE + "0,0,0,1,True\n"), "line 2: expert_1: expected a whole number, got 'True'"
    ),
    "expert past the last": Case(
        text(WIDE + "0,0,0,1,2\n0,1,0,1,8\n"), "line 3: expert: expected ids of 0 to 7, or -1"
    ),
    "expert twice": Case(
        text(WIDE + "0,0,0,1,2\n0,1,0,3,3\n"), "line 3: expert: expected different experts"
    ),
    "expert twice in rows": Case(
        text(LONG + "0,0,0,0,1,0.6\n0,0,0,1,2,0.4\n0,1,0,0,3,0.6\n0,1,0,1,3,0.4\n"),
        "line 5: expert: expected different experts for one token, got 3 twice",
    ),
    "rank twice": Case(
        text(LONG + "0,0,0,0,1,0.6\n0,0,0,1,2,0.4\n0,0,0,1,3,0.4\n"),
        "line 4: expected each token once, got this sequence, position and layer, and rank a",
    ),
    "rank below 0": Case(
        text(LONG + "0,0,0,-1,1,0.6\n"), "line 2: rank: expected 0 to 1023, got -1"
    ),
    "no layer": Case(
        text("sequence,position,expert\n0,0,1\n"),
        "layers: expected the model's numbers of its layers with experts, as 0-23, which the file "
        "does not say (it has 1 of them); give layers, on the command line --layers",
    ),
    "no ranks": Case(
        text("sequence,position,layer,expert\n0,0,0,1\n0,0,0,2\n"),
        "line 3: expected each token once, got this sequence, position and layer a second time",
    ),
    "no positions": Case(
        text("sequence,layer,rank,expert\n0,0,0,1\n"),
        "position: expected in each row, since a token takes several; name the column",
    ),
    "weight a text": Case(
        text(LONG + "0,0,0,0,1,0.6\n0,0,0,1,2,lots\n"),
        "line 3: weight: expected a number, got 'lots'",
    ),
    "weight missing": Case(
        text(LONG + "0,0,0,0,1,0.6\n0,0,0,1,2,\n"),
        "line 3: weight: expected one for each expert, got none",
    ),
    "weights of fewer ranks": Case(
        text("sequence,expert_0,expert_1,weight_0\n0,1,2,0.5\n"),
        "weight: expected as many columns as of experts, 2, got 1",
    ),
    "sequence missing": Case(
        text(WIDE + "0,0,0,1,2\n,1,0,1,2\n"),
        "line 3: sequence: expected a number or a text, got none",
    ),
    "entries that have moved": Case(
        text("position,expert_0,weight_0\n0,1,0.5\n1,0.5\n"),
        "line 3: expected 3 entries, as in the first line, got 2",
    ),
    "delimiter of two characters": Case(
        text(WIDE),
        "delimiter: expected one character between entries, got ';;'",
        {"delimiter": ";;"},
    ),
    "no UTF-8": Case(
        lambda path: path.write_bytes(WIDE.encode() + b"0,0,0,1,2\n\xff,1,0,1,2\n"),
        "line 3: expected UTF-8 text",
    ),
    "no rows": Case(text(WIDE), "expected tokens, got none"),
    "Parquet, position missing": Case(
        parquet(position=[0, None]), "row 1: position: expected a whole number, got none"
    ),
    "Parquet, experts lists": Case(
        parquet(expert_1=[[1], [2]]), "row 0: expert_1: expected a whole number, got '[1]'"
    ),
    "Parquet, lists with a text": Case(
        parquet(expert=[["a", "b"], ["c", "d"]], expert_0=..., expert_1=...),
        "row 0: expert: expected a list of whole numbers, got ",
    ),
    "Parquet, lists with half a number": Case(
        parquet(expert=[[1, 2], [1.5]], expert_0=..., expert_1=...),
        "row 1: expert: expected a list of whole numbers, got '[1.5]'",
    ),
    "Parquet, lists of lists": Case(
        parquet(expert=[[[1]], [[2]]], expert_0=..., expert_1=...),
        "row 0: expert: expected a list of whole numbers, got ",
    ),
    "Parquet, lists with an expert too high": Case(
        parquet(expert=[[1, 2], [99]], expert_0=..., expert_1=...),
        "row 1: expert: expected ids of 0 to",
    ),
    "Parquet, fewer weights": Case(
        parquet(experts=[[1, 2], [3]], weights=[[0.5], [0.5]], expert_0=..., expert_1=...),
        "row 0: weight: expected one for each expert",
    ),
    "Parquet, more weights": Case(
        parquet(experts=[[1, 2], [3]], weights=[[0.5, 0.5], [0.5] * 3], expert_0=..., expert_1=...),
        "row 1: weight: expected as many as experts, 1, got 3",
    ),
    "Parquet, sequences lists": Case(
        parquet(sequence=[[1], [2]]), "row 0: sequence: expected a number or a text, got '[1]'"
    ),
    "Parquet, dates": Case(
        parquet(position=pd.to_datetime(["2025-01-01", "2025-01-02"])),
        "row 0: position: expected a whole number, got '2025",
    ),
    "Parquet, damaged": Case(
        lambda path: (
            parquet(position=range(1000), sequence=0, expert_0=0, expert_1=1)(path),
            path.write_bytes(path.read_bytes()[:40] + b"\xff" * 40 + path.read_bytes()[80:]),
        ),
        "cannot be read as Parquet (",
    ),
    "Parquet, cut short": Case(
        lambda path: path.write_bytes(b"PAR1" + bytes(40)), "cannot be read as Parquet ("
    ),
}

NPZ = {
    "no archive": Case(text("expert_index\n"), "expected a NumPy archive (.npz), got another kind"),
    "cut short": Case(
        lambda path: (npz()(path), path.write_bytes(path.read_bytes()[:500])),
        "cannot be read, probably truncated (File is not a zip file); copy or write it again",
    ),
    "damaged": Case(
        lambda path: (
            npz(expert_index=np.ones((30, 20, 2), int), offsets=[0, 30], gate_weight=...)(path),
            path.write_bytes(path.read_bytes().replace(bytes([1, 0, 0, 0]), bytes([2, 0, 0, 0]))),
        ),
        "cannot be read, probably truncated (Bad CRC-32 for file 'expert_index.npy')",
    ),
    "of no known compression": Case(
        lambda path: (
            npz()(path),
            path.write_bytes(
                re.sub(rb"(?<=PK\x01\x02.{6})\0\0", b"c\0", path.read_bytes(), flags=re.DOTALL)
            ),
        ),
        "cannot be read, probably truncated (That compression method is not supported)",
    ),
    "archive of another kind": Case(
        npz(expert_index=..., topk=np.zeros((3, 2, 2), int)),
        "expert_index: expected an array 'expert_index', got offsets, gate_weight, layer, topk;",
    ),
    "array never there": Case(
        npz(), "token_id: expected an array 'tokens', got", {"fields": {"token_id": "tokens"}}
    ),
    "two axes": Case(npz(expert_index=np.zeros((3, 2), int)), "expert_index: expected 3 axes"),
    "no tokens": Case(
        npz(expert_index=np.zeros((0, 2, 2), int)),
        "expert_index: expected tokens, got shape (0, 2, 2)",
    ),
    "fractions": Case(
        npz(expert_index=np.zeros((3, 2, 2))),
        "expert_index: expected whole numbers, got dtype float64",
    ),
    "pickled": Case(
        npz(expert_index=np.array([[1], [1, 2]], object)), "Object arrays cannot be loaded"
    ),
    "id past the last": Case(
        npz(expert_index=np.array([[[0, 1], [2, 3]], [[0, 1], [2, 8]], [[0, 1], [2, 3]]])),
        "token 1, layer 1: expert: expected ids of 0 to 7, or -1 for none, got 8",
    ),
    "id twice": Case(
        npz(expert_index=np.array([[[0, 1], [2, 3]], [[0, 1], [2, 3]], [[0, 0], [2, 3]]])),
        "token 2, layer 0: expert: expected different experts for one token, got 0 twice",
    ),
    "offsets too short": Case(
        npz(offsets=np.array([0, 1, 4]), layer=np.array([0, 1, 2])),
        "expert_index: expected an axis of 4 tokens and one of 3 layers, as the other arrays say",
    ),
    "offsets that end early": Case(
        npz(offsets=np.array([0, 1, 2])),
        "offsets: expected sequences from token 0 to 3, the tokens of expert_index, got 0 to 2",
        {"axes": "token,layer,rank"},
    ),
    "offsets that start late": Case(
        npz(offsets=np.array([1, 3])), "offsets: expected sequences from token 0 to 3, the tokens"
    ),
    "offsets that fall": Case(
        npz(offsets=np.array([0, 5, 3])),
        "offsets: expected no sequence of fewer than 0 tokens, got -2",
    ),
    "offsets of no sequence": Case(
        npz(offsets=np.zeros(0, int)),
        "offsets: expected sequences from token 0 to 3, the tokens of expert_index, got nothing",
        {"axes": "token,layer,rank"},
    ),
    "lengths": Case(
        npz(offsets=..., lengths=np.array([1, 1, 1, 1]), layer=...),
        "expert_index: expected an axis of 4 tokens, as the other arrays say, got shape (3, 2, 2)",
    ),
    "weights of another shape": Case(
        npz(gate_weight=np.zeros((3, 2))), "gate_weight: expected shape (3, 2, 2), got (3, 2)"
    ),
    "weight missing": Case(
        npz(gate_weight=np.full((3, 2, 2), np.nan)), "gate_weight: expected finite weights, got nan"
    ),
    "tokens of another number": Case(
        npz(token_id=np.zeros(2, int)), "token_id: expected shape (3,), got (2,)"
    ),
    "token past 32 bits": Case(
        npz(token_id=np.array([0, 1 << 40, 0])),
        "token_id: expected -1 to 2147483647, got 1099511627776",
    ),
    "starts below 0": Case(
        npz(start_position=np.array([0, -1])), "start_position: expected 0 to 2147483647, got -1"
    ),
    "unknown axes": Case(
        npz(), "axes: expected token,layer,rank or layer,token,rank, got 'rank'", {"axes": "rank"}
    ),
    "no sequences": Case(
        npz(offsets=...),
        "sequences: expected to know where they start among 3 tokens, which the file does not say",
        {"axes": "token,layer,rank"},
    ),
    "sequences twice said": Case(
        npz(), "sequence_length: expected none, since the file says", {"sequence_length": 3}
    ),
    "no layers": Case(
        npz(layer=...),
        "layers: expected the model's numbers of its layers with experts, as 0-23, which the file "
        "does not say (it has 2 of them); give layers, on the command line --layers",
    ),
    "layers of another number": Case(
        npz(layer=...),
        "layers: expected 2 numbers, one for each layer in the file",
        {"layers": [1]},
    ),
    "layers twice said": Case(
        npz(layer=np.array([3, 4])),
        "layers: expected none, since the file has them",
        {"layers": [1, 2]},
    ),
    "layer twice": Case(
        npz(layer=np.array([3, 3])), "layers: expected different numbers, got [3, 3]"
    ),
    "folder": Case(lambda path: path.mkdir(), "expected a NumPy archive (.npz), got another kind"),
}

MOE_TRACE = {
    "no numbers": Case(moe_trace(put(7, "x,y")), "line 7: expected whole numbers, got 'x'"),
    "header in the middle": Case(
        moe_trace(put(9, "layer,expert")), "line 9: expected whole numbers, got 'layer'"
    ),
    "a fraction": Case(moe_trace(put(7, "3,1.5")), "line 7: expected whole numbers, got '1.5'"),
    "no number at all": Case(
        moe_trace(put(7, "3,1e400")), "line 7: expected whole numbers, got '1e4"
    ),
    "three entries": Case(moe_trace(put(7, "3,1,5")), "line 7: expected 2 entries, got '3,1,5'"),
    "one entry": Case(moe_trace(put(7, "3")), "line 7: expected 2 entries, got '3'"),
    "other columns": Case(
        text("pos,layer,id0,id1\n0,0,1,2\n"),
        "line 1: expected layer,expert, got 'pos,layer,id0,id1'",
    ),
    "only a header": Case(text("layer,expert\n"), "expected lines of layer,expert, got none"),
    "a layer that is none": Case(
        moe_trace(put(7, "-1,1")), "line 7: layer: expected 0 to 32767, got -1"
    ),
    "an expert past the last": Case(
        moe_trace(put(7, "3,8")), "line 7: expert: expected 0 to 7, got 8"
    ),
    "an expert far past": Case(
        moe_trace(put(7, "3,4000000000")), "line 7: expert: expected 0 to 32767, got 4000000000"
    ),
    "cut short": Case(
        moe_trace(drop(396)),
        "line 393: expected layers 0 to 3 from here on, got the end of the file after layer 1",
    ),
    "cut within a layer": Case(
        moe_trace(drop(400)),
        "line 399: layer 3: expected lines of 2 experts to each token from here on, got 1",
    ),
    "a line missing": Case(
        moe_trace(drop(12, 12)), "line 11: layer 1: expected 2 lines from here on, as of layer 0"
    ),
    "a layer missing": Case(
        moe_trace(drop(11, 12)), "line 11: layer: expected 1, as in other batches, got 2"
    ),
    "two layers missing": Case(
        moe_trace(drop(13, 16)), "line 13: layer: expected 2, as in other batches, got 0"
    ),
    "an expert twice": Case(
        moe_trace(lambda lines: put(6, lines[4])(lines)),
        "line 5: expected 2 different experts for one token from here on, got",
    ),
    "an expert twice, k said": Case(
        moe_trace(lambda lines: put(8, lines[6])(lines)),
        "line 7: expert: expected different experts for one token, got",
        {"top_k": 2},
    ),
    "another k": Case(
        moe_trace(lambda _: None),
        "line 1: layer 0: expected lines of 3 experts to each token from here on, got 2",
        {"top_k": 3},
    ),
    "impossible k": Case(moe_trace(lambda _: None), "top_k: expected 1 to 8, got 9", {"top_k": 9}),
    "no order of the ranks": Case(
        moe_trace(lambda _: None),
        "ranked: expected whether the experts of a token are in the order of their weights",
        {"ranked": None},
    ),
    "no number of experts": Case(
        moe_trace(lambda _: None),
        "num_experts: expected the number of routed experts, which the file does not say (its "
        "largest id is 7)",
        {"num_experts": None},
    ),
    "both ways to cut": Case(
        moe_trace(lambda _: None),
        "sequence_length: expected it or single_sequence, got both; leave one out",
        {"sequence_length": 5, "single_sequence": True},
    ),
    "no length": Case(
        moe_trace(lambda _: None),
        "sequence_length: expected 1 or more, got 0",
        {"sequence_length": 0},
    ),
    "folder without files": Case(
        lambda path: path.mkdir(), "expected files that end in .csv, got none; name a file"
    ),
}

CASES = [
    pytest.param(form, case, id=f"{form}, {name}")
    for form, cases in (
        ("jsonl", JSONL),
        ("table", TABLE),
        ("npz", NPZ),
        ("llama.cpp", MOE_TRACE),
    )
    for name, case in cases.items()
]


@pytest.mark.parametrize(("form", "case"), CASES)
def test_a_bad_file_is_named_in_one_line(form, case, tmp_path):
    path = tmp_path / ("bad.npz" if form == "npz" else "bad")
    case.make(path)
    usual: dict[str, Any] = {"num_experts": 8, "ranked": True}
    if form == "llama.cpp" and not {"single_sequence", "sequence_length"} & set(case.options):
        usual["single_sequence"] = True
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}: {case.said}")) as caught:
        import_traces(path, format=form, **{**usual, **case.options})
    assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_told_as_one(tmp_path):
    path = tmp_path / "arrays"
    npz()(tmp_path / "whole.npz")
    path.write_bytes((tmp_path / "whole.npz").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"arrays: cannot be read, probably truncated"):
        import_traces(path, num_experts=8)


@pytest.mark.parametrize("form", ["jsonl", "table"])
def test_a_folder_is_no_file(form, tmp_path):
    with pytest.raises(ValueError, match="expected a file, got a folder; name a file in it"):
        import_traces(tmp_path, format=form, num_experts=8, ranked=True)


def test_a_fault_past_the_first_block_has_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "_CHUNK", 1000)
    n = 2_500
    path = tmp_path / "table.csv"
    table = pd.DataFrame({"sequence": 0, "position": range(n), "layer": 0, "expert_0": 1})
    table["expert_0"] = table["expert_0"].astype(object)
    table.loc[n - 2, "expert_0"] = "one"
    table.to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=rf"line {n}: expert_0: expected a whole number, got 'one'"
    ):
        import_traces(path, format="table", num_experts=8, ranked=True)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    parquet()(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ImportError, match=r"table\.parquet: .* install it with `pip install pyarrow`"
    ):
        import_traces(path, format="table", num_experts=8, ranked=True)
