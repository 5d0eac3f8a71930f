"""Fits of kinetic chains to traces that say little: finite numbers, or an error that says why."""

import warnings

import numpy as np
import pytest

import isingmoe as im

FIELDS = ("expert", "position", "sequence", "position+sequence")
COUPLINGS = ("uniform", "diagonal", "symmetric", "full")
NEVER, ALWAYS = "experts that are never chosen: 3", "experts of every token: 3"


def random_sets(shape, q=4, k=2, seed=0):
    return np.random.default_rng(seed).random((*shape, q)).argsort(-1)[..., :k]


def traces_of(index, num_experts=4, **more):
    return im.traces_from_arrays(
        np.asarray(index)[None], num_experts=num_experts, ranked=False, layer=[7], **more
    )


def with_gaps():
    """Tokens left out, single experts missing, one sequence of which nothing is known."""
    index = random_sets((16, 40))
    rng = np.random.default_rng(1)
    index[rng.random((16, 40)) < 0.2] = -1
    index[rng.random((16, 40)) < 0.1, 1] = -1
    index[5] = -1
    return index


def always_one():
    return np.concatenate([np.full((12, 40, 1), 3), random_sets((12, 40), 3, 1)], -1)


CASES = {
    "an expert never": random_sets((12, 40), q=3),
    "an expert always": always_one(),
    "all but one": random_sets((12, 40), k=3),
    "one sequence": random_sets((1, 400)),
    "two tokens": random_sets((80, 2)),
    "identical sequences": np.repeat(random_sets((1, 40)), 12, 0),
    "gaps": with_gaps(),
    "one set a sequence": np.repeat(random_sets((12, 1), seed=2), 40, 1),
    "one set after the other": np.tile([[0, 1], [2, 3]], (12, 20, 1)),
}
IDLE = {"an expert never": NEVER, "an expert always": ALWAYS}


def fit(traces, **options):
    """A fit, what warnings it gave, and the names of what is not finite in it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = im.fit(traces, chain="kinetic", **options).data
    unknown = {str(name) for name, v in data.data_vars.items() if not np.isfinite(v).all()}
    said = {warning.category: str(warning.message) for warning in caught}
    assert set(said) <= {im.DegenerateTraceWarning, im.ShortTraceWarning}
    return data, said, unknown


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("case", CASES)
def test_everything_is_finite(case, field):
    traces = traces_of(CASES[case])
    for coupling in COUPLINGS:
        data, said, unknown = fit(traces, field=field, coupling=coupling, uncertainty="information")
        assert not unknown, coupling
        assert data["converged"].all()
        assert float(np.abs(data["h"]).max()) < 20
        assert float(np.abs(data["J"]).max()) < 20
        if case in IDLE:
            assert f"{IDLE[case]} in layer 7" in said[im.DegenerateTraceWarning]
        else:
            assert im.DegenerateTraceWarning not in said


@pytest.mark.parametrize("uncertainty", ["information", "sandwich"])
@pytest.mark.parametrize("field", ["none", "expert", "sequence"])
def test_without_couplings(field, uncertainty):
    """What there is none of is zero without an error."""
    data, _, unknown = fit(
        traces_of(CASES["gaps"]), coupling="none", field=field, uncertainty=uncertainty
    )
    assert not unknown
    assert not data["correlation_length"].any()
    assert not data["J"].any()
    assert not data["J_error"].any()
    assert data["h_error"].any() == (field != "none")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options",
    [
        {"uncertainty": "sandwich", "field": "sequence"},
        {"uncertainty": "bootstrap", "n_resamples": 3, "field": "position"},
    ],
    ids=lambda options: options["uncertainty"],
)
def test_errors_by_the_spread_of_sequences(case, options):
    """One sequence has none; by default its errors are those of the information."""
    traces = traces_of(CASES[case])
    if case == "one sequence":
        with pytest.raises(ValueError, match="compares sequences, and there is one; use 'inform"):
            im.fit(traces, coupling="diagonal", **options)
        data, _, unknown = fit(traces, coupling="diagonal", field=options["field"])
        assert data.attrs["uncertainty"] == "information"
    else:
        _, _, unknown = fit(traces, coupling="diagonal", **options)
    assert not unknown


@pytest.mark.parametrize("decay", ["power-law", "exponential"])
@pytest.mark.parametrize("case", [name for name in CASES if name != "two tokens"])
def test_decays_that_the_data_do_not_have(case, decay):
    """At an end of its range the parameter has no error, and everything else has one."""
    traces = traces_of(CASES[case])
    data, _, unknown = fit(
        traces, coupling="uniform", reach=2, decay=decay, uncertainty="information"
    )
    low, high = {"power-law": (0.02, 8), "exponential": (0.1, 1e3)}[decay]
    parameter = data["decay_parameter"].item()
    at_an_end = np.isclose(parameter, [low, high], rtol=1e-3).any()
    expected = {"decay_parameter_error"} if at_an_end else set()
    assert unknown == expected
    assert low * 0.999 < parameter < high * 1.001


def test_an_idle_expert_has_the_field_of_the_prior():
    """The others have the field that they have without it; couplings would change the gauge."""
    index = CASES["an expert never"]
    options = {"coupling": "none", "uncertainty": "information"}
    data = fit(traces_of(index), **options)[0].isel(layer=0)
    alone = fit(traces_of(index, num_experts=3), **options)[0].isel(layer=0)
    assert data["h"][3] < data["h"][:3].min() - 3
    assert data["h_error"][3] > 10 * alone["h_error"].max()
    assert data["marginal"][3] < 0.01
    contrast = data["h"][:3] - data["h"][:3].mean()
    np.testing.assert_allclose(contrast, alone["h"], atol=0.02)


@pytest.mark.parametrize("field", ["expert", "sequence"])
@pytest.mark.parametrize(
    ("case", "coupling"),
    [
        ("an expert never", "diagonal"),
        ("an expert never", "full"),
        ("an expert always", "full"),
        ("one set a sequence", "diagonal"),
        ("one set after the other", "full"),
    ],
)
def test_a_likelihood_without_a_maximum_is_an_error(case, coupling, field):
    bare = im.MaximumLikelihood(l2=0)
    with pytest.raises(ValueError, match="l2: the tokens of layer 7 do not bound every coupling"):
        im.fit(
            traces_of(CASES[case]),
            chain="kinetic",
            coupling=coupling,
            field=field,
            estimator=bare,
            uncertainty="information",
        )


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_nothing_to_fit_is_an_error(coupling, field):
    options = {"chain": "kinetic", "coupling": coupling, "field": field}
    whole = traces_of(random_sets((12, 40), 3, 3), num_experts=3)
    with pytest.raises(ValueError, match="top_k: expected fewer experts for a token than the 3"):
        im.fit(whole, **options)
    same = traces_of(np.broadcast_to([0, 1], (12, 40, 2)))
    with pytest.raises(ValueError, match="got the same for every token; leave the layer out"):
        im.fit(same, **options)
    apart = traces_of(np.where(np.arange(6)[:, None] % 2, -1, random_sets((12, 6))))
    with pytest.raises(ValueError, match="expected 2 neighbouring tokens in some sequence of"):
        im.fit(apart, **options)


def test_both_sides_need_a_token_more():
    traces = traces_of(CASES["two tokens"])
    with pytest.raises(ValueError, match="expected 3 neighbouring tokens in some sequence of"):
        im.fit(traces, chain="topk")


def test_held_out_scores_and_choices_need_sequences():
    alone = traces_of(CASES["one sequence"])
    for options in (
        {"estimator": im.MaximumLikelihood(l2="cv")},
        {"field": "position", "position": "cv"},
    ):
        with pytest.raises(ValueError, match="'cv' needs at least two sequences with tokens"):
            im.fit(alone, chain="kinetic", **options)
    with pytest.raises(ValueError, match="n_folds: expected at least two sequences"):
        im.cross_validate(alone, chain="kinetic")


@pytest.mark.parametrize("case", [name for name in CASES if name != "one sequence"])
def test_held_out_scores_are_finite(case):
    scored = im.cross_validate(
        traces_of(CASES[case]),
        chain="kinetic",
        coupling="diagonal",
        field="position+sequence",
        n_folds=2,
    )
    for name in scored:
        assert np.isfinite(scored[name]).all(), name


class TestCommandLine:
    """Numbers or one line on what is wrong; never a traceback, never a warning of numpy."""

    def run(self, run_cli, folder, traces, *options):
        path = folder / "traces.nc"
        im.save_traces(traces, path, overwrite=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ran = run_cli(
                "fit",
                path,
                *("--overwrite", "--resamples", 20, "--max-distance", 8, "--folds", 2),
                *options,
            )
        expected = (im.DegenerateTraceWarning, im.ShortTraceWarning)
        assert {w.category for w in caught} <= set(expected)
        return ran, " ".join(str(w.message) for w in caught)

    @pytest.mark.parametrize("case", CASES)
    def test_fit(self, case, run_cli, tmp_path):
        options = ("--chain", "kinetic", "--coupling", "diagonal", "--field", "sequence")
        ran, said = self.run(run_cli, tmp_path, traces_of(CASES[case]), *options)
        assert ran.exit_code == 0
        assert "nan" not in ran.stdout
        assert IDLE.get(case, "") in said
        data = im.open_fit(tmp_path / "fit.nc").data
        for name in ("J", "h", "sequence_spread", "bits_per_token"):
            assert np.isfinite(data[name]).all(), name

    @pytest.mark.parametrize(
        ("index", "num_experts", "message"),
        [
            (random_sets((12, 40), 3, 3), 3, "top_k: expected fewer experts for a token"),
            (np.broadcast_to([0, 1], (12, 40, 2)), 4, "got the same for every token"),
            (random_sets((12, 1)), 4, "expected 2 neighbouring tokens"),
        ],
    )
    def test_nothing_to_fit(self, index, num_experts, message, run_cli, tmp_path):
        traces = traces_of(index, num_experts=num_experts)
        ran, _ = self.run(run_cli, tmp_path, traces, "--chain", "kinetic")
        assert ran.exit_code == 1
        assert ran.stderr.startswith("isingmoe: error:")
        assert message in ran.stderr
        assert ran.stderr.count("\n") == 1
        assert not (tmp_path / "fit.nc").exists()
