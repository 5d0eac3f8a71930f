"""Any verb over a grid of the parameters of a chain."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401 - brings a BLAS of its own, whose threads are limited too
import xarray as xr
from threadpoolctl import threadpool_limits

from isingmoe import _provenance
from isingmoe._grids import Grid, assemble
from isingmoe._identity import identity, other_sweep
from isingmoe._makers import digest_of_chains, in_words, maker
from isingmoe._points import PointFolder, Stored
from isingmoe._processes import is_starting
from isingmoe._spins import whole
from isingmoe._storage import check_output, read_dataset
from isingmoe._text import track
from isingmoe._workers import Outcome, Point, Task, compute
from isingmoe.chains import Chain

__all__ = ["sweep"]

# What was warned of, in the file: categories and texts as JSON.
_WARNINGS = "sweep_warnings"

# What HDF5 holds in one piece.
_LARGEST_VARIABLE = 1 << 32

_REMEDY = "say --overwrite, or another name"


def sweep(
    verb: Callable[..., xr.Dataset],
    chain: Chain | Callable[..., Chain],
    *,
    options: Mapping[str, Any] | None = None,
    drop_dims: Sequence[str] = (),
    seed: int | np.random.SeedSequence = 0,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    n_workers: int | None = None,
    client: Any = None,
    progress: bool = True,
    **grid: Any,
) -> xr.Dataset:
    """Solve, simulate or do anything else at every point of a grid.

    Parameters
    ----------
    verb : callable
        `solve`, `simulate`, or any function of a chain that returns a Dataset. For worker
        processes it has to be defined in a file, not at a prompt and not as a lambda.
    chain : Chain or callable
        A chain, whose parameters are replaced by those of the grid; or a function that
        makes one, called with the grid's values by name, for parameters of each expert
        and whatever else. It is called in this process, and may be a lambda.
    options : dict, optional
        Further arguments of the verb: `{"max_distance": 4}`.
    drop_dims : sequence of str
        Dims whose variables are not kept, such as `("replica", "sample")`.
    seed : int or SeedSequence
        A verb that takes `seed` gets a child of it, spawned by the number of the point.
    path : path, optional
        Where the result is written (.nc, or .zarr). Every point is stored as soon as it
        is computed, in a folder beside it: a sweep that was ended by anything goes on
        from there when it is called again, and its result is the same, bit for bit. A
        finished one is read and returned.
    overwrite : bool
        Whether the file and the stored points of another sweep may be replaced.
    n_workers : int, optional
        Processes; 1 is this one. By default as many as there are cores, once it is seen
        that they would save time.
    client : dask.distributed.Client, optional
        Computes the points instead. Its workers should have one BLAS thread each, as they
        have by default.
    progress : bool
        Whether to show a bar on stderr, where that is a terminal.
    **grid
        For each parameter its values: `J`, `h`, `temperature`, `n_sites`, `n_experts` (or
        `q`), `top_k`, `alpha` (`decay=power_law(alpha)`) and `length`
        (`decay=exponential(length)`) of a chain; the arguments of a function.

    Returns
    -------
    Dataset
        The variables of the verb with the parameters as first dims, in the order given.
        Where their sizes differ over the grid they are padded with NaN.

    Raises
    ------
    TypeError, ValueError
        If the grid, a chain of it or an option is not possible. An error at a point says
        at which.
    FileExistsError
        If `path` holds something else, or points of another sweep.
    ChildProcessError
        If a worker process dies.

    Notes
    -----
    The result does not depend on the number of workers, nor on which points were stored
    before. A stored sweep is the same where its grid, all chains, the options and the verb
    are: its code, the values that it uses, and the functions of yours that it calls. Points
    at which the verb warns are counted, and the first is named; a stored sweep warns again
    when it is read.

    Examples
    --------
    >>> import isingmoe as im
    >>> ring = im.IsingChain(J=1.0, n_sites=64, boundary="periodic")
    >>> grid = im.sweep(im.solve, ring, J=[0.5, 1.0], h=[0.0, 0.1, 0.2])
    >>> dict(grid.magnetization.sizes)
    {'J': 2, 'h': 3}
    """
    if is_starting():
        # A script without a guard, run again by a worker that starts; the sweep that
        # started it says what to do.
        raise SystemExit(1)
    points = Grid.of(grid)
    make = maker(chain, points)
    task = Task(
        verb, _checked_options(verb, options), _seed_sequence(seed), _checked_dims(drop_dims)
    )
    if n_workers is not None and whole("n_workers", n_workers) < 1:
        raise ValueError(f"n_workers: expected at least 1, got {n_workers}")
    if client is not None and not hasattr(client, "get_executor"):
        raise TypeError(f"client: expected a dask.distributed Client, got {type(client).__name__}")
    arguments = {
        "verb": identity(verb),
        "chain": in_words(chain, points.values),
        "chains": digest_of_chains(chain, make, points),
        "options": identity(task.options),
        "drop_dims": list(task.drop_dims),
        "grid": points.described(),
        "seed": identity(seed),
    }
    attributes = {
        "chain": arguments["chain"],
        "provenance": _provenance.record("sweep", arguments),
    }
    run = partial(_run, task, make, points, n_workers, client, progress)
    if path is None:
        result = _result(points, run(None), attributes)
    else:
        result = _run_into(Path(path), overwrite, points, run, attributes)
    for category, text in _warnings_of(result):
        warnings.warn(text, category, stacklevel=2)
    return result


def _run_into(
    target: Path,
    overwrite: bool,
    grid: Grid,
    run: Callable[[PointFolder], dict[int, Stored]],
    attributes: dict[str, str],
) -> xr.Dataset:
    """Go on from what is stored, or begin; the result is what is in the file."""
    folder = PointFolder(target)
    provenance = attributes["provenance"]
    if _is_finished(target, provenance, overwrite):
        folder.discard(provenance)
        return read_dataset(target)
    check_output(target, overwrite)
    folder.take()
    try:
        # Another process may have finished before the folder was ours.
        if _is_finished(target, provenance, overwrite):
            return read_dataset(target)
        there = folder.manifest()
        if there is not None and there != provenance:
            if not overwrite:
                raise FileExistsError(
                    f"{folder.path}: holds points of {other_sweep(there, provenance)}; {_REMEDY}"
                )
            folder.clear()
        folder.begin(provenance)
        _finish(folder, grid, run, attributes)
    finally:
        folder.release()
    return read_dataset(target)


def _finish(
    folder: PointFolder,
    grid: Grid,
    run: Callable[[PointFolder], dict[int, Stored]],
    attributes: dict[str, str],
) -> None:
    """Compute what is left, and publish; what is interrupted is kept, and says so."""
    try:
        folder.publish(_result(grid, run(folder), attributes))
    except BaseException as error:
        if not folder.is_ours():
            raise
        kept = len(folder.finished())
        if not kept:
            folder.clear()
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"interrupted; {kept} of {grid.size} points are kept in {folder.path}, and the "
                "same sweep goes on from there"
            ) from None
        raise


def _result(grid: Grid, points: Mapping[int, Stored], attributes: dict[str, str]) -> xr.Dataset:
    """All points as one Dataset, which says at how many there was a warning, and the first."""
    places: dict[str, dict[int, str]] = {}
    for index in range(grid.size):
        for category, text in points[index].heard:
            places.setdefault(category, {}).setdefault(index, text)
    heard = []
    for category, texts in places.items():
        index, text = next(iter(texts.items()))
        count = f"at {len(texts)} of {grid.size} points, first " if len(texts) > 1 else ""
        heard.append([category, f"{count}at {grid.where(index)}: {text}"])
    more = {_WARNINGS: json.dumps(heard)} if heard else {}
    return assemble(grid, points).assign_attrs(attributes, **more)


def _warnings_of(result: xr.Dataset) -> Iterator[tuple[type[Warning], str]]:
    for name, text in json.loads(result.attrs.get(_WARNINGS, "[]")):
        module, _, category = name.rpartition(".")
        # Nothing is imported because a file names it.
        kind = getattr(sys.modules.get(module), category, UserWarning)
        is_category = isinstance(kind, type) and issubclass(kind, Warning)
        yield kind if is_category else UserWarning, text


def _is_finished(target: Path, provenance: str, overwrite: bool) -> bool:
    """Whether the result of this sweep is there.

    Raises
    ------
    FileExistsError
        If something else is, and may not be replaced.
    """
    if not target.exists():
        return False
    there = _provenance_of(target)
    if there != provenance and not overwrite:
        raise FileExistsError(f"{target}: holds {other_sweep(there, provenance)}; {_REMEDY}")
    return there == provenance


def _run(
    task: Task,
    make: Callable[[int], Chain],
    grid: Grid,
    n_workers: int | None,
    client: Any,
    progress: bool,
    folder: PointFolder | None,
) -> dict[int, Stored]:
    """Compute what is not stored yet, and return everything."""
    before = set() if folder is None else folder.finished()
    left = [index for index in range(grid.size) if index not in before]
    outcomes = compute(
        task,
        (Point(index, grid.where(index), make(index)) for index in left),
        len(left),
        folder=None if folder is None else folder.path,
        n_workers=n_workers,
        client=client,
    )
    finished: dict[int, Stored] = {}
    bar = (item for item in track(range(grid.size), "sweep", enabled=progress))
    with threadpool_limits(1, user_api="blas"), closing(bar), closing(outcomes):
        for _ in before:
            next(bar)
        for n_outcomes, outcome in enumerate(outcomes):
            if outcome.error is not None:
                raise outcome.error
            if not n_outcomes:
                _check_memory(grid.size, outcome)
            for index, stored in outcome.finished:
                next(bar)
                if stored is not None:
                    finished[index] = stored
    if folder is None:
        return finished
    folder.check()
    return folder.read()


def _check_memory(n_points: int, outcome: Outcome) -> None:
    """Raise a MemoryError where the result will be too large for this machine or a file."""
    total, largest = (n_points * size for size in outcome.sizes)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        memory = math.inf
    if 2 * total > memory or largest >= _LARGEST_VARIABLE:
        raise MemoryError(
            f"grid: {n_points} points take {total / 2**30:.3g} GiB, more than fits; leave "
            "variables out with drop_dims, or sweep in parts"
        )


def _checked_options(verb: Callable[..., Any], options: Mapping[str, Any] | None) -> dict[str, Any]:
    if not callable(verb):
        raise TypeError(
            f"verb: expected solve, simulate or a function of a chain, got {type(verb).__name__}"
        )
    given = dict(options or {})
    if "seed" in given:
        raise TypeError("options: expected no seed, as each point has its own; give seed=")
    signature = inspect.signature(verb)
    try:
        signature.bind(None, **given, **({"seed": 0} if "seed" in signature.parameters else {}))
    except TypeError as error:
        name = getattr(verb, "__name__", type(verb).__name__)
        raise TypeError(f"options: expected the arguments of {name}: {error}") from None
    return given


def _checked_dims(drop_dims: Sequence[str]) -> tuple[str, ...]:
    if isinstance(drop_dims, str):
        raise TypeError(f"drop_dims: expected a sequence of names, got {drop_dims!r}")
    return tuple(drop_dims)


def _seed_sequence(seed: Any) -> np.random.SeedSequence:
    if isinstance(seed, np.random.SeedSequence):
        return seed
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed: expected a whole number from 0 or a SeedSequence, got {seed!r}")
    return np.random.SeedSequence(int(seed))


def _provenance_of(target: Path) -> str | None:
    try:
        return read_dataset(target).attrs.get("provenance")
    except (OSError, ValueError):
        return None
