from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from endpoint_checks import FACTS, KINDS, TEXTS, check, endpoint, one_line, served
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
from isingmoe.endpoint_answers import Facts
from isingmoe.endpoint_requests import base_url
from isingmoe.endpoint_servers import Sampling
from isingmoe.endpoints import EndpointCapture, capture_endpoint
from isingmoe.readers import import_traces


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("generate", [0, 3])
def test_saved_answers_are_read_in_the_same_way(tmp_path, kind, generate):
    with StandIn(kind) as server:
        asking = endpoint(server, concurrency=1)
        captured = capture_endpoint(asking, TEXTS, generate=generate, **FACTS)
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(f"{json.dumps(answer)}\n" for answer in server.answers))
    of_sglang = {"num_layers": 3, "top_k": 2} if kind == "sglang" else {}
    imported = import_traces(file, num_experts=8, layers=[0, 1, 2], ranked=False, **of_sglang)
    xr.testing.assert_identical(imported.drop_attrs(deep=False), captured.drop_attrs(deep=False))


@pytest.mark.parametrize("generate", [0, 4])
def test_an_older_sglang_is_asked_by_its_own_interface(generate):
    texts = [f"text {n}" for n in range(40)]
    with StandIn("sglang-0.5.7") as server:
        asking = endpoint(server, concurrency=1)
        traces = capture_endpoint(asking, texts, generate=generate, temperature=0, **FACTS)
        check(traces, served(server, [tokens_of(text) for text in texts], generate))
    # Those on their way when the first answer came.
    assert server.paths.count("/v1/completions") <= 4
    assert server.paths.count("/generate") == 40


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


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_with_one_expert_to_a_token_zeros_do_not_tell_layers_without(tmp_path, kind):
    config = {"num_local_experts": 8, "num_experts_per_tok": 1, "num_hidden_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def route(ids: list[int]) -> np.ndarray:
        # Every second layer is dense.
        experts = np.zeros((len(ids), 4, 1), int)
        experts[:, 1::2] = made_up_routing(2, 8, 1)(ids)
        return experts

    with StandIn(kind, route=route, root=str(tmp_path)) as server:
        with pytest.raises(ValueError, match=r"layers: expected .* --layers") as told:
            capture_endpoint(endpoint(server), TEXTS)
        assert "of 4 layers here 2 hold nothing but zeros, layer 0 first" in one_line(told)
        traces = capture_endpoint(endpoint(server), TEXTS, layers=[1, 3])
        check(traces, [route(tokens_of(t))[:, 1::2].transpose(1, 0, 2) for t in TEXTS])
    with StandIn(kind, route=made_up_routing(4, 8, 1), root=str(tmp_path)) as server:
        traces = capture_endpoint(endpoint(server), TEXTS)
    assert traces["layer"].values.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("told", ["by the configuration", "by the caller", "not at all"])
def test_a_wrong_number_of_experts_to_a_token_does_not_make_more_layers(tmp_path, told):
    """Of 3 layers with 4 experts to a token, 2 experts would make 6 layers."""
    facts = {"num_experts": 8, "top_k": 2}
    if told == "by the configuration":
        config = {"num_experts": 8, "num_hidden_layers": 3}
        (tmp_path / "config.json").write_text(json.dumps(config))
    else:
        facts["layers"] = [0, 1, 2]
    if told == "by the caller":
        facts["num_layers"] = 3
    message = r"num_layers: expected .*--num-layers" if told == "not at all" else r"the 3 layers"
    routing = made_up_routing(3, 8, 4)
    with StandIn("sglang", route=routing, root=str(tmp_path)) as server:
        with pytest.raises(ValueError, match=message) as error:
            capture_endpoint(endpoint(server), TEXTS, **facts)
        assert "6" in one_line(error)
        traces = capture_endpoint(endpoint(server), TEXTS, **{**facts, "top_k": 4})
        check(traces, [routing(tokens_of(text)).transpose(1, 0, 2) for text in TEXTS])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_a_kernel_that_does_not_report_its_experts_is_told_of(kind, top_k):
    facts = {**FACTS, "top_k": top_k}
    with (
        StandIn(kind, route=lambda ids: np.zeros((len(ids), 3, top_k), int)) as server,
        pytest.raises(ValueError, match=r"nothing but zeros; the server's MoE kernel") as told,
    ):
        capture_endpoint(endpoint(server), TEXTS, **facts)
    one_line(told)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [(kind, name) for kind in KINDS for name in FACTS if kind == "sglang" or name != "top_k"],
)
def test_what_nobody_tells_is_asked_for(monkeypatch, kind, missing):
    monkeypatch.setattr("isingmoe.endpoint_models._file_of", lambda name: Path("no such file"))
    facts = {name: value for name, value in FACTS.items() if name != missing}
    with StandIn(kind) as server:
        if (kind, missing) == ("sglang", "layers"):
            # Its answers have all layers of the model, but k and they alone make up a number.
            with pytest.raises(ValueError, match=r"num_layers: expected .* --num-layers") as told:
                capture_endpoint(endpoint(server), TEXTS, **facts)
            assert "(with 2 experts to a token there are 3)" in one_line(told)
            traces = capture_endpoint(endpoint(server), TEXTS, num_layers=3, **facts)
            assert traces["layer"].values.tolist() == [0, 1, 2]
            return
        option = missing.replace("_", "-")
        with pytest.raises(ValueError, match=rf"{missing}: expected .*--{option}") as told:
            capture_endpoint(endpoint(server), TEXTS, **facts)
    assert "a configuration of stand-in-moe" in one_line(told)


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


def test_it_works_where_an_event_loop_runs():
    async def in_a_notebook() -> xr.Dataset:
        return capture_endpoint(endpoint(server), TEXTS, **FACTS)

    with StandIn() as server:
        traces = asyncio.run(in_a_notebook())
        check(traces, served(server, [tokens_of(text) for text in TEXTS]))


def test_progress_counts_tokens():
    told: list[tuple[int, int]] = []
    with StandIn() as server:
        asking = EndpointCapture(endpoint(server), None, Sampling(), Facts(**FACTS))
        asking.collect(np.arange(30).reshape(6, 5), progress=lambda *n: told.append(n))
    assert told[0] == (0, 30)
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


@pytest.mark.parametrize("kind", KINDS)
def test_experts_in_the_order_of_their_ids_are_not_ranked(kind):
    route = made_up_routing()
    with StandIn(kind, route=lambda ids: np.sort(route(ids), axis=-1)) as server:
        asked = (endpoint(server), [np.arange(3, 60)])
        with pytest.raises(ValueError, match=r"ranked: expected .* leave out ranked \(--ranked\)"):
            capture_endpoint(*asked, ranked=True, **FACTS)
        assert capture_endpoint(*asked, **FACTS).attrs["ranked"] == 0
    with StandIn(kind) as server:
        asked = (endpoint(server), [np.arange(3, 60)])
        assert capture_endpoint(*asked, ranked=True, **FACTS).attrs["ranked"] == 1
