"""A capture beside the plain forward passes over the same batches.

Run with `make bench`. The model of `fits/example_model`, with random weights: 4 layers of 16
experts, top-2, hidden size 192. 1024 texts of 512 tokens, 8 in a batch. The capture writes its
file; the plain passes go over the same batches with the same arguments.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

import isingmoe as im

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

N_TEXTS, LENGTH, BATCH = 1024, 512, 8
GROUP = "capture"


@pytest.fixture(scope="module")
def model():
    sys.path.insert(0, str(Path(__file__).parents[2] / "fits" / "example_model"))
    from training import FULL, build

    torch.manual_seed(0)
    return build(FULL).eval()


@pytest.fixture(scope="module")
def texts():
    return np.random.default_rng(0).integers(1, 2048, (N_TEXTS, LENGTH))


def plain(model, texts):
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            ids = torch.from_numpy(texts[start : start + BATCH])
            model(input_ids=ids, use_cache=False, output_router_logits=False, logits_to_keep=1)


def captured(model, texts, folder):
    path = folder / f"{time.monotonic_ns()}.nc"
    im.capture(model, texts, output=path, batch_tokens=BATCH * LENGTH, progress=False).close()


@pytest.mark.benchmark(group=GROUP)
def test_overhead(benchmark, model, texts, tmp_path):
    """In turn, so that whatever else the machine does hits both; at most 5 % by the least of each.

    A quarter of a second goes to opening and closing the file, however many tokens there are.
    """
    benchmark.extra_info["Mtokens"] = texts.size / 1e6
    seconds = {"plain": [], "capture": []}

    def turn():
        for name, run in (
            ("plain", lambda: plain(model, texts)),
            ("capture", lambda: captured(model, texts, tmp_path)),
        ):
            # What the machine gave to others is not counted.
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)

    benchmark.pedantic(turn, rounds=3)
    ratio = min(seconds["capture"]) / min(seconds["plain"])
    benchmark.extra_info["ratio"] = round(float(ratio), 3)
    assert ratio < 1.05
