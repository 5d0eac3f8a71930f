"""Whether intervals cover as often as they say, over many simulated data sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import isingmoe as im
from isingmoe.couplings import zero_sum
from isingmoe.curvature import effective_fields
from isingmoe.forward import draw
from isingmoe.kinds import Settings
from isingmoe.stationary import markov_chain
from isingmoe.uncertainty import curvature_of, information_spread, sandwich_spread

pytestmark = pytest.mark.slow

N_DATA_SETS = 400


@pytest.fixture(autouse=True)
def one_thread_of_linear_algebra() -> Iterator[None]:
    """The matrices are small, and threads that wait for each other take most of the time."""
    with threadpool_limits(1, user_api="blas"):
        yield


@dataclass(frozen=True)
class Setup:
    """A chain, how it is fitted, and how much is seen of it.

    `spread`: standard deviation of the random field of every sequence; `decay`: the
    parameter of the decay; both of the chain, where it has them.
    """

    chain: im.KineticChain
    options: dict[str, Any]
    spread: float | None = None
    decay: float | None = None
    n_sequences: int = 120
    length: int = 40

    def traces(self, number):
        more, shape = None, (self.n_sequences, self.chain.n_states)
        if self.spread is not None:
            more = self.spread * np.random.default_rng((0, number)).normal(size=shape)
        index = draw(
            self.chain,
            self.n_sequences,
            self.length,
            by_sequence=more,
            n_burn=30,
            seed=np.random.SeedSequence((0, number)),
        )
        return im.traces_from_arrays(index[None], num_experts=self.chain.n_states, ranked=False)

    def truth(self):
        """What is estimated, in the zero-sum gauge; the field is the mean over positions."""
        J = np.reshape(self.chain.bond, (-1, *self.chain.bond.shape[-2:]))
        h = self.chain.site.mean(0) + self.chain.top_k * J.mean(1).sum(0)
        known = {"J": zero_sum(J)[0].ravel(), "h": h - h.mean()}
        if self.spread is not None:
            known["sequence_spread"] = np.array([self.spread])
        if self.decay is not None:
            known["decay_parameter"] = np.array([self.decay])
        return known


def estimates(setup, number):
    """Everything that is estimated from one data set, with errors of two kinds."""
    bare = im.MaximumLikelihood(l2=0)
    traces = setup.traces(number)
    kind = Settings(chain="kinetic", estimator=bare, **setup.options).kind(traces).kind
    found = kind.estimate(kind.problem(traces, 0))
    assert found.maximum.converged
    problem, x = found.problem, found.maximum.x
    curvature = curvature_of(found)
    result = {"J": found.couplings(x).ravel(), "h": found.field(x)}
    if found.strength is not None:
        result["decay_parameter"] = np.array([found.strength])
    kinds = {
        "information": information_spread(curvature),
        "sandwich": sandwich_spread(curvature, found),
    }
    for name, spread in kinds.items():
        result["J", name] = spread.of(found.couplings).ravel()
        result["h", name] = spread.of(found.field)
        if found.strength is not None:
            result["decay_parameter", name] = spread.of(lambda y: y[..., -1:])
    if setup.spread is not None:
        tau = found.maximum.precision.groups[0]
        error = tau**-0.5 * effective_fields(problem, found.table, 0, tau)[1] / 2
        result["sequence_spread"] = np.array([tau**-0.5])
        for name in kinds:
            result["sequence_spread", name] = np.array([error])
    return result


def many(setup, n=N_DATA_SETS):
    """Estimates of many data sets, (data set, element)."""
    rows = [estimates(setup, number) for number in range(n)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def covered(found, truth, name, kind):
    """How often the intervals of 95 % hold the truth, in per cent."""
    inside = np.abs(found[name] - truth[name]) < 1.96 * found[name, kind]
    return 100 * inside.mean()


RNG = np.random.default_rng(0)
SYMMETRIC = RNG.normal(size=(4, 4)) / 1.5


def matrices(*shape):
    return RNG.normal(size=shape) / 2


MODELS = {
    "uniform": Setup(
        im.KineticChain(J=0.5 * np.eye(5), h=matrices(5), top_k=2), {"coupling": "uniform"}
    ),
    "diagonal": Setup(
        im.KineticChain(J=np.diag(0.3 + matrices(5)), h=matrices(5), top_k=2),
        {"coupling": "diagonal"},
    ),
    "symmetric": Setup(
        im.KineticChain(J=(SYMMETRIC + SYMMETRIC.T) / 2, h=matrices(4)), {"coupling": "symmetric"}
    ),
    "full": Setup(im.KineticChain(J=matrices(4, 4), h=matrices(4)), {"coupling": "full"}),
    "full, two distances": Setup(
        im.KineticChain(J=matrices(2, 4, 4), h=matrices(4), top_k=2),
        {"coupling": "full", "reach": 2},
    ),
    "blocks": Setup(
        im.KineticChain(J=0.4 * np.eye(4), h=np.repeat(matrices(4, 4), 10, 0), top_k=2, n_sites=40),
        {"coupling": "uniform", "field": "position", "position": im.Blocks(4)},
    ),
    "decay": Setup(
        im.KineticChain(
            J=(np.arange(1.0, 4) ** -1.2)[:, None, None] * np.eye(4), h=matrices(4), top_k=2
        ),
        {"coupling": "uniform", "reach": 3, "decay": "power-law"},
        decay=1.2,
    ),
    "sequence": Setup(
        im.KineticChain(J=np.diag(0.4 + matrices(4) * 2 / 3), h=matrices(4), top_k=2),
        {"coupling": "diagonal", "field": "sequence"},
        spread=0.6,
        n_sequences=60,
        length=200,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_intervals_cover_and_no_information_is_lost(name):
    """Coverage of both kinds of errors; and the variance is that of Cramer and Rao."""
    setup = MODELS[name]
    truth, found = setup.truth(), many(setup)
    told = {
        (what, kind): covered(found, truth, what, kind)
        for what in truth
        for kind in ("information", "sandwich")
    }
    ratio = np.concatenate(
        [found[what].var(0, ddof=1) / (found[what, "information"] ** 2).mean(0) for what in truth]
    ).mean()
    print(f"\n{name}: variance over the bound {ratio:.3f}; covered", end="")
    for (what, kind), share in told.items():
        print(f", {what} {share:.1f} % ({kind})", end="")
    for key, share in told.items():
        assert 93 < share < 97, key
    if name != "sequence":
        assert 0.9 < ratio < 1.1


def test_only_a_sandwich_covers_what_a_wrong_model_tends_to():
    """Couplings at four distances, fitted with neighbours: their limit is that of much data."""
    J = np.array([0.5, 0.4, 0.4, 0.5])[:, None, None] * np.eye(4)
    chain = im.KineticChain(J=J, h=np.array([0.5, 0.1, -0.2, -0.4]), top_k=2)
    setup = Setup(chain, {"coupling": "diagonal"}, n_sequences=100, length=60)
    limit = estimates(replace(setup, n_sequences=4000, length=500), N_DATA_SETS)
    found = many(setup)
    share = {
        (what, kind): covered(found, limit, what, kind)
        for what in ("J", "h")
        for kind in ("information", "sandwich")
    }
    print("\nmisspecified: covered", {key: round(float(v), 1) for key, v in share.items()})
    for what in ("J", "h"):
        # The limit itself is known to a small part of an error.
        assert (limit[what, "sandwich"] < 0.15 * found[what, "sandwich"].mean(0)).all()
        assert 93 < share[what, "sandwich"] < 97
        assert share[what, "information"] < 90


def test_the_spread_of_short_sequences_is_found_too_small():
    """The bias of the joint mode falls with the length of the sequences."""
    chain = im.KineticChain(J=0.4 * np.eye(4), top_k=2)
    setup = Setup(chain, {"coupling": "diagonal", "field": "sequence"}, spread=1.0, n_sequences=60)
    bias = {}
    for length in (50, 200):
        found = many(replace(setup, length=length), 100)["sequence_spread"]
        bias[length] = found.mean() - 1
    print("\nbias of a spread of one:", bias)
    assert -0.07 < bias[50] < -0.02
    assert abs(bias[200]) < 0.03


@pytest.mark.parametrize("kind", ["sandwich", "information"])
def test_chains_of_pair_counts(kind):
    """All that a Potts fit reports, the correlation length too."""
    chain = im.PottsChain(J=np.diag([1.0, 0.6, 0.8, 0.3]), h=np.array([0.3, 0.0, -0.3, 0.0]))
    solved = im.solve(chain)
    log_transition = np.log(markov_chain(np.add(chain.J, chain.h))[1])
    J, h = zero_sum(log_transition)
    truth = {
        "J": J,
        "h": h,
        "marginal": solved["marginal"].values,
        "correlation_length": solved["correlation_length"].item(),
    }
    setup = Setup(im.KineticChain(J=log_transition), {}, n_sequences=50, length=100)
    fits = [
        im.fit(
            setup.traces(number),
            estimator=im.MaximumLikelihood(pseudocount=0),
            uncertainty=kind,
            n_resamples=50,
        ).data.isel(layer=0)
        for number in range(N_DATA_SETS)
    ]
    for name, value in truth.items():
        found, error = (
            np.array([fit[key].values for fit in fits]) for key in (name, f"{name}_error")
        )
        share = 100 * (np.abs(found - value) < 1.96 * error).mean()
        print(f"\npotts, {name}: covered {share:.1f} % ({kind})", end="")
        assert 93 < share < 97
