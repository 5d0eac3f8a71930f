"""Where recordings go, in the order of the sequences: a file that grows, or memory."""

from __future__ import annotations

import contextlib
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import xarray as xr
from numpy.typing import NDArray

from isingmoe.appending import TraceWriter, open_as_used, partial_store
from isingmoe.capturing.collating import Stack
from isingmoe.hidden_states import HiddenWriter, hidden_folder
from isingmoe.recorded import Recording, assemble

__all__ = ["FileSink", "MemorySink", "Sink", "stack_path"]

Hidden = Sequence[NDArray[Any]]
# A trace takes many short batches at once, unless they are slow to come.
_GROUP_TOKENS = 1 << 15
_GROUP_SECONDS = 1.0


def stack_path(path: Path, stack: str, several: bool) -> Path:
    """The file of a stack: `traces.encoder.nc` of `traces.nc`, where a model has several."""
    return path.with_name(f"{path.stem}.{stack}{path.suffix}") if several else path


class Sink(ABC):
    """Takes the recordings of one stack, in any order within what is sorted at a time."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Recording, Hidden]] = {}

    @property
    @abstractmethod
    def n_sequences(self) -> int:
        """Sequences that it has, from the first one on."""

    @abstractmethod
    def append(self, recordings: Sequence[Recording], hidden: Sequence[Hidden]) -> None:
        """Take the next sequences."""

    def write(self) -> None:
        """Make the output; what it is made of stays until `finish`."""
        return

    @abstractmethod
    def finish(self) -> xr.Dataset:
        """The traces."""

    def take(
        self, numbers: Sequence[int], recordings: Sequence[Recording], hidden: Sequence[Hidden]
    ) -> None:
        """Take numbered sequences: those that it has are left, those that come later wait."""
        for number, recording, states in zip(numbers, recordings, hidden, strict=True):
            if number >= self.n_sequences:
                self._waiting[number] = (recording, states)
        following = []
        while self.n_sequences + len(following) in self._waiting:
            following.append(self._waiting.pop(self.n_sequences + len(following)))
        if following:
            self.append([one for one, _ in following], [states for _, states in following])


class MemorySink(Sink):
    """Keeps recordings.

    Parameters
    ----------
    common : mapping
        Arguments of `assemble`.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        super().__init__()
        self._common = common
        self._kept: list[Recording] = []

    @property
    def n_sequences(self) -> int:
        """Sequences that it has."""
        return len(self._kept)

    def append(self, recordings: Sequence[Recording], hidden: Sequence[Hidden]) -> None:
        """Take the next sequences."""
        self._kept += recordings

    def finish(self) -> xr.Dataset:
        """The traces, in memory."""
        return assemble(self._kept, where="capture", **self._common)


class FileSink(Sink):
    """Writes recordings as they come; goes on with a capture that was not finished.

    Parameters
    ----------
    path : Path
    stack : Stack
    common : mapping
        Arguments that `assemble` and `TraceWriter.create` share.
    begun : mapping
        Those of `TraceWriter.create` alone.
    identity : mapping
        What decides the content.
    overwrite : bool
    closing : ExitStack
        Closes the files at its end.
    """

    def __init__(
        self,
        path: Path,
        stack: Stack,
        common: Mapping[str, Any],
        begun: Mapping[str, Any],
        identity: Mapping[str, Any],
        overwrite: bool,
        closing: ExitStack,
    ) -> None:
        super().__init__()
        self._path = path
        self._began_hidden = self._is_written = False
        self._held: list[Recording] = []
        self._passed_at = time.monotonic()
        closing.push(self._leave)
        writer, states = self._begun(stack, identity, overwrite)
        is_begun = writer is not None
        if writer is None:
            writer = TraceWriter.create(
                path, **common, **begun, identity=identity, overwrite=overwrite
            )
        self._writer = closing.enter_context(writer)
        closing.push(self._rescue)
        if stack.n_features and states is None:
            states = HiddenWriter.create(
                hidden_folder(path),
                layers=stack.layers,
                n_features=stack.n_features,
                dtype=stack.hidden_dtype,
                overwrite=overwrite or is_begun,
            )
            self._began_hidden = True
        self._hidden = None if states is None else closing.enter_context(states)

    def _begun(
        self, stack: Stack, identity: Mapping[str, Any], overwrite: bool
    ) -> tuple[TraceWriter | None, HiddenWriter | None]:
        """A capture to go on with, and its hidden states where it has some."""
        writer = TraceWriter.go_on(self._path, identity=identity, overwrite=overwrite)
        if writer is None or not writer.n_sequences or not stack.n_features:
            return writer, None
        try:
            folder = hidden_folder(self._path)
            return writer, HiddenWriter.resume(folder, n_sequences=writer.n_sequences)
        except (FileNotFoundError, ValueError):
            writer.close()
            if overwrite:
                return None, None
            raise

    @property
    def n_sequences(self) -> int:
        """Sequences that it has, in the file or on their way."""
        return self._writer.n_appended + len(self._held)

    def append(self, recordings: Sequence[Recording], hidden: Sequence[Hidden]) -> None:
        """Take the next sequences; hidden states first, as the trace says how many there are."""
        if self._hidden is not None:
            self._hidden.append(hidden)
        self._held += recordings
        n_tokens = sum(len(recording.expert_index) for recording in self._held)
        if n_tokens >= _GROUP_TOKENS or time.monotonic() - self._passed_at > _GROUP_SECONDS:
            self._pass_on()

    def _pass_on(self) -> None:
        held, self._held = self._held, []
        if held:
            self._writer.append(held)
        self._passed_at = time.monotonic()

    def _rescue(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Keep what is held, whatever ended the capture: that error is the one to tell."""
        with contextlib.suppress(*(() if error is None else (OSError, ValueError))):
            self._pass_on()

    def _leave(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Remove hidden states that no trace goes with: a writer keeps no trace of nothing."""
        kept = self._is_written or partial_store(self._path).exists()
        if error is not None and self._began_hidden and not kept:
            shutil.rmtree(hidden_folder(self._path), ignore_errors=True)

    def write(self) -> None:
        """Make the output; what it is made of stays until `finish`."""
        self._pass_on()
        self._writer.write_output()
        self._is_written = True

    def finish(self) -> xr.Dataset:
        """The traces, read from the file as they are used."""
        return open_as_used(self._writer.finish())
