"""Worker processes that have one thread each, and that end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["ProcessesError", "is_starting", "n_cores", "processes"]

# The work is spread over processes; threads within them would only compete.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class ProcessesError(RuntimeError):
    """Worker processes that cannot be had; the text says why and what to do."""


@contextmanager
def processes(n_workers: int, begin: Callable[..., None], *arguments: Any) -> Iterator[Executor]:
    """Worker processes, until the end of the block; at once if that ends by an exception.

    Parameters
    ----------
    n_workers : int
    begin : callable
        Called once in each process.
    *arguments
        Of `begin`.

    Raises
    ------
    ProcessesError
        If the arguments cannot be sent, or no process starts.
    ChildProcessError
        If a process dies.
    """
    try:
        sent = pickle.dumps(arguments)
    except Exception as error:
        raise ProcessesError(
            f"the verb or its options cannot be sent to other processes ({error}); define them "
            "with def in a file"
        ) from None
    _check_main(sent)
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        n_workers, context, initializer=_begin, initargs=(reader, begin, arguments)
    )
    try:
        _start(executor, n_workers)
        yield executor
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process died, perhaps for want of memory; give fewer n_workers"
        ) from None
    except BaseException:
        # The workers see it, and end whatever they are at.
        writer.close()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        writer.close()
        reader.close()


def _check_main(sent: bytes) -> None:
    """Raise a ProcessesError where other processes could not load what was run here.

    They run the file of the script again; a prompt and a script from stdin have none.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    by_name = getattr(main, "__spec__", None) is not None
    if file is not None and not by_name and not os.path.isfile(file):
        raise ProcessesError(f"there is no file {file} that worker processes could load; make one")
    if file is None and not by_name and b"__main__" in sent:
        raise ProcessesError(
            "what is defined at a prompt cannot be loaded by worker processes; define the verb "
            "in a file"
        )


def _start(executor: Executor, n_workers: int) -> None:
    with _interrupts_after(), _one_thread():
        # One for each, so that all of them are started now.
        ready = [executor.submit(os.getpid) for _ in range(n_workers)]
    try:
        ready[0].result()
    except BrokenProcessPool:
        raise ProcessesError(
            "worker processes cannot start; in a script put the sweep under "
            "`if __name__ == '__main__':`, and define the verb in a file"
        ) from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that are started in the block have one thread each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_after() -> Iterator[None]:
    """An interrupt is heard at the end of the block; processes that it starts never hear one.

    They inherit that it is blocked. To block it here is not enough for us, as another
    thread may be given it.
    """
    heard: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if is_main else None
    if before is not None:
        signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    mask = None
    if hasattr(signal, "pthread_sigmask"):
        # Its own start would unblock the signal.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if heard:
        signal.raise_signal(signal.SIGINT)


def is_starting() -> bool:
    """Whether this is a worker that still runs the script that started it."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _begin(parent: Connection, begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # The parent hears the interrupt, and closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    begin(*arguments)


def _end_with(parent: Connection) -> None:
    """End this process with its parent, however that ends."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os._exit(1)
