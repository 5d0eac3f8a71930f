"""`isingmoe fit` of kinetic chains, and `budget`, `generate` and `irreversibility`."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe._storage import read_dataset
from isingmoe.forward import draw

QUICK = ("--resamples", 4, "--folds", 2)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def traces():
    rng = np.random.default_rng(0)
    index = np.stack(
        [
            draw(
                im.KineticChain(J=rng.normal(size=(2, 4, 4)) / 2, h=rng.normal(size=4), top_k=2),
                12,
                60,
                n_burn=20,
                seed=seed,
            )
            for seed in range(2)
        ]
    )
    ids = rng.integers(0, 20, (12, 60))
    return im.traces_from_arrays(
        index, num_experts=4, ranked=False, layer=[3, 7], token_id=ids, model="small"
    )


@pytest.fixture
def folder(tmp_path, monkeypatch, traces):
    monkeypatch.chdir(tmp_path)
    im.save_traces(traces, "traces.nc")
    return tmp_path


@pytest.fixture
def ok(folder, run_cli):
    """What a command that succeeds prints."""

    def run(*command):
        ran = run_cli(*command)
        assert ran.exit_code == 0, ran.stderr
        assert ran.stderr == ""
        return ran.stdout

    return run


def fitted(ok, *options):
    """The fit that `isingmoe fit` writes for one layer."""
    ok("fit", "traces.nc", "--layer", 7, "--chain", "kinetic", *options, *QUICK)
    return im.open_fit("fit.nc")


class TestFit:
    def test_the_default_says_what_it_chose(self, folder, run_cli, traces):
        ran = run_cli("fit", "traces.nc", *QUICK)
        assert ran.exit_code == 0
        assert ran.stderr == (
            "isingmoe: 2 experts to a token: kinetic chains of whole sets; --chain names another\n"
        )
        assert "small: kinetic chain, coupling full, field expert; 12 sequences" in ran.stdout
        xr.testing.assert_allclose(im.open_fit("fit.nc").data, im.fit(traces).data)

    def test_one_expert_to_a_token_is_a_potts_chain(self, ok, traces):
        im.save_traces(
            im.traces_from_arrays(traces["expert_index"].values[..., :1], num_experts=4), "one.nc"
        )
        assert "potts chain, coupling full" in ok("fit", "one.nc", *QUICK)

    def test_everything_at_once(self, ok, traces):
        settings = ("--field", "position+sequence", "--reach", 2, "--coupling", "diagonal")
        fit = fitted(ok, *settings, "--position", "blocks:3", "--l2", 2.5, "--max-iterations", 300)
        assert fit.settings == {
            "chain": "kinetic",
            "coupling": "diagonal",
            "field": "expert+position+sequence",
            "reach": 2,
            "decay": None,
            "position": im.Blocks(3),
            "estimator": im.MaximumLikelihood(l2=2.5, max_iterations=300),
        }
        expected = im.fit(traces.sel(layer=[7]), **fit.settings).data
        xr.testing.assert_allclose(fit.data, expected)
        assert fit.data["h_position"].sizes["block"] == 3
        assert fit.data["h_sequence"].sizes["sequence"] == 12

    @pytest.mark.parametrize("l2", ["cv", "0", "1e2"])
    def test_penalties(self, ok, l2):
        fit = fitted(ok, "--coupling", "uniform", "--l2", l2)
        assert fit.settings["estimator"].l2 == (l2 if l2 == "cv" else float(l2))
        if l2 != "cv":
            np.testing.assert_allclose(fit.data["l2"], float(l2))

    @pytest.mark.parametrize("decay", ["power-law", "exponential"])
    def test_decays(self, ok, decay):
        fit = fitted(ok, "--coupling", "uniform", "--reach", 3, "--decay", decay)
        assert fit.settings["decay"] == decay
        J = fit.data["self_coupling_at"].isel(layer=0).values
        parameter = float(fit.data["decay_parameter"][0])
        r = np.arange(1, 4)
        law = r**-parameter if decay == "power-law" else np.exp(-(r - 1) / parameter)
        np.testing.assert_allclose(J / J[0], law, rtol=1e-6)
        assert decay in str(fit)

    @pytest.mark.parametrize("position", ["cosines:2", "blocks:4", "cv"])
    def test_changes_along_the_text(self, ok, position):
        options = ("--field", "position", "--coupling", "none", "--position", position)
        fit = fitted(ok, *options)
        expected = {"cosines:2": im.Cosines(2), "blocks:4": im.Blocks(4)}
        if position in expected:
            assert fit.settings["position"] == expected[position]
        assert fit.data["h_position"].dims == ("layer", "block", "expert")

    @pytest.mark.parametrize("uncertainty", ["sandwich", "information", "bootstrap", "none"])
    def test_errors(self, ok, uncertainty):
        fit = fitted(ok, "--coupling", "uniform", "--uncertainty", uncertainty)
        assert fit.data.attrs["uncertainty"] == uncertainty
        error = float(fit.data["self_coupling_error"][0])
        assert np.isnan(error) if uncertainty == "none" else error > 0

    @pytest.mark.parametrize("chain", ["topk", "potts"])
    def test_pseudolikelihood(self, ok, traces, chain):
        im.save_traces(traces.assign_attrs(ranked=1), "ranked.nc")
        flag = ("--pseudolikelihood",) if chain == "potts" else ()
        ok(
            "fit",
            "ranked.nc",
            "--chain",
            chain,
            *flag,
            "--reach",
            2,
            "--coupling",
            "uniform",
            "--l2",
            1,
            *QUICK,
        )
        fit = im.open_fit("ranked.fit.nc")
        assert (fit.settings["chain"], fit.settings["reach"]) == (chain, 2)
        assert fit.settings["estimator"] == im.Pseudolikelihood(l2=1.0)

    def test_json(self, ok):
        settings = ("--chain", "kinetic", "--reach", 2, "--field", "position")
        said = json.loads(ok("fit", "traces.nc", *settings, *QUICK, "--json"))
        assert said["fit"] == "fit.nc"
        fit = im.open_fit("fit.nc").data
        np.testing.assert_allclose(said["data"]["J"], fit["J"])
        assert said["dims"]["J"] == ["layer", "coupling_distance", "expert", "next_expert"]
        assert said["data"]["coupling_distance"] == [1, 2]
        assert said["attributes"]["chain"] == "kinetic"

    def test_what_it_names_next(self, ok):
        shown = ok("fit", "traces.nc", "--chain", "kinetic", "--figure", "layers.png", *QUICK)
        assert "Written: fit.nc and layers.png" in shown
        assert Path("layers.png").read_bytes().startswith(PNG)
        following = shown.splitlines()[-1].removeprefix("Next: isingmoe ").split()
        shown = ok(*following, "--shuffles", 2, *QUICK)
        assert "kinetic chain" in shown
        assert ok("plot", "decay", "comparison.nc", "--layer", 7, "-o", "decay.png")
        assert Path("decay.png").read_bytes().startswith(PNG)


class TestBudget:
    def test_table_file_and_figure(self, ok, traces):
        options = ("--reach", 2, "--coupling", "uniform", "--folds", 2, "--layer", 7, "--seed", 4)
        shown = ok("budget", "traces.nc", *options, "--figure", "bars.png")
        kept = im.open_budget("budget.nc")
        assert shown == f"{kept}\n\nWritten: budget.nc and bars.png\n"
        assert Path("bars.png").read_bytes().startswith(PNG)
        alone = traces.sel(layer=[7])
        expected = im.budget(alone, reach=2, coupling="uniform", n_folds=2, seed=4)
        xr.testing.assert_allclose(kept.data, expected.data)

    def test_json_and_position(self, ok):
        options = ("--reach", 1, "--folds", 2, "--position", "blocks:2", "--coupling", "uniform")
        said = json.loads(ok("budget", "traces.nc", *options, "--json"))
        assert said["budget"] == "budget.nc"
        assert said["attributes"]["position"] == "blocks:2"
        assert said["data"]["layer"] == [3, 7]
        assert "token" in said["data"]["share"]
        totals = np.array(said["data"]["bits"]).sum(1)
        np.testing.assert_allclose(totals, said["data"]["bits_uniform"])

    def test_a_named_trace_names_its_budget(self, ok):
        Path("traces.nc").rename("olmoe.nc")
        ok("budget", "olmoe.nc", "--layer", 3, "--reach", 1, "--coupling", "uniform", "--folds", 2)
        assert Path("olmoe.budget.nc").is_file()


class TestGenerate:
    @pytest.mark.parametrize("chain", ["kinetic", "potts"])
    def test_a_trace_like_any_other(self, ok, traces, chain):
        im.fit(traces.assign_attrs(ranked=1), chain=chain, coupling="uniform").save("fit.nc")
        shown = ok("generate", "fit.nc", "--sequences", 12, "--length", 50, "--seed", 2)
        assert shown == (
            "Written: generated.nc (2 layers, 12 sequences of 50 tokens)\n"
            "Next: isingmoe fit generated.nc\n"
        )
        expected = im.generate(im.open_fit("fit.nc"), n_sequences=12, length=50, seed=2)
        xr.testing.assert_equal(im.open_traces("generated.nc"), expected)
        assert f"{chain} chain of small" in ok("info", "generated.nc")
        again = ok("fit", "generated.nc", "--chain", chain, "--coupling", "uniform", *QUICK)
        assert "Written: generated.fit.nc" in again


class TestIrreversibility:
    def test_table(self, ok, traces):
        shown = ok("irreversibility", "traces.nc", "--folds", 3)
        data = im.irreversibility(traces, n_folds=3)
        assert "entropy production of kinetic chains" in shown
        for layer, value in zip((3, 7), data["entropy_production"].values, strict=True):
            assert f"\n     {layer}  " in shown
            assert f"{value:.4f} ± " in shown
        assert {path.name for path in Path().iterdir()} == {"traces.nc"}

    def test_file_and_settings(self, ok, traces):
        options = ("--reach", 2, "--coupling", "diagonal", "--l2", 3, "--layer", 7, "--folds", 2)
        shown = ok("irreversibility", "traces.nc", *options, "-o", "rates.nc")
        assert shown.endswith("\nWritten: rates.nc\n")
        expected = im.irreversibility(
            traces.sel(layer=[7]),
            reach=2,
            coupling="diagonal",
            estimator=im.MaximumLikelihood(l2=3.0),
            n_folds=2,
        )
        xr.testing.assert_allclose(read_dataset("rates.nc"), expected)

    def test_json(self, ok):
        said = json.loads(ok("irreversibility", "traces.nc", "--folds", 2, "--json"))
        assert said["data"]["layer"] == [3, 7]
        assert said["attributes"]["n_folds"] == 2
        assert all(value > 0 for value in said["data"]["entropy_production_error"])


KINETIC = ("--chain", "kinetic")
BAD = {
    **{
        f"missing file, {verb}": ((verb, "absent.nc"), "absent.nc: no such file; check the name")
        for verb in ("fit", "budget", "generate", "irreversibility")
    },
    **{
        f"nonsense for a position, {verb}": (
            (verb, "traces.nc", "--position", "sines:3"),
            "position: expected cosines:N, blocks:N or cv, got 'sines:3'",
        )
        for verb in ("fit", "budget", "irreversibility")
    },
    "position without a number": (
        ("fit", "traces.nc", "--field", "position", "--position", "blocks"),
        "position: expected cosines:N, blocks:N or cv, got 'blocks'",
    ),
    "position that is not in the field": (
        ("fit", "traces.nc", "--position", "blocks:2"),
        "position: expected field='position' beside it",
    ),
    "position of a budget by cv": (
        ("budget", "traces.nc", "--position", "cv"),
        "position: expected cosines:N or blocks:N, got 'cv'",
    ),
    **{
        f"nonsense for a penalty, {verb}": (
            (verb, "traces.nc", "--l2", "much"),
            "l2: expected a number from 0 up or 'cv', got 'much'",
        )
        for verb in ("fit", "irreversibility")
    },
    "negative penalty": (
        ("fit", "traces.nc", "--l2", "-1"),
        "l2: expected a number from 0 up or 'cv', got -1.0",
    ),
    "penalty of potts chains": (
        ("fit", "traces.nc", "--chain", "ising", "--l2", 1),
        "l2: ising chains have none; use --pseudocount",
    ),
    "pseudocount of kinetic chains": (
        ("fit", "traces.nc", *KINETIC, "--pseudocount", 1),
        "pseudocount: kinetic chains have none; use --l2",
    ),
    "nonsense for a field": (
        ("fit", "traces.nc", *KINETIC, "--field", "topic"),
        "field: expected one of none, expert, position, sequence or a sum such as "
        "position+sequence, got 'topic'",
    ),
    "decay without a reach": (
        ("fit", "traces.nc", *KINETIC, "--decay", "power-law"),
        "decay: 'power-law' needs chain='kinetic', a coupling and a reach of at least 2",
    ),
    "reach of potts chains": (
        ("fit", "traces.nc", "--chain", "ising", "--reach", 2),
        "reach, decay, position: the ising chain of largest likelihood couples neighbours alone; "
        "use chain='kinetic' or estimator=Pseudolikelihood()",
    ),
    "traces to draw from": (
        ("generate", "traces.nc"),
        "traces.nc: attribute conventions: expected 'isingmoe-fit-1', got 'isingmoe-traces-1'; "
        "make a fit with `isingmoe fit`",
    ),
    "spins to draw from": (
        ("generate", "ising.fit.nc"),
        "fit: expected kinetic or potts chains to draw from, got ising; Ising chains say of each "
        "expert alone whether it is on",
    ),
    "no folder": (
        ("generate", "ising.fit.nc", "-o", "absent/generated.nc"),
        "absent/generated.nc: no folder absent; make it first",
    ),
    **{
        f"one sequence, {verb}": (
            (verb, "one.nc"),
            "one.nc: n_folds: expected at least two sequences and two folds, got 1 and 5; a "
            "sequence must be held out",
        )
        for verb in ("budget", "irreversibility")
    },
    **{
        f"output that exists, {verb}": (
            (verb, source, "-o", "kept.nc"),
            "kept.nc: exists and is kept; say --overwrite, or another name",
        )
        for verb, source in (
            ("fit", "traces.nc"),
            ("budget", "traces.nc"),
            ("generate", "ising.fit.nc"),
            ("irreversibility", "traces.nc"),
        )
    },
    "figure that exists": (
        ("budget", "traces.nc", "--figure", "kept.png"),
        "kept.png: exists and is kept; say --overwrite, or another name",
    ),
    "figure of no kind": (
        ("budget", "traces.nc", "--figure", "bars.xyz"),
        "bars.xyz: expected an ending of ",
    ),
    "output that is read": (
        ("generate", "ising.fit.nc", "-o", "ising.fit.nc", "--overwrite"),
        "ising.fit.nc: ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(folder, run_cli, traces, case):
    command, message = BAD[case]
    im.fit(traces, chain="ising").save("ising.fit.nc")
    im.save_traces(traces.isel(sequence=[0]), "one.nc")
    for name in ("kept.nc", "kept.png"):
        Path(name).write_text("kept")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    ran = run_cli(*command)
    assert ran.exit_code == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"isingmoe: error: {message}")
    assert ran.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("verb", ["budget", "generate", "irreversibility"])
def test_outputs_are_replaced_where_asked(ok, traces, verb):
    im.fit(traces, coupling="uniform", uncertainty="none").save("fit.nc")
    Path("kept.nc").write_text("kept")
    few = {
        "budget": ("traces.nc", "--reach", 1, "--coupling", "uniform", "--folds", 2),
        "generate": ("fit.nc", "--sequences", 2, "--length", 5),
        "irreversibility": ("traces.nc", "--coupling", "uniform", "--folds", 2),
    }
    ok(verb, *few[verb], "-o", "kept.nc", "--overwrite")
    assert json.loads(read_dataset("kept.nc").attrs["provenance"])["verb"] == verb


@pytest.mark.parametrize(
    "command",
    [
        ("budget", "traces.nc", "--folds", 1),
        ("budget", "traces.nc", "--reach", 0),
        ("budget", "traces.nc", "--coupling", "none"),
        ("generate", "fit.nc", "--sequences", 0),
        ("generate",),
        ("irreversibility", "traces.nc", "--folds", 1),
        ("irreversibility", "traces.nc", "--chain", "potts"),
        ("fit", "traces.nc", "--uncertainty", "guess"),
        ("fit", "traces.nc", "--decay", "slow"),
    ],
)
def test_wrong_usage_exits_with_2(folder, run_cli, command):
    assert run_cli(*command).exit_code == 2
    assert {path.name for path in folder.iterdir()} == {"traces.nc"}
