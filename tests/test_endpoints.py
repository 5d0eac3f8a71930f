from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from stand_in_server import (
    BEGIN,
    Asked,
    StandIn,
    continuation,
    made_up_routing,
    routing_of,
    tokens_of,
)

import isingmoe as im
from isingmoe.appending import partial_store
from isingmoe.endpoint_requests import Patience, base_url
from isingmoe.endpoint_servers import Endpoint
from isingmoe.endpoints import capture_endpoint

KINDS = ("vllm", "vllm-0.21", "sglang")
TEXTS = ["The quick brown fox", "jumps", "over the lazy dog, and back again", "x" * 40]
FACTS: dict[str, Any] = {"num_experts": 8, "top_k": 2, "layers": [0, 1, 2]}


class Waits(list[float]):
    """Seconds that were to be waited, and were not."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


def endpoint(server: StandIn, **more: Any) -> Endpoint:
    more.setdefault("patience", Patience(attempts=3, sleep=Waits()))
    return Endpoint(server.url, **more)


def served(server: StandIn, prompts: list[list[int]], n_new: int = 0) -> list[np.ndarray]:
    """What the stand-in's model did, (layer, position, rank) of each sequence."""
    whole = [ids + continuation(ids, n_new) for ids in prompts]
    return [server.route(ids[: len(ids) - (n_new > 0)]).transpose(1, 0, 2) for ids in whole]


def check(traces: xr.Dataset, expected: list[np.ndarray]) -> None:
    assert traces["length"].values.tolist() == [rows.shape[1] for rows in expected]
    for place, rows in enumerate(expected):
        found = traces["expert_index"].values[:, place]
        np.testing.assert_array_equal(found[:, : rows.shape[1]], rows)
        assert (found[:, rows.shape[1] :] == -1).all()


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_traces_are_what_the_server_served(kind):
    with StandIn(kind) as server:
        traces = capture_endpoint(endpoint(server), TEXTS, max_tokens=30, **FACTS)
        prompts = [part for t in TEXTS for part in cut(tokens_of(t), 30)]
        check(traces, served(server, prompts))
    for place, ids in enumerate(prompts):
        assert traces["token_id"].values[place, : len(ids)].tolist() == ids
    assert traces["token_id"].values[0, 0] == BEGIN
    assert traces.attrs["model"] == "stand-in-moe"
    assert traces.attrs["num_experts"] == 8
    assert traces.attrs["ranked"] == 0
    assert traces.attrs["source"].startswith("SGLang 0.5.9" if kind == "sglang" else "vLLM 0.21.0")
    said = json.loads(traces.attrs["provenance"])
    assert said["verb"] == "capture_endpoint"
    assert said["arguments"]["max_tokens"] == 30
    assert all(asked.body["max_tokens"] == 1 for asked in server.asked)


def cut(ids: list[int], size: int) -> list[list[int]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_model_writes_is_recorded_but_for_the_last_token(kind):
    with StandIn(kind) as server:
        traces = capture_endpoint(
            endpoint(server), TEXTS, generate=5, temperature=0, seed=3, **FACTS
        )
        prompts = [tokens_of(text) for text in TEXTS]
        check(traces, served(server, prompts, 5))
    assert {asked.body["seed"] for asked in server.asked} == {3}
    whole = prompts[1] + continuation(prompts[1], 5)[:-1]
    assert traces["token_id"].values[1, : len(whole)].tolist() == whole


def test_prompts_may_be_token_ids():
    with StandIn() as server:
        given = np.arange(30).reshape(3, 10)
        traces = capture_endpoint(endpoint(server), given, **FACTS)
        check(traces, served(server, given.tolist()))
    assert "/tokenize" not in server.paths


def test_overlapping_windows_are_recorded_once():
    with StandIn() as server:
        traces = capture_endpoint(
            endpoint(server), [list(range(20))], max_tokens=8, stride=6, **FACTS
        )
    assert traces["token_id"].values[:, :2].tolist() == [[0, 1], [8, 9], [14, 15]]
    assert traces["start_position"].values.tolist() == [0, 2, 2]
    # The second window begins with token 6, whose experts the first one has.
    expected = server.route(list(range(6, 14)))[2:].transpose(1, 0, 2)
    np.testing.assert_array_equal(traces["expert_index"].values[:, 1, :6], expected)


def test_results_are_in_the_order_of_the_texts_whatever_comes_first():
    rng = np.random.default_rng(0)
    given = rng.integers(0, 250, (40, 6))

    def delay(asked: Asked) -> float:
        return float(np.random.default_rng(asked.number).uniform(0, 0.02))

    with StandIn(delay=delay) as server:
        traces = capture_endpoint(endpoint(server, concurrency=6), given, **FACTS)
        check(traces, served(server, given.tolist()))


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_requests_are_under_way_and_no_more(concurrency):
    given = np.arange(36).reshape(12, 3)
    with StandIn(delay=0.05) as server:
        capture_endpoint(endpoint(server, concurrency=concurrency), given, **FACTS)
    assert server.most_at_once == concurrency
    assert len(server.asked) == 12


def test_a_slow_sequence_holds_back_how_far_the_others_run_ahead():
    asked_when_first_was_done = []

    def delay(asked: Asked) -> float:
        if asked.body["prompt"][0] == 0:
            time.sleep(0.3)
            asked_when_first_was_done.append(len(server.asked))
        return 0.0

    with StandIn(delay=delay) as server:
        given = np.arange(120).reshape(40, 3)
        traces = capture_endpoint(endpoint(server, concurrency=2), given, **FACTS)
        check(traces, served(server, given.tolist()))
    assert asked_when_first_was_done[0] <= 8


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


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_without_the_flag(kind):
    with (
        StandIn(kind, fault=lambda asked: "no experts") as server,
        pytest.raises(ValueError, match="the server with --enable-return-routed-experts") as told,
    ):
        capture_endpoint(endpoint(server), TEXTS, **FACTS)
    assert {"vllm": "vLLM 0.21.0", "sglang": "SGLang 0.5.9"}[kind] in one_line(told)
    # Nothing is asked again.
    assert len(server.asked) <= 8


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
    assert len(server.asked) == (0 if listed else 4)


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


def test_files_and_memory_agree(tmp_path):
    with StandIn() as server:
        asking = endpoint(server)
        in_memory = capture_endpoint(asking, TEXTS, **FACTS)
        read = capture_endpoint(asking, TEXTS, output=tmp_path / "traces.nc", **FACTS)
    xr.testing.assert_identical(read, in_memory)


@pytest.mark.shared
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["flame-moe-290m", "olmoe-1b-7b-layer0", "deepseek-v2-lite"])
def test_real_traces_come_back_as_they_are(shared_traces, kind, name):
    traces = im.open_traces(shared_traces / f"{name}.nc").isel(sequence=slice(4))
    lengths = traces["length"].values
    # The first token of a prompt tells the stand-in which sequence it is.
    prompts = [[place] * int(length) for place, length in enumerate(lengths)]
    with StandIn(kind, route=routing_of(traces)) as server:
        found = capture_endpoint(
            endpoint(server),
            prompts,
            num_experts=traces.attrs["num_experts"],
            top_k=traces.attrs["top_k"],
            layers=traces["layer"].values,
            ranked=bool(traces.attrs["ranked"]),
        )
    longest = int(lengths.max())
    np.testing.assert_array_equal(
        found["expert_index"].values, traces["expert_index"].values[:, :, :longest]
    )
    np.testing.assert_array_equal(found["length"], lengths)
    np.testing.assert_array_equal(found["layer"], traces["layer"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_tells_nothing_is_told_by_its_answers(kind):
    with StandIn(kind, hides_itself=True) as server:
        traces = capture_endpoint(endpoint(server), TEXTS, model="stand-in-moe", **FACTS)
        check(traces, served(server, [tokens_of(text) for text in TEXTS]))
    assert traces.attrs["source"].startswith("server of an unknown kind")


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_that_does_not_list_its_models_is_told_by_what_lies_beside(kind):
    with StandIn(kind, lists_models=False) as server:
        traces = capture_endpoint(endpoint(server), TEXTS, model="stand-in-moe", **FACTS)
        with pytest.raises(ValueError, match="model: expected a name"):
            capture_endpoint(endpoint(server), TEXTS, **FACTS)
    assert traces.attrs["source"].startswith({"vllm": "vLLM", "sglang": "SGLang"}[kind])


def test_the_prefix_cache_of_vllm_is_kept_out():
    given = [[1, 2, 3, 4, 5, 6]] * 3
    with StandIn("vllm-0.21") as server:
        traces = capture_endpoint(endpoint(server), given, **FACTS)
        check(traces, served(server, given))
    assert len({asked.body["cache_salt"] for asked in server.asked}) == 3
    with (
        StandIn("vllm-0.21", hides_itself=True) as server,
        pytest.warns(im.DegenerateTraceWarning, match="8 tokens have no experts .*prefix cache"),
    ):
        capture_endpoint(endpoint(server, concurrency=1), given, model="stand-in-moe", **FACTS)


def with_a_dense_layer(ids: list[int]) -> np.ndarray:
    experts = made_up_routing()(ids)
    return np.concatenate([np.zeros_like(experts[:, :1]), experts], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_of_the_model_tells_what_the_server_does_not(tmp_path, kind):
    config = {
        "text_config": {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 4,
            "first_k_dense_replace": 1,
        }
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for route in (with_a_dense_layer, made_up_routing()):
        if kind == "sglang" and route is not with_a_dense_layer:
            continue
        with StandIn(kind, route=route, root=str(tmp_path)) as server:
            traces = capture_endpoint(endpoint(server), TEXTS)
        assert traces["layer"].values.tolist() == [1, 2, 3]
        assert (traces.attrs["num_experts"], traces.attrs["top_k"]) == (8, 2)
        expected = [made_up_routing()(tokens_of(text)).transpose(1, 0, 2) for text in TEXTS]
        check(traces, expected)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [(kind, name) for kind in KINDS for name in FACTS if kind == "sglang" or name != "top_k"],
)
def test_what_nobody_tells_is_asked_for(monkeypatch, kind, missing):
    monkeypatch.setattr("isingmoe.endpoint_models._file_of", lambda name: Path("no such file"))
    facts = {name: value for name, value in FACTS.items() if name != missing}
    with StandIn(kind) as server:
        if (kind, missing) == ("sglang", "layers"):
            # Its answers have all layers of the model.
            traces = capture_endpoint(endpoint(server), TEXTS, **facts)
            assert traces["layer"].values.tolist() == [0, 1, 2]
            return
        option = missing.replace("_", "-")
        with pytest.raises(ValueError, match=rf"{missing}: expected .*--{option}") as told:
            capture_endpoint(endpoint(server), TEXTS, **facts)
    assert "a configuration of stand-in-moe" in one_line(told)


@pytest.mark.parametrize("wrong", [{"num_experts": 4}, {"top_k": 5}, {"layers": [0, 1, 2, 3]}])
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_facts_that_do_not_fit_the_answers(kind, wrong):
    (name,) = wrong
    with StandIn(kind) as server, pytest.raises(ValueError, match=rf"sequence .*{name}") as told:
        capture_endpoint(endpoint(server), TEXTS, **{**FACTS, **wrong})
    one_line(told)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("https://gateway.example/team/v1", "https://gateway.example/team/v1"),
    ],
)
def test_addresses(address, expected):
    assert base_url(address) == expected


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


def test_it_works_where_an_event_loop_runs():
    async def in_a_notebook() -> xr.Dataset:
        return capture_endpoint(endpoint(server), TEXTS, **FACTS)

    with StandIn() as server:
        traces = asyncio.run(in_a_notebook())
        check(traces, served(server, [tokens_of(text) for text in TEXTS]))


def test_progress_counts_tokens():
    told = []
    with StandIn() as server:
        capture_endpoint(
            endpoint(server),
            np.arange(30).reshape(6, 5),
            progress=lambda done, total: told.append((done, total)),
            **FACTS,
        )
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


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
        while len(server.asked) < 24 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    kept = im.open_traces(partial_store(output))
    n_kept = kept.sizes["sequence"]
    assert n_kept > 5
    assert f"interrupted; {n_kept} sequences are kept in" in said
    check(kept, served(server, np.arange(3 * n_kept).reshape(-1, 3).tolist()))
