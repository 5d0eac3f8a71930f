"""`capture`: texts through a model, and the experts of every token as traces."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from isingmoe import _provenance
from isingmoe._progress import shown
from isingmoe.appending import check_free
from isingmoe.capturing.batches import SORTED_BATCHES, batching, plan_batches
from isingmoe.capturing.collating import Collated, Stack, collate, stacks_of
from isingmoe.capturing.describing import (
    describe_model,
    model_name,
    weight_hash,
)
from isingmoe.capturing.encoding import encoder_of
from isingmoe.capturing.loading import memory_told
from isingmoe.capturing.preparing import (
    begun,
    check_pairs,
    cut_of,
    in_eval_mode,
    loaded,
    pad_of,
    vocabulary_size,
    with_tokenizer,
)
from isingmoe.capturing.recording import Recorder, recorded
from isingmoe.capturing.running import Continuation, Runner
from isingmoe.capturing.sinks import FileSink, MemorySink, Sink, stack_path
from isingmoe.capturing.sites import logit_meaning
from isingmoe.tokens import Cut, TokenSequences, brief, describe_texts, tokenize

__all__ = ["capture"]

_RECORDED = ("gate_weight", "router_logit", "hidden_state")
# So large that few batches of them may wait for each other.
_LARGE = {"router_logit", "hidden_state"}
_TOO_MANY = (
    "batch_tokens: {} tokens at once are more than there is memory for; lower it (--batch-tokens)"
)


def capture(
    model: nn.Module | str | os.PathLike[str],
    texts: Any,
    *,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    tokenizer: Any = None,
    targets: Any = None,
    max_tokens: int | None = None,
    stride: int | None = None,
    pack: bool = False,
    generate: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    record: Collection[str] = ("gate_weight",),
    batch_tokens: int = 4096,
    progress: bool = True,
    **loading: Any,
) -> xr.Dataset | dict[str, xr.Dataset]:
    """Run texts through a model, and record which experts each token really used.

    Parameters
    ----------
    model : Module, str or path
        A model of transformers, or its name on the Hugging Face hub, or its folder.
    texts : str, Path, TextFile, TextDataset, array of int or an iterable of these
        A `str` is a text itself, a `Path` a file or a folder of files. Arrays of int are
        token ids, for which no tokenizer is needed.
    output : path, optional
        `traces.nc` or `traces.zarr`; `traces.encoder.nc` and so on where the model has several
        stacks. Sequences are written as they are done, and memory does not grow with the
        texts. A capture that was ended by anything goes on from there when it is called
        again, and its result is the same.
    overwrite : bool
        Whether an output, or an unfinished capture of it, is replaced.
    tokenizer : callable, optional
        Of transformers, or any that gives the token ids of each of a list of strings; the
        model's own by default where the model is named.
    targets : as `texts`, optional
        Of an encoder-decoder model: what its decoder reads for each text, behind its first
        token. The text itself by default.
    max_tokens : int, optional
        Longest sequence that is read at once; 512 by default, or what the model can read.
    stride : int, optional
        Tokens from the beginning of one sequence to that of the next in a text; `max_tokens`
        by default. Where they overlap, the tokens that are read again are context, and are
        recorded once.
    pack : bool
        Whether texts are joined, with the end-of-text token between them, before they are cut.
    generate : int
        Tokens that the model writes after each sequence, at most. They are recorded as they
        are read again, all but the last one, which never is.
    temperature : float
        Of what it writes; 0 takes the most probable token.
    seed : int
        Of what it writes. Each sequence draws for itself, whatever batch it is in.
    record : collection of str
        Beside the experts: some of `gate_weight`, `router_logit` (as many numbers for each
        token as there are experts) and `hidden_state` (what the router receives; into a
        folder `traces.hidden` beside the output).
    batch_tokens : int
        Tokens that the model reads at once at most, pads included.
    progress : bool
        Whether a bar is shown, where stderr is a terminal.
    **loading
        Of a model that is named: `revision`, `dtype`, `device`, `device_map`,
        `trust_remote_code`, `experts_implementation`, as `capturing.loading.Loading` says.

    Returns
    -------
    Dataset or dict of Dataset
        Traces; docs/traces.md lists the variables. One for each stack by its name, where the
        model has several: `encoder` and `decoder`. With an output they are read from the
        files as they are used.

    Raises
    ------
    ImportError
        If something that is asked for is not installed.
    OSError
        If the model or a text cannot be read, or the output exists or cannot be written.
    ValueError
        If the model is dense, was compiled, or shows no experts; there is no tokenizer; a text
        is in another encoding; there is no token; or an argument is impossible.
    MemoryError
        If a batch is too large for the device.
    """
    unknown = set(record) - set(_RECORDED)
    if unknown or isinstance(record, str):
        raise ValueError(f"record: expected some of {', '.join(_RECORDED)}, got {record!r}")
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens: expected at least 1, got {batch_tokens}")
    if "hidden_state" in record and output is None:
        raise ValueError("record: hidden states are written to files; name an output")
    if targets is not None and (generate or pack):
        raise ValueError(
            "targets: expected none where the model writes or the texts are joined, got some; "
            "leave out " + ("generate" if generate else "pack")
        )
    continuation = Continuation(generate, temperature, seed) if generate else None
    path = None if output is None else check_free(output, overwrite)
    revision = loading.get("revision")
    read, needed = begun(texts)
    decoded, also_needed = (None, False) if targets is None else begun(targets)
    found, tokenizer = with_tokenizer(model, tokenizer, needed or also_needed, loading)
    if isinstance(found, nn.Module):
        with in_eval_mode(found), recorded(found):
            # Whether there is anything to record, before the texts are read.
            pass
    cut = cut_of(found, tokenizer, max_tokens, stride, pack, generate)
    encode, vocabulary = encoder_of(tokenizer), vocabulary_size(found)
    tokens = tokenize(read, encode, cut, vocab_size=vocabulary)
    paired = None
    if decoded is not None:
        whole = Cut(cut.max_tokens)
        paired = tokenize(decoded, encode, whole, vocab_size=vocabulary)
        check_pairs(tokens, paired)
    model = loaded(found, loading)
    arguments: dict[str, Any] = {
        "max_tokens": cut.max_tokens,
        "stride": cut.stride,
        "pack": pack,
        "generate": generate,
        "temperature": temperature,
        "record": sorted(record),
        "batch_tokens": batch_tokens,
    }
    job = _Job(model, tokenizer, tokens, paired, arguments, seed, revision)
    runner = Runner(
        model, tokens, targets=paired, continuation=continuation, pad_id=pad_of(model, tokenizer)
    )
    if generate:
        arguments["eos_token_id"] = runner.ends
    with ExitStack() as closing:
        closing.enter_context(in_eval_mode(model))
        recorder = closing.enter_context(
            recorded(model, logits="router_logit" in record, hidden="hidden_state" in record)
        )
        runner.probe()
        calls = recorder.take()
        stacks = stacks_of(calls, recorder.sites)
        meaning = next((c.router_logit for c in calls if c.router_logit is not None), None)
        more = {} if meaning is None else {"logit_meaning": logit_meaning(model, meaning)}
        sinks = [
            job.sink(
                stack,
                None if path is None else stack_path(path, stack.name, len(stacks) > 1),
                runner.longest(stack),
                overwrite,
                closing,
                more,
            )
            for stack in stacks
        ]
        _run(runner, recorder, list(zip(stacks, sinks, strict=True)), job, generate, progress)
        # Of several stacks, each can be made again until all are there.
        for sink in sinks:
            sink.write()
        made = {stack.name: sink.finish() for stack, sink in zip(stacks, sinks, strict=True)}
    return made if len(made) > 1 else next(iter(made.values()))


@dataclass(frozen=True)
class _Job:
    """What is captured, and how."""

    model: nn.Module
    tokenizer: Any
    tokens: TokenSequences
    targets: TokenSequences | None
    arguments: Mapping[str, Any]
    seed: int
    revision: str | None

    def sink(
        self,
        stack: Stack,
        path: Path | None,
        n_positions: int,
        overwrite: bool,
        closing: ExitStack,
        more: Mapping[str, str],
    ) -> Sink:
        """Where the recordings of a stack go."""
        record = self.arguments["record"]
        described = describe_model(self.model, stack.sites, self.tokenizer, self.revision)
        texts = describe_texts(self.tokens)
        inputs = {"texts": texts, "model": model_name(self.model), "weights": self._weights}
        if self.targets is not None:
            inputs["targets"] = describe_texts(self.targets)
        attributes = {
            **described,
            **more,
            **({"stack": stack.name} if stack.name else {}),
            "text": brief(self.tokens, self.arguments["generate"]),
            "text_sha256": self.tokens.sha256,
            "seed": str(self.seed),
            "source": f"{model_name(self.model)}, run by isingmoe",
            "provenance": _provenance.record(
                "capture", dict(self.arguments), inputs=inputs, seed=self.seed
            ),
        }
        common = {
            "layers": stack.layers,
            "num_experts": stack.num_experts,
            "top_k": list(stack.n_ranks),
            "ranked": stack.weighted or max(stack.n_ranks) == 1,
            "model": model_name(self.model),
            "attributes": attributes,
        }
        if path is None:
            return MemorySink(common)
        variables = ["token_id"]
        variables += ["gate_weight"] if self.keeps_weights(stack) else []
        variables += ["router_logit"] if "router_logit" in record else []
        variables += ["start_position"] if self.tokens.context.any() else []
        of_file = {
            "n_positions": n_positions,
            "variables": variables,
            "logit_dtype": stack.logit_dtype,
        }
        return FileSink(path, stack, common, of_file, self._identity(described), overwrite, closing)

    def keeps_weights(self, stack: Stack) -> bool:
        """Whether the traces of a stack hold weights."""
        return stack.weighted and "gate_weight" in self.arguments["record"]

    @cached_property
    def _weights(self) -> str:
        return weight_hash(self.model)

    def _identity(self, described: Mapping[str, str]) -> dict[str, Any]:
        """What decides the content: another capture does not go on with this one."""
        # The number of threads decides no more than the last digits of weights.
        described = {name: told for name, told in described.items() if name != "threads"}
        return {
            "model": model_name(self.model),
            "weights": self._weights,
            "texts": self.tokens.sha256,
            "targets": None if self.targets is None else self.targets.sha256,
            **self.arguments,
            "seed": self.seed,
            **described,
        }


def _run(
    runner: Runner,
    recorder: Recorder,
    sinks: Sequence[tuple[Stack, Sink]],
    job: _Job,
    generate: int,
    progress: bool,
) -> None:
    """Run all batches that some sink lacks."""
    tokens = job.tokens
    size = tokens.length + generate
    if job.targets is not None:
        size = np.maximum(size, job.targets.length + 1)
    together = batching(
        job.model,
        job.arguments["batch_tokens"],
        writes=generate > 0,
        paired=job.targets is not None,
    )
    is_large = not _LARGE.isdisjoint(job.arguments["record"])
    batches = plan_batches(size, **together, n_sorted=1 if is_large else SORTED_BATCHES)
    n_done = min(sink.n_sequences for _, sink in sinks)
    # While a device computes a batch, the host takes the one before.
    behind = any(parameter.device.type == "cuda" for parameter in job.model.parameters())
    waiting: deque[tuple[NDArray[np.int64], list[tuple[Sink, Collated]]]] = deque()

    total, done = int(size.sum()), int(size[:n_done].sum())

    def drain(left: int, tell: Callable[[int, int], None]) -> None:
        nonlocal done
        while len(waiting) > left:
            batch, made = waiting.popleft()
            for sink, collated in made:
                sink.take(batch.tolist(), *collated.recordings())
            done += int(size[batch].sum())
            tell(done, total)

    with shown(progress) as tell:
        tell(done, total)
        for batch in batches:
            if batch.max() < n_done:
                continue
            with memory_told(_TOO_MANY.format(int(size[batch].sum()))):
                layouts = runner.run(batch)
                calls = recorder.take()
                made = [
                    (
                        sink,
                        collate(
                            calls,
                            stack,
                            layouts[runner.side(stack)],
                            weights=job.keeps_weights(stack),
                        ),
                    )
                    for stack, sink in sinks
                ]
            waiting.append((batch, made))
            drain(1 if behind else 0, tell)
        drain(0, tell)
