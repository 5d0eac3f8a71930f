"""`isingmoe simulate`, and what the engine says of bad input."""

import json

import pytest
import xarray as xr

import isingmoe as im

RING = ["simulate", "--J", 0.6, "--n-sites", 32, "--boundary", "periodic", "--samples", 300]


@pytest.mark.parametrize(
    "algorithm", ["exact", "heat-bath", "metropolis", "wolff", "swendsen-wang"]
)
def test_every_algorithm_by_its_name(run_cli, algorithm):
    ran = run_cli(*RING, "--algorithm", algorithm, "--seed", 1)
    assert ran.exit_code == 0, ran.stderr
    assert "energy" in ran.stdout
    assert "8 replicas of 300 samples" in ran.stdout
    assert "C(d), d = 0..5" in ran.stdout


def test_files_and_json(run_cli, tmp_path):
    path = tmp_path / "samples.nc"
    ran = run_cli(*RING, "--algorithm", "exact", "--keep-states", "-o", path)
    assert ran.exit_code == 0, ran.stderr
    stored = xr.load_dataset(path, engine="h5netcdf")
    assert stored["state"].shape == (8, 300, 32)
    assert json.loads(stored.attrs["provenance"])["verb"] == "simulate"
    said = json.loads(run_cli(*RING, "--algorithm", "exact", "--json").stdout)
    assert said["data"]["energy"] == float(stored["energy"])
    assert run_cli(*RING, "-o", path).exit_code == 1


def test_no_correlations(run_cli):
    ran = run_cli(*RING, "--algorithm", "exact", "--max-distance", -1)
    assert ran.exit_code == 0, ran.stderr
    assert "C(d)" not in ran.stdout


@pytest.fixture(params=["potts", "kinetic"])
def of_fit(request, tmp_path):
    """A fit of small traces, and the name of its chains."""
    traces = im.example_traces().isel(layer=[0], sequence=slice(12))
    im.fit(traces, chain=request.param, coupling="uniform").save(tmp_path / "fit.nc")
    return [tmp_path / "fit.nc", "--layer", 0, "--n-sites", 64, "--samples", 50], request.param


def test_a_chain_of_a_fit(run_cli, of_fit):
    options, chain = of_fit
    ran = run_cli("simulate", *options, "--algorithm", "exact")
    assert ran.exit_code == 0, ran.stderr
    assert {"potts": "PottsChain", "kinetic": "KineticChain"}[chain] in ran.stdout
    assert "8 replicas of 50 samples" in ran.stdout


def test_the_algorithm_follows_the_chain(run_cli, of_fit):
    """Kinetic chains are drawn exactly, and there is no other way."""
    options, chain = of_fit
    ran = run_cli("simulate", *options)
    assert ran.exit_code == 0, ran.stderr
    assert {"potts": "HeatBath(", "kinetic": "Exact()"}[chain] in ran.stdout
    if chain == "kinetic":
        ran = run_cli("simulate", *options, "--algorithm", "wolff")
        assert ran.exit_code == 1
        assert ran.stderr.startswith("isingmoe: error: algorithm: expected Exact() for a kinetic")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--J", 1], "n_sites: expected a finite chain to sample, got None; give n_sites"),
        (
            ["--J", 1, "--n-sites", 0],
            "n_sites: expected at least 1 on a chain with open ends, got 0",
        ),
        (
            ["--J", 1, "--n-sites", 9, "--temperature", -1],
            "temperature: expected a positive number, got -1.0",
        ),
        (["--J", "nan", "--n-sites", 9], "J: expected finite numbers, got nan"),
        (
            ["--J", 1, "--n-sites", 9, "--alpha", 0],
            "alpha: expected a positive number, got 0.0",
        ),
        (
            ["--J", -1, "--n-sites", 9, "--algorithm", "wolff"],
            "J: expected a ferromagnetic coupling for Wolff, got -2 for equal labels at "
            "distance 1; use HeatBath()",
        ),
        (
            ["--J", -1, "--n-sites", 9, "--algorithm", "swendsen-wang"],
            "J: expected a ferromagnetic coupling for SwendsenWang, got -2 for equal labels at "
            "distance 1; use HeatBath()",
        ),
        (
            ["--J", 1, "--n-sites", 40, "--alpha", 2, "--algorithm", "exact"],
            "transfer states, more than the 4096 that can be solved; "
            "sample it with simulate(chain, SwendsenWang())",
        ),
    ],
)
def test_bad_input_in_one_line(run_cli, arguments, message):
    ran = run_cli("simulate", *arguments)
    assert ran.exit_code == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith("isingmoe: error: ")
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--J", 1, "--n-sites", 9, "--boundary", "perodic"],
        ["--J", 1, "--n-sites", 9, "--algorithm", "glauber"],
        ["--n-sites", 9],
        [*RING[1:], "--keep-states"],
        [*RING[1:], "--samples", 0],
        [*RING[1:], "--top-k", 2],
    ],
)
def test_usage(run_cli, arguments):
    assert run_cli("simulate", *arguments).exit_code == 2
