"""Requests to a model server: bounded, repeated where that can help, errors in one line."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any

from isingmoe._text import plain

__all__ = ["Connection", "Patience", "RefusedError", "base_url"]

_NEEDS_HTTPX = (
    "httpx: not installed, and an endpoint is asked through it; install it with "
    "`pip install 'isingmoe[capture]'`"
)
_EXAMPLE = "http://localhost:8000/v1"
# A server is believed up to this when it says how long to wait.
_LONGEST_RETRY_AFTER = 600.0


@dataclass(frozen=True)
class Patience:
    """How often and how long a server is waited for.

    Attributes
    ----------
    attempts : int
        How often a request is sent in all, where there is no connection, or the server
        answers 429 or 5xx.
    first_wait : float
        Seconds before the second attempt; doubled for each further one. What the server
        says in `Retry-After` goes before it.
    longest_wait : float
        Seconds that the doubling ends at.
    timeout : float
        Seconds until an answer has to come.
    sleep : callable
        What waits, given the seconds.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 600.0
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts: expected at least 1, got {self.attempts}")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout: expected seconds above 0, got {self.timeout}")

    def wait(self, attempt: int, said: float | None) -> float:
        """Seconds after an attempt, counted from 1, given what the server said."""
        if said is not None:
            return min(max(said, 0.0), _LONGEST_RETRY_AFTER)
        return min(self.first_wait * 2.0 ** (attempt - 1), self.longest_wait)


class RefusedError(ValueError):
    """A request that the server understood and will not serve.

    Attributes
    ----------
    status : int
        Of HTTP.
    reason : str
        What the server says, on one line.
    """

    def __init__(self, message: str, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(message)


def base_url(address: str) -> str:
    """The address of a server's OpenAI-compatible interface, without a slash at the end.

    Parameters
    ----------
    address : str
        `/v1` is put after one without a path.

    Raises
    ------
    ValueError
        If it is no such address.
    ImportError
        If httpx is not installed.
    """
    httpx = _httpx()
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, TypeError):
        raise ValueError(_no_address(plain(address))) from None
    if url.userinfo or url.query or url.fragment:
        # What stands there may be a secret, which is not repeated.
        raise ValueError(
            f"endpoint: expected an address such as {_EXAMPLE}, got one with a user, a query or a "
            "fragment; give a key by the variable ISINGMOE_API_KEY"
        )
    path = url.path.rstrip("/")
    is_server = url.scheme in ("http", "https") and url.host and (url.port or 0) < 1 << 16
    if not is_server or path.endswith("/completions"):
        raise ValueError(_no_address(plain(address)))
    return str(url.copy_with(path=path or "/v1"))


class Connection:
    """A server, asked for JSON in one event loop.

    Parameters
    ----------
    url : str
        What `base_url` gives.
    concurrency : int
        Requests under way at once.
    api_key : str, optional
        Sent as a bearer token, and kept out of every message.
    patience : Patience

    Attributes
    ----------
    n_repeated : int
        Requests that were sent again so far.
    """

    def __init__(
        self, url: str, *, concurrency: int, api_key: str | None, patience: Patience
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency: expected at least 1, got {concurrency}")
        self._httpx = _httpx()
        self.url = url
        # What is not of OpenAI's interface lies beside it.
        self.root = url.removesuffix("/v1")
        self.n_repeated = 0
        self._key, self._patience = api_key, patience
        self._places = asyncio.Semaphore(concurrency)
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key: expected printable ASCII characters, got others")
        self._client = self._httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=self._httpx.Timeout(patience.timeout, connect=min(patience.timeout, 30.0)),
            limits=self._httpx.Limits(max_connections=concurrency),
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def get(self, address: str, *, patient: bool = True) -> dict[str, Any]:
        """What the server says of itself, asked once or as often as `post` asks."""
        what = address.removeprefix(self.root)
        return await self._ask(
            "GET", address, None, what, self._patience.attempts if patient else 1
        )

    async def post(self, address: str, body: dict[str, Any], what: str) -> dict[str, Any]:
        """Ask for something.

        Parameters
        ----------
        address : str
        body : dict
        what : str
            What is asked for, as `sequence 7`, to name it in an error.

        Returns
        -------
        dict

        Raises
        ------
        ConnectionError, TimeoutError, OSError
            If there is no answer, or 429 or 5xx after all attempts.
        PermissionError
            If the key is missing or wrong.
        RefusedError
            If the server answers with another status than success.
        ValueError
            If the answer is no JSON object.
        """
        return await self._ask("POST", address, body, what, self._patience.attempts)

    async def _ask(
        self, method: str, address: str, body: Any, what: str, attempts: int
    ) -> dict[str, Any]:
        attempt = 0
        # A place is kept while waiting, so that a server in trouble is asked less.
        async with self._places:
            while True:
                attempt += 1
                said = None
                try:
                    response = await self._client.request(method, address, json=body)
                except (self._httpx.ReadTimeout, self._httpx.WriteTimeout):
                    raise TimeoutError(
                        f"{self.url}: {what}: expected an answer within "
                        f"{self._patience.timeout:g} s, got none; raise timeout (--timeout), or "
                        "lower concurrency (--concurrency)"
                    ) from None
                # Also an answer that is not encoded as its header says.
                except self._httpx.RequestError as error:
                    trouble = self._unreachable(error, what, attempt)
                else:
                    if response.status_code != 429 and response.status_code < 500:
                        return self._content(response, what)
                    said = _retry_after(response.headers.get("retry-after"))
                    trouble = OSError(
                        f"{self.url}: {what}: expected an answer, got status "
                        f"{response.status_code} ({self._reason(response)}) {_times(attempt)}; see "
                        "the server's log, and run it again"
                    )
                if attempt == attempts:
                    raise trouble
                await self._patience.sleep(self._patience.wait(attempt, said))
                self.n_repeated += 1

    def _unreachable(self, error: Exception, what: str, attempt: int) -> ConnectionError:
        reason = self._shown(str(error)) or type(error).__name__
        if isinstance(error, self._httpx.ConnectError | self._httpx.ConnectTimeout):
            return ConnectionError(
                f"{self.url}: cannot be reached ({reason}), tried {_times(attempt)}; start the "
                "server, or correct the address (--endpoint)"
            )
        return ConnectionError(
            f"{self.url}: {what}: the connection broke ({reason}) {_times(attempt)}; see the "
            "server's log, and run it again"
        )

    def _content(self, response: Any, what: str) -> dict[str, Any]:
        status = response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"{self.url}: expected a key that the server takes, got status {status} "
                f"({self._reason(response)}); set ISINGMOE_API_KEY, or give api_key (--api-key)"
            )
        if status >= 300:
            moved = response.headers.get("location")
            reason = f"moved to {self._shown(moved)}" if moved else self._reason(response)
            raise RefusedError(
                f"{self.url}: {what}: refused with status {status} ({reason}); correct the "
                "address (--endpoint) or what is asked for",
                status,
                reason,
            )
        try:
            content = json.loads(response.content)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise ValueError(
                f"{self.url}: {what}: expected a JSON object, got "
                f"{self._shown(response.text) or 'nothing'!r}; check that a vLLM or SGLang server "
                "is at that address (--endpoint)"
            )
        return content

    def _reason(self, response: Any) -> str:
        """What an error's body says: a message in one of the forms in use, else its text."""
        try:
            said: Any = json.loads(response.content)
        except (ValueError, RecursionError):
            said = response.text
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and said.get(name):
                said = said[name]
        return self._shown(said if isinstance(said, str) else json.dumps(said)) or "no message"

    def _shown(self, text: str) -> str:
        """A text of the server, short, on one line and without the key."""
        return plain(text.replace(self._key, "***") if self._key else text, 200)


def _httpx() -> ModuleType:
    try:
        import httpx
    except ImportError as error:
        raise ImportError(_NEEDS_HTTPX) from error
    return httpx


def _no_address(got: str) -> str:
    return f"endpoint: expected the address of a server, such as {_EXAMPLE}, got {got!r}"


def _times(attempt: int) -> str:
    return "once" if attempt == 1 else f"{attempt} times"


def _retry_after(text: str | None) -> float | None:
    """Seconds that a server asks for, by their number or a date; None where it does not."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return seconds if math.isfinite(seconds) else None
