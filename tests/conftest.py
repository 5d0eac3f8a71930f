from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import isingmoe as im
from isingmoe.cli import app

# Idle threads that spin make every small kernel wait where the cores are busy. It is read
# when the threads start, at the first parallel kernel.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class Ran(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session", autouse=True)
def _share_of_the_cores() -> None:
    """Where several processes test, each keeps to its share: a parallel kernel waits for all."""
    n_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    numba.set_num_threads(max(numba.config.NUMBA_NUM_THREADS // n_processes, 1))


@pytest.fixture
def many_threads() -> Iterator[int]:
    """As many threads as there can be, during the test: their number."""
    before = numba.get_num_threads()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    yield numba.config.NUMBA_NUM_THREADS
    numba.set_num_threads(before)


@pytest.fixture(scope="session")
def make_traces() -> Callable[..., xr.Dataset]:
    """A factory of small traces, valid by construction."""

    def build(
        *,
        n_layers: int = 2,
        n_sequences: int = 5,
        n_positions: int = 12,
        num_experts: int = 6,
        top_k: int = 2,
        ranked: bool = True,
        ragged: bool = False,
        gaps: float = 0.0,
        weights: bool = False,
        token_ids: bool = False,
        seed: int = 0,
        **more: Any,
    ) -> xr.Dataset:
        """`gaps`: share of tokens without experts, and of the others without the last one."""
        rng = np.random.default_rng(seed)
        shape = (n_layers, n_sequences, n_positions)
        index = rng.random((*shape, num_experts)).argsort(-1)[..., :top_k]
        index[rng.random(shape) < gaps] = -1
        if top_k > 1:
            index[rng.random(shape) < gaps, -1] = -1
        length = np.full(n_sequences, n_positions)
        if ragged:
            length = rng.integers(0, n_positions + 1, n_sequences)
            length[rng.integers(n_sequences)] = n_positions
        past = np.arange(n_positions) >= length[:, None]
        index[:, past] = -1
        if weights:
            weight = -np.sort(-rng.random(index.shape, np.float32))
            more["gate_weight"] = np.where(index < 0, np.float32(0), weight)
        if token_ids:
            token = np.arange(n_sequences * n_positions).reshape(n_sequences, n_positions)
            more["token_id"] = np.where(past, -1, token)
        more = {"layer": 3 + 4 * np.arange(n_layers), "model": "synthetic", **more}
        return im.traces_from_arrays(
            index, num_experts=num_experts, length=length, ranked=ranked, **more
        )

    return build


@pytest.fixture(scope="session")
def some(make_traces: Callable[..., xr.Dataset]) -> Callable[..., xr.Dataset]:
    """Ragged traces with token ids, without gaps and without sequences of no tokens."""

    def build(n_least: int = 4, **more: Any) -> xr.Dataset:
        made = make_traces(
            **{"ragged": True, "n_positions": 14, "n_sequences": 7, "token_ids": True, **more}
        )
        made = made.isel(sequence=np.flatnonzero(made["length"].values >= n_least))
        return made.isel(position=slice(int(made["length"].max())))

    return build


@pytest.fixture(scope="session")
def shared_traces() -> Path:
    """The folder of real traces beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "traces"
    if not folder.is_dir():
        pytest.skip("no shared traces beside the checkout")
    return folder


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., Ran]:
    """The command line in this process; what it does not catch goes through to the test."""

    def run(*arguments: object, env: dict[str, str | None] | None = None) -> Ran:
        # Escape sequences are kept, as on a terminal; progress bars only where asked for.
        result = CliRunner().invoke(
            app,
            [str(argument) for argument in arguments],
            env={"FORCE_COLOR": None, "TTY_COMPATIBLE": None, **(env or {})},
            prog_name="isingmoe",
            catch_exceptions=False,
            color=True,
        )
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run
