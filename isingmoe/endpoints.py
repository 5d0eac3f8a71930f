"""Traces of a model that a vLLM or SGLang server runs, collected through its HTTP interface."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr

from isingmoe import _provenance
from isingmoe._growing import check_zarr
from isingmoe._progress import shown
from isingmoe.appending import TraceWriter, check_free, open_as_used
from isingmoe.endpoint_answers import Facts
from isingmoe.endpoint_servers import Endpoint, Sampling
from isingmoe.endpoint_sessions import Progress, Session
from isingmoe.recorded import Recording, assemble
from isingmoe.texts import read_texts
from isingmoe.tokens import (
    MAX_TOKENS,
    Cut,
    Encode,
    TokenSequences,
    brief,
    describe_texts,
    tokenize,
)

__all__ = ["EndpointCapture", "capture_endpoint"]

T = TypeVar("T")


def capture_endpoint(
    endpoint: str | Endpoint,
    texts: Any,
    *,
    model: str | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    max_tokens: int | None = None,
    stride: int | None = None,
    pack: bool = False,
    tokenizer: Encode | None = None,
    generate: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    num_experts: int | None = None,
    top_k: int | None = None,
    num_layers: int | None = None,
    layers: Sequence[int] | None = None,
    ranked: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Collect traces from a running vLLM or SGLang server.

    Parameters
    ----------
    endpoint : str or Endpoint
        Address of its OpenAI-compatible interface, such as `http://localhost:8000/v1`. The
        server has to be started with `--enable-return-routed-experts`.
    texts : str, Path, TextFile, TextDataset, array of int or an iterable of these
        What the model reads, as `capture` takes it. Strings are cut into tokens by the
        server's own tokenizer.
    model : str, optional
        What the server calls it, by default the only one that it has.
    output : path, optional
        `traces.nc` or `traces.zarr`. Sequences are written as they come, in the order of the
        texts, and memory does not grow with them. If the server or this process stops, what
        was done is kept, and the same call goes on from there.
    overwrite : bool
        Whether an output, or an unfinished capture of it, may be replaced.
    max_tokens : int, optional
        Longest sequence that is read at once; 512 by default, or what the server takes.
    stride : int, optional
        Tokens from one window of a text to the next; `max_tokens` by default.
    pack : bool
        Whether texts are joined before they are cut.
    tokenizer : callable, optional
        Gives the token ids of each of a list of strings, instead of the server.
    generate : int
        Tokens that the model writes after each text, at most. The last one has no experts:
        the model never reads it.
    temperature : float
        Of what it writes; 0 takes the likeliest token.
    seed : int
        Of what it writes, sent with each request.
    num_experts, top_k, num_layers : int, optional
        E, experts per token, and layers of the model, with experts or without; by default
        what the configuration of the model declares, in
        a folder of its name or on the Hugging Face Hub.
    layers : sequence of int, optional
        The model's numbers of its layers with experts; asked for where neither the answers
        nor the configuration tell.
    ranked : bool
        Whether the experts of a token come in the order of their weights. The servers do not
        say so, and return no weights.
    progress : bool
        Whether a bar is shown, where stderr is a terminal.

    Returns
    -------
    Dataset
        Traces; docs/traces.md lists the variables. With an output they are read from the file
        as they are used.

    Raises
    ------
    OSError
        If the server cannot be reached, does not take the key, fails or answers too late; or
        the output exists or cannot be written.
    ValueError
        If the server answers with something else than experts of the tokens, does not have
        the model, or takes no prompt of the length; or something is missing that it does not
        say.
    ImportError
        If httpx is not installed, or zarr for an output.

    Warns
    -----
    DegenerateTraceWarning
        Where the server left out the experts of some tokens.
    """
    capture = EndpointCapture(
        endpoint if isinstance(endpoint, Endpoint) else Endpoint(endpoint),
        model=model,
        max_tokens=max_tokens,
        stride=stride,
        pack=pack,
        sampling=Sampling(generate, temperature, seed),
        facts=Facts(num_experts, top_k, layers, ranked, num_layers),
        tokenizer=tokenizer,
    )
    with shown(progress) as tell:
        if output is None:
            return capture.collect(texts, progress=tell)
        return open_as_used(capture.write(texts, output, overwrite=overwrite, progress=tell))


@dataclass(frozen=True)
class EndpointCapture:
    """What is asked of a server.

    Attributes
    ----------
    endpoint : Endpoint
    model : str or None
    max_tokens, stride : int or None
    pack : bool
    sampling : Sampling
    facts : Facts
    tokenizer : callable or None
    """

    endpoint: Endpoint
    model: str | None
    sampling: Sampling
    facts: Facts
    max_tokens: int | None = None
    stride: int | None = None
    pack: bool = False
    tokenizer: Encode | None = None

    def collect(self, texts: Any, *, progress: Progress | None = None) -> xr.Dataset:
        """The traces, in memory; otherwise as `capture_endpoint`."""

        def work(stopping: threading.Event) -> xr.Dataset:
            kept: list[Recording] = []
            with self._session(stopping) as session:
                tokens = self._tokens(session, texts)
                session.ask(tokens, 0, kept.extend, progress)
                return assemble(
                    kept,
                    attributes=self._attributes(session, tokens),
                    where=session.connection.url,
                    **_common(session),
                )

        return _outside_a_loop(work)

    def write(
        self,
        texts: Any,
        output: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """The file of the traces, written as the answers come; otherwise as `capture_endpoint`."""
        path = check_free(output, overwrite)
        check_zarr(path)

        def work(stopping: threading.Event) -> Path:
            with ExitStack() as stack:
                session = stack.enter_context(self._session(stopping))
                tokens = self._tokens(session, texts)
                identity = self._identity(session, tokens)
                writer = TraceWriter.go_on(path, identity=identity, overwrite=overwrite)
                if writer is not None:
                    stack.enter_context(writer)

                def take(recordings: list[Recording]) -> None:
                    nonlocal writer
                    if writer is None:
                        writer = stack.enter_context(
                            TraceWriter.create(
                                path,
                                n_positions=self._longest(tokens),
                                variables=_variables(tokens),
                                attributes=self._attributes(session, tokens),
                                identity=identity,
                                overwrite=overwrite,
                                **_common(session),
                            )
                        )
                    writer.append(recordings)

                session.ask(tokens, writer.n_sequences if writer else 0, take, progress)
                return path if writer is None else writer.finish()

        return _outside_a_loop(work)

    def _session(self, stopping: threading.Event) -> Session:
        return Session(self.endpoint, self.model, self.sampling, self.facts, stopping)

    def _tokens(self, session: Session, texts: Any) -> TokenSequences:
        tokens = tokenize(read_texts(texts), self.tokenizer or session.encode, self._cut(session))
        session.check_length(tokens)
        return tokens

    def _cut(self, session: Session) -> Cut:
        room = session.longest
        if room is not None and room < 1:
            raise ValueError(
                f"{session.connection.url}: generate: expected less than "
                f"{session.server.max_length}, what the server takes with the text, got "
                f"{self.sampling.new_tokens}; lower it (--generate)"
            )
        default = MAX_TOKENS if room is None else min(MAX_TOKENS, room)
        return Cut(default if self.max_tokens is None else self.max_tokens, self.stride, self.pack)

    def _longest(self, tokens: TokenSequences) -> int:
        return int((tokens.length - tokens.context).max()) + self.sampling.new_tokens

    def _identity(self, session: Session, tokens: TokenSequences) -> dict[str, Any]:
        """What decides the content: not where the server is."""
        return {
            "endpoint": str(session.server),
            "model": session.model,
            "texts": tokens.sha256,
            "sampling": asdict(self.sampling),
            "facts": self._facts(),
        }

    def _facts(self) -> dict[str, Any]:
        layers = self.facts.layers
        return {
            **asdict(self.facts),
            "layers": None if layers is None else [int(n) for n in layers],
        }

    def _attributes(self, session: Session, tokens: TokenSequences) -> dict[str, str]:
        arguments = {
            "endpoint": session.connection.url,
            "server": str(session.server),
            "model": session.model,
            "max_tokens": self._cut(session).max_tokens,
            "stride": self.stride,
            "pack": self.pack,
            "generate": self.sampling.new_tokens,
            "temperature": self.sampling.temperature,
            **self._facts(),
        }
        inputs = {"texts": describe_texts(tokens)}
        return {
            "source": f"{session.server} at {session.connection.url}",
            "text": brief(tokens, self.sampling.new_tokens),
            "text_sha256": tokens.sha256,
            "seed": str(self.sampling.seed),
            "provenance": _provenance.record(
                "capture_endpoint", arguments, inputs=inputs, seed=self.sampling.seed
            ),
        }


def _common(session: Session) -> dict[str, Any]:
    """What all sequences have in common."""
    layout = session.layout
    if layout is None:
        raise ValueError(f"{session.connection.url}: expected answers, got none")
    return {
        "layers": layout.columns.numbers,
        "num_experts": layout.num_experts,
        "top_k": layout.top_k,
        "ranked": layout.ranked,
        "model": session.model,
    }


def _variables(tokens: TokenSequences) -> list[str]:
    return ["token_id", "start_position"] if tokens.context.any() else ["token_id"]


def _outside_a_loop(work: Callable[[threading.Event], T]) -> T:
    """Work that has an event loop of its own, also where one runs already, as in a notebook."""
    stopping = threading.Event()
    if not _loop_runs():
        return work(stopping)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, stopping)
        try:
            return future.result()
        except KeyboardInterrupt:
            stopping.set()
            return future.result()


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
