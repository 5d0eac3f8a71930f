"""Points of a sweep, computed one after another, in worker processes or by a dask client."""

from __future__ import annotations

import inspect
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from isingmoe._points import PointLog, Stored, encode, frame_of
from isingmoe._processes import ProcessesError, n_cores, processes

__all__ = ["Outcome", "Point", "Task", "compute"]

# Worker processes take seconds to start: they have to save at least so many.
_WORTH_SECONDS = 6.0

# Quick points are sent in chunks that take about so long.
_CHUNK_SECONDS = 0.2


class Point(NamedTuple):
    """A point to compute: its number, its parameters in words, and its chain."""

    index: int
    where: str
    chain: Any


@dataclass(frozen=True)
class Task:
    """What is done at every point.

    Attributes
    ----------
    verb : callable
    options : dict
        Its further arguments.
    seed : SeedSequence
        A verb that takes `seed` gets a child of it, by the number of the point.
    drop_dims : tuple of str
        Dims whose variables are not kept.
    alone : bool
        Whether no other point is computed at the same time, so that a verb that takes
        `n_threads` may have them all.
    """

    verb: Callable[..., Any]
    options: dict[str, Any]
    seed: np.random.SeedSequence
    drop_dims: tuple[str, ...]
    alone: bool = True

    def __call__(self, point: Point) -> Stored:
        """Compute one point."""
        options = dict(self.options)
        taken = inspect.signature(self.verb).parameters
        if "seed" in taken:
            key = (*self.seed.spawn_key, point.index)
            options["seed"] = np.random.SeedSequence(self.seed.entropy, spawn_key=key)
        if "n_threads" in taken and not self.alone:
            options.setdefault("n_threads", 1)
        result = self.verb(point.chain, **options)
        if not isinstance(result, xr.Dataset):
            raise TypeError(
                f"verb: expected it to return a Dataset, got {type(result).__name__}; wrap it"
            )
        return encode(result.drop_dims(self.drop_dims, errors="ignore"))


@dataclass
class Outcome:
    """What came of a chunk of points.

    Attributes
    ----------
    finished : list of (int, Stored or None)
        None where the point is in the folder.
    error : Exception or None
        What ended the chunk before its end.
    seconds : float
    sizes : tuple of int
        Bytes of the largest point, and of its largest variable.
    """

    finished: list[tuple[int, Stored | None]] = field(default_factory=list)
    error: Exception | None = None
    seconds: float = 0.0
    sizes: tuple[int, int] = (0, 0)


def _evaluate(task: Task, points: Iterable[Point], log: PointLog | None) -> Outcome:
    """Compute points one after another, each stored as soon as it is there."""
    outcome = Outcome()
    started = time.perf_counter()
    for point in points:
        with _LISTENER.listening() as heard:
            try:
                stored = task(point)
            except Exception as error:
                outcome.error = _placed(error, point.where)
                return outcome
        stored = stored._replace(heard=tuple(heard))
        if log is not None:
            log.add(point.index, stored)
        outcome.finished.append((point.index, stored if log is None else None))
        outcome.sizes = max(outcome.sizes, _sizes(stored))
    outcome.seconds = time.perf_counter() - started
    return outcome


def _sizes(stored: Stored) -> tuple[int, int]:
    dtype = frame_of(stored.frame).dtype
    return dtype.itemsize, max((dtype[name].itemsize for name in dtype.names or ()), default=0)


class _Listener:
    """Collects the warnings of each thread apart: the filters belong to the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[int, list[tuple[str, str]]] = {}
        self._filters = warnings.catch_warnings()
        self._show_others: Callable[..., object] = warnings.showwarning

    @contextmanager
    def listening(self) -> Iterator[list[tuple[str, str]]]:
        """Categories and texts of the warnings of this thread in the block."""
        mine: list[tuple[str, str]] = []
        with self._lock:
            if not self._heard:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("always")
                self._show_others = warnings.showwarning
                warnings.showwarning = self._show
            self._heard[threading.get_ident()] = mine
        try:
            yield mine
        finally:
            with self._lock:
                del self._heard[threading.get_ident()]
                if not self._heard:
                    self._filters.__exit__(None, None, None)

    def _show(
        self, message: Warning | str, category: type[Warning], *where: Any, **more: Any
    ) -> None:
        mine = self._heard.get(threading.get_ident())
        if mine is None:
            self._show_others(message, category, *where, **more)
        else:
            mine.append((f"{category.__module__}.{category.__qualname__}", str(message)))


_LISTENER = _Listener()


def _placed(error: Exception, where: str) -> Exception:
    """The error, which now says at what point; of a kind that other processes understand."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"at {where}: {error.args[0]}",)
    else:
        error.add_note(f"at {where}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"at {where}: {type(error).__name__}: {error}")
    return error


def compute(
    task: Task,
    points: Iterator[Point],
    n_points: int,
    *,
    folder: Path | None,
    n_workers: int | None,
    client: Any,
) -> Generator[Outcome]:
    """Compute all points.

    Parameters
    ----------
    task : Task
    points : iterator of Point
    n_points : int
        How many there are.
    folder : Path, optional
        Where finished points are stored; by default they come with the outcomes.
    n_workers : int or None
        Processes; 1 is this one, None as many as there are cores where it saves time.
    client : dask.distributed.Client or None

    Yields
    ------
    Outcome
        As they come.

    Raises
    ------
    ChildProcessError
        If a worker process dies.
    TypeError
        If `n_workers` processes are asked for and the verb cannot be sent to them.
    """
    log = None if folder is None else PointLog(folder)
    try:
        if client is not None:
            yield from _by_client(task, points, n_points, log, client)
            return
        n_left, most = n_points, min(n_workers or n_cores(), n_points)
        if n_workers is None:
            n_left -= yield from _until_worthwhile(task, points, n_points, most, log)
            most = min(most, n_left)
        if most > 1:
            try:
                with processes(most, _begin, replace(task, alone=False), folder) as executor:
                    yield from _spread(executor, lambda chunk: (_work, chunk), points, n_left, most)
            except ProcessesError as error:
                if n_workers is not None:
                    raise TypeError(f"n_workers: {error}; or give n_workers=1") from None
                text = f"the points are computed one after another: {error}"
                warnings.warn(text, UserWarning, stacklevel=_level_of_the_user())
        for point in points:
            yield _evaluate(task, [point], log)
    finally:
        if log is not None:
            log.close()


def _level_of_the_user() -> int:
    """The stacklevel with which our caller names the line of the user."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame, level = frame.f_back, level + 1
    return level


def _until_worthwhile(
    task: Task, points: Iterator[Point], n_points: int, most: int, log: PointLog | None
) -> Generator[Outcome, None, int]:
    """Compute here until worker processes would save time; returns how many were done."""
    done = 0
    for point in points:
        outcome = _evaluate(task, [point], log)
        done += 1
        yield outcome
        saved = outcome.seconds * (n_points - done) * (1 - 1 / most)
        # The first point has kernels to load or to compile.
        if saved > _WORTH_SECONDS and (done > 1 or outcome.seconds > _WORTH_SECONDS):
            break
    return done


def _by_client(
    task: Task, points: Iterator[Point], n_points: int, log: PointLog | None, client: Any
) -> Iterator[Outcome]:
    executor = client.get_executor(pure=False)
    task = replace(task, alone=False)
    n_slots = max(sum(client.nthreads().values()), 1)
    # What a worker has not yet sent back would be lost with us.
    longest = None if log is None else 1
    try:
        chunks = _spread(
            executor,
            lambda chunk: (_evaluate, task, chunk, None),
            points,
            n_points,
            n_slots,
            longest,
        )
        for outcome in chunks:
            if log is not None:
                for index, stored in outcome.finished:
                    log.add(index, stored)  # type: ignore[arg-type]
                outcome.finished = [(index, None) for index, _ in outcome.finished]
            yield outcome
    finally:
        executor.shutdown(wait=False)


def _spread(
    executor: Executor,
    call: Callable[[list[Point]], tuple[Any, ...]],
    points: Iterator[Point],
    n_points: int,
    n_slots: int,
    longest: int | None = None,
) -> Iterator[Outcome]:
    """Keep every slot of an executor busy, with chunks of points that take a while."""
    pending: set[Future[Outcome]] = set()
    size, left = 1, n_points
    try:
        while True:
            while len(pending) < 2 * n_slots and (chunk := list(islice(points, size))):
                pending.add(executor.submit(*call(chunk)))
                left -= len(chunk)
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                if outcome.seconds > 0:
                    size = int(_CHUNK_SECONDS * len(outcome.finished) / outcome.seconds)
                    # The last chunks are short, so that no worker waits long for another.
                    size = max(min(size, left // (4 * n_slots), longest or size), 1)
                yield outcome
    finally:
        for future in pending:
            future.cancel()


class _Here:
    """What a worker process knows of its work."""

    task: Task
    log: PointLog | None


def _begin(task: Task, folder: Path | None) -> None:
    _Here.task = task
    _Here.log = None if folder is None else PointLog(folder)


def _work(chunk: list[Point]) -> Outcome:
    return _evaluate(_Here.task, chunk, _Here.log)
