from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe.cli import app
from isingmoe.cli._options import beside

COMMANDS = (
    "info",
    "fit",
    "compare",
    "budget",
    "generate",
    "irreversibility",
    "probe",
    "solve",
    "simulate",
    "sweep",
    "phase-diagram",
    "plot",
    "report",
    "example",
    "import",
    "capture",
)
QUICK = ("--resamples", 4, "--folds", 2)
DEFAULT = "isingmoe: 2 experts to a token: kinetic chains of whole sets; --chain names another\n"


def parsed(text: str) -> dict[str, Any]:
    """JSON as the standard has it: no NaN and no infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"not JSON: {constant}")

    return json.loads(text, parse_constant=refuse)


def unstyled(text: str) -> str:
    """Help on one line, without the colours and boxes that a CI's terminal may have."""
    return " ".join(re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯─]", " ", text).split())


@pytest.fixture(scope="module")
def traces(make_traces) -> xr.Dataset:
    return make_traces(
        n_sequences=12, n_positions=60, num_experts=4, ragged=True, gaps=0.02, weights=True
    )


@pytest.fixture
def folder(tmp_path, monkeypatch, traces) -> Path:
    monkeypatch.chdir(tmp_path)
    im.save_traces(traces, "traces.nc")
    return tmp_path


@pytest.fixture
def run_json(run_cli):
    def run(*command: object) -> dict[str, Any]:
        ran = run_cli(*command, "--json")
        assert ran.exit_code == 0, ran.stderr
        assert ran.stderr == ""
        return parsed(ran.stdout)

    return run


@pytest.fixture
def solved(run_json):
    return lambda *arguments: run_json("solve", *arguments)["data"]


def test_every_command_is_tried_here(run_cli):
    shown = unstyled(run_cli("--help").stdout)
    for command in COMMANDS:
        assert f" {command} " in shown
    assert {c.name or c.callback.__name__ for c in app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_an_example(run_cli, command, flag):
    ran = run_cli(command, flag)
    assert ran.exit_code == 0
    assert ran.stderr == ""
    assert re.search(rf"Example: isingmoe {command} \S", unstyled(ran.stdout))


def test_version(run_cli):
    assert run_cli("--version") == (0, f"isingmoe {im.__version__}\n", "")


def test_without_a_command_help_is_shown(run_cli):
    ran = run_cli()
    assert "isingmoe fit traces.nc" in unstyled(ran.stdout + ran.stderr)
    assert ran.exit_code == 2


@pytest.mark.parametrize(("J", "h", "n", "t"), [(0.6, 0.1, 256, 1.0), (-0.8, 0.3, 7, 2.5)])
def test_solve_a_ring_of_spins(solved, J, h, n, t):
    ring = ("--n-sites", n, "--boundary", "periodic", "--temperature", t)
    data = solved("--J", J, "--h", h, *ring)
    coupling, field = J / t, h / t
    mean = np.exp(coupling) * np.cosh(field)
    root = np.sqrt(np.exp(2 * coupling) * np.sinh(field) ** 2 + np.exp(-2 * coupling))
    high, low = mean + root, mean - root
    log_z = n * np.log(high) + np.log1p((low / high) ** n)
    assert data["log_z"] == pytest.approx(log_z, rel=1e-12)
    assert data["free_energy"] == pytest.approx(-t * log_z / n, rel=1e-12)
    assert data["correlation_length"] == pytest.approx(-1 / np.log(abs(low / high)), rel=1e-9)
    slope = np.exp(coupling) * np.sinh(field) / root
    tail = (low / high) ** n
    assert data["magnetization"] == pytest.approx(slope * (1 - tail) / (1 + tail), rel=1e-9)
    assert len(data["distance"]) == min(128, n // 2) + 1


def test_solve_an_infinite_chain_of_spins(solved):
    data = solved("--J", 0.7, "--max-distance", 20)
    np.testing.assert_allclose(data["correlation"], np.tanh(0.7) ** np.arange(21), rtol=1e-10)
    assert data["distance"] == list(range(21))
    assert data["correlation_length"] == pytest.approx(-1 / np.log(np.tanh(0.7)))
    assert data["free_energy"] == pytest.approx(-np.log(2 * np.cosh(0.7)))
    assert data["energy"] == pytest.approx(-0.7 * np.tanh(0.7))
    assert data["susceptibility"] == pytest.approx(np.exp(1.4))
    assert data["specific_heat"] == pytest.approx((0.7 / np.cosh(0.7)) ** 2)
    assert "log_z" not in data


def test_solve_an_open_chain_of_spins(solved):
    data = solved("--J", 0.7, "--n-sites", 9)
    assert data["log_z"] == pytest.approx(9 * np.log(2) + 8 * np.log(np.cosh(0.7)))
    np.testing.assert_allclose(data["correlation"], np.tanh(0.7) ** np.arange(9), rtol=1e-10)


def test_solve_a_ring_of_experts(solved):
    ring = ("--n-sites", 30, "--boundary", "periodic")
    data = solved("--chain", "potts", "--J", 1.2, "--n-experts", 8, *ring)
    high, low = np.exp(1.2) + 7, np.exp(1.2) - 1
    assert data["log_z"] == pytest.approx(np.log(high**30 + 7 * low**30))
    np.testing.assert_allclose(data["marginal"], 1 / 8)
    ratio = (low / high) ** np.arange(16)
    around = (low / high) ** (30 - np.arange(16))
    expected = 7 / 8 * (ratio + around + 6 * (low / high) ** 30) / (1 + 7 * (low / high) ** 30)
    np.testing.assert_allclose(data["correlation"], expected, rtol=1e-9, atol=1e-15)
    assert data["correlation_length"] == pytest.approx(-1 / np.log(low / high))


def test_two_experts_are_a_spin_with_half_the_coupling(solved):
    experts = solved("--chain", "potts", "--J", 1.4, "--n-experts", 2)
    spins = solved("--J", 0.7)
    assert experts["correlation_length"] == pytest.approx(spins["correlation_length"])
    assert experts["free_energy"] == pytest.approx(spins["free_energy"] - 0.7)


def test_solve_shows_a_table_and_writes_what_it_solved(folder, run_cli, solved):
    ran = run_cli("solve", "--J", 0.6, "--n-sites", 8, "-o", "exact.nc")
    assert ran.exit_code == 0
    exact = im.solve(im.IsingChain(J=0.6, n_sites=8))
    shown = re.search(r"log_z\s+(\S+)", ran.stdout)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(float(exact["log_z"]), rel=1e-9)
    assert "Written: exact.nc" in ran.stdout
    xr.testing.assert_allclose(xr.load_dataset("exact.nc", engine="h5netcdf"), exact)


@pytest.mark.parametrize("chain", ["potts", "kinetic"])
def test_solve_a_layer_of_a_fit(folder, run_json, traces, chain):
    fit = im.fit(traces, chain=chain)
    fit.save("fit.nc")
    data = run_json("solve", "fit.nc", "--layer", 7)["data"]
    of_layer = fit.data.sel(layer=7)
    assert data["correlation_length"] == pytest.approx(float(of_layer["correlation_length"]))
    if chain == "potts":
        np.testing.assert_allclose(data["marginal"], of_layer["marginal"], rtol=1e-9)
    else:
        # That of a fit is what the chain says of these texts, from their first tokens on.
        np.testing.assert_allclose(data["marginal"], of_layer["marginal"], atol=0.02)
        assert data["entropy_production"] > 0
    assert run_json("solve", "fit.nc", "--layer", 3)["data"]["marginal"] != data["marginal"]


def test_solve_an_expert_of_a_layer(folder, run_json, traces):
    fit = im.fit(traces, chain="ising")
    fit.save("fit.nc")
    data = run_json("solve", "fit.nc", "--layer", 7, "--expert", 2)["data"]
    expected = float(fit.data["marginal"].sel(layer=7, expert=2))
    assert data["marginal"][1] == pytest.approx(expected)


def test_a_kinetic_chain_of_a_fit_has_no_ring(folder, run_cli, traces):
    im.fit(traces).save("fit.nc")
    of_fit = ("fit.nc", "--layer", 7)
    exact = im.solve(replace(im.open_fit("fit.nc").chain(7), n_sites=12, temperature=2.0))
    ran = run_cli("solve", *of_fit, "--n-sites", 12, "--temperature", 2, "-o", "exact.nc")
    assert ran.exit_code == 0, ran.stderr
    xr.testing.assert_allclose(xr.load_dataset("exact.nc", engine="h5netcdf"), exact)
    for command in ("solve", "simulate", "sweep"):
        ran = run_cli(command, *of_fit, "--n-sites", "12", "--boundary", "periodic")
        assert ran.exit_code == 2
        if command != "sweep":
            assert "--boundary periodic: a kinetic chain has a first token" in ran.stderr


@pytest.mark.parametrize(
    ("traces", "kind", "expected"),
    [
        ("traces.nc", "fit", "fit.nc"),
        ("a/traces.nc", "comparison", "a/comparison.nc"),
        ("a/traces.zarr", "fit", "a/fit.nc"),
        ("olmoe.nc", "fit", "olmoe.fit.nc"),
        ("a/olmoe.v2.nc", "fit", "a/olmoe.v2.fit.nc"),
        ("olmoe.zarr", "comparison", "olmoe.comparison.nc"),
    ],
)
def test_results_are_named_for_the_traces(tmp_path, monkeypatch, traces, kind, expected):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    assert beside(Path(traces), kind) == Path(expected)


def test_from_traces_to_a_figure(folder, run_cli, traces):
    ran = run_cli("info", "traces.nc")
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert "2 layers, 4 experts, top-2" in ran.stdout
    assert f"{int(traces['length'].sum())} tokens" in ran.stdout

    ran = run_cli("fit", "traces.nc", "--figure", "layers.png", *QUICK)
    assert (ran.exit_code, ran.stderr) == (0, DEFAULT)
    assert "Written: fit.nc and layers.png" in ran.stdout
    fit = im.open_fit("fit.nc")
    xr.testing.assert_allclose(fit.data, im.fit(traces).data)
    assert Path("layers.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    # Each command names the next one.
    following = re.search(r"^Next: isingmoe (.*)$", ran.stdout, re.MULTILINE)
    assert following is not None
    assert following[1].split() == ["compare", "fit.nc", "traces.nc", "-o", "comparison.nc"]
    ran = run_cli(*following[1].split(), "--shuffles", 2, "--max-distance", 12, *QUICK)
    assert (ran.exit_code, ran.stderr) == (0, "")
    comparison = im.open_comparison("comparison.nc")
    assert comparison.data["layer"].values.tolist() == [3, 7]
    assert int(comparison.data["distance"].max()) == 12
    assert str(comparison) in ran.stdout

    following = re.search(r"^Next: isingmoe (.*)$", ran.stdout, re.MULTILINE)
    assert following is not None
    ran = run_cli(*following[1].split())
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert run_cli("plot", "layers", "comparison.nc").stdout == "Written: figure.png\n"
    for name in ("decay.png", "figure.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert Path("decay.png").read_bytes() != Path("figure.png").read_bytes()
    assert {path.name for path in folder.iterdir()} == {
        "traces.nc",
        "fit.nc",
        "layers.png",
        "comparison.nc",
        "decay.png",
        "figure.png",
    }


def test_a_named_trace_names_its_results(folder, run_cli):
    Path("traces.nc").rename("olmoe.nc")
    assert run_cli("fit", "olmoe.nc", *QUICK).exit_code == 0
    assert run_cli("compare", "olmoe.fit.nc", "olmoe.nc", *QUICK).exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "olmoe.comparison.nc",
        "olmoe.fit.nc",
        "olmoe.nc",
    ]


@pytest.mark.parametrize("chain", ["potts", "kinetic"])
def test_a_store_is_as_good_as_a_file(folder, run_json, traces, chain):
    im.save_traces(traces, "store.zarr")
    first, second = (
        run_json("fit", name, "--chain", chain, "-o", f"{name}.fit.nc", *QUICK)["data"]
        for name in ("traces.nc", "store.zarr")
    )
    assert first == second


def test_options_reach_the_fit(folder, run_json):
    settings = ("--chain", "ising", "--coupling", "uniform", "--field", "none")
    said = run_json("fit", "traces.nc", *settings, "--pseudocount", 2, "--layer", 7, *QUICK)
    assert said["fit"] == "fit.nc"
    fit = im.open_fit("fit.nc")
    assert fit.data["layer"].values.tolist() == [7]
    assert fit.settings == {
        "chain": "ising",
        "coupling": "uniform",
        "field": "none",
        "estimator": im.MaximumLikelihood(pseudocount=2.0),
    }


def test_a_second_fit_does_not_overwrite_the_first(folder, run_cli):
    assert run_cli("fit", "traces.nc", *QUICK).exit_code == 0
    first = Path("fit.nc").read_bytes()
    ran = run_cli("fit", "traces.nc", "--coupling", "uniform", *QUICK)
    assert ran == (
        1,
        "",
        "isingmoe: error: fit.nc: exists and is kept; say --overwrite, or another name\n",
    )
    assert Path("fit.nc").read_bytes() == first
    assert run_cli("fit", "traces.nc", "--coupling", "uniform", "--overwrite", *QUICK)[0] == 0
    assert im.open_fit("fit.nc").settings["coupling"] == "uniform"


@pytest.mark.parametrize(
    "command",
    [
        ("info", "traces.nc"),
        ("fit", "traces.nc", "--chain", "potts", *QUICK),
        ("fit", "traces.nc", "--chain", "kinetic", *QUICK),
        ("fit", "traces.nc", "--chain", "ising", "--folds", 0, "--resamples", 4),
        ("compare", "known.fit.nc", "traces.nc", "--shuffles", 2, *QUICK),
        ("solve", "known.fit.nc", "--layer", 3),
        ("solve", "--J", 0),
        # The correlation length is infinite in doubles.
        ("solve", "--chain", "potts", "--n-experts", 3, "--J", 140),
        ("solve", "--J", -0.5, "--n-sites", 1),
    ],
    ids=lambda command: " ".join(map(str, command)),
)
def test_json_is_json(folder, run_json, traces, command):
    im.fit(traces).save("known.fit.nc")
    said = run_json(*command)
    assert {"attributes", "dims", "data"} <= set(said)
    for name, dims in said["dims"].items():
        assert np.ndim(np.array(said["data"][name], object)) == len(dims)


def test_json_of_traces_without_order_or_pairs(folder, run_json, make_traces):
    # Nothing to correlate at most distances, and tokens that all share their experts.
    index = make_traces(n_positions=2, n_sequences=30, num_experts=4)["expert_index"].values
    index[0] = [0, 1]
    traces = im.traces_from_arrays(index, num_experts=4, ranked=False)
    im.save_traces(traces, "two.nc")
    said = run_json("info", "two.nc")
    assert said["data"]["overlap"][0] == [1.0]


def test_json_says_what_the_library_says(folder, run_json, traces):
    said = run_json("info", "traces.nc", "--shuffles", 5, "--seed", 9)
    expected = im.info(im.open_traces("traces.nc"), n_shuffles=5, seed=9).data
    for name in ("overlap", "overlap_z", "kl", "missing_fraction"):
        np.testing.assert_allclose(said["data"][name], expected[name].values)
    assert said["attributes"]["num_experts"] == 4


def test_results_do_not_depend_on_the_run(folder, run_cli):
    outputs = []
    for name in ("a.nc", "b.nc"):
        ran = run_cli("fit", "traces.nc", "-o", name, "--seed", 11, *QUICK)
        outputs.append(ran.stdout.replace(name, "fit.nc"))
    assert outputs[0] == outputs[1]
    fits = [im.open_fit(name).data for name in ("a.nc", "b.nc")]
    xr.testing.assert_identical(*fits)


@pytest.mark.parametrize("flag", [(), ("--json",)], ids=["table", "json"])
def test_progress_is_never_on_stdout(folder, run_cli, flag):
    command = ("fit", "traces.nc", "--overwrite", *QUICK, *flag)
    silent = run_cli(*command)
    shown = run_cli(*command, env={"FORCE_COLOR": "1", "COLUMNS": "100"})
    assert silent.stderr == DEFAULT
    assert "held-out score" in shown.stderr
    assert shown.stdout == silent.stdout


def isingmoe(folder: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from isingmoe.cli import main; main()"]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=folder, capture_output=True, timeout=120, **options
    )


def test_the_program_says_errors_in_one_line(tmp_path):
    ran = isingmoe(tmp_path, "fit", "absent.nc")
    assert ran.returncode == 1
    assert ran.stdout == b""
    assert ran.stderr == b"isingmoe: error: absent.nc: no such file; check the name\n"


def test_the_program_says_warnings_in_one_line(tmp_path, make_traces):
    im.save_traces(make_traces(n_sequences=2), tmp_path / "short.nc")
    ran = isingmoe(tmp_path, "fit", "short.nc", "--json", *QUICK)
    assert ran.returncode == 0
    few_tokens, few_sequences, chosen = ran.stderr.decode().splitlines(keepends=True)
    warned = r"isingmoe: warning: short\.nc: "
    assert re.fullmatch(
        rf"{warned}22 pairs of tokens for 30 parameters: .* "
        r"use coupling='diagonal' or 'uniform', or a longer trace\n",
        few_tokens,
    )
    assert re.fullmatch(
        rf"{warned}sandwich errors compare sequences, and there are 2: .*\n", few_sequences
    )
    assert chosen == DEFAULT
    assert parsed(ran.stdout.decode())["fit"] == "short.fit.nc"


def test_the_program_writes_utf8_in_any_locale(tmp_path, make_traces):
    im.save_traces(make_traces(n_positions=60, model="Ñandú"), tmp_path / "traces.nc")
    ran = isingmoe(
        tmp_path,
        "info",
        "traces.nc",
        env={"OMP_WAIT_POLICY": "passive", "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "Ñandú" in ran.stdout.decode("utf-8")


def test_the_program_is_quiet_where_nobody_reads(tmp_path):
    command = [sys.executable, "-c", "from isingmoe.cli import main; main()"]
    with subprocess.Popen(
        [*command, "solve", "--J", "0.6", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("module", ["typer", "isingmoe.cli._app", "numpy", "isingmoe.transfer"])
def test_an_interrupt_while_modules_are_loaded_is_said_in_one_line(tmp_path, module):
    interrupting = f"""
import os, signal, sys
from isingmoe.cli import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

assert {module!r} not in sys.modules
sys.meta_path.insert(0, Finder())
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", interrupting, "solve", "--J", "0.1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr == "isingmoe: error: interrupted; no file was left half-written\n"


def test_example(folder, run_cli):
    ran = run_cli("example", "-o", "example.nc")
    assert (ran.exit_code, ran.stderr) == (0, "")
    traces = im.example_traces()
    assert (traces.sizes["layer"], traces.attrs["num_experts"], traces.attrs["top_k"]) == (4, 16, 2)
    xr.testing.assert_identical(im.open_traces("example.nc"), traces)
    assert f"{int(traces['length'].sum())} tokens, 16 experts, top-2)" in ran.stdout
    for attribute in ("model", "text", "source", "licence", "router", "provenance"):
        assert traces.attrs[attribute]


def test_example_is_fitted_as_it_says(folder, run_cli):
    Path("traces.nc").unlink()
    ran = run_cli("example")
    assert ran.stdout.endswith("Next: isingmoe fit traces.nc\n")
    layer = int(im.open_traces("traces.nc")["layer"][0])
    ran = run_cli("fit", "traces.nc", "--layer", layer, *QUICK)
    assert (ran.exit_code, ran.stderr) == (0, DEFAULT)
    sizes = {
        "layer": 1,
        "distance": 1,
        "correlation_distance": 65,
        "expert": 16,
        "next_expert": 16,
    }
    assert im.open_fit("fit.nc").data.sizes == sizes


def test_example_does_not_overwrite(folder, run_cli):
    before = Path("traces.nc").read_bytes()
    ran = run_cli("example")
    assert ran.exit_code == 1
    assert ran.stderr.startswith("isingmoe: error: traces.nc: exists and is kept;")
    assert Path("traces.nc").read_bytes() == before
    assert run_cli("example", "--overwrite").exit_code == 0
    assert im.open_traces("traces.nc").attrs["num_experts"] == 16


def test_the_example_is_not_written_where_it_cannot_be(tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    ran = run_cli("example", "-o", "absent/traces.nc")
    assert ran.exit_code == 1
    assert ran.stderr == ("isingmoe: error: absent/traces.nc: no folder absent; make it first\n")
