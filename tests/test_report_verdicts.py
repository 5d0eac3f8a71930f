"""What a report says of a layer: no more than the numbers do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from made_findings import findings

import isingmoe as im
from isingmoe.reports.calls import called, controlled
from isingmoe.reports.findings import Costs, measure
from isingmoe.reports.page import _brief
from isingmoe.reports.rows import columns
from isingmoe.reports.verdicts import verdict
from isingmoe.reports.words import amount, digits, p_words, span

pytestmark = [
    pytest.mark.filterwarnings("ignore::isingmoe.ShortTraceWarning"),
    pytest.mark.filterwarnings("ignore::isingmoe.DegenerateTraceWarning"),
]


@pytest.fixture(scope="module")
def found(make_traces):
    return findings(make_traces)


def said(found, layer=3):
    return dict(verdict(found, layer).sentences)


def with_part(found, name, **variables):
    part = found.parts[name].assign(
        {
            key: found.parts[name][key].copy(data=value)
            if key in found.parts[name]
            else ("layer", value)
            for key, value in variables.items()
        }
    )
    return dataclasses.replace(found, parts=found.parts | {name: part})


def with_data(found, **variables):
    data = found.comparison.data
    data = data.assign({key: data[key].copy(data=value) for key, value in variables.items()})
    return dataclasses.replace(found, comparison=im.Comparison(data))


def cell(found, name, row=0):
    (column,) = (c for c in columns(found) if c.name == name)
    return column.cells[row].text


def test_numbers_in_words():
    assert p_words(0.01, 0.01) == "p ≤ 0.01"
    assert p_words(0.034) == "p = 0.034"
    assert p_words(1e-9) == "p < 0.0001"
    assert p_words(float("nan")) == "p not known"
    assert digits(12.345, 3) == "12.3"
    assert digits(0.0, 3) == "0"
    assert digits(3.7e30, 3) == "3.70e+30"
    assert digits(-4.2e-9, 2) == "-4.2e-09"
    assert digits(float("inf"), 2) == "∞"
    assert amount(1.5e12, 2) == "1.50e+12"
    assert amount(12.345, 1) == "12.3"
    assert span(2.0, 1.0, float("inf")) == "2.0 [1.0..∞]"
    assert span(2e30, 1.0, 3e30) == "2.00e+30 [1.0..3.00e+30]"
    assert span(2.0, float("nan"), 1.0) == "2.0"


def p_values(*p):
    return xr.Dataset({"p": ("layer", list(p))}, coords={"layer": 1 + np.arange(len(p))})


def test_false_discoveries_are_controlled_over_layers():
    part = p_values(0.01, 0.04, np.nan, 0.03)
    assert controlled(part, "p") == pytest.approx({1: 0.03, 2: 0.04, 4: 0.04})
    assert controlled(None, "p") == {}
    assert controlled(part, "other") == {}


@pytest.mark.parametrize(
    ("p", "n", "calls"),
    [
        # 24 layers, one of which no simulation of 99 reaches: q = 0.24 whatever it does.
        ([0.01] + [0.5] * 23, 99, ["too few"] + ["open"] * 23),
        ([0.02] + [0.5] * 23, 99, ["too few"] + ["open"] * 23),
        ([0.06] + [0.5] * 23, 99, ["open"] * 24),
        # Five such layers do: 0.01 * 24 / 5 = 0.048; of 0.04 at their side 0.16.
        ([0.01] * 5 + [0.04] + [0.5] * 18, 99, ["rejected"] * 5 + ["open"] * 19),
        ([0.01] * 24, 99, ["rejected"] * 24),
        ([0.001] + [0.5] * 23, 999, ["rejected"] + ["open"] * 23),
        # q = 0.05 is not below it; at its floor a p above 0.05 tells as little.
        ([0.05], 19, ["too few"]),
        ([0.2], 4, ["too few"]),
        ([0.4], 4, ["open"]),
        ([0.01], 99, ["rejected"]),
        # Without a floor there is nothing to wait for.
        ([0.04, 0.5], 0, ["open", "open"]),
        ([0.01, np.nan, 0.5], 0, ["rejected", None, "open"]),
    ],
)
def test_what_few_simulations_cannot_reject_is_not_let_pass(p, n, calls):
    got = called(p_values(*p), "p", n)
    assert [got.get(layer) for layer in range(1, len(p) + 1)] == calls


def test_a_chain_is_never_enough(found):
    few = with_part(found, "goodness", discrepancy_p_value=[0.05, 0.9])
    chain = said(few)["Chain"]
    assert "is not decided: the data lie as far out as any of 19 simulated data sets" in chain
    assert "more --simulations would tell" in chain
    assert verdict(few, 3).short.startswith("chain undecided by so few simulations")
    open_ = said(few, 7)["Chain"]
    assert "The decay does not contradict a chain in which a token knows no more" in open_
    for layer in (3, 7):
        text = f"{verdict(few, layer).short} {said(few, layer)['Chain']}"
        for word in ("enough", "will do", "holds"):
            assert word not in text
    # The simulations of the other test are its own: 1/100 of two layers is 0.02.
    assert "rejects a memory of one token (p ≤ 0.01)" in chain
    assert "texts that differ in load, and a drift, do too" in chain
    assert "does not contradict a memory of one token (p = 0.8)" in open_


def test_a_rejection_says_what_else_it_can_be(found):
    z = found.comparison.data["z"].values.copy()
    z[:] = 1.0
    z[0, found.comparison.data["centre"].values.tolist().index("sequence"), 5] = -12.4
    low = with_part(with_data(found, z=z), "goodness", discrepancy_p_value=[0.01, 0.01])
    chain = said(low)["Chain"]
    assert "does not give this decay" in chain
    assert "more than predicted, first at d = 3" in chain
    assert (
        "About the global mean, texts that differ in load and changes of the load along the text "
        "count against the chain as a longer memory does; with the load of each text taken off, "
        "the largest departure is z = -12 at d = 5." in chain
    )
    assert "short-range chain rejected" in verdict(low, 3).short


def test_the_brief_counts_without_double_negatives(make_traces):
    found = findings(make_traces, n_layers=4)
    brief = _brief(with_part(found, "goodness", discrepancy_p_value=[0.05, 0.5, 0.6, 0.7]))
    assert brief[0] == (
        "Short-range chains are rejected in 0 of 4 layers; in 1 the simulations are too few to "
        "call; 3 do not contradict them (false discovery rate 5% over layers)."
    )
    brief = _brief(with_part(found, "ck", ck_p_value=[0.01, 0.01, 0.01, 0.9]))
    assert "(Chapman-Kolmogorov) is rejected in 3 of 4 layers; 1 does not contradict it" in brief[1]


def curves(found, within, by_position, error=1e-3):
    """A comparison in which a share of C(d) is left about the other two means."""
    data = found.comparison.data
    d = data["distance"].values
    of = {"global": 1.0, "sequence": within, "position": by_position}
    shape = np.stack([0.1 / (1 + d) * np.where(d, of[c], 1) for c in data["centre"].values])
    measured = np.broadcast_to(shape, data["measured"].shape)
    return with_data(found, measured=measured, measured_error=np.full(measured.shape, error))


@pytest.mark.parametrize(
    ("within", "by_position", "error", "words"),
    [
        (0.95, 0.98, 1e-3, "95 % of the correlation of neighbours is left; with the mean of each "),
        (
            0.95,
            0.98,
            1e-3,
            "taken off, 98 %: mostly coupling, or topics that change inside the texts.",
        ),
        (1.7, 1.2, 1e-3, "taken off, all of the correlation"),
        (1.7, 1.2, 1e-3, "At d = 8 it is all and all: mostly coupling"),
        (0.1, 1.0, 1e-3, "At d = 8 it is 10 % and all: mostly a difference between texts."),
        (-0.1, 1.0, 1e-3, "At d = 8 it is none and all: mostly a difference between texts."),
        # Independent tokens whose rates drift outlive the mean of the text, not of the position.
        (1.0, 0.02, 1e-3, "At d = 8 it is all and 2 %: mostly a drift along the text."),
        # Drift and texts together leave each more than a half, and no coupling.
        (0.6, 0.45, 1e-3, "taken off, 45 %: mostly a drift along the text."),
        (0.7, 0.7, 1e-5, "it is 70 % and 70 %: coupling, a difference between texts and a drift"),
        (
            0.75,
            0.75,
            4e-3,
            "coupling, a difference between texts or a drift along the text, undecided",
        ),
        (0.9, 0.7, 1e-3, "At d = 8 it is 90 % and 70 %: perhaps mostly coupling."),
        (0.7, 0.7, 1e-5, "a drift along the text, none of them above one half."),
    ],
)
def test_coupling_is_what_outlives_both_means(found, within, by_position, error, words):
    assert words in said(curves(found, within, by_position, error))["Texts, drift or coupling"]


def test_where_a_correlation_comes_from_may_be_open(found):
    unseen = said(curves(found, 1.0, 1.0, error=1.0))["Texts, drift or coupling"]
    assert unseen.startswith("No correlation of neighbouring tokens is seen")
    known = curves(found, 1.0, 1.0)
    data = known.comparison.data.sel(centre=["global", "sequence"])
    line = said(dataclasses.replace(known, comparison=im.Comparison(data)))
    assert "coupling or a drift along the text" in line["Texts, drift or coupling"]
    one = dataclasses.replace(known, traces=known.traces.isel(sequence=[0]))
    assert said(one)["Texts, drift or coupling"] == (
        "Coupling or a drift along the text: with one text they cannot be told apart."
    )


def test_a_drift_of_independent_tokens_is_no_coupling(make_traces):
    """Measured from beginning to end: the rate of an expert goes from nearly one to nearly none."""
    traces = make_traces(n_sequences=60, n_positions=200, num_experts=4, top_k=1, n_layers=1)
    rng = np.random.default_rng(3)
    chance = np.linspace(0.95, 0.05, 200)
    first = rng.random((60, 200)) < chance
    other = rng.integers(1, 4, (60, 200))
    index = np.where(first, 0, other).astype(traces["expert_index"].dtype)
    traces["expert_index"][:] = index[None, ..., None]
    costs = Costs(max_distance=10, n_resamples=30, n_simulations=4, n_folds=0)
    line = said(measure(traces, None, None, costs, 0, None), 3)["Texts, drift or coupling"]
    assert "mostly a drift along the text" in line
    assert "coupling" not in line


@pytest.mark.parametrize(
    ("state", "owners", "words"),
    [
        ("equilibrium", 0, "maximum-entropy equilibrium"),
        ("imbalanced", 0, "imbalanced"),
        ("collapsed", 2, "collapsed: experts own ranges of positions"),
        ("collapsed", 0, "collapsed: few experts serve nearly all tokens"),
        ("undecided", 0, "Texts are too few (12) to tell whether the load is at equilibrium"),
    ],
)
def test_the_state_of_the_load(found, state, owners, words):
    changed = with_part(found, "mem", mem_state=[state, state], n_owners=[owners, owners])
    lines = said(changed, 7)["Load"]
    assert words in lines
    assert ("own ranges" in lines) == bool(owners)
    assert "By the chain U = " in lines
    assert "F = U - S = " in lines


def test_the_p_value_that_decided_is_shown(found):
    def load(state, p, kl, kl_p):
        changed = with_data(found, kl=[kl, kl], kl_p_value=[kl_p, kl_p])
        return said(
            with_part(
                changed, "mem", mem_state=[state] * 2, mem_p_value=[p] * 2, mem_kl_null=[0.41] * 2
            )
        )["Load"]

    assert "(p = 0.03 of a uniform load)" in load("imbalanced", 0.03, 0.2, 0.4)
    alone = load("imbalanced", np.nan, 0.2, 0.04)
    assert "(p = 0.04 of a uniform load, tokens taken as independent)" in alone
    near = load("equilibrium", 0.001, 0.004, 0.4)
    assert "(within 0.01 nat of uniform, though p = 0.001 of a uniform load)" in near
    assert "(p = 0.3 of a uniform load)" in load("equilibrium", 0.3, 0.004, 0.4)
    few = load("undecided", 0.3, 0.2, 0.04)
    assert "(p = 0.3 of a uniform load; 0.41 nat would still pass for one)" in few
    assert "(p = 0.6 of a uniform load, tokens" in load("undecided", np.nan, 0.2, 0.6)


def test_rates_over_position(found):
    quiet = said(with_part(found, "activation", layer_drift_p_value=[0.3, 0.6]))["Position"]
    assert quiet.startswith("No change of the rates along the text is seen (p = 0.3, 12 texts).")
    loud = said(with_part(found, "activation", layer_drift_p_value=[0.001, 0.6]))["Position"]
    assert "bits of an assignment, of which a token has 2; without drift it would be below" in loud
    assert "in 95 % of cases" in loud
    steady = with_part(found, "mem", stability=[0.71, 1.2], stability_p_value=[0.005, 0.9])
    line = "Rates are steadier over the text than chance allows: stability 0.71 (p = 0.005)."
    assert line in said(steady)["Position"]
    assert "steadier" not in said(steady, 7)["Position"]
    alone = with_part(found, "mem", stability=[0.71, 1.2], stability_p_value=[0.04, 0.9])
    assert "(p = 0.04, for this layer alone)" in said(alone)["Position"]


LAWS = ["exponential", "power-law", "stretched", "exponential+constant", "two-exponentials"]
# Amplitude, length, exponent, constant, amplitude_2, length_2.
TWO = [0.1, 2.0, np.nan, np.nan, 0.05, 30.0]


def law(found, best, p, parameter=None, error=None):
    """One law far ahead, in all layers."""
    shape = found.comparison.data["law_parameter"].shape
    place = LAWS.index(best)
    weight = np.full(shape[:2], 0.01)
    weight[:, place] = 0.96
    values = {"law_weight": weight, "law_p_value": np.broadcast_to(p, shape[:2])}
    if parameter is not None:
        values["law_parameter"] = np.broadcast_to(parameter, shape)
        values["law_parameter_error"] = np.broadcast_to(error, shape)
    return with_data(found, **values)


def test_a_law_that_describes_is_named(found):
    known = law(found, "power-law", 0.4)
    memory = said(known)["Memory"]
    assert "Of the decay laws, a power law is ahead of the others from d = 1 to 12" in memory
    assert "α = 0.5 ± 0.05" in memory
    assert "describe" not in memory
    assert cell(known, "decay law") == "power (0.96)"
    assert "Likeliest decay law: power in 2 of 2 layers." in _brief(known)
    untested = said(law(found, "power-law", np.nan))["Memory"]
    assert "Whether it describes the decay is not known" in untested


def test_laws_that_all_fail_are_said_to_first(found):
    failed = law(found, "power-law", 1e-7)
    memory = said(failed)["Memory"]
    assert (
        "None of the five decay laws describes what is measured from d = 1 to 12 (p < 0.0001 at "
        "best). Of them, a power law is ahead of the others (weight 0.96" in memory
    )
    assert cell(failed, "decay law") == "power (0.96) †"
    (column,) = (c for c in columns(failed) if c.name == "decay law")
    assert "† it does not describe the decay" in column.meaning
    brief = _brief(failed)
    assert "power in 2 (in 2 it does not describe the decay) of 2 layers." in brief[-2]
    assert brief[-1].startswith("None of the decay laws describes what is measured in 2 of them")
    one = law(found, "power-law", [0.2, 0.001, 0.001, 0.001, 0.001])
    assert "It does not describe the decay (p = 0.001)." in said(one)["Memory"]


@pytest.mark.parametrize(
    ("parameter", "error", "why"),
    [
        ([0.1, 2, np.nan, np.nan, -0.05, 30], 0.01, "amplitudes of opposite sign"),
        (TWO, [0.1, np.nan, np.nan, np.nan, 0.1, 1], "a length at the end of its range"),
        (TWO, [0.1, 0.3, np.nan, np.nan, 0.1, np.nan], "a length at the end of its range"),
        (TWO, [0.1, 0.3, np.nan, np.nan, 0.1, 4], ""),
    ],
)
def test_two_exponentials_are_two_lengths_only_where_they_are(found, parameter, error, why):
    known = law(found, "two-exponentials", 0.5, parameter, error)
    memory = said(known)["Memory"]
    if why:
        assert f"but with {why}" in memory
        assert "not a decay by any of these laws" in memory
        assert "ξ₂" not in memory
    else:
        assert "ξ = 2 ± 0.3; ξ₂ = 30 ± 4" in memory
    assert cell(known, "decay law") == f"2 exp. (0.96){' †' if why else ''}"


@pytest.mark.parametrize(
    ("best", "length", "exponent", "error", "words"),
    [
        ("power-law", 1, 0.0, np.nan, "a constant"),
        ("power-law", 1, 0.05, 0.04, "a constant"),
        ("power-law", 1, 0.4, 0.04, "a power law"),
        ("exponential", 4e3, 0, np.nan, "a constant"),
        ("exponential", 40, 0, 3.0, "an exponential"),
        ("stretched", 3.1e-31, 0.2, 0.1, "a stretched exponential"),
    ],
)
def test_what_does_not_fall_is_a_constant(found, best, length, exponent, error, words):
    parameter = [0.1, length, exponent, 0, 0, 0]
    memory = said(law(found, best, 0.5, parameter, [0.01, error, error, 0, 0, 0]))["Memory"]
    assert f"{words} is ahead of the others" in memory
    assert "000000" not in memory
