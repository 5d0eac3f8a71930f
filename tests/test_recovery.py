"""What fits find in sequences that were drawn from known chains."""

import numpy as np
import pytest

import isingmoe as im
from isingmoe.couplings import zero_sum
from isingmoe.forward import draw

BARE = im.MaximumLikelihood(l2=0)


def simulated(chain, n_sequences, length, seed, by_sequence=None):
    index = draw(chain, n_sequences, length, by_sequence=by_sequence, n_burn=50, seed=seed)
    return im.traces_from_arrays(index[None], num_experts=chain.n_states, ranked=False)


def fitted(traces, **options):
    return im.fit(traces, **{"chain": "kinetic"} | options).data.isel(layer=0)


def deviations(data, name, truth):
    """Differences from the truth over their errors, which must be small against what is there."""
    error = data[f"{name}_error"].values
    assert np.sqrt((np.asarray(truth) ** 2).mean()) > 4 * np.median(error)
    return (data[name].values - truth) / error


def assert_recovered(data, name, truth):
    z = deviations(data, name, truth)
    assert np.abs(z).max() < 4
    if len(np.unique(np.abs(z).round(6))) > 10:
        assert 0.3 < np.sqrt((z**2).mean()) < 1.7


class TestTopics:
    """Loads that differ between texts are not taken for memory, nor memory for them."""

    spread, n_experts = 0.8, 6

    def traces(self, J, seed):
        rng = np.random.default_rng(seed)
        more = self.spread * rng.normal(size=(60, self.n_experts))
        chain = im.KineticChain(J=J * np.eye(self.n_experts), top_k=2)
        return simulated(chain, 60, 150, seed, more)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_without_their_field_they_look_like_a_coupling(self, seed):
        traces = self.traces(0.0, seed)
        data = fitted(traces, coupling="uniform", estimator=BARE)
        assert data["self_coupling"] > 10 * data["self_coupling_error"]
        assert data["self_coupling"] > 0.2

    @pytest.mark.parametrize("uncertainty", ["sandwich", "information"])
    @pytest.mark.parametrize("J", [0.0, 0.5])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_with_their_field_both_are_found(self, J, seed, uncertainty):
        data = fitted(
            self.traces(J, seed),
            coupling="uniform",
            field="sequence",
            estimator=BARE,
            uncertainty=uncertainty,
        )
        # J on the diagonal is J of an expert to itself: the self-coupling, in this gauge.
        assert abs(data["self_coupling"] - J) < 1.96 * data["self_coupling_error"]
        assert data["self_coupling_error"] < 0.05
        assert abs(data["sequence_spread"] - self.spread) < 3 * data["sequence_spread_error"]
        assert data["sequence_spread_error"] < 0.1

    def test_no_topics_are_found_where_there_are_none(self):
        chain = im.KineticChain(J=0.5 * np.eye(6), top_k=2)
        data = fitted(simulated(chain, 40, 150, 0), coupling="uniform", field="sequence")
        assert data["sequence_spread"] < 0.1
        assert_recovered(data, "self_coupling", 0.5)

    def test_the_fields_of_the_sequences(self):
        rng = np.random.default_rng(2)
        more = rng.normal(size=(30, 5))
        more -= more.mean(1, keepdims=True)
        chain = im.KineticChain(J=0.4 * np.eye(5), top_k=2)
        data = fitted(simulated(chain, 30, 300, 2, more), coupling="diagonal", field="sequence")
        common = more.mean(0)
        left = data["h_sequence"].values - (more - common)
        assert np.sqrt((left**2).mean()) < 0.25 * more.std()
        np.testing.assert_allclose(data["h"].values - data["h"].values.mean(), common, atol=0.2)


def falling(name, parameter, reach):
    r = np.arange(1.0, reach + 1)
    return r**-parameter if name == "power-law" else np.exp(-(r - 1) / parameter)


class TestReach:
    @pytest.mark.parametrize("coupling", ["uniform", "diagonal", "full"])
    @pytest.mark.parametrize(("name", "parameter"), [("power-law", 1.3), ("exponential", 2.5)])
    def test_a_decay(self, name, parameter, coupling):
        rng = np.random.default_rng(3)
        base = {
            "uniform": 0.8 * np.eye(5),
            "diagonal": np.diag(rng.uniform(0.3, 1.3, 5)),
            "full": rng.normal(size=(5, 5)) * 0.6,
        }[coupling]
        J = falling(name, parameter, 5)[:, None, None] * base
        traces = simulated(im.KineticChain(J=J, h=rng.normal(size=5) / 3, top_k=2), 30, 150, 4)
        data = fitted(traces, coupling=coupling, reach=5, decay=name, uncertainty="information")
        assert_recovered(data, "decay_parameter", parameter)
        assert_recovered(data, "J", zero_sum(J)[0])

    def test_the_likelihood_of_a_decay_is_that_of_its_chain(self):
        """The reported one, against the same couplings given one by one."""
        rng = np.random.default_rng(5)
        J = falling("power-law", 1.0, 4)[:, None, None] * rng.normal(size=(4, 4)) / 2
        traces = simulated(im.KineticChain(J=J), 10, 200, 5)
        fit = im.fit(traces, chain="kinetic", reach=4, decay="power-law", uncertainty="none")
        scored, same = im.inference.score(fit, traces)
        assert same
        assert scored["bits_per_token"].item() == pytest.approx(
            fit.data["bits_per_token"].item(), rel=1e-9
        )

    def test_each_distance_for_itself(self):
        rng = np.random.default_rng(6)
        J, h = rng.normal(size=(2, 5, 5)) / 2, rng.normal(size=5) / 2
        traces = simulated(im.KineticChain(J=J, h=h, top_k=2), 40, 150, 6)
        data = fitted(traces, reach=2, estimator=BARE)
        assert_recovered(data, "J", zero_sum(J)[0])
        # What the gauge takes from the rows of J goes to the field, once for each of two experts.
        whole = h + 2 * J.mean(1).sum(0)
        assert_recovered(data, "h", whole - whole.mean())


class TestPosition:
    n_experts, length = 5, 120

    def fields(self, kind):
        """Zero-sum field of every position: four steps, two cosines or none."""
        rng = np.random.default_rng(7)
        x = (np.arange(self.length) + 0.5) / self.length
        h = {
            "blocks": rng.normal(size=(4, self.n_experts))[(4 * x).astype(int)],
            "cosines": np.cos(np.pi * np.outer(x, [1, 2])) @ rng.normal(size=(2, self.n_experts)),
            "none": np.zeros((self.length, self.n_experts)),
        }[kind]
        return h - h.mean(1, keepdims=True)

    def traces(self, kind, seed=8):
        J = 0.4 * np.eye(self.n_experts)
        chain = im.KineticChain(J=J, h=self.fields(kind), top_k=2, n_sites=self.length)
        return simulated(chain, 60, self.length, seed)

    @pytest.mark.parametrize(
        ("kind", "shape"),
        [("blocks", im.Blocks(4)), ("cosines", im.Cosines(2)), ("cosines", im.Cosines(4))],
    )
    def test_how_the_field_changes(self, kind, shape):
        data = fitted(
            self.traces(kind), coupling="uniform", field="position", position=shape, estimator=BARE
        )
        h = self.fields(kind)
        start = data["block"].values
        block = np.searchsorted(start, np.arange(self.length), side="right") - 1
        found = data["h_position"].values[block]
        assert np.sqrt(((found - (h - h.mean(0))) ** 2).mean()) < 0.12 * h.std()
        assert_recovered(data, "self_coupling", 0.4)

    def test_a_field_that_stays_looks_like_a_coupling(self):
        data = fitted(self.traces("cosines"), coupling="uniform", estimator=BARE)
        assert data["self_coupling"] - 0.4 > 5 * data["self_coupling_error"]

    @pytest.mark.parametrize(("kind", "fewest", "most"), [("cosines", 2, 4), ("none", 0, 1)])
    def test_the_number_of_cosines_that_predicts_best(self, kind, fewest, most):
        data = fitted(
            self.traces(kind), coupling="uniform", field="position", position="cv", estimator=BARE
        )
        waves = np.abs(np.fft.rfft(np.r_[data["h_position"], data["h_position"][::-1]], axis=0))
        used = np.flatnonzero(waves.max(1) > 1e-6 * max(waves.max(), 1e-3))
        assert fewest <= used.max(initial=0) <= most


class TestChoiceOfPrior:
    @pytest.mark.parametrize("J", [0.0, 1.0])
    def test_by_held_out_score_and_by_evidence(self, J):
        """Both are near the truth, and strong where there is nothing to find."""
        true = J * np.random.default_rng(9).normal(size=(6, 6))
        traces = simulated(im.KineticChain(J=true, top_k=2), 20, 50, 9)
        missed, l2 = {}, {}
        for choice in (0, None, "cv"):
            data = fitted(traces, estimator=im.MaximumLikelihood(l2=choice), uncertainty="none")
            missed[choice] = np.sqrt(((data["J"][0].values - zero_sum(true)[0]) ** 2).mean())
            l2[choice] = data["l2"].item()
        assert l2[0] == 0
        for choice in (None, "cv"):
            assert missed[choice] < (1.0 if J else 0.3) * missed[0]
            assert (l2[choice] > 30) if J == 0 else (0.05 < l2[choice] < 10)


class TestPseudolikelihood:
    def samples(self, chain, seed=10):
        """Long chains, each a sequence of a trace."""
        run = im.simulate(
            chain,
            im.Exact(),
            n_samples=40,
            n_replicas=1,
            keep_states=True,
            max_distance=-1,
            seed=seed,
        )
        state = run["state"].values.astype(np.int16)
        return im.traces_from_arrays(
            state if chain.top_k > 1 else state[..., None],
            num_experts=chain.n_states,
            ranked=chain.top_k == 1,
        )

    def model(self, *shape):
        rng = np.random.default_rng(11)
        J = zero_sum(rng.normal(size=shape) / 2)[0]
        h = rng.normal(size=shape[-1]) / 2
        return J, h - h.mean()

    def test_agrees_with_the_likelihood_where_there_is_one(self):
        J, h = self.model(4, 4)
        traces = self.samples(im.PottsChain(J=J, h=h, n_sites=300, boundary="periodic"))
        bare = im.Pseudolikelihood(l2=0)
        exact = fitted(traces, chain="potts", estimator=im.MaximumLikelihood(pseudocount=0))
        pseudo = fitted(traces, chain="potts", estimator=bare)
        assert_recovered(pseudo, "J", J)
        assert_recovered(pseudo, "h", h)
        for name in ("J", "h"):
            apart = (pseudo[name] - exact[name]).values / exact[f"{name}_error"].values
            assert np.abs(apart).max() < 0.7

    def test_couplings_at_two_distances(self):
        J, h = self.model(2, 4, 4)
        traces = self.samples(im.PottsChain(J=J, h=h, n_sites=300))
        data = fitted(traces, chain="potts", reach=2, estimator=im.Pseudolikelihood(l2=0))
        assert_recovered(data, "J", J)
        assert_recovered(data, "h", h)
        exact = im.solve(im.PottsChain(J=J, h=h))["correlation_length"].item()
        length, error = (
            data[name].item() for name in ("correlation_length", "correlation_length_error")
        )
        assert 0 < error < 0.2 * exact
        assert abs(length - exact) < 3.5 * error

    @pytest.mark.parametrize("coupling", ["symmetric", "full"])
    def test_sets_of_experts(self, coupling):
        J, h = self.model(5, 5)
        if coupling == "symmetric":
            J = (J + J.T) / 2
        traces = self.samples(im.PottsChain(J=J, h=h, n_sites=300, top_k=2))
        estimator = im.Pseudolikelihood(l2=0)
        data = fitted(traces, chain="topk", coupling=coupling, estimator=estimator)
        assert_recovered(data, "J", J)
        assert_recovered(data, "h", h)
