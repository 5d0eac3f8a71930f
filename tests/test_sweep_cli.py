"""`isingmoe sweep` and `isingmoe phase-diagram`, and the figures that they draw."""

from __future__ import annotations

import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import LogNorm

import isingmoe as im
from isingmoe._points import PointFolder
from isingmoe._storage import read_dataset
from isingmoe.cli._grid import parse_grid

RING = ("--n-sites", 16, "--boundary", "periodic")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plt.close("all")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:2:5", [0, 0.5, 1, 1.5, 2]),
        ("-1:1:3", [-1, 0, 1]),
        ("2:0:3", [2, 1, 0]),
        ("1:1:1", [1]),
        ("log:0.1:10:3", [0.1, 1, 10]),
        (" log : 1 : 100 : 3 ", [1, 10, 100]),
        ("0,0.1,1e-2", [0, 0.1, 0.01]),
        ("0.5, -1", [0.5, -1]),
    ],
)
def test_grids_as_they_are_typed(text, values):
    single, swept = parse_grid({"J": text, "h": None}, ())
    assert (single, list(swept)) == ({}, ["J"])
    np.testing.assert_allclose(swept["J"], values, rtol=1e-15)


def test_single_values_are_not_swept():
    single, swept = parse_grid({"J": "0.5", "n_sites": "16", "h": "0,1"}, ("n_sites",))
    assert single == {"J": 0.5, "n_sites": 16}
    assert isinstance(single["n_sites"], int)
    assert list(swept) == ["h"]


def test_sizes_in_equal_factors_are_whole():
    _, swept = parse_grid({"n_sites": "log:16:4096:9"}, ("n_sites",))
    assert swept["n_sites"].tolist() == [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    _, swept = parse_grid({"n_sites": "log:1.5:9.6:2"}, ("n_sites",))
    assert swept["n_sites"].tolist() == [2, 10]


def test_sweep_writes_what_the_verb_gives(folder, run_cli):
    ran = run_cli("sweep", "--J", "0:2:3", "--h", "0,0.1", *RING, "-o", "grid.nc")
    assert (ran.exit_code, ran.stderr) == (0, "")
    chain = im.IsingChain(J=1.0, n_sites=16, boundary="periodic")
    direct = im.sweep(im.solve, chain, J=np.linspace(0, 2, 3), h=[0.0, 0.1])
    grid = read_dataset("grid.nc")
    for name in direct.variables:
        np.testing.assert_array_equal(grid[name], direct[name])
    lines = ran.stdout.splitlines()
    assert lines[0] == "IsingChain(n_sites=16, boundary='periodic', temperature=1.0)"
    assert lines[2].split()[:4] == ["J", "h", "free_energy", "energy"]
    assert lines[5].split()[:2] == ["0", "0.1"]
    assert lines[-1] == "Written: grid.nc"
    assert len(lines) == 12
    assert os.listdir(folder) == ["grid.nc"]


def test_a_long_table_is_cut(folder, run_cli):
    ran = run_cli("sweep", "--J", "0:2:41")
    assert len(ran.stdout.splitlines()) == 30
    assert ran.stdout.splitlines()[-1] == "and 17 more points"
    assert max(map(len, ran.stdout.splitlines())) <= 180
    assert os.listdir(folder) == []


def test_sweep_prints_json(folder, run_cli):
    ran = run_cli("sweep", "--J", "0.5,1", "--max-distance", 2, "--json")
    content = json.loads(ran.stdout)
    assert content["dims"]["correlation"] == ["J", "distance"]
    assert content["data"]["J"] == [0.5, 1.0]
    np.testing.assert_allclose(
        content["data"]["correlation"][1], np.tanh(1.0) ** np.arange(3), rtol=1e-12
    )
    assert content["output"] is None


@pytest.mark.parametrize("kind", ["potts", "kinetic"])
def test_sweep_of_a_fit(folder, run_cli, kind):
    fit = im.fit(im.example_traces().isel(layer=[0], sequence=slice(30)), chain=kind)
    fit.save("fit.nc")
    layer = int(fit.data["layer"][0])
    ran = run_cli("sweep", "fit.nc", "--layer", layer, "--temperature", "0.5:2:3", "-o", "t.nc")
    assert ran.exit_code == 0, ran.stderr
    exact = im.solve(fit.chain(layer=layer))
    np.testing.assert_allclose(read_dataset("t.nc")["entropy"][0], exact["entropy"], atol=2)
    from dataclasses import replace

    ring = {"boundary": "periodic"} if kind == "potts" else {}
    warm = im.solve(replace(fit.chain(layer=layer), temperature=2.0, **ring))
    np.testing.assert_array_equal(read_dataset("t.nc")["entropy"][2], warm["entropy"])


@pytest.mark.parametrize(
    ("options", "chain"),
    [
        (("--alpha", "1.5,2"), {"decay": im.power_law(2.0)}),
        (("--length", "1.5,2"), {"decay": im.exponential(2.0)}),
        (("--temperature", "1,2"), {"temperature": 2.0}),
        (("--n-sites", "5,7"), {"n_sites": 7}),
    ],
)
def test_sampling_over_every_parameter(folder, run_cli, options, chain):
    sampling = ("--algorithm", "heat-bath", "--samples", 600, "--replicas", 2, "--seed", 4)
    ran = run_cli("sweep", "--J", 0.1, "--n-sites", 6, *options, *sampling, "-o", "g.nc")
    assert ran.exit_code == 0, ran.stderr
    chain = {"J": 0.1, "n_sites": 6, **chain}
    direct = im.simulate(
        im.IsingChain(**chain),
        im.HeatBath(),
        n_samples=600,
        n_replicas=2,
        seed=np.random.SeedSequence(4, spawn_key=(1,)),
    )
    grid = read_dataset("g.nc")
    assert float(grid["energy"][1]) == float(direct["energy"])
    assert not {"replica", "sample"} & set(grid.dims)
    assert " ± " in ran.stdout


@pytest.mark.parametrize("name", ["exact", "metropolis", "wolff", "swendsen-wang"])
def test_every_algorithm_has_a_name(folder, run_cli, name):
    sampling = ("--algorithm", name, "--samples", 500, "--replicas", 1, "--json")
    ran = run_cli("sweep", "--J", "0.1,0.2", *RING, *sampling)
    assert ran.exit_code == 0, ran.stderr
    class_name = "".join(part.capitalize() for part in name.split("-"))
    assert class_name in json.loads(ran.stdout)["attributes"]["algorithm"]


def test_potts_chains_are_swept_in_q(folder, run_cli):
    ran = run_cli("sweep", "--chain", "potts", "--J", 1, "--n-experts", "2,4,8", "--json")
    content = json.loads(ran.stdout)
    assert content["dims"]["marginal"] == ["n_experts", "expert"]
    first = content["data"]["marginal"][0]
    np.testing.assert_allclose(first[:2], 0.5, rtol=1e-12)
    assert first[2:] == [None] * 6


def on_expert_0(h, q=3, **more):
    return im.PottsChain(J=0.5, h=[h] + [0.0] * (q - 1), n_sites=16, boundary="periodic", **more)


POTTS = ("--chain", "potts", "--J", 0.5, *RING)


def test_the_field_of_a_potts_chain_acts_on_one_expert(folder, run_cli):
    for command in ("solve",), ("simulate", "--algorithm", "exact"):
        options = ("--n-experts", 3, "--h", 0.7, "--json")
        ran = run_cli(*command, *POTTS, *options)
        assert ran.exit_code == 0, ran.stderr
        exact = im.solve(on_expert_0(0.7))
        magnetization = json.loads(ran.stdout)["data"]["magnetization"]
        assert magnetization == pytest.approx(float(exact["magnetization"]), abs=0.05)
        assert magnetization > 0.2
    for h in "nan", "1e9":
        ran = run_cli("solve", *POTTS, "--n-experts", 3, "--h", h)
        assert (ran.exit_code, ran.stderr[:19]) == (1, "isingmoe: error: h:")


@pytest.mark.parametrize(
    ("options", "chains", "words"),
    [
        (
            ("--h", "0:1:3", "--n-experts", 3),
            [on_expert_0(h) for h in (0, 0.5, 1)],
            "PottsChain(J=0.5, n_sites=16, boundary='periodic', temperature=1.0, n_experts=3, "
            "top_k=1, h on expert 0)",
        ),
        (
            ("--h", 0.5, "--n-experts", "2,4"),
            [on_expert_0(0.5, 2), on_expert_0(0.5, 4)],
            "PottsChain(J=0.5, n_sites=16, boundary='periodic', temperature=1.0, top_k=1, "
            "h=0.5 on expert 0)",
        ),
        (
            ("--h", 0.5, "--n-experts", 3, "--top-k", "1,2"),
            [on_expert_0(0.5, top_k=1), on_expert_0(0.5, top_k=2)],
            None,
        ),
        (
            ("--h", "0.5,1", "--n-experts", 3, "--temperature", "1,2"),
            [on_expert_0(h, temperature=t) for t in (1, 2) for h in (0.5, 1)],
            None,
        ),
    ],
)
def test_the_field_of_a_potts_chain_is_swept(folder, run_cli, options, chains, words):
    ran = run_cli("sweep", *POTTS, *options, "-o", "grid.nc")
    assert (ran.exit_code, ran.stderr) == (0, "")
    grid = read_dataset("grid.nc")
    values = [float(im.solve(chain)["free_energy"]) for chain in chains]
    dims = [name for name in ("temperature", "h", "n_experts", "top_k") if name in grid.dims]
    np.testing.assert_array_equal(grid["free_energy"].transpose(*dims).values.ravel(), values)
    if "," in str(options[1]) or ":" in str(options[1]):
        assert grid["h"].values.tolist() in ([0.0, 0.5, 1.0], [0.5, 1.0])
    assert words is None or grid.attrs["chain"] == words
    again = run_cli("sweep", *POTTS, *options, "-o", "grid.nc")
    assert again.stdout == ran.stdout
    figure = ("-o", "d.nc", "--quantity", "free_energy")
    ran = run_cli("phase-diagram", *POTTS, *options, *figure)
    assert ran.exit_code == 0, ran.stderr
    np.testing.assert_array_equal(read_dataset("d.nc")["free_energy"], grid["free_energy"])


def test_the_same_command_goes_on_and_another_is_refused(folder, run_cli, monkeypatch):
    command = ("sweep", "--J", "0:1:6", "-o", "grid.nc")
    solve, asked = im.solve, []

    def interrupting(chain, max_distance=None):
        asked.append(chain.J)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return solve(chain, max_distance=max_distance)

    interrupting.__module__, interrupting.__qualname__ = "isingmoe.transfer", "solve"
    with monkeypatch.context() as patch:
        patch.setattr(im, "solve", interrupting)
        ran = run_cli(*command)
        assert ran.exit_code == 1
        assert ran.stderr == (
            "isingmoe: error: interrupted; 3 of 6 points are kept in grid.nc.points, and the same "
            "sweep goes on from there\n"
        )
        ran = run_cli("sweep", "--J", "0:1:7", "-o", "grid.nc")
        assert ran.stderr == (
            "isingmoe: error: grid.nc.points: holds points of another sweep: J is 6 values from "
            "0.0 to 1.0 there and 7 values from 0.0 to 1.0 here; say --overwrite, or another name\n"
        )
        assert PointFolder(Path("grid.nc")).finished() == {0, 1, 2}
        assert run_cli(*command).exit_code == 0
        assert asked == [*np.linspace(0, 1, 6)[:4], *np.linspace(0, 1, 6)[3:]]
        shown = run_cli(*command)
        assert len(asked) == 7
    whole = run_cli("sweep", "--J", "0:1:6", "-o", "whole.nc")
    assert shown.stdout == whole.stdout.replace("whole.nc", "grid.nc")
    assert Path("grid.nc").read_bytes() == Path("whole.nc").read_bytes()
    assert sorted(os.listdir()) == ["grid.nc", "whole.nc"]


def test_phase_diagram_writes_the_grid_and_the_figure(folder, run_cli):
    command = ("phase-diagram", "--J", "0:2:8", "--h", "-1:1:7")
    ran = run_cli(*command)
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout == "Written: phase_diagram.nc and phase_diagram.png\n"
    assert read_dataset("phase_diagram.nc").sizes["h"] == 7
    assert Path("phase_diagram.png").read_bytes().startswith(b"\x89PNG")
    ran = run_cli(*command)
    assert ran.stderr.startswith("isingmoe: error: phase_diagram.png: exists and is kept;")
    before = os.stat("phase_diagram.nc").st_mtime_ns
    more = ("--quantity", "entropy", "--quantity", "energy", "--figure", "e.pdf")
    assert run_cli(*command, *more).exit_code == 0
    assert Path("e.pdf").read_bytes().startswith(b"%PDF")
    assert os.stat("phase_diagram.nc").st_mtime_ns == before


def drawn(axes):
    """The panels, none of them empty."""
    assert all(ax.has_data() for ax in axes)
    return list(axes)


@pytest.fixture(scope="module")
def surface():
    J, h = np.linspace(0, 3, 9), np.linspace(-1, 1, 8)
    return im.sweep(im.solve, im.IsingChain(J=1.0), J=J, h=h)


def test_two_parameters_make_maps(surface):
    panels = drawn(im.plot_phase_diagram(surface))
    titles = ["magnetization", "correlation length (site)", "susceptibility (1/coupling)"]
    assert [ax.get_title() for ax in panels] == titles
    for ax, name in zip(
        panels, ["magnetization", "correlation_length", "susceptibility"], strict=True
    ):
        assert ax.get_xlabel() == "coupling J"
        assert ax.get_ylabel() == "field h (coupling)"
        mesh, *lines = ax.collections
        np.testing.assert_array_equal(mesh.get_array(), surface[name].T)
        assert lines
        assert mesh.colorbar.ax.get_visible()
    magnetization, _, susceptibility = (ax.collections[0] for ax in panels)
    assert magnetization.norm.vmin == -magnetization.norm.vmax
    assert isinstance(susceptibility.norm, LogNorm)
    plt.close("all")


def test_the_order_of_the_values_does_not_matter(surface):
    turned = surface.isel(J=slice(None, None, -1))
    (ax,) = drawn(im.plot_phase_diagram(turned, "entropy"))
    np.testing.assert_array_equal(ax.collections[0].get_array(), surface["entropy"].T)
    plt.close("all")


def test_one_parameter_makes_curves(surface):
    one = surface.isel(h=4)
    axes = im.plot_phase_diagram(one, ["entropy", "energy"])
    for ax, name in zip(drawn(axes), ["entropy", "energy"], strict=True):
        (line,) = ax.lines
        np.testing.assert_array_equal(line.get_ydata(), one[name])
        assert ax.get_legend() is None
    few = surface.isel(h=[0, 4, 7])
    (ax,) = drawn(im.plot_phase_diagram(few, "energy"))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["h = -1", "h = 0.1429", "h = 1"]
    plt.close("all")


def test_curves_have_their_errors():
    dims = ("temperature",)
    temperature = np.geomspace(0.1, 100, 5)[::-1]
    grid = xr.Dataset(
        {
            "energy": (dims, np.geomspace(1, 1e5, 5)),
            "energy_error": (dims, np.arange(1.0, 6)),
            "susceptibility": (("temperature", "expert"), np.ones((5, 2))),
            "susceptibility_error": (("temperature", "expert"), np.ones((5, 2))),
        },
        coords={"temperature": temperature},
    )
    energy, susceptibility = drawn(im.plot_phase_diagram(grid, ["energy", "susceptibility"]))
    assert (energy.get_xscale(), energy.get_yscale()) == ("log", "log")
    (bars,) = energy.collections
    lengths = [float(np.diff(segment[:, 1])[0]) for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 2 * np.arange(5.0, 0, -1))
    assert susceptibility.get_yscale() == "linear"
    np.testing.assert_array_equal(susceptibility.lines[0].get_ydata(), 2)
    plt.close("all")


def quantity_over(values, units="1", **axes):
    return xr.Dataset({"x": (tuple(axes), np.array(values), {"units": units})}, coords=axes)


@pytest.mark.parametrize(
    ("values", "units", "shown"),
    [
        ([1e-15, -3e-16, 0.5], "1", [0, 0, 0.5]),
        ([1e-15, 3e-16, 2e-15], "1", [0, 0, 0]),
        ([1e-15, -1, 0.5], "coupling", [0, -1, 0.5]),
        # Exact to the last digit, and far below 1.
        ([1e-160, 1e-20, 0.4], "k_B", [1e-160, 1e-20, 0.4]),
        ([1e20, 1.0, np.inf], "site", [1e20, 1.0, np.inf]),
        ([1e-14, -1e-14, 1e-15], "coupling", [1e-14, -1e-14, 1e-15]),
    ],
)
def test_rounding_errors_are_no_data(values, units, shown):
    grid = quantity_over(values, units, J=[0.0, 1.0, 2.0])
    (ax,) = drawn(im.plot_phase_diagram(grid, "x"))
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), shown)
    plt.close("all")


def test_rounding_errors_are_not_in_the_table(folder, run_cli):
    ran = run_cli("sweep", "--J", "0:5:11", "--n-sites", 16, "--boundary", "periodic")
    header, _, *rows = ran.stdout.splitlines()[2:]
    column = header.split().index("magnetization")
    assert {row.split()[column] for row in rows[:11]} == {"0"}


def test_a_zero_is_no_level_of_a_map():
    values = np.linspace(0, 1, 64).reshape(8, 8)
    values[0, ::2] = -1e-17
    values[0, 1::2] = 0
    (ax,) = drawn(im.plot_phase_diagram(quantity_over(values, J=np.arange(8), h=np.arange(8)), "x"))
    mesh, lines = ax.collections
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0, 1)
    assert lines.levels.min() > 0
    plt.close("all")


def test_zeros_are_not_on_logarithmic_axes(tmp_path):
    grid = quantity_over([0.0, 1e-9, 1e-3, 1.0], "k_B", J=np.arange(4.0))
    (ax,) = drawn(im.plot_phase_diagram(grid, "x", path=tmp_path / "x.png"))
    assert ax.get_yscale() == "log"
    np.testing.assert_array_equal(np.array(ax.lines[0].get_ydata(), float), [np.nan, 1e-9, 1e-3, 1])
    assert 1e-11 < ax.get_ylim()[0] < 1e-9
    plt.close("all")


@pytest.mark.parametrize("n_kinds", [2, 8])
def test_text_labels_curves(n_kinds, tmp_path):
    kinds = np.array([f"kind {i}" for i in range(n_kinds)])
    grid = quantity_over(np.random.default_rng(0).random((n_kinds, 7)), kind=kinds, J=np.arange(7))
    (ax,) = drawn(im.plot_phase_diagram(grid, "x", path=tmp_path / "x.png"))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"kind = {kind}" for kind in kinds]
    assert ax.get_xlabel() == "J"
    one = quantity_over(np.arange(float(n_kinds)), kind=kinds)
    im.plot_phase_diagram(one, "x", path=tmp_path / "one.png")
    plt.close("all")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], ""),
        ([np.inf], "; grey: infinite"),
        ([np.nan, np.inf], "; grey: infinite or unknown"),
        ([0.0], "; grey: 0"),
    ],
)
def test_the_title_says_what_grey_cells_are(values, said):
    table = np.geomspace(1e-6, 1, 36)
    table[: len(values)] = values
    grid = quantity_over(table.reshape(6, 6), J=np.arange(6), h=np.arange(6))
    (ax,) = drawn(im.plot_phase_diagram(grid, "x"))
    assert ax.get_title() == f"x{said}"
    plt.close("all")


def test_the_legend_of_lengths_is_below_the_error_bars(folder, run_cli):
    traces = im.example_traces().isel(layer=[0, 1], sequence=slice(20))
    comparison = im.compare(im.fit(traces, chain="potts"), traces, n_resamples=2)
    ax = im.plot_layers(comparison).flat[1]
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0


@pytest.mark.parametrize(
    ("change", "quantity"),
    [
        (lambda v: 0 * v, "nothing"),
        (lambda v: 1e-12 * v, "rounding"),
        (lambda v: v.where(v > 0), "holes"),
        (lambda v: xr.full_like(v, np.inf), "infinite"),
        (lambda v: 10.0 ** (60 * v), "wide"),
    ],
)
def test_odd_values_are_drawn(surface, tmp_path, change, quantity):
    grid = change(surface["magnetization"]).to_dataset(name=quantity)
    im.plot_phase_diagram(grid, quantity, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
    plt.close("all")


@pytest.mark.parametrize(
    ("select", "quantity", "text"),
    [
        ({}, "colour", "quantity: expected one of free_energy, energy, "),
        ({}, [], "quantity: expected at least one, got none"),
        ({}, "marginal", "quantity: expected one over one or two parameters, got marginal over J"),
        (
            {"J": 0, "h": 0},
            "energy",
            "quantity: expected one over one or two parameters, got energ",
        ),
    ],
)
def test_quantities_that_cannot_be_drawn_are_named(surface, select, quantity, text):
    with pytest.raises(ValueError) as error:
        im.plot_phase_diagram(surface.isel(select), quantity)
    assert str(error.value).startswith(text)


BAD = {
    "negative temperature": (("--J", 1, "--temperature", "-1:1:3"), "temperature: expected a posi"),
    "temperature zero": (
        ("--J", 1, "--temperature", "1:0:3"),
        "at temperature = 0: temperature: e",
    ),
    "J with NaN": (("--J", "0,nan"), "J: expected finite numbers, got nan at place 1"),
    "J infinite": (("--J", "0:inf:3"), "J: expected finite ends, got '0:inf:3'"),
    "J first NaN": (("--J", "nan,1"), "J: expected finite numbers, got nan"),
    "alpha zero": (("--J", 1, "--alpha", "0:2:3", *RING), "alpha: expected a positive number, go"),
    "alpha last": (("--J", 1, "--alpha", "2:0:3", *RING), "at alpha = 0: alpha: expected a posit"),
    "alpha log": (("--J", 1, "--alpha", "log:0:2:3"), "alpha: expected positive ends of a log ran"),
    "no sites": (
        ("--J", "0,1", "--n-sites", 0),
        "n_sites: expected at least 1 on a chain with ope",
    ),
    "sites not whole": (
        ("--J", "0,1", "--n-sites", 1.5),
        "n_sites: expected a whole number, got 1",
    ),
    "sites not whole in the grid": (
        ("--J", 1, "--n-sites", "16:20:4"),
        "n_sites: expected whole numbers, got 17.3333",
    ),
    "infinite among sizes": (
        ("--J", "0:1:3", "--n-sites", "inf,10"),
        "n_sites: expected whole numbers, got inf; leave it out for the infinite chain",
    ),
    "NaN among sizes": (
        ("--J", "0:1:3", "--n-sites", "nan,10"),
        "n_sites: expected whole numbers, got nan",
    ),
    "part of a site first": (
        ("--J", 1, "--n-sites", "1.5,10"),
        "n_sites: expected whole numbers, got 1.5; round it",
    ),
    "infinite size": (("--J", "0:1:3", "--n-sites", "inf"), "n_sites: expected a whole number, g"),
    "huge size": (
        ("--J", "0:1:3", "--n-sites", "1e300"),
        "n_sites: expected a whole number of at most 2^53, got 1e+300",
    ),
    "huge range": (
        ("--J=-1e308:1e308:3",),
        "J: expected ends that a finite number lies between, got '-1e308:1e308:3'",
    ),
    "one J that is NaN": (("--J", "nan"), "J: expected a finite number, got nan"),
    "one h that is infinite": (
        ("--J", "0,1", "--h", "inf"),
        "h: expected a finite number, got inf",
    ),
    "too large": (("--J", "0:2:100000", "--h", "0:1:10000"), "grid: expected at most 1000000 poin"),
    "too long": (
        ("--J", "0:2:1000000000"),
        "grid: expected at most 1000000 points, got 1000000000",
    ),
    "count not whole": (("--J", "0:2:2.5"), "J: expected a whole number of values, got '2.5' in '"),
    "count in words": (
        ("--J", "0:2:x"),
        "J: expected a whole number of values, got 'x' in '0:2:x'",
    ),
    "empty": (("--J", "0:2:0"), "J: expected at least one value, got 0 in '0:2:0'"),
    "negative count": (("--J", "0:2:-3"), "J: expected at least one value, got -3 in '0:2:-3'"),
    "empty text": (
        ("--J", ""),
        "J: expected start:stop:count, log:start:stop:count, or values wit",
    ),
    "no count": (
        ("--J", "0:2"),
        "J: expected start:stop:count, log:start:stop:count, or values wi",
    ),
    "empty place": (
        ("--J", "0,,1"),
        "J: expected start:stop:count, log:start:stop:count, or value",
    ),
    "words": (("--J", "zero:1:3"), "J: expected start:stop:count, log:start:stop:count, or values"),
    "twice": (("--J", "1,1"), "J: expected different values, got 1.0 more than once"),
    "too strong": (
        ("--J", "0:200:3"),
        "at J = 200: J: expected |J| / temperature of at most 150, ",
    ),
    "no folder": (
        ("--J", "0,1", "-o", "absent/grid.nc"),
        "absent/grid.nc: no folder absent; make ",
    ),
    "a folder": (("--J", "0,1", "-o", "there"), "there: is a folder; name a file in it"),
    "no ending": (
        ("--J", "0,1", "-o", "grid.txt"),
        "grid.txt: expected a name that ends in .nc or",
    ),
    "not mine": (("--J", "0,1", "-o", "mine.nc"), "mine.nc: holds something else; say --overwrite"),
    "no fit": (("absent.nc", "--layer", 1, "--temperature", "1,2"), "absent.nc: no such file"),
    "samples of the infinite": (
        ("--J", "0.1,0.2", "--algorithm", "wolff"),
        "at J = 0.1: n_sites: expected a finite chain to sample",
    ),
    "clusters of an antiferromagnet": (
        ("--J", "-0.1,0.2", *RING, "--algorithm", "wolff"),
        "at J = -0.1: ",
    ),
}


@pytest.mark.parametrize("command", ["sweep", "phase-diagram"])
@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_input_ends_in_one_line(folder, run_cli, command, case):
    options, text = case
    Path("there").mkdir()
    Path("mine.nc").write_text("mine")
    ran = run_cli(command, *options)
    assert (ran.exit_code, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.removeprefix("isingmoe: error: ").startswith(text)
    assert "Traceback" not in line
    assert Path("mine.nc").read_text() == "mine"
    assert sorted(os.listdir()) == ["mine.nc", "there"]


@pytest.mark.parametrize("command", ["sweep", "phase-diagram"])
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--J", 1),
        ("--h", "0:1:3"),
        ("--J", "0:1:3", "--boundary", "periodical"),
        ("--J", "0:1:3", "--chain", "heisenberg"),
        ("--J", "0:1:3", "--algorithm", "glauber"),
        ("--J", "0:1:3", "--samples", 10),
        ("--J", "0:1:3", "--n-experts", 3),
        ("--J", "0:1:3", "--layer", 3),
        ("--J", "0:1:3", "--n-sites", 9, "--alpha", 2, "--length", 2),
        ("fit.nc", "--temperature", "1,2"),
        ("fit.nc", "--layer", 1, "--J", "1,2"),
        ("--J", "0:1:3", "--workers", 0),
    ],
)
def test_wrong_usage_exits_with_2(folder, run_cli, command, options):
    ran = run_cli(command, *options)
    assert ran.exit_code == 2
    assert "Traceback" not in ran.stderr
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("options", "exit_code", "text"),
    [
        (
            ("--J", "0:1:3", "--h", "0:1:3", "--temperature", "1,2"),
            2,
            "one or two parameters can be drawn, got J, h, temperature; give one value to the",
        ),
        (("--J", "0:1:3", "--quantity", "colour"), 1, "quantity: expected one of free_energy, "),
        (
            ("--J", "0:1:3", "--h", "0,1", "--quantity", "energy", "--quantity", "correlation"),
            1,
            "quantity: expected one over one or two parameters, got correlation over J, h, ",
        ),
        (
            ("--J", "0:1:3", *RING, "--algorithm", "wolff", "--quantity", "colour"),
            1,
            "quantity: expected one of ",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said_before_the_sweep(
    folder, run_cli, monkeypatch, options, exit_code, text
):
    sizes, sweep = [], im.sweep

    def noting(*arguments, **more):
        result = sweep(*arguments, **more)
        sizes.append(result.sizes["J"])
        return result

    monkeypatch.setattr(im, "sweep", noting)
    ran = run_cli("phase-diagram", *options)
    assert ran.exit_code == exit_code
    assert text in " ".join(ran.stderr.replace("│", "").split())
    assert "warning" not in ran.stderr
    assert sizes == [1]
    assert os.listdir() == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
@pytest.mark.parametrize(
    "command",
    [
        ("sweep", "--J", "0:1:3"),
        ("simulate", "--J", 1, "--n-sites", 9, "--samples", 1000),
        ("solve", "--J", 1),
        ("phase-diagram", "--J", "0:1:3", "--quantity", "energy"),
    ],
)
def test_a_folder_that_nobody_can_write_to(folder, run_cli, command):
    ran = run_cli(*command, "-o", "/proc/x.nc")
    assert ran.exit_code == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("isingmoe: error: /proc/x.nc: ")
    assert line.endswith("name another folder") or "cannot be written to" in line


@pytest.mark.parametrize("figure", ["absent/figure.png", "figure.docx", "there"])
def test_a_figure_that_cannot_be_written_is_named_first(folder, run_cli, figure):
    Path("there").mkdir()
    ran = run_cli("phase-diagram", "--J", "0:1:3", "--figure", figure)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"isingmoe: error: {figure}: ")
    assert os.listdir() == ["there"]
