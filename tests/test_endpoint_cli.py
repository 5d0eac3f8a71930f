from __future__ import annotations

import socket
from pathlib import Path

import pytest
from endpoint_checks import check, served
from stand_in_server import StandIn, tokens_of

import isingmoe as im

TEXT = "It was the best of times, it was the worst of times. " * 4
FACTS = ("--num-experts", 8, "--layers", "0-2", "--top-k", 2)


@pytest.fixture
def book(tmp_path) -> Path:
    file = tmp_path / "book.txt"
    file.write_text(TEXT)
    return file


def windows(size: int) -> list[list[int]]:
    ids = tokens_of(TEXT)
    return [ids[start : start + size] for start in range(0, len(ids), size)]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_capture_from_a_server(book, run_cli, kind):
    key, output = "sk-not-to-be-seen", book.with_name("traces.nc")
    with StandIn(kind, key=key) as server:
        asked = ("--endpoint", server.url, "--model", "stand-in-moe", "--api-key", key)
        ran = run_cli("capture", *asked, "--text", book, "-o", output, "--max-tokens", 50, *FACTS)
        assert ran.exit_code == 0, ran.stderr
        traces = im.open_traces(output)
        check(traces, served(server, windows(50)))
    assert "3 layers, 5 sequences of 13 to 50 tokens, 213 in all; 8 experts, top-2" in ran.stdout
    assert f"({book}) in 5 sequences" in traces.attrs["text"]
    assert key not in ran.stdout + ran.stderr
    assert key.encode() not in output.read_bytes()


def test_texts_may_stand_alone_and_be_continued(book, run_cli):
    output = book.with_name("traces.zarr")
    with StandIn() as server:
        options = ("--generate", 3, "--temperature", 0, "--stride", 30, "--max-tokens", 40)
        ran = run_cli("capture", "--endpoint", server.url, book, "-o", output, *options, *FACTS)
    assert ran.exit_code == 0, ran.stderr
    traces = im.open_traces(output)
    assert traces["start_position"].values.tolist() == [0] + [10] * (traces.sizes["sequence"] - 1)
    assert traces["length"].values[0] == 42


def test_a_server_that_stops_leaves_one_line_and_what_it_did(book, run_cli):
    output = book.with_name("traces.nc")
    common = ("-o", output, "--max-tokens", 10, "--attempts", 1, "--concurrency", 2, *FACTS)
    with StandIn(fault=lambda asked: "die" if asked.number == 8 else None) as server:
        ran = run_cli("capture", "--endpoint", server.url, book, *common)
    assert ran.exit_code == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("isingmoe: error: http://127.0.0.1:")
    assert "sequences are kept in" in line
    assert line.endswith("traces.partial.zarr, and the same capture goes on from there")
    with StandIn() as server:
        ran = run_cli("capture", "--endpoint", server.url, book, *common)
        assert ran.exit_code == 0, ran.stderr
        assert len(server.asked) <= len(windows(10)) - 6
        check(im.open_traces(output), served(server, windows(10)))


def test_what_is_wrong_is_said_in_one_line(book, run_cli):
    output = book.with_name("traces.nc")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with StandIn(max_length=30, fault=lambda asked: "no experts") as server:
            for options, message in (
                (("--endpoint", refusing, "--attempts", 1), "cannot be reached"),
                (("--endpoint", "localhost:8000"), "endpoint: expected the address of a server"),
                (("--endpoint", server.url, "--model", "other"), "model: expected stand-in-moe"),
                (("--endpoint", server.url, "--max-tokens", 30), "max_tokens: expected at most 29"),
                (("--endpoint", server.url), "--enable-return-routed-experts"),
                (("--endpoint", server.url, "--timeout", 0), "timeout: expected seconds above 0"),
            ):
                ran = run_cli("capture", *options, book, "-o", output, *FACTS)
                assert ran.exit_code == 1
                (line,) = ran.stderr.splitlines()
                assert message in line
    assert sorted(book.parent.iterdir()) == [book]
