"""Resamples of a parametric bootstrap: 72,562 tokens of 32 experts, drawn, refitted, measured."""

import numpy as np
import pytest
import scipy.fft
from deeptime.markov import TransitionCountEstimator
from deeptime.markov.msm import MarkovStateModel, MaximumLikelihoodMSM

import isingmoe as im
from isingmoe.bootstrap_fits import Request, redrawn
from isingmoe.markov_draws import MarkovDraws

Q, N_SEQUENCES, LENGTH, MAX_DISTANCE = 32, 142, 511, 64


@pytest.fixture(scope="module")
def few():
    """Traces of the size of a layer of gpt-oss-20b."""
    transition = np.random.default_rng(0).dirichlet(np.full(Q, 0.5), Q)
    law = np.full(Q, 1 / Q)
    states = MarkovDraws(transition, law).like(np.zeros((N_SEQUENCES, LENGTH), np.int16), 0)
    return im.traces_from_arrays(states[None, :, :, None], num_experts=Q)


@pytest.mark.benchmark(group="resamples of a bootstrap")
@pytest.mark.parametrize("chain", ["potts", "ising"])
def test_isingmoe(run, few, chain):
    fit = im.fit(few, chain=chain, uncertainty="information", n_resamples=2)
    layer = redrawn(fit, few, 0, Request("global", MAX_DISTANCE + 1, True, 0))
    seeds = iter(np.random.SeedSequence(0).spawn(1000))
    run(lambda: layer.simulated(next(seeds)), N_SEQUENCES * LENGTH)


@pytest.mark.benchmark(group="resamples of a bootstrap")
def test_public_verbs(run, few):
    """The same with what the package offers to everybody."""
    fit = im.fit(few, chain="potts", uncertainty="information", n_resamples=2)

    def resample():
        drawn = im.generate(fit, n_sequences=N_SEQUENCES, length=LENGTH)
        again = im.fit(drawn, chain="potts", uncertainty="information", n_resamples=2)
        im.correlation(drawn, max_distance=MAX_DISTANCE, n_resamples=2)
        im.solve(again.chain(0), max_distance=MAX_DISTANCE)

    run(resample, N_SEQUENCES * LENGTH, rounds=5)


@pytest.mark.benchmark(group="resamples of a bootstrap")
def test_deeptime_and_scipy(run, few):
    """A Markov state model drawn and estimated, C(d) by Fourier transforms."""
    states = few["expert_index"].values[0, :, :, 0].astype(np.int32)
    model = _model(list(states))

    def resample():
        drawn = [model.simulate(LENGTH, seed=s) for s in range(N_SEQUENCES)]
        again = _model(drawn)
        on = (np.array(drawn)[:, None] == np.arange(Q)[:, None]).astype(np.float32)
        spectrum = scipy.fft.rfft(on, 2 * LENGTH, axis=-1)
        pairs = scipy.fft.irfft(np.abs(spectrum) ** 2, axis=-1)[..., : MAX_DISTANCE + 1]
        pairs.sum((0, 1))
        power = np.eye(Q)
        for _ in range(MAX_DISTANCE):
            power = power @ again.transition_matrix

    run(resample, N_SEQUENCES * LENGTH, rounds=3)


def _model(trajectories) -> MarkovStateModel:
    counts = TransitionCountEstimator(1, "sliding").fit_fetch(trajectories)
    return MaximumLikelihoodMSM(reversible=False).fit_fetch(counts)
