"""C_e(d) of 64 experts at 513 distances over 10^6 tokens, beside Fourier transforms.

Run with `make bench`. 10^6 tokens and so many series: millions per second are series per second.
"""

import numpy as np
import pytest
import scipy.fft

import isingmoe as im

Q, LENGTH, MAX_DISTANCE = 64, 1_000_000, 512
SERIES = Q * LENGTH


def correlated_sets(k):
    """Experts of 10^6 tokens, half of which have those of the token before, (token, k)."""
    rng = np.random.default_rng(k)
    kept = np.maximum.accumulate(np.where(rng.random(LENGTH) < 0.5, np.arange(LENGTH), 0))
    first, step = rng.integers(0, Q, LENGTH)[kept], 2 * rng.integers(0, Q // 2, LENGTH)[kept] + 1
    # Multiples of an odd number are different modulo 64.
    return ((first[:, None] + step[:, None] * np.arange(k)) % Q).astype(np.int16)


@pytest.fixture(scope="module", params=[1, 8])
def top_k(request):
    return request.param


@pytest.fixture(scope="module")
def traces(top_k):
    return im.traces_from_arrays(correlated_sets(top_k)[None, None], num_experts=Q, ranked=False)


@pytest.fixture(scope="module")
def occupancy(traces):
    """(expert, token), float32."""
    return np.ascontiguousarray(im.occupancy(traces).values[0, 0].T, np.float32)


@pytest.fixture(scope="module")
def expected(occupancy):
    """Counts at a few distances, by a loop over them."""
    on = occupancy.astype(bool)
    return {d: (on[:, : LENGTH - d] & on[:, d:]).sum(1) for d in (0, 1, 2, 63, 64, 300, 512)}


def check(counts, expected):
    assert counts.shape == (Q, MAX_DISTANCE + 1)
    for d, column in expected.items():
        np.testing.assert_array_equal(counts[:, d], column)


@pytest.mark.benchmark(group="C_e(d) of 64 experts at 513 distances over 10^6 tokens, series")
class TestExpertCorrelation:
    def test_isingmoe(self, run, traces, expected):
        options = {"max_distance": MAX_DISTANCE, "n_resamples": 0, "primary": False}
        found = run(lambda: im.expert_correlation(traces, **options), n_tokens=SERIES)
        check(found["n_both"].values[0], expected)

    def test_scipy_rfft(self, run, occupancy, expected):
        size = scipy.fft.next_fast_len(LENGTH + MAX_DISTANCE, real=True)

        def correlate():
            counts = np.empty((Q, MAX_DISTANCE + 1), np.int64)
            for row, series in zip(counts, occupancy, strict=True):
                power = np.abs(scipy.fft.rfft(series, size, workers=-1)) ** 2
                row[:] = np.rint(scipy.fft.irfft(power, size, workers=-1)[: MAX_DISTANCE + 1])
            return counts

        check(run(correlate, n_tokens=SERIES, rounds=2), expected)

    def test_torch_rfft(self, run, occupancy, expected):
        torch = pytest.importorskip("torch")
        size = scipy.fft.next_fast_len(LENGTH + MAX_DISTANCE, real=True)
        everything = torch.from_numpy(occupancy)

        def correlate():
            counts = []
            for some in everything.split(8):
                power = torch.fft.rfft(some, size).abs() ** 2
                counts.append(torch.fft.irfft(power, size)[:, : MAX_DISTANCE + 1].round().long())
            return torch.cat(counts).numpy()

        check(run(correlate, n_tokens=SERIES, rounds=3), expected)
