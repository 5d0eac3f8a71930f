"""`simulate`: what it reports against the exact solution, and what it promises of a run."""

import numpy as np
import pytest
from naive import enumerate_chain, state_p_value
from scipy.stats import kstest

from isingmoe import (
    Exact,
    HeatBath,
    IsingChain,
    Metropolis,
    PottsChain,
    ShortRunWarning,
    SwendsenWang,
    Wolff,
    exponential,
    power_law,
    simulate,
    solve,
)

ISING = IsingChain(J=0.8, h=0.1, n_sites=24, boundary="periodic")
POTTS = PottsChain(J=1.1, h=[0.3, 0.1, 0.0, -0.2], n_sites=15)


def z_scores(samples, exact):
    """Of everything that both have, each over its error."""
    scores = {}
    for name in ("energy", "specific_heat", "magnetization", "susceptibility", "marginal"):
        error = samples[f"{name}_error"].values
        difference = samples[name].values - exact[name].values
        scores[name] = difference[error > 0] / error[error > 0]
    shared = len(samples["distance"])
    error = samples["correlation_error"].values
    difference = samples["correlation"].values - exact["correlation"].values[:shared]
    scores["correlation"] = difference[error > 0] / error[error > 0]
    return scores


short_runs = pytest.mark.filterwarnings("ignore::isingmoe.errors.ShortRunWarning")


@pytest.mark.parametrize("chain", [ISING, POTTS], ids=["ising", "potts"])
@pytest.mark.parametrize(
    "algorithm",
    [Exact(), HeatBath(), HeatBath(order="random"), Metropolis(), SwendsenWang(), Wolff()],
    ids=repr,
)
def test_every_algorithm_against_the_exact_solution(chain, algorithm):
    samples = simulate(chain, algorithm, n_samples=4000, n_replicas=4, n_sweeps=4, seed=5)
    for name, z in z_scores(samples, solve(chain)).items():
        # Of at most 60 correlated scores the largest lies within four.
        assert np.abs(z).max() < 4, (name, z)


@pytest.mark.parametrize("algorithm", [HeatBath(), Metropolis()], ids=repr)
def test_replicas_that_share_a_word(algorithm):
    samples = simulate(ISING, algorithm, n_samples=500, n_replicas=100, n_sweeps=4, seed=5)
    assert samples.sizes["replica"] == 100
    for name, z in z_scores(samples, solve(ISING)).items():
        assert np.abs(z).max() < 4, (name, z)


@pytest.mark.parametrize("algorithm", [Exact(), HeatBath(), Metropolis()], ids=repr)
def test_sets_of_experts(algorithm):
    rng = np.random.default_rng(3)
    chain = PottsChain(
        J=rng.normal(scale=0.5, size=(5, 5)), h=rng.normal(size=5), n_sites=7, top_k=2
    )
    samples = simulate(
        chain, algorithm, n_samples=3000, n_replicas=4, n_sweeps=5, keep_states=True, seed=2
    )
    assert samples["state"].dims == ("replica", "sample", "site", "rank")
    for name, z in z_scores(samples, solve(chain)).items():
        assert np.abs(z).max() < 4.5, (name, z)


def test_second_moment_length_and_binder_cumulant_against_enumeration():
    chain = IsingChain(J=0.6, n_sites=10, boundary="periodic", decay=power_law(1.6))
    exact = enumerate_chain(chain)
    spin = 2 * exact["states"][..., 0] - 1
    m2 = spin.mean(1) ** 2
    wave = np.abs(spin @ np.exp(2j * np.pi * np.arange(10) / 10)) ** 2
    mean = exact["probability"] @ np.stack([m2, m2**2, wave], 1)
    binder = 1 - mean[1] / (3 * mean[0] ** 2)
    length = np.sqrt(mean[0] * 100 / mean[2] - 1) / (2 * np.sin(np.pi / 10))
    samples = simulate(chain, SwendsenWang(), n_samples=20_000, n_replicas=4, seed=1)
    for name, expected in (("binder_cumulant", binder), ("correlation_length", length)):
        assert abs(samples[name] - expected) < 4 * samples[f"{name}_error"], name


@pytest.mark.parametrize("algorithm", [HeatBath(), SwendsenWang()], ids=repr)
def test_second_moment_length_where_sites_differ(algorithm):
    """A wave of the mean magnetization is no correlation."""
    chain = IsingChain(J=0.5, h=np.linspace(-1, 1, 8), n_sites=8)
    exact = enumerate_chain(chain)
    spin = 2 * exact["states"][..., 0] - 1
    mean = exact["probability"] @ spin
    covariance = (exact["probability"][:, None] * (spin - mean)).T @ (spin - mean)
    wave = np.exp(2j * np.pi * np.arange(8) / 8)
    ratio = covariance.sum() / (wave.conj() @ covariance @ wave).real
    length = np.sqrt(ratio - 1) / (2 * np.sin(np.pi / 8))
    runs = [simulate(chain, algorithm, n_samples=2000, seed=seed) for seed in range(10)]
    z = [(run["correlation_length"] - length) / run["correlation_length_error"] for run in runs]
    assert abs(np.mean(z)) < 4 / np.sqrt(10)
    assert np.abs(z).max() < 4


def test_a_length_hidden_by_noise_has_an_error():
    chain = IsingChain(J=0.0, n_sites=32, boundary="periodic")
    hidden = 0
    for seed in range(8):
        samples = simulate(chain, Exact(), n_samples=200, n_replicas=4, seed=seed)
        hidden += float(samples["correlation_length"]) == 0
        assert samples["correlation_length"] < 3 * samples["correlation_length_error"]
    assert 0 < hidden < 8


@pytest.mark.parametrize("q", [3, 16])
def test_magnetization_of_equal_experts_is_not_the_largest_of_noisy_ones(q):
    chain = PottsChain(J=1, n_experts=q, n_sites=32, boundary="periodic")
    runs = [simulate(chain, Exact(), n_samples=200, n_replicas=4, seed=seed) for seed in range(40)]
    z = [float(run["magnetization"] / run["magnetization_error"]) for run in runs]
    assert abs(np.mean(z)) < 4 / np.sqrt(40)
    alone = simulate(chain, Exact(), n_samples=1, n_replicas=1)
    assert alone["magnetization"] == alone["order_parameter"]


def test_patterns_and_labels_that_change_places_slowly():
    """Modes that neither the energy nor the share of the last label can see."""
    staggered = IsingChain(J=-2.2, n_sites=10)
    with pytest.warns(ShortRunWarning, match="autocorrelation times"):
        simulate(staggered, HeatBath(), n_samples=3000, n_replicas=2, seed=1)
    exchanged = PottsChain(J=3.0, h=[0, 0, -9.0], n_sites=16, boundary="periodic")
    with pytest.warns(ShortRunWarning, match="autocorrelation times"):
        simulate(exchanged, HeatBath(), n_samples=3000, n_replicas=4, seed=1)


def test_a_run_that_starts_too_early():
    chain = IsingChain(J=1.5, n_sites=2000, boundary="periodic")
    with pytest.warns(ShortRunWarning) as heard:
        simulate(chain, HeatBath(), n_samples=40, n_replicas=40, max_distance=4, seed=1)
    assert any("give n_equilibration above 10" in str(warning.message) for warning in heard)


@short_runs
def test_threads_and_calls_do_not_matter():
    for algorithm in (Exact(), HeatBath(), SwendsenWang()):
        one = simulate(ISING, algorithm, n_samples=100, n_threads=1, seed=7, keep_states=True)
        two = simulate(ISING, algorithm, n_samples=100, n_threads=3, seed=7, keep_states=True)
        assert one.identical(two)
    fewer = simulate(ISING, HeatBath(), n_samples=100, n_replicas=3, seed=7, keep_states=True)
    full = simulate(ISING, HeatBath(), n_samples=100, seed=7, keep_states=True)
    np.testing.assert_array_equal(fewer["state"], full["state"][:3])


@short_runs
def test_seeds():
    first = simulate(POTTS, HeatBath(), n_samples=50, seed=np.random.SeedSequence(4))
    again = simulate(POTTS, HeatBath(), n_samples=50, seed=np.random.SeedSequence(4))
    other = simulate(POTTS, HeatBath(), n_samples=50, seed=np.random.default_rng(4))
    assert first.equals(again)
    assert not first.equals(other)


@short_runs
def test_states_are_those_that_were_measured():
    samples = simulate(POTTS, HeatBath(), n_samples=300, n_replicas=3, keep_states=True, seed=1)
    state = samples["state"].values
    assert state.shape == (3, 300, 15)
    assert state.dtype == np.uint8
    energy = POTTS.energy(state) / POTTS.n_sites
    np.testing.assert_allclose(samples["energy_series"], energy, rtol=1e-12)
    np.testing.assert_allclose(samples["energy"], energy.mean(), rtol=1e-12)
    held = (state[..., None] == np.arange(4)).mean((0, 1))
    np.testing.assert_allclose(samples["marginal"], held, rtol=1e-12)
    assert "state" not in simulate(POTTS, HeatBath(), n_samples=10, seed=1)


def test_equilibration_can_be_seen():
    """From a random start the energy falls to its mean; what is kept does not drift."""
    chain = IsingChain(J=1.5, n_sites=2000, boundary="periodic")
    samples = simulate(chain, HeatBath(), n_samples=5000, n_replicas=2, seed=1)
    assert samples["energy_discarded"].shape == (2, 1000)
    assert (samples["energy_discarded"][:, 0] > samples["energy"] + 0.3).all()
    assert abs(samples["energy_drift"]) < 4
    assert simulate(chain, Exact(), n_samples=10, seed=1).sizes["discarded_sample"] == 0


def test_a_short_run_says_how_long_it_should_be():
    chain = IsingChain(J=2.0, n_sites=200, boundary="periodic")
    with pytest.warns(ShortRunWarning, match="give n_samples of at least [0-9]+"):
        simulate(chain, HeatBath(), n_samples=100, seed=1)


def test_autocorrelation_time_is_in_sweeps():
    kwargs = {"n_replicas": 4, "seed": 1}
    every = simulate(ISING, HeatBath(), n_samples=20_000, **kwargs)
    fourth = simulate(ISING, HeatBath(), n_samples=20_000, n_sweeps=4, **kwargs)
    time = float(every["susceptibility_autocorrelation_time"])
    assert time > 1.5
    # Half a sample at least, which is two of four sweeps.
    assert float(fourth["susceptibility_autocorrelation_time"]) == pytest.approx(
        max(time, 2), rel=0.25
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"chain": 3},
            TypeError,
            "chain: expected IsingChain, PottsChain or KineticChain, got int",
        ),
        ({"algorithm": 3}, TypeError, r"algorithm: expected one such as HeatBath\(\), got 3"),
        ({"algorithm": HeatBath}, TypeError, r"algorithm: expected one such as HeatBath\(\)"),
        ({"chain": IsingChain(J=1)}, ValueError, "n_sites: expected a finite chain"),
        ({"n_samples": 0}, ValueError, "n_samples: expected at least 1, got 0"),
        ({"n_samples": 1.5}, TypeError, "n_samples: expected an integer, got 1.5"),
        ({"n_replicas": 0}, ValueError, "n_replicas: expected at least 1"),
        ({"n_sweeps": 0}, ValueError, "n_sweeps: expected at least 1"),
        ({"n_equilibration": -1}, ValueError, "n_equilibration: expected at least 0"),
        ({"n_threads": 0}, ValueError, "n_threads: expected at least 1"),
        ({"max_distance": 13}, ValueError, "max_distance: expected 0 to 12 on this chain"),
        ({"max_distance": 2.5}, TypeError, "max_distance: expected an integer, got 2.5"),
        (
            {"chain": IsingChain(J=1, n_sites=2**31)},
            ValueError,
            r"n_sites: expected below 2\^31 to sample, got 2147483648",
        ),
        ({"seed": -1}, ValueError, "seed: expected a whole number from 0"),
        ({"seed": "a"}, ValueError, "seed: expected a whole number from 0"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"chain": ISING, "algorithm": HeatBath(), "n_samples": 10, **change}
    with pytest.raises(error, match=message):
        simulate(arguments.pop("chain"), arguments.pop("algorithm"), **arguments)


@short_runs
def test_one_site_and_one_sample():
    samples = simulate(PottsChain(J=1, n_experts=3, n_sites=1), HeatBath(), n_samples=2)
    assert samples["correlation"].shape == (1,)
    alone = simulate(ISING, Exact(), n_samples=1, n_replicas=1)
    assert np.isnan(alone["energy_error"])


def random_chain(seed, reaches=(1, 2, 3)):
    """Of at most 16,000 configurations; any fields, sets and ends."""
    rng = np.random.default_rng(seed)
    q, reach = int(rng.integers(2, 5)), int(rng.choice(reaches))
    top_k = int(rng.integers(2, q)) if q > 2 and rng.random() < 0.3 else 1
    periodic = bool(rng.random() < 0.5)
    longest = {2: 12, 3: 7, 4: 6}[q]
    shortest = 2 * reach + 1 if periodic else 1
    n_sites = int(rng.integers(min(shortest, longest - 1), longest))
    if periodic and n_sites <= 2 * reach:
        reach = (n_sites - 1) // 2
    local = not periodic and rng.random() < 0.3
    return PottsChain(
        J=rng.normal(scale=0.7, size=(reach, q, q)),
        h=rng.normal(size=(n_sites, q) if local else q),
        n_sites=n_sites,
        boundary="periodic" if periodic else "open",
        top_k=top_k,
        temperature=rng.uniform(0.5, 2),
    )


def random_neighbours(seed):
    """Coupled to nearest neighbours only."""
    return random_chain(seed, (1,))


def random_ferromagnet(seed):
    """Scalar couplings, nearest neighbour to power law, with and without a field."""
    rng = np.random.default_rng(seed)
    decay = [None, power_law(rng.uniform(1.2, 3)), exponential(rng.uniform(0.5, 3)), [1, 0.5, 0.2]]
    boundary = ["open", "periodic"][rng.integers(2)]
    kwargs = {
        "boundary": boundary,
        "decay": decay[rng.integers(4)],
        "temperature": rng.uniform(0.7, 2),
        "J": rng.uniform(0, 1),
    }
    if rng.random() < 0.6:
        h = rng.choice([0.0, rng.normal(scale=0.4)])
        return IsingChain(n_sites=int(rng.integers(7, 13)), h=h, **kwargs)
    q = int(rng.integers(3, 5))
    h = rng.normal(scale=0.5, size=q) * rng.integers(2)
    return PottsChain(n_sites=7 if q == 3 else 6 + (boundary == "periodic"), h=h, **kwargs)


SAMPLERS = [
    (Exact(), random_chain),
    (HeatBath(), random_chain),
    (HeatBath(order="random"), random_chain),
    (HeatBath(order="sequential"), random_chain),
    (Metropolis(), random_chain),
    (Metropolis(order="checkerboard"), random_neighbours),
    (SwendsenWang(), random_ferromagnet),
    (Wolff(n_clusters=4), random_ferromagnet),
]


def p_value(algorithm, chain, seed, n_samples):
    """Of the histogram of states, far enough apart to be independent."""
    samples = simulate(
        chain,
        algorithm,
        n_samples=n_samples,
        n_replicas=2,
        n_sweeps=1 if algorithm == Exact() else 40,
        max_distance=-1,
        keep_states=True,
        seed=seed,
    )
    state = samples["state"].values
    return state_p_value(chain, state.reshape(-1, *state.shape[2:]))


@pytest.mark.parametrize(
    ("algorithm", "draw"), SAMPLERS, ids=lambda v: getattr(v, "__name__", repr(v))
)
def test_states_come_as_often_as_they_should(algorithm, draw):
    """Thirty random chains; the smallest of thirty p-values is below 3e-4 in one of 100."""
    p = [p_value(algorithm, draw(seed), seed, 2000) for seed in range(30)]
    assert min(p) > 3e-4, p
    assert kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "draw"), SAMPLERS, ids=lambda v: getattr(v, "__name__", repr(v))
)
def test_p_values_are_uniform(algorithm, draw):
    p = [p_value(algorithm, draw(seed), seed, 10_000) for seed in range(1000, 1200)]
    assert kstest(p, "uniform").pvalue > 1e-3


def second_moment_length(chain):
    """sqrt(S(0)/S(2 pi/n) - 1)/(2 sin(pi/n)) of the exact correlations of a ring."""
    n = chain.n_sites
    correlation = solve(chain, max_distance=n // 2)["correlation"].values
    d = np.arange(n)
    around = correlation[np.minimum(d, n - d)]
    ratio = around.sum() / (around * np.cos(2 * np.pi * d / n)).sum()
    return np.sqrt(ratio - 1) / (2 * np.sin(np.pi / n))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("J", "n_sites", "n_samples", "algorithm"),
    [
        (0.2, 12, 4000, HeatBath()),
        (0.2, 12, 4000, SwendsenWang()),
        (1.5, 64, 16_000, HeatBath()),
        (1.5, 64, 4000, SwendsenWang()),
    ],
    ids=repr,
)
def test_errors_cover(J, n_sites, n_samples, algorithm):
    """Over 1000 runs the truth lies within one error in 68 %, far from and near criticality.

    A nearest-neighbour chain is critical at T = 0: xi is 0.6 sites at J = 0.2 and 10 at 1.5.
    """
    chain = IsingChain(J=J, n_sites=n_sites, boundary="periodic")
    exact = solve(chain)
    truth = {
        "energy": float(exact["energy"]),
        "susceptibility": float(exact["susceptibility"]),
        "correlation_length": second_moment_length(chain),
    }
    within = dict.fromkeys(truth, 0)
    for seed in range(1000):
        samples = simulate(
            chain, algorithm, n_samples=n_samples, n_replicas=2, max_distance=-1, seed=seed
        )
        for name, value in truth.items():
            within[name] += abs(samples[name] - value) < samples[f"{name}_error"]
    for name, count in within.items():
        assert 0.64 < count / 1000 < 0.72, (name, count / 1000)
