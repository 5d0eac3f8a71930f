"""A server that answers as the documentation of vLLM and of SGLang says, and fails on demand.

`vllm-0.21`: https://docs.vllm.ai/en/v0.21.0/training/routed_experts_replay/, nested lists, those
of the prompt beside the choices, -1 where the prefix cache had the token.
`vllm`: https://docs.vllm.ai/en/latest/training/routed_experts/, an array in NumPy's file format
as base64, of all tokens but the last.
`sglang`: https://docs.sglang.io/docs/basic_usage/openai_api_completions, int32 as base64, of all
tokens but the last, where the request asks for it. `sglang-0.5.7` does
so in `/generate` alone, under `meta_info`.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import xarray as xr

BEGIN = 256
_BLOCK = 4

Routing = Callable[[list[int]], np.ndarray]


def made_up_routing(n_layers: int = 3, num_experts: int = 8, top_k: int = 2) -> Routing:
    """Experts (token, layer, rank) that depend on the token, its place and the layer."""

    def route(ids: list[int]) -> np.ndarray:
        rows = [
            [
                np.random.default_rng([token, place, layer]).permutation(num_experts)[:top_k]
                for layer in range(n_layers)
            ]
            for place, token in enumerate(ids)
        ]
        return np.array(rows).reshape(len(ids), n_layers, top_k)

    return route


def routing_of(traces: xr.Dataset) -> Routing:
    """The routing of sequences of traces, to each of which a prompt of its number belongs."""

    def route(ids: list[int]) -> np.ndarray:
        return traces["expert_index"].values[:, ids[0], : len(ids)].transpose(1, 0, 2)

    return route


def tokens_of(text: str, begin: bool = True) -> list[int]:
    """The stand-in's tokenizer: bytes."""
    return [BEGIN] * begin + list(text.encode())


def continuation(ids: list[int], n_tokens: int, seed: int = 0) -> list[int]:
    """The tokens that the stand-in's model goes on with."""
    made: list[int] = []
    for _ in range(n_tokens):
        made.append((31 * (made or ids)[-1] + len(ids) + 7 + seed) % 251)
    return made


@dataclass
class Asked:
    """A request for a completion as it came."""

    number: int
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class StandIn:
    """A server in a thread; to be entered with `with`.

    `fault` is asked for each completion what goes wrong: a status such as "500", "close",
    "cut", "garbage", "array", "encoding", "no experts", "short", "die" or None.
    """

    kind: str = "vllm"
    route: Routing = field(default_factory=made_up_routing)
    model: str = "stand-in-moe"
    fault: Callable[[Asked], str | None] = lambda asked: None
    delay: float | Callable[[Asked], float] = 0.0
    key: str | None = None
    max_length: int = 4096
    tells_length: bool = True
    retry_after: str | None = None
    root: str | None = None
    lists_models: bool = True
    hides_itself: bool = False

    def __post_init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.most_at_once = 0
        self.dead = False
        self._at_once = 0
        self._cached: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> StandIn:
        stand_in = self

        class Handler(_Handler):
            owner = stand_in

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.die()

    def die(self) -> None:
        """Stop listening, and leave what is under way without an answer."""
        with self._lock:
            if self.dead:
                return
            self.dead = True
        self._server.shutdown()
        self._server.server_close()

    @property
    def is_sglang(self) -> bool:
        return self.kind.startswith("sglang")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def enter(self, body: dict[str, Any], headers: dict[str, str]) -> Asked:
        with self._lock:
            asked = Asked(len(self.asked) + 1, body, headers)
            self.asked.append(asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self.delay(asked) if callable(self.delay) else self.delay)
        return asked

    def leave(self) -> None:
        with self._lock:
            self._at_once -= 1

    def said_of_itself(self, path: str) -> dict[str, Any] | None:
        if self.hides_itself:
            return None
        if path == "/v1/models" and self.lists_models:
            owner = "sglang" if self.is_sglang else "vllm"
            card = {"id": self.model, "object": "model", "created": 0, "owned_by": owner}
            length = {"max_model_len": self.max_length} if self.tells_length else {}
            return {
                "object": "list",
                "data": [{**card, "root": self.root or self.model, **length}],
            }
        if self.is_sglang:
            model = {"model_path": self.model, "tokenizer_path": self.model}
            return {
                "/get_model_info": {**model, "is_generation": True},
                "/server_info": {**model, "api_key": self.key, "version": "0.5.9"},
            }.get(path)
        return {"/version": {"version": "0.21.0"}}.get(path)

    def failed(self, status: int, message: str) -> tuple[int, dict[str, Any]]:
        kind = {400: "BadRequestError", 404: "NotFoundError"}.get(status, "InternalServerError")
        said = {"message": message, "type": kind, "param": None, "code": status}
        return status, {"object": "error", **said} if self.is_sglang else {"error": said}

    def tokenized(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        ids = tokens_of(body["prompt"], body.get("add_special_tokens", True))
        return 200, {"count": len(ids), "max_model_len": self.max_length, "tokens": ids}

    def completed(self, body: dict[str, Any], fault: str | None) -> tuple[int, dict[str, Any]]:
        if body["model"] != self.model:
            return self.failed(404, f"The model `{body['model']}` does not exist.")
        prompt = body["prompt"]
        prompt = tokens_of(prompt) if isinstance(prompt, str) else prompt
        n_new = body["max_tokens"]
        if len(prompt) + n_new > self.max_length:
            return self.failed(
                400,
                f"This model's maximum context length is {self.max_length} tokens. However, you "
                f"requested {len(prompt) + n_new} tokens.",
            )
        new = continuation(prompt, n_new, body["seed"] if body["temperature"] else 0)
        choice: dict[str, Any] = {"index": 0, "text": "", "logprobs": None}
        choice["finish_reason"] = "length"
        if body.get("return_token_ids"):
            choice |= {"prompt_token_ids": prompt, "token_ids": new}
        answer = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": self.model}
        answer["choices"] = [choice]
        answer["usage"] = {
            "prompt_tokens": len(prompt),
            "completion_tokens": n_new,
            "total_tokens": len(prompt) + n_new,
        }
        experts = self.route((prompt + new)[:-1])
        if fault == "short":
            experts = experts[:-1]
        self._put(answer, choice, body, prompt, None if fault == "no experts" else experts)
        if self.kind != "sglang-0.5.7":
            self.answers.append(answer)
        return 200, answer

    def generated(self, body: dict[str, Any], fault: str | None) -> tuple[int, dict[str, Any]]:
        """SGLang's own interface."""
        prompt, parameters = body["input_ids"], body["sampling_params"]
        new = continuation(prompt, parameters["max_new_tokens"])
        told: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": len(new)}
        if body.get("return_routed_experts") and fault != "no experts":
            told["routed_experts"] = _as_text(self.route((prompt + new)[:-1]))
        answer = {"text": "", "output_ids": new, "meta_info": told}
        self.answers.append({"prompt_token_ids": prompt, **answer})
        return 200, answer

    def _put(
        self,
        answer: dict[str, Any],
        choice: dict[str, Any],
        body: dict[str, Any],
        prompt: list[int],
        experts: np.ndarray | None,
    ) -> None:
        """Put the experts into an answer, in the way of the kind of server."""
        if self.kind == "sglang-0.5.7":
            return
        if self.kind == "sglang":
            if experts is not None and body.get("return_routed_experts"):
                rows = experts[body.get("routed_experts_start_len", 0) :]
                choice["sgl_ext"] = {"routed_experts": _as_text(rows)}
        elif experts is None:
            choice["routed_experts"] = None
        elif self.kind == "vllm":
            file = io.BytesIO()
            np.save(file, experts.astype(np.uint8))
            choice["routed_experts"] = base64.b64encode(file.getvalue()).decode()
        else:
            experts = experts.copy()
            block = (body.get("cache_salt"), *prompt[:_BLOCK])
            if block in self._cached:
                experts[:_BLOCK] = -1
            self._cached.add(block)
            answer["prompt_routed_experts"] = experts[: len(prompt)].tolist()
            choice["routed_experts"] = experts[len(prompt) :].tolist()


def _as_text(rows: np.ndarray) -> str:
    return base64.b64encode(rows.astype("<i4").tobytes()).decode()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise a body waits 40 ms for the header to be acknowledged.
    disable_nagle_algorithm = True
    owner: StandIn

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        if self._let_in():
            said = self.owner.said_of_itself(self.path)
            self._send(404 if said is None else 200, said or {"detail": "Not Found"})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if len(content) < int(self.headers["Content-Length"]):
            # The client has gone away.
            self.close_connection = True
            return
        body = json.loads(content)
        if not self._let_in():
            return
        if self.path == "/tokenize":
            self._send(*self.owner.tokenized(body))
        elif self.path == "/v1/completions" or self._is_native():
            asked = self.owner.enter(body, dict(self.headers))
            try:
                self._complete(asked)
            finally:
                self.owner.leave()
        else:
            self._send(404, {"detail": "Not Found"})

    def _is_native(self) -> bool:
        return self.path == "/generate" and self.owner.is_sglang

    def _let_in(self) -> bool:
        self.owner.paths.append(self.path)
        if self.owner.dead:
            self.close_connection = True
            return False
        key = self.owner.key
        if key and self.headers["Authorization"] != f"Bearer {key}" and "/v1/" in self.path:
            self._send(401, {"error": "Unauthorized"})
            return False
        return True

    def _complete(self, asked: Asked) -> None:
        fault = self.owner.fault(asked)
        if fault == "die":
            threading.Thread(target=self.owner.die).start()
            while not self.owner.dead:
                time.sleep(0.001)
        if self.owner.dead or fault == "close":
            self.close_connection = True
        elif fault == "garbage":
            self._write(200, b"<html>502 is what they say</html>")
        elif fault == "encoding":
            self._write(200, b"this is not compressed", encoding="gzip")
        elif fault == "array":
            self._write(200, b"[1, 2]")
        elif fault is not None and fault.isdigit():
            self._send(*self.owner.failed(int(fault), f"made to fail with {fault}"))
        else:
            complete = self.owner.generated if self._is_native() else self.owner.completed
            status, answer = complete(asked.body, fault)
            self._write(status, json.dumps(answer).encode(), cut=fault == "cut")

    def _send(self, status: int, content: dict[str, Any]) -> None:
        self._write(status, json.dumps(content).encode())

    def _write(
        self, status: int, data: bytes, cut: bool = False, encoding: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if encoding is not None:
            self.send_header("Content-Encoding", encoding)
        if self.owner.retry_after is not None and status in (429, 503):
            self.send_header("Retry-After", self.owner.retry_after)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True
