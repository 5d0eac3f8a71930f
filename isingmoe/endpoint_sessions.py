"""A server asked for the experts of many sequences: several at once, taken in their order."""

from __future__ import annotations

import asyncio
import secrets
import threading
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from itertools import islice
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from isingmoe.endpoint_answers import Answer, Facts, Layout, layout_of, without_experts
from isingmoe.endpoint_models import Declared, declared
from isingmoe.endpoint_requests import RefusedError
from isingmoe.endpoint_servers import (
    FLAG,
    Endpoint,
    Sampling,
    complete,
    complete_natively,
    identify,
    token_ids,
)
from isingmoe.errors import DegenerateTraceWarning
from isingmoe.recorded import Recording
from isingmoe.tokens import TokenSequences

__all__ = ["Progress", "Session"]

T = TypeVar("T")
Progress = Callable[[int, int], object]

# Sequences that are asked for before the first of them is done, for each request under way.
_AHEAD = 4
# Seconds after which a wait looks whether it is to end.
_LOOK = 0.2


class Session:
    """An event loop, and a connection to a server in it; to be entered with `with`.

    Parameters
    ----------
    endpoint : Endpoint
    model : str or None
        By default the only one that the server has.
    sampling : Sampling
    facts : Facts
    stopping : Event
        Ends the session when it is set.

    Attributes
    ----------
    connection : Connection
    server : Server
        What answered.
    model : str
        What is asked.
    layout : Layout or None
        What the answers have in common, from the first one on.

    Raises
    ------
    OSError, ValueError
        If the server cannot be asked, or the model is not there.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str | None,
        sampling: Sampling,
        facts: Facts,
        stopping: threading.Event,
    ) -> None:
        self.connection = endpoint.connect()
        self.layout: Layout | None = None
        self._endpoint, self._sampling, self._facts = endpoint, sampling, facts
        self._stopping = stopping
        self._salt = secrets.token_urlsafe(32)
        self._n_without = 0
        self._natively = False
        self._runner = asyncio.Runner()
        try:
            self.server = self._run(identify(self.connection, endpoint.server, model))
            self.model = self._chosen(model)
            self._declared = self._looked_up()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._run(self.connection.close())
        finally:
            self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def _chosen(self, model: str | None) -> str:
        models = self.server.models
        if model is None and len(models) == 1:
            return models[0]
        if model is None or (models and model not in models):
            listed = "one of " * (len(models) > 1) + ", ".join(models)
            raise ValueError(
                f"{self.connection.url}: model: expected "
                f"{listed or 'a name, since the server lists none'}, got {model!r}; name it, with "
                "model (--model)"
            )
        return model

    def _looked_up(self) -> Declared:
        """The model's configuration, where something is asked of it."""
        facts = self._facts
        given = [facts.num_experts, facts.layers]
        if self.server.kind != "vllm":
            given.append(facts.top_k)
        if all(fact is not None for fact in given):
            return Declared()
        return declared([name for name in (self.server.root, self.model) if name])

    def encode(self, strings: list[str]) -> list[list[int]]:
        """The token ids of texts, by the server's tokenizer."""
        return self._run(token_ids(self.connection, self.model, strings))

    @property
    def longest(self) -> int | None:
        """Tokens of a sequence that leave room for what is written after it, where it is said."""
        limit = self.server.max_length
        return None if limit is None else limit - max(self._sampling.new_tokens, 1)

    def check_length(self, tokens: TokenSequences) -> None:
        """Raise where a sequence and what is written after it are more than the server takes."""
        longest = int(tokens.length.max())
        if self.longest is not None and longest > self.longest:
            raise ValueError(
                f"{self.connection.url}: max_tokens: expected at most {max(self.longest, 0)}, "
                f"since the server takes {self.server.max_length} with what is written, got a "
                f"sequence of {longest}; lower max_tokens (--max-tokens)"
            )

    def ask(
        self,
        tokens: TokenSequences,
        first: int,
        take: Callable[[list[Recording]], object],
        progress: Progress | None = None,
    ) -> None:
        """Ask for sequences, and give what is recorded of them, in their order.

        Parameters
        ----------
        tokens : TokenSequences
        first : int
            The first one to be asked for.
        take : callable
            Given the next recordings; when it is called, `layout` is there.
        progress : callable, optional
            Told how many tokens are done, and how many there are.

        Raises
        ------
        OSError, ValueError
            If a sequence cannot be had; those before it have been given then.
        """
        size = tokens.length - tokens.context + self._sampling.new_tokens
        tell = progress or (lambda done, total: None)
        n_taken, total = first, int(size.sum())
        tell(int(size[:first].sum()), total)

        def taken(batch: list[Recording]) -> None:
            nonlocal n_taken
            take(batch)
            n_taken += len(batch)
            tell(int(size[:n_taken].sum()), total)

        self._run(self._ask(tokens, first, taken))
        if self._n_without:
            warnings.warn(
                f"{self.connection.url}: {self._n_without} tokens have no experts (-1) in some "
                "layer: the server had them in its prefix cache; start it without one, if its "
                "version can",
                DegenerateTraceWarning,
                stacklevel=3,
            )

    async def _ask(
        self,
        tokens: TokenSequences,
        first: int,
        take: Callable[[list[Recording]], object],
    ) -> None:
        numbers = iter(range(first, len(tokens)))
        waiting: deque[asyncio.Task[Recording]] = deque()
        try:
            while True:
                for number in islice(numbers, self._endpoint.concurrency * _AHEAD - len(waiting)):
                    waiting.append(asyncio.create_task(self._recorded(tokens, number)))
                if not waiting:
                    return
                await self._until(waiting[0])
                take(list(_finished(waiting)))
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _until(self, task: asyncio.Task[Any]) -> None:
        """Wait for a task, as long as nobody ends the session."""
        while not task.done():
            if self._stopping.is_set():
                raise KeyboardInterrupt
            await asyncio.wait([task], timeout=_LOOK)

    async def _recorded(self, tokens: TokenSequences, number: int) -> Recording:
        """One sequence, asked for again where only this one came without experts."""
        prompt = tokens[number]
        name = f"sequence {number} ({tokens.names[int(tokens.text[number])]})"
        patience = self._endpoint.patience
        attempt = 1
        while True:
            answer = await self._answer(prompt, name, f"{self._salt}-{number}-{attempt}")
            if not without_experts(answer):
                break
            if self.layout is None or attempt == patience.attempts:
                raise ValueError(self._no_experts(answer))
            # vLLM 0.21 loses those of a request that had to wait for room.
            await patience.sleep(patience.wait(attempt, None))
            attempt += 1
        if self.layout is None:
            self.layout = layout_of(answer, self._facts, self._declared, self.model)
        recording = self.layout.recording(
            answer, int(tokens.context[number]), self._sampling.new_tokens > 0
        )
        self._n_without += int((recording.expert_index < 0).any((1, 2)).sum())
        return recording

    async def _answer(self, prompt: NDArray[np.int32], name: str, salt: str) -> Answer:
        """What the server says to a prompt, by the interface that has the experts."""
        where, ids = f"{self.connection.url}: {name}", prompt.tolist()
        if not self._natively:
            asked = (self.connection, self.server, self.model, ids, self._sampling, name, salt)
            answer = Answer(where, prompt, await complete(*asked))
            is_newer = self.server.kind != "sglang" or not without_experts(answer)
            if is_newer or not (self.layout is None or self._natively):
                return answer
        try:
            content = await complete_natively(self.connection, ids, self._sampling, name)
        except RefusedError as error:
            raise ValueError(
                f"{where}: routed_experts: expected the experts of each token, got none from "
                f"/v1/completions of this {self.server}, and status {error.status} "
                f"({error.reason}) from /generate; start the server with {FLAG}"
            ) from None
        found = Answer(where, prompt, content)
        self._natively = self._natively or not without_experts(found)
        return found

    def _no_experts(self, answer: Answer) -> str:
        others = "" if self.layout is None else ", though others had them"
        return (
            f"{answer.where}: routed_experts: expected the experts of each token, got none in the "
            f"answer of this {self.server}{others}; start the server with {FLAG}"
        )


def _finished(waiting: deque[asyncio.Task[Recording]]) -> Iterator[Recording]:
    """Results up to the first task that is not done; an error only where it comes first."""
    yield waiting.popleft().result()
    while waiting and waiting[0].done() and waiting[0].exception() is None:
        yield waiting.popleft().result()
