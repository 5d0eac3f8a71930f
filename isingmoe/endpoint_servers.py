"""vLLM and SGLang servers: which one it is, what it serves, and how it is asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from isingmoe._text import plain
from isingmoe.endpoint_requests import Connection, Patience, RefusedError, base_url
from isingmoe.tokens import check_temperature

__all__ = [
    "FLAG",
    "SERVERS",
    "Endpoint",
    "Sampling",
    "Server",
    "complete",
    "complete_natively",
    "identify",
    "token_ids",
]

SERVERS = ("vllm", "sglang")
# What both servers are started with so that they return the experts.
FLAG = "--enable-return-routed-experts"

_TITLES = {"vllm": "vLLM", "sglang": "SGLang"}


@dataclass(frozen=True)
class Endpoint:
    """A server with an OpenAI-compatible interface, and how it is asked.

    Attributes
    ----------
    url : str
        Such as `http://localhost:8000/v1`; `/v1` is put after an address without a path.
    server : {"vllm", "sglang"}, optional
        By default what it says of itself.
    api_key : str, optional
        By default the environment variable `ISINGMOE_API_KEY`. It is never written.
    concurrency : int
        Requests under way at once.
    patience : Patience
        How often and how long it is waited for.
    """

    url: str
    server: str | None = None
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        if self.server not in (None, *SERVERS):
            raise ValueError(f"server: expected {' or '.join(SERVERS)}, got {self.server!r}")

    def connect(self) -> Connection:
        """A connection, not yet made.

        Raises
        ------
        ValueError
            If the address or the key cannot be.
        ImportError
            If httpx is not installed.
        """
        return Connection(
            base_url(self.url),
            concurrency=self.concurrency,
            api_key=self.api_key or os.environ.get("ISINGMOE_API_KEY"),
            patience=self.patience,
        )


@dataclass(frozen=True)
class Server:
    """What a server says of itself.

    Attributes
    ----------
    kind : {"vllm", "sglang"} or None
        None where it cannot be told; it is then asked in a way that both take.
    version : str or None
    models : tuple of str
        The names of what it serves; empty where it does not list them.
    root : str or None
        Where the server has the model from: a folder or a name on the Hugging Face Hub.
    max_length : int or None
        Tokens of a prompt and its continuation, of the model that is asked.
    """

    kind: str | None
    version: str | None = None
    models: tuple[str, ...] = ()
    root: str | None = None
    max_length: int | None = None

    def __str__(self) -> str:
        title = _TITLES.get(self.kind or "", "server of an unknown kind")
        return f"{title} {self.version}" if self.version else title


@dataclass(frozen=True)
class Sampling:
    """How a server goes on with a prompt.

    Attributes
    ----------
    new_tokens : int
        Tokens asked for, at most. A server makes at least one; where none is asked for, that
        is left out.
    temperature : float
        0 for the likeliest token each time.
    seed : int
    """

    new_tokens: int = 0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.new_tokens < 0:
            raise ValueError(f"generate: expected 0 or more tokens, got {self.new_tokens}")
        check_temperature(self.temperature)


async def identify(connection: Connection, kind: str | None, model: str | None) -> Server:
    """Ask a server what it is.

    Parameters
    ----------
    connection : Connection
    kind : {"vllm", "sglang"}, optional
        Where it is known.
    model : str, optional
        The model that will be asked.

    Raises
    ------
    OSError
        If the server cannot be reached, does not take the key or fails.
    ValueError
        If it answers with something else than JSON.
    """
    try:
        listed = await connection.get(f"{connection.url}/models")
    except RefusedError:
        # A server or gateway need not list its models.
        listed = {}
    cards = listed.get("data")
    cards = [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []
    models = tuple(card["id"] for card in cards if isinstance(card.get("id"), str))
    asked = model or (models[0] if len(models) == 1 else None)
    owner = next((card["owned_by"] for card in cards if card.get("owned_by") in SERVERS), None)
    kind = kind or owner
    version = None
    if kind in (None, "vllm"):
        version = await _said(connection, "/version", "version")
        kind = kind or ("vllm" if version else None)
    if kind is None and await _said(connection, "/get_model_info", "model_path"):
        kind = "sglang"
    if kind == "sglang":
        for path in ("/server_info", "/get_server_info"):
            version = version or await _said(connection, path, "version")
    card = next((card for card in cards if card.get("id") == asked), {})
    root, length = card.get("root"), card.get("max_model_len")
    return Server(
        kind,
        version,
        models,
        root if isinstance(root, str) else None,
        length if type(length) is int else None,
    )


async def _said(connection: Connection, path: str, name: str) -> str | None:
    """An entry of what lies beside OpenAI's interface, None where a gateway hides it."""
    try:
        said = (await connection.get(f"{connection.root}{path}", patient=False)).get(name)
    except (OSError, ValueError):
        return None
    return plain(said) if isinstance(said, str) and said else None


async def token_ids(connection: Connection, model: str, texts: Sequence[str]) -> list[list[int]]:
    """Let the server's own tokenizer make token ids of texts, in their order.

    Raises
    ------
    ValueError
        If it has none to offer, or answers something else.
    OSError
        As `Connection.post` does.
    """

    async def one(text: str) -> list[int]:
        body = {"model": model, "prompt": text, "add_special_tokens": True}
        what = "tokens of a text"
        try:
            answer = await connection.post(f"{connection.root}/tokenize", body, what)
        except RefusedError as error:
            raise ValueError(
                f"{connection.root}/tokenize: expected the tokens of a text, got status "
                f"{error.status} ({error.reason}); give token ids, or a tokenizer"
            ) from None
        ids = answer.get("tokens")
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise ValueError(
                f"{connection.root}/tokenize: expected a list of token ids in 'tokens', got "
                f"{plain(ids, 40)!r}; give token ids, or a tokenizer"
            )
        return ids

    return await asyncio.gather(*map(one, texts))


async def complete(
    connection: Connection,
    server: Server,
    model: str,
    prompt: Sequence[int],
    sampling: Sampling,
    what: str,
    salt: str,
) -> dict[str, Any]:
    """Ask for a completion with the experts of its tokens.

    Parameters
    ----------
    connection : Connection
    server : Server
    model : str
    prompt : sequence of int
        Token ids.
    sampling : Sampling
    what : str
        What it is, to name it in an error.
    salt : str
        Different for each request: vLLM 0.21 returns no experts for what its prefix cache
        has of an earlier one.

    Returns
    -------
    dict
        The answer as it came.

    Raises
    ------
    ValueError
        If there is no such model, or the prompt is too long.
    OSError, ValueError
        As `Connection.post` does.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": max(sampling.new_tokens, 1),
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "return_token_ids": True,
    }
    if server.kind == "vllm":
        body["cache_salt"] = salt
    else:
        body["return_routed_experts"] = True
    try:
        return await connection.post(f"{connection.url}/completions", body, what)
    except RefusedError as error:
        raise _mended(error, connection, server, model, f"{what} of {len(prompt)} tokens") from None


async def complete_natively(
    connection: Connection, prompt: Sequence[int], sampling: Sampling, what: str
) -> dict[str, Any]:
    """Ask SGLang's own interface, which had the experts before OpenAI's had them.

    Parameters
    ----------
    connection, prompt, sampling, what
        As for `complete`; no seed is sent, since not all versions know one here.

    Returns
    -------
    dict
        The answer as it came.

    Raises
    ------
    OSError, ValueError
        As `Connection.post` does.
    """
    parameters = {
        "max_new_tokens": max(sampling.new_tokens, 1),
        "temperature": sampling.temperature,
    }
    body = {"input_ids": list(prompt), "sampling_params": parameters, "return_routed_experts": True}
    return await connection.post(f"{connection.root}/generate", body, what)


def _mended(
    error: RefusedError, connection: Connection, server: Server, model: str, what: str
) -> ValueError:
    """The error for a refused completion, with what to do about it."""
    reason = error.reason.rstrip(".")
    if error.status == 404 and "model" in reason.lower():
        served = f"; it serves {', '.join(server.models)}" if server.models else ""
        return ValueError(
            f"{connection.url}: model: expected one that the server has, got {model!r} "
            f"({reason}){served}; name another, with model (--model)"
        )
    if error.status in (404, 405):
        return ValueError(
            f"{connection.url}/completions: expected an OpenAI-compatible interface, got status "
            f"{error.status} ({reason}); correct the address (--endpoint)"
        )
    if error.status == 413 or any(word in reason for word in ("length", "longer", "too long")):
        return ValueError(
            f"{connection.url}: {what}: too long for the server ({reason}); cut the texts with "
            "max_tokens (--max-tokens)"
        )
    return ValueError(
        f"{connection.url}: {what}: refused with status {error.status} ({reason}); see what the "
        "server says"
    )
