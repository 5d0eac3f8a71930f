from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
import xarray as xr
from endpoint_checks import FACTS, KINDS, TEXTS, Waits, check, endpoint, one_line, served
from stand_in_server import (
    StandIn,
    tokens_of,
)

import isingmoe as im
from isingmoe.appending import partial_store
from isingmoe.endpoint_requests import Patience, base_url
from isingmoe.endpoint_servers import Endpoint
from isingmoe.endpoints import capture_endpoint


@pytest.mark.parametrize(
    ("fault", "retry_after", "expected"),
    [
        ("500", None, [1.0, 2.0]),
        ("503", "3", [3.0, 3.0]),
        ("429", "7", [7.0, 7.0]),
        ("429", "nonsense", [1.0, 2.0]),
        ("429", "99999999", [600.0, 600.0]),
        ("close", None, [1.0, 2.0]),
        ("cut", None, [1.0, 2.0]),
        ("encoding", None, [1.0, 2.0]),
    ],
)
def test_what_passes_is_asked_again(fault, retry_after, expected):
    waits = Waits()
    with StandIn(
        fault=lambda asked: fault if asked.number <= 2 else None, retry_after=retry_after
    ) as server:
        asking = endpoint(server, concurrency=1, patience=Patience(attempts=3, sleep=waits))
        traces = capture_endpoint(asking, TEXTS[:2], **FACTS)
        check(traces, served(server, [tokens_of(text) for text in TEXTS[:2]]))
    assert waits == expected
    assert len(server.asked) == 4


def test_a_date_is_waited_for():
    waits = Waits()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    with StandIn(
        fault=lambda asked: "429" if asked.number == 1 else None, retry_after=date
    ) as server:
        asking = endpoint(server, patience=Patience(attempts=2, sleep=waits))
        capture_endpoint(asking, TEXTS[:1], **FACTS)
    assert len(waits) == 1
    assert 90 < waits[0] <= 100


def test_waits_double_up_to_the_longest():
    patience = Patience(attempts=9, first_wait=1, longest_wait=10)
    assert [patience.wait(n, None) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize("kind", KINDS)
def test_experts_that_only_one_answer_lacks_are_asked_for_again(kind):
    with StandIn(kind, fault=lambda asked: "no experts" if asked.number == 3 else None) as server:
        traces = capture_endpoint(endpoint(server, concurrency=1), TEXTS, **FACTS)
        check(traces, served(server, [tokens_of(text) for text in TEXTS]))
    assert len(server.asked) == len(TEXTS) + 1


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("500", OSError, r"sequence 0 \(text 0\): .*status 500 \(made to fail with 500\) 3 times"),
        ("close", ConnectionError, r"the connection broke .* 3 times; see the server's log"),
        ("cut", ConnectionError, r"the connection broke"),
        ("encoding", ConnectionError, r"the connection broke \(.*decompress.* 3 times"),
        ("garbage", ValueError, r"expected a JSON object, got '<html>502 .*vLLM or SGLang server"),
        ("array", ValueError, r"expected a JSON object, got '\[1, 2\]'"),
        ("no experts", ValueError, r"got none in .*start the server with --enable-return-routed-e"),
        ("short", ValueError, r"routed_experts: expected rows for"),
        ("418", ValueError, r"refused with status 418 \(made to fail with 418\)"),
    ],
)
def test_failing_servers_are_explained(tmp_path, fault, error, message):
    with StandIn(fault=lambda asked: fault) as server, pytest.raises(error, match=message) as told:
        capture_endpoint(endpoint(server), TEXTS, output=tmp_path / "traces.nc", **FACTS)
    assert server.url in one_line(told)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["vllm", "sglang", "sglang-0.5.7"])
def test_a_server_without_the_flag(kind):
    with (
        StandIn(kind, fault=lambda asked: "no experts") as server,
        pytest.raises(ValueError, match="the server with --enable-return-routed-experts") as told,
    ):
        capture_endpoint(endpoint(server), TEXTS, **FACTS)
    assert ("vLLM 0.21.0" if kind == "vllm" else "SGLang 0.5.9") in one_line(told)
    # Nothing is asked again, but SGLang by its other interface.
    assert len(server.asked) <= 8
    assert kind != "vllm" or "/generate" not in server.paths


def test_a_gateway_that_hides_the_interface_with_the_experts():
    with (
        StandIn(
            "sglang-0.5.7", fault=lambda asked: "404" if "input_ids" in asked.body else None
        ) as server,
        pytest.raises(ValueError, match=r"/v1/completions .* status 404 .* /generate") as told,
    ):
        capture_endpoint(endpoint(server), TEXTS, **FACTS)
    assert "--enable-return-routed-experts" in one_line(told)


def test_nobody_listens():
    waits = Waits()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        asking = Endpoint(url, patience=Patience(attempts=3, sleep=waits))
        with pytest.raises(
            ConnectionError, match=r"cannot be reached .*3 times; start the"
        ) as told:
            capture_endpoint(asking, TEXTS, **FACTS)
    assert url in one_line(told)
    assert waits == [1.0, 2.0]


def test_no_such_host():
    asking = Endpoint("http://no-such-host.invalid/v1", patience=Patience(attempts=1))
    with pytest.raises(ConnectionError, match=r"cannot be reached .*tried once"):
        capture_endpoint(asking, TEXTS, **FACTS)


def test_an_answer_that_takes_too_long():
    with (
        StandIn(delay=0.5) as server,
        pytest.raises(TimeoutError, match=r"an answer within 0.1 s, got none; raise timeout"),
    ):
        capture_endpoint(endpoint(server, patience=Patience(timeout=0.1)), TEXTS[:1], **FACTS)


@pytest.mark.parametrize("listed", [True, False])
def test_a_model_that_is_not_there(listed):
    with (
        StandIn(lists_models=listed) as server,
        pytest.raises(ValueError, match=r"model: expected .*, got .*--model") as told,
    ):
        capture_endpoint(endpoint(server), TEXTS, model="other", **FACTS)
    assert ("stand-in-moe" in one_line(told)) == listed
    assert "'other'" in str(told.value)
    assert (not server.asked) == listed


@pytest.mark.parametrize("tells", [True, False])
def test_prompts_that_are_too_long(tells):
    with (
        StandIn(max_length=20, tells_length=tells) as server,
        pytest.raises(ValueError, match="max-tokens") as told,
    ):
        capture_endpoint(endpoint(server), TEXTS[:2], max_tokens=20, **FACTS)
    if tells:
        assert "max_tokens: expected at most 19" in one_line(told)
        assert not server.asked
    else:
        assert "sequence 0 (text 0) of 20 tokens: too long for the server" in one_line(told)
        assert "maximum context length is 20 tokens" in str(told.value)


def test_what_is_written_has_to_leave_room():
    with StandIn(max_length=20) as server:
        with pytest.raises(ValueError, match=r"generate: expected less than 20, .*got 20"):
            capture_endpoint(endpoint(server), TEXTS, generate=20, **FACTS)
        # By default texts are cut to what the server takes.
        traces = capture_endpoint(endpoint(server), ["x" * 30], generate=12, **FACTS)
    assert traces["length"].values.tolist() == [8 + 11] * 3 + [7 + 11]


def test_keys_are_sent_and_never_written(tmp_path, monkeypatch):
    key = "sk-not-to-be-seen"
    with StandIn(key=key) as server:
        monkeypatch.delenv("ISINGMOE_API_KEY", raising=False)
        with pytest.raises(PermissionError, match="set ISINGMOE_API_KEY, or give api_key") as told:
            capture_endpoint(endpoint(server, api_key="wrong-one"), TEXTS, **FACTS)
        assert "wrong-one" not in one_line(told)
        asking = endpoint(server, api_key=key)
        assert key not in repr(asking)
        capture_endpoint(asking, TEXTS, output=tmp_path / "option.nc", **FACTS)
        monkeypatch.setenv("ISINGMOE_API_KEY", key)
        capture_endpoint(endpoint(server), TEXTS, output=tmp_path / "variable.zarr", **FACTS)
        server.fault = lambda asked: "die"
        with pytest.raises(OSError, match=r"reached|broke"):
            capture_endpoint(endpoint(server), TEXTS, output=tmp_path / "failed.nc", **FACTS)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes()
    assert key not in str(im.open_traces(tmp_path / "option.nc").attrs)


def test_a_key_that_the_server_repeats_is_not_shown():
    key = "sk-not-to-be-seen"

    class Repeating(StandIn):
        def completed(self, body: dict[str, Any], fault: str | None) -> tuple[int, dict[str, Any]]:
            return self.failed(400, f"your key {key} is of no use")

    with Repeating() as server, pytest.raises(ValueError, match="your key") as told:
        capture_endpoint(endpoint(server, api_key=key), TEXTS, **FACTS)
    assert key not in one_line(told)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_capture_that_was_stopped_goes_on(tmp_path, kind, suffix):
    given = np.arange(90).reshape(30, 3)
    with StandIn(kind) as server:
        whole = tmp_path / f"whole.{suffix}"
        uninterrupted = capture_endpoint(endpoint(server), given, output=whole, **FACTS)
    output = tmp_path / f"traces.{suffix}"
    with (
        StandIn(kind, fault=lambda asked: "die" if asked.number == 12 else None) as server,
        pytest.raises(OSError, match=r"reached|broke") as told,
    ):
        capture_endpoint(endpoint(server, concurrency=3), given, output=output, **FACTS)
    kept = im.open_traces(partial_store(output))
    n_kept = kept.sizes["sequence"]
    assert 9 <= n_kept <= 11
    assert told.value.__notes__ == [
        f"{n_kept} sequences are kept in {partial_store(output)}, and the same capture goes on "
        "from there"
    ]
    check(kept, served(server, given[:n_kept].tolist()))
    with StandIn(kind) as server:
        resumed = capture_endpoint(endpoint(server), given, output=output, **FACTS)
        assert len(server.asked) == 30 - n_kept
    assert not partial_store(output).exists()
    xr.testing.assert_identical(
        resumed.drop_attrs(deep=False), uninterrupted.drop_attrs(deep=False)
    )
    # Only the address, and what depends on it, may differ.
    assert resumed.attrs.keys() == uninterrupted.attrs.keys()
    assert resumed.attrs["model"] == uninterrupted.attrs["model"]


def test_another_capture_does_not_go_on_with_what_was_kept(tmp_path):
    output = tmp_path / "traces.nc"
    given = np.arange(30).reshape(10, 3)
    with StandIn(fault=lambda asked: "die" if asked.number == 5 else None) as server:
        asking = endpoint(server, concurrency=1)
        with pytest.raises(OSError, match=r"reached|broke"):
            capture_endpoint(asking, given, output=output, **FACTS)
    with StandIn() as server:
        with pytest.raises(ValueError, match=r"traces.partial.zarr"):
            capture_endpoint(endpoint(server), given + 1, output=output, **FACTS)
        assert not server.asked
        traces = capture_endpoint(
            endpoint(server), given + 1, output=output, overwrite=True, **FACTS
        )
        check(traces, served(server, (given + 1).tolist()))
        with pytest.raises(FileExistsError, match=r"traces\.nc"):
            capture_endpoint(endpoint(server), given, output=output, **FACTS)


@pytest.mark.parametrize("wrong", [{"num_experts": 4}, {"top_k": 5}, {"layers": [0, 1, 2, 3]}])
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_facts_that_do_not_fit_the_answers(kind, wrong):
    (name,) = wrong
    with StandIn(kind) as server, pytest.raises(ValueError, match=rf"sequence .*{name}") as told:
        capture_endpoint(endpoint(server), TEXTS, **{**FACTS, **wrong})
    one_line(told)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000/v1",
        "ftp://localhost/v1",
        "http://",
        "",
        "http://localhost:99999/v1",
        "http://localhost:8000/v1/completions",
        "http://user:secret@localhost/v1",
        "http://localhost/v1?key=secret",
    ],
)
def test_no_addresses(address):
    with pytest.raises(ValueError, match="endpoint: expected") as told:
        base_url(address)
    assert "secret" not in one_line(told)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Endpoint("http://x", server="tgi"), "server: expected vllm or sglang, got 'tgi'"),
        (lambda: Endpoint("http://x", concurrency=0).connect(), "concurrency: expected at least 1"),
        (lambda: Endpoint("http://x", api_key="a\nb").connect(), "api_key: expected printable"),
        (lambda: Patience(attempts=0), "attempts: expected at least 1, got 0"),
        (lambda: Patience(timeout=0), "timeout: expected seconds above 0, got 0"),
        (lambda: capture_endpoint("http://x", "a", generate=-1), "generate: expected 0 or more"),
        (
            lambda: capture_endpoint("http://x", "a", temperature=-1),
            "temperature: expected a",
        ),
        (lambda: capture_endpoint("http://x", "a", output="traces.csv"), "ends in .nc or .zarr"),
    ],
)
def test_arguments(make: Callable[[], object], message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_interrupted_capture_keeps_what_it_has(tmp_path):
    output = tmp_path / "traces.nc"
    code = (
        "import sys, numpy as np\n"
        "from isingmoe.endpoints import capture_endpoint\n"
        "capture_endpoint(sys.argv[1], np.arange(3000).reshape(1000, 3), output=sys.argv[2],\n"
        "    num_experts=8, layers=[0, 1, 2])\n"
    )
    with StandIn(delay=0.02) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", code, server.url, output], stderr=subprocess.PIPE, text=True
        )
        # Many more than run at a time: the first answers have been taken.
        while len(server.asked) < 200 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    kept = im.open_traces(partial_store(output))
    n_kept = kept.sizes["sequence"]
    assert n_kept > 5
    assert f"interrupted; {n_kept} sequences are kept in" in said
    check(kept, served(server, np.arange(3 * n_kept).reshape(-1, 3).tolist()))
