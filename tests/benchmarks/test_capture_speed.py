"""A capture beside the plain forward passes over the same batches.

Run with `make bench`. The model of `fits/example_model`, with random weights: 4 layers of 16
experts, top-2, hidden size 192. 1024 texts of 512 tokens, 8 in a batch. The capture writes its
file. Between its batches the same batch goes through a copy of the model without hooks, so that
whatever else the machine does hits both.
"""

from __future__ import annotations

import copy
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


@pytest.mark.benchmark(group=GROUP)
def test_overhead(benchmark, monkeypatch, model, texts, tmp_path):
    """At most 5 % of the plain passes; a quarter of a second of it is the file's, however long."""
    from isingmoe.capturing.running import Runner

    bare, run, plain = copy.deepcopy(model), Runner.run, []

    def both(self, batch):
        ids = torch.from_numpy(texts[batch])
        layouts = None
        # In turns, as the second finds the tokens in the cache.
        for is_plain in (len(plain) % 2 == 0, len(plain) % 2 == 1):
            if is_plain:
                started = time.perf_counter()
                with torch.no_grad():
                    bare(
                        input_ids=ids, use_cache=False, output_router_logits=False, logits_to_keep=1
                    )
                plain.append(time.perf_counter() - started)
            else:
                layouts = run(self, batch)
        return layouts

    monkeypatch.setattr(Runner, "run", both)

    options = {"batch_tokens": BATCH * LENGTH, "progress": False, "overwrite": True}
    overheads = []

    def captured(texts):
        plain.clear()
        started = time.perf_counter()
        im.capture(model, texts, output=tmp_path / "traces.nc", **options).close()
        overheads.append((time.perf_counter() - started) / sum(plain) - 2)

    captured(texts[: 2 * BATCH])
    overheads.clear()
    benchmark.pedantic(captured, (texts,), rounds=3)
    benchmark.extra_info["Mtokens"] = texts.size / 1e6
    benchmark.extra_info["overhead_percent"] = [round(100 * one, 2) for one in overheads]
    assert np.median(overheads) < 0.05
