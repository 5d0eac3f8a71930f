"""What the tests of captures from a server share."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import xarray as xr
from stand_in_server import StandIn, continuation

from isingmoe.endpoint_requests import Patience
from isingmoe.endpoint_servers import Endpoint

KINDS = ("vllm", "vllm-0.21", "sglang")
TEXTS = ["The quick brown fox", "jumps", "over the lazy dog, and back again", "x" * 40]
FACTS: dict[str, Any] = {"num_experts": 8, "top_k": 2, "layers": [0, 1, 2]}


class Waits(list[float]):
    """Seconds that were to be waited, and were not."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


def endpoint(server: StandIn, **more: Any) -> Endpoint:
    more.setdefault("patience", Patience(attempts=3, sleep=Waits()))
    return Endpoint(server.url, **more)


def served(server: StandIn, prompts: list[list[int]], n_new: int = 0) -> list[np.ndarray]:
    """What the stand-in's model did, (layer, position, rank) of each sequence."""
    whole = [ids + continuation(ids, n_new) for ids in prompts]
    return [server.route(ids[: len(ids) - (n_new > 0)]).transpose(1, 0, 2) for ids in whole]


def check(traces: xr.Dataset, expected: list[np.ndarray]) -> None:
    assert traces["length"].values.tolist() == [rows.shape[1] for rows in expected]
    for place, rows in enumerate(expected):
        found = traces["expert_index"].values[:, place]
        np.testing.assert_array_equal(found[:, : rows.shape[1]], rows)
        assert (found[:, rows.shape[1] :] == -1).all()


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message
