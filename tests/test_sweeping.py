"""Sweeps: against direct calls, in parallel, killed and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe._grids import MAX_POINTS, Grid
from isingmoe._points import PointFolder, PointLog, Stored, encode, frame_of
from isingmoe._processes import processes
from isingmoe._storage import read_dataset
from isingmoe._workers import _LISTENER

RING = im.IsingChain(J=0.6, h=0.1, n_sites=12, boundary="periodic")
OPEN = im.PottsChain(J=0.8, n_experts=3, n_sites=6)


def energy(chain, scale=1.0):
    """Of the state with every other site in the second label."""
    state = np.arange(chain.n_sites) % 2
    if chain.top_k > 1:
        state = (state[:, None] + np.arange(chain.top_k)) % chain.n_states
    return xr.Dataset({"energy": ((), scale * float(chain.energy(state)))})


def parts(chain):
    """Variables whose sizes follow the chain."""
    n, q = chain.n_sites, chain.n_states
    return xr.Dataset(
        {
            "site_field": ("site", chain.site[np.arange(n) % len(chain.site), -1]),
            "rank": (("expert",), np.arange(q)),
            "name": ((), f"{q} experts"),
            "share": (("distance",), 1.0 / np.arange(1, n + 1)),
            "length": ((), n),
        },
        coords={"distance": np.arange(n), "middle": ((), n // 2)},
        attrs={"kind": "parts", "n": n},
    )


def draws(chain, seed, n=3):
    rng = np.random.default_rng(seed)
    return xr.Dataset({"draw": ("draws", rng.random(n) * chain.J)})


def complaining(chain):
    if chain.J > 0.5:
        warnings.warn(f"J of {chain.J:g} is much", im.ShortTraceWarning, stacklevel=2)
    return energy(chain)


def failing(chain):
    if chain.h > 0:
        raise ValueError("h: expected none")
    return energy(chain)


def dying(chain):
    os._exit(3)


def same(first, second):
    """Equal in every bit, dtype, dim and attribute."""
    assert first.identical(second)
    for name, variable in first.variables.items():
        assert variable.dtype == second[name].dtype
        if variable.dtype.kind != "O":
            assert variable.values.tobytes() == second[name].values.tobytes()
    return True


@pytest.mark.parametrize("n_sites", [None, 8])
def test_every_point_is_what_solve_gives(n_sites):
    J, h = np.linspace(-1, 1, 5), [0.0, 0.3]
    chain = im.IsingChain(J=9.0, n_sites=n_sites)
    grid = im.sweep(im.solve, chain, J=J, h=h, options={"max_distance": 4})
    assert all(variable.dims[:2] == ("J", "h") for variable in grid.data_vars.values())
    np.testing.assert_array_equal(grid["J"], J)
    for i, j in np.ndindex(5, 2):
        exact = im.solve(im.IsingChain(J=J[i], h=h[j], n_sites=n_sites), max_distance=4)
        assert set(exact.variables) | {"J", "h"} == set(grid.variables)
        for name, variable in exact.data_vars.items():
            np.testing.assert_array_equal(grid[name].isel(J=i, h=j), variable)
            assert grid[name].attrs == variable.attrs
    assert grid["J"].attrs == {"long_name": "coupling J", "units": "coupling"}
    arguments = json.loads(grid.attrs["provenance"])["arguments"]
    assert arguments["verb"] == "isingmoe.transfer.solve"
    assert arguments["options"] == {"max_distance": 4}
    assert arguments["grid"]["J"]["n"] == 5
    assert "J=" not in grid.attrs["chain"]


@pytest.mark.parametrize(
    ("chain", "name", "values", "changed"),
    [
        (RING, "temperature", [0.5, 2.0], lambda t: {"temperature": t}),
        (RING, "n_sites", [4, 7, 10], lambda n: {"n_sites": n}),
        (RING, "n_sites", np.array([4.0, 8.0]), lambda n: {"n_sites": int(n)}),
        (RING, "alpha", [1.1, 3.0], lambda a: {"decay": im.power_law(a)}),
        (RING, "length", [0.5, 4], lambda x: {"decay": im.exponential(x)}),
        (OPEN, "n_experts", [2, 5], lambda q: {"n_experts": q}),
        (OPEN, "q", (2, 5), lambda q: {"n_experts": q}),
        (OPEN, "top_k", [1, 2], lambda k: {"top_k": k}),
    ],
)
def test_every_parameter_of_a_chain(chain, name, values, changed):
    from dataclasses import replace

    grid = im.sweep(energy, chain, **{name: values})
    assert grid["energy"].dims == (name,)
    for i, value in enumerate(values):
        expected = energy(replace(chain, **changed(value)))["energy"]
        assert grid["energy"][i] == expected


def test_an_infinite_chain_with_a_power_law_gets_its_length_from_the_grid():
    chain = im.IsingChain(J=1.0, decay=im.power_law(2.0))
    grid = im.sweep(energy, chain, n_sites=[3, 9], J=[1.0])
    expected = energy(im.IsingChain(J=1.0, n_sites=9, decay=im.power_law(2.0)))
    assert grid["energy"][1, 0] == expected["energy"]


def test_a_function_makes_the_chains():
    J = np.random.default_rng(0).normal(size=(3, 3))
    grid = im.sweep(
        im.solve,
        lambda strength, asymmetry: im.PottsChain(J=strength * (J + asymmetry * J.T)),
        strength=[0.5, 1.0],
        asymmetry=[-1.0, 0.0, 1.0],
        n_workers=2,
    )
    assert grid.sizes["asymmetry"] == 3
    exact = im.solve(im.PottsChain(J=0.5 * (J + J.T)))
    np.testing.assert_array_equal(grid["marginal"].sel(strength=0.5, asymmetry=1.0), exact.marginal)


def test_sizes_that_differ_are_padded():
    grid = im.sweep(parts, OPEN, n_sites=[6, 2], q=[2, 4])
    assert grid.sizes == {"n_sites": 2, "q": 2, "site": 6, "expert": 4, "distance": 6}
    rank = grid["rank"].values
    assert rank.dtype == float
    np.testing.assert_array_equal(rank[0, 0], [0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(rank[1, 1], [0, 1, 2, 3])
    np.testing.assert_array_equal(grid["share"][1, 0], [1, 0.5, *[np.nan] * 4])
    np.testing.assert_array_equal(grid["distance"], np.arange(6))
    assert grid["name"].values.tolist() == [["2 experts", "4 experts"]] * 2
    assert grid["length"].dtype == int
    assert grid["middle"].values.tolist() == [[3, 3], [1, 1]]
    assert "middle" in grid.coords
    assert grid.attrs["kind"] == "parts"
    assert "n" not in grid.attrs


def labelled(chain):
    labels = {2: [10, 20], 3: [20, 5, 30]}[chain.n_states]
    return xr.Dataset({"v": ("label", np.array(labels) * 2)}, coords={"label": labels})


def test_variables_are_aligned_by_their_labels():
    grid = im.sweep(labelled, OPEN, q=[2, 3])
    np.testing.assert_array_equal(grid["label"], [5, 10, 20, 30])
    np.testing.assert_array_equal(grid["v"][0], [np.nan, 20, 40, np.nan])
    np.testing.assert_array_equal(grid["v"][1], [10, np.nan, 40, 60])
    same_everywhere = im.sweep(labelled, OPEN, q=[3], J=[1.0, 2.0])
    np.testing.assert_array_equal(same_everywhere["label"], [20, 5, 30])


def test_dims_are_dropped():
    grid = im.sweep(parts, OPEN, J=[1.0], drop_dims=["site", "expert"])
    assert {"site_field", "rank"}.isdisjoint(grid.variables)
    assert "share" in grid


def test_workers_change_nothing(tmp_path):
    axes = {"J": np.linspace(-1, 2, 9), "n_sites": [5, 16, 40]}
    chain = im.PottsChain(J=1.0, n_experts=4, boundary="periodic")
    here = im.sweep(im.solve, chain, n_workers=1, **axes)
    there = im.sweep(im.solve, chain, n_workers=2, path=tmp_path / "two.nc", **axes)
    again = im.sweep(im.solve, chain, n_workers=1, path=tmp_path / "one.nc", **axes)
    assert same(here.drop_encoding(), again.drop_encoding())
    assert same(there, again)
    assert (tmp_path / "one.nc").read_bytes() == (tmp_path / "two.nc").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["one.nc", "two.nc"]


def product(chain):
    """What depends on how many threads BLAS has."""
    matrix = np.random.default_rng(0).normal(size=(300, 300)) * chain.J
    values, vectors = np.linalg.eig(matrix)
    return xr.Dataset({"value": ("a", values.real), "vector": (("a", "b"), vectors.real)})


def test_threads_of_blas_change_nothing():
    here = im.sweep(product, RING, J=[0.5, 1.0], n_workers=1)
    there = im.sweep(product, RING, J=[0.5, 1.0], n_workers=2)
    assert same(here, there)


def test_every_point_has_its_own_seed(tmp_path):
    chain = im.IsingChain(J=1.0)
    grid = im.sweep(draws, chain, J=[1.0, 2.0], h=[0.0, 1.0], seed=5)
    for index, (i, j) in enumerate(np.ndindex(2, 2)):
        child = np.random.SeedSequence(5, spawn_key=(index,))
        expected = np.random.default_rng(child).random(3) * (i + 1)
        np.testing.assert_array_equal(grid["draw"][i, j], expected)
    assert same(grid, im.sweep(draws, chain, J=[1.0, 2.0], h=[0.0, 1.0], seed=5, n_workers=2))
    other = im.sweep(draws, chain, J=[1.0, 2.0], h=[0.0, 1.0], seed=6)
    assert not np.isin(other["draw"], grid["draw"]).any()
    sequence = np.random.SeedSequence(7, spawn_key=(1,))
    spawned = im.sweep(draws, chain, J=[1.0], seed=sequence, path=tmp_path / "s.nc")
    first = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(1, 0)))
    np.testing.assert_array_equal(spawned["draw"][0], first.random(3))


def test_simulate_over_a_grid_is_simulate():
    chain = im.IsingChain(J=1.0, n_sites=16, boundary="periodic")
    options = {"algorithm": im.HeatBath(), "n_samples": 400, "n_replicas": 2}
    dims = ("replica", "sample", "discarded_sample")
    grid = im.sweep(im.simulate, chain, J=[0.1, 0.4], options=options, drop_dims=dims, seed=1)
    seed = np.random.SeedSequence(1, spawn_key=(1,))
    direct = im.simulate(
        im.IsingChain(J=0.4, n_sites=16, boundary="periodic"), **options, seed=seed
    )
    assert {"energy", "energy_error", "binder_cumulant"} <= set(grid.data_vars)
    assert not {"replica", "sample"} & set(grid.dims)
    for name in grid.data_vars:
        np.testing.assert_array_equal(grid[name][1], direct[name])


def test_warnings_are_counted_and_the_first_is_named():
    with pytest.warns(im.ShortTraceWarning) as heard:
        im.sweep(complaining, RING, J=[0.1, 0.6, 0.9], h=[0.0], n_workers=1)
    (warning,) = heard
    text = "at 2 of 3 points, first at J = 0.6, h = 0: J of 0.6 is much"
    assert str(warning.message) == text
    assert Path(warning.filename) == Path(__file__)
    with pytest.warns(im.ShortTraceWarning, match="^at J = 0.6: J of 0.6"):
        im.sweep(complaining, RING, J=[0.1, 0.6], n_workers=2)


def warned(verb=None, **arguments):
    """The warnings of a sweep, which are not shown."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        im.sweep(verb or complaining, RING, **arguments)
    return [(w.category, str(w.message)) for w in heard]


MUCH = [(im.ShortTraceWarning, "at 2 of 3 points, first at J = 0.6: J of 0.6 is much")]


def test_a_stored_sweep_warns_again(tmp_path):
    arguments = {"J": [0.1, 0.6, 0.9], "path": tmp_path / "grid.nc"}
    for _ in range(3):
        assert warned(**arguments) == MUCH
    # A file that names a category of its own has nothing imported.
    stored = read_dataset(tmp_path / "grid.nc")
    name = "isingmoe.errors.ShortTraceWarning"
    assert name in stored.attrs["sweep_warnings"]
    stored.attrs["sweep_warnings"] = stored.attrs["sweep_warnings"].replace(name, "antigravity.fly")
    stored.to_netcdf(tmp_path / "grid.nc", engine="h5netcdf")
    assert warned(**arguments) == [(UserWarning, MUCH[0][1])]
    assert "antigravity" not in sys.modules


def twice(chain):
    warnings.warn("first", im.ShortTraceWarning, stacklevel=2)
    if chain.J == 2 and not os.environ.get("GO_ON"):
        raise KeyboardInterrupt
    warnings.warn("second", im.ShortTraceWarning, stacklevel=2)
    warnings.warn("third", RuntimeWarning, stacklevel=2)
    return energy(chain)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_sweep_that_goes_on_warns_as_one_that_was_not_ended(tmp_path, monkeypatch, n_workers):
    arguments = {"J": [0.0, 1.0, 2.0, 3.0], "path": tmp_path / "grid.nc"}
    with pytest.raises(KeyboardInterrupt):
        im.sweep(twice, RING, n_workers=1, **arguments)
    monkeypatch.setenv("GO_ON", "1")
    expected = [
        (im.ShortTraceWarning, "at 4 of 4 points, first at J = 0: first"),
        (RuntimeWarning, "at 4 of 4 points, first at J = 0: third"),
    ]
    assert warned(twice, n_workers=n_workers, **arguments) == expected
    assert warned(twice, n_workers=n_workers, J=arguments["J"]) == expected


def test_threads_hear_their_own_warnings():
    barrier = threading.Barrier(4)
    heard = {}

    def listen(number):
        with _LISTENER.listening() as mine:
            barrier.wait(10)
            warnings.warn(f"of {number}", UserWarning, stacklevel=1)
            barrier.wait(10)
        heard[number] = mine

    before = (warnings.filters[:], warnings.showwarning)
    threads = [threading.Thread(target=listen, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {number: [("builtins.UserWarning", f"of {number}")] for number in range(4)}
    assert (warnings.filters[:], warnings.showwarning) == before


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_error_says_at_which_point(n_workers, tmp_path):
    with pytest.raises(ValueError, match=r"^at J = 1, h = 0.5: h: expected none$"):
        im.sweep(
            failing, RING, J=[1.0], h=[0.0, 0.5], n_workers=n_workers, path=tmp_path / "grid.nc"
        )
    assert os.listdir(tmp_path) == ["grid.nc.points"]
    assert PointFolder(tmp_path / "grid.nc").finished() == {0}


def test_a_worker_that_dies_is_named():
    with pytest.raises(ChildProcessError, match=r"a worker process died, .*; give fewer n_workers"):
        im.sweep(dying, RING, J=[1.0, 2.0], n_workers=2)


def test_a_verb_that_cannot_be_sent_is_run_here(monkeypatch):
    monkeypatch.setattr("isingmoe._workers._WORTH_SECONDS", -1.0)
    text = "one after another: the verb or its options cannot be"
    with pytest.warns(UserWarning, match=text) as heard:
        grid = im.sweep(lambda chain: energy(chain), RING, J=[1.0, 2.0, 3.0])
    assert Path(heard[0].filename) == Path(__file__)
    assert same(grid, im.sweep(energy, RING, J=[1.0, 2.0, 3.0]).assign_attrs(grid.attrs))
    with pytest.raises(TypeError, match=r"^n_workers: the verb .*; or give n_workers=1$"):
        im.sweep(lambda chain: energy(chain), RING, J=[1.0, 2.0], n_workers=2)


def test_processes_are_started_where_they_save_time(monkeypatch, tmp_path):
    monkeypatch.setattr("isingmoe._workers._WORTH_SECONDS", 0.0)
    monkeypatch.setattr("isingmoe._workers.n_cores", lambda: 2)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    im.sweep(noting, RING, J=np.arange(8.0))
    pids = {line.split()[1] for line in (tmp_path / "calls").read_text().splitlines()}
    assert str(os.getpid()) in pids
    assert len(pids) > 1


def noting(chain, pause=0.0):
    """Says in a file that it was called, and by whom."""
    with open(os.environ["CALLS"], "a", encoding="utf-8") as calls:
        calls.write(f"{chain.J} {os.getpid()}\n")
    time.sleep(pause)
    rng = np.random.default_rng(int(1000 * chain.J))
    return xr.Dataset({"values": ("n", rng.random(int(chain.J) % 3 + 1))})


def called(path):
    return [float(line.split()[0]) for line in path.read_text().splitlines()]


@pytest.fixture
def calls(tmp_path, monkeypatch):
    path = tmp_path / "calls"
    path.touch()
    monkeypatch.setenv("CALLS", str(path))
    return path


def interrupted(tmp_path, at, **more):
    """A sweep whose verb is interrupted at a value of J."""
    verb = partial(interrupting, at=at)
    with pytest.raises(KeyboardInterrupt) as error:
        im.sweep(verb, RING, J=np.arange(10.0), path=tmp_path / "grid.nc", n_workers=1, **more)
    return verb, str(error.value)


def interrupting(chain, at):
    if at == chain.J and not os.environ.get("GO_ON"):
        raise KeyboardInterrupt
    return noting(chain)


def test_an_interrupted_sweep_goes_on(tmp_path, calls, monkeypatch):
    verb, text = interrupted(tmp_path, 6.0)
    assert text == (
        f"interrupted; 6 of 10 points are kept in {tmp_path / 'grid.nc.points'}, and the same "
        "sweep goes on from there"
    )
    monkeypatch.setenv("GO_ON", "1")
    went_on = im.sweep(verb, RING, J=np.arange(10.0), path=tmp_path / "grid.nc")
    assert called(calls) == list(range(10))
    at_once = im.sweep(verb, RING, J=np.arange(10.0), path=tmp_path / "other.nc")
    assert same(went_on, at_once)
    assert (tmp_path / "grid.nc").read_bytes() == (tmp_path / "other.nc").read_bytes()
    before = called(calls)
    assert same(im.sweep(verb, RING, J=np.arange(10.0), path=tmp_path / "grid.nc"), went_on)
    assert called(calls) == before
    assert not (tmp_path / "grid.nc.points").exists()


def test_damaged_points_are_computed_again(tmp_path, calls, monkeypatch):
    verb, _ = interrupted(tmp_path, 9.0)
    folder = PointFolder(tmp_path / "grid.nc")
    (log,) = folder.path.glob("*.points")
    content = log.read_bytes()
    whole = folder.read()
    kept = set()
    for size in range(0, len(content), 7):
        log.write_bytes(content[:size])
        found = folder.read()
        assert all(found[index] == whole[index] for index in found)
        assert folder.finished() == set(found)
        assert len(found) >= len(kept)
        kept = set(found)
    assert len(kept) >= 8
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    log.write_bytes(damaged)
    left = folder.finished()
    assert 0 < len(left) < 9
    monkeypatch.setenv("GO_ON", "1")
    calls.write_text("")
    went_on = im.sweep(verb, RING, J=np.arange(10.0), path=tmp_path / "grid.nc")
    assert called(calls) == [j for j in range(10) if j not in left]
    assert same(went_on.drop_encoding(), im.sweep(verb, RING, J=np.arange(10.0)).drop_encoding())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"J": np.arange(11.0)}, "J is 10 values from 0.0 to 9.0 there and 11 values"),
        ({"J": np.arange(10.0) ** 2 / 9}, "J differs"),
        ({"J": np.arange(10.0), "h": [0.0]}, "grid is J there and J, h here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"chain": im.IsingChain(J=1.0)}, "chain is IsingChain(h=0.1, n_sites=12, boundary='per"),
        ({"verb": energy}, "verb is "),
        ({"options": {"pause": 0.001}}, 'options is {} there and {"pause": 0.001} here'),
        ({"chain": lambda J: im.IsingChain(J=J, h=1)}, "chain is IsingChain(h=0.1"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_sweep_is_refused(tmp_path, calls, monkeypatch, change, text, finished):
    target = tmp_path / "grid.nc"
    first = {"verb": noting, "chain": RING, "J": np.arange(10.0), "path": target, "n_workers": 1}
    if finished:
        im.sweep(**first)
    else:
        with monkeypatch.context() as patch:
            patch.setattr("isingmoe.sweeping.assemble", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                im.sweep(**first)
    before = target.exists()
    second = {**first, **change}
    with pytest.raises(FileExistsError) as error:
        im.sweep(**second)
    where = target if finished else f"{target}.points"
    what = "another sweep: " if finished else "points of another sweep: "
    assert str(error.value).startswith(f"{where}: holds {what}{text}")
    assert str(error.value).endswith("; say --overwrite, or another name")
    assert target.exists() == before
    replaced = im.sweep(**second, overwrite=True)
    del second["path"]
    assert same(replaced.drop_encoding(), im.sweep(**second).drop_encoding())
    assert not (tmp_path / "grid.nc.points").exists()


def test_functions_that_make_other_chains_are_told_apart(tmp_path):
    def sweep(make):
        return im.sweep(energy, make, x=[1.0, 2.0], path=tmp_path / "grid.nc")

    sweep(lambda x: im.IsingChain(J=x, n_sites=4))
    sweep(lambda x: im.IsingChain(J=x + 0.0, n_sites=4))
    with pytest.raises(FileExistsError, match="another sweep: the chains of its points differ;"):
        sweep(lambda x: im.IsingChain(J=2 * x, n_sites=4))


def test_what_is_no_sweep_is_kept(tmp_path):
    (tmp_path / "grid.nc").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else; say --overwrite"):
        im.sweep(energy, RING, J=[1.0], path=tmp_path / "grid.nc")
    assert (tmp_path / "grid.nc").read_text() == "mine"
    im.solve(RING).to_netcdf(tmp_path / "solved.nc")
    with pytest.raises(FileExistsError, match="holds what solve made; say --overwrite"):
        im.sweep(energy, RING, J=[1.0], path=tmp_path / "solved.nc")
    im.sweep(energy, RING, J=[1.0], path=tmp_path / "grid.nc", overwrite=True)


def test_nothing_is_left_where_nothing_was_finished(tmp_path):
    with pytest.raises(ValueError, match="h: expected none"):
        im.sweep(failing, RING, J=[1.0], h=[0.5, 0.0], path=tmp_path / "grid.nc", n_workers=1)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_keeps_what_is_stored(tmp_path, calls, monkeypatch):
    write, sizes = os.write, []

    def full(file, content):
        sizes.append(len(content))
        if len(sizes) == 5:
            return write(file, content[:20])
        if len(sizes) > 5:
            raise OSError(28, "No space left on device")
        return write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"No space left on device: .*grid.nc.points"):
            im.sweep(noting, RING, J=np.arange(10.0), path=tmp_path / "grid.nc", n_workers=1)
    assert PointFolder(tmp_path / "grid.nc").finished() == {0, 1, 2, 3}
    im.sweep(noting, RING, J=np.arange(10.0), path=tmp_path / "grid.nc", n_workers=1)
    assert called(calls) == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]


def test_files_of_others_stay_in_the_folder(tmp_path, calls, monkeypatch):
    verb, _ = interrupted(tmp_path, 3.0)
    (tmp_path / "grid.nc.points" / "notes.txt").write_text("mine")
    monkeypatch.setenv("GO_ON", "1")
    im.sweep(verb, RING, J=np.arange(10.0), path=tmp_path / "grid.nc")
    assert os.listdir(tmp_path / "grid.nc.points") == ["notes.txt"]


def test_a_folder_belongs_to_one_process(tmp_path):
    pytest.importorskip("fcntl")
    first, second = (PointFolder(tmp_path / "grid.nc") for _ in range(2))
    first.take()
    with pytest.raises(BlockingIOError, match="another process is computing a sweep here"):
        second.take()
    first.release()
    assert not first.path.exists()
    second.take()
    second.begin("{}")
    second.release()
    assert second.manifest() == "{}"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_sweep_at_work_is_left_alone(tmp_path, calls, monkeypatch, overwrite):
    pytest.importorskip("fcntl")
    target = tmp_path / "grid.nc"
    verb, _ = interrupted(tmp_path, 6.0)
    at_work = PointFolder(target)
    at_work.take()
    for other in ({"verb": noting}, {"verb": verb, "seed": 1}, {"verb": verb}):
        with pytest.raises(BlockingIOError, match="another process is computing a sweep here"):
            im.sweep(chain=RING, J=np.arange(10.0), path=target, overwrite=overwrite, **other)
    assert at_work.finished() == set(range(6))
    at_work.release()
    monkeypatch.setenv("GO_ON", "1")
    calls.write_text("")
    im.sweep(verb, RING, J=np.arange(10.0), path=target)
    assert called(calls) == [6, 7, 8, 9]


def test_a_folder_that_was_replaced_is_not_published(tmp_path):
    target = tmp_path / "grid.nc"

    def robbed(chain):
        folder = PointFolder(target)
        if chain.J == 2:
            shutil.rmtree(folder.path)
            folder.path.mkdir()
            (folder.path / "manifest.json").write_text("theirs")
        return energy(chain)

    with pytest.raises(OSError, match=r"grid.nc.points: was removed or replaced while the sweep"):
        im.sweep(robbed, RING, J=[0.0, 1.0, 2.0], path=target, n_workers=1)
    assert os.listdir(tmp_path) == ["grid.nc.points"]
    assert PointFolder(target).manifest() == "theirs"


def test_a_result_that_another_process_has_written_meanwhile_is_kept(tmp_path, monkeypatch):
    target = tmp_path / "grid.nc"
    take, arguments = PointFolder.take, {"J": [1.0, 2.0], "path": target}

    def late(folder):
        monkeypatch.setattr(PointFolder, "take", take)
        im.sweep(energy, RING, **arguments)
        take(folder)

    monkeypatch.setattr(PointFolder, "take", late)
    with pytest.raises(FileExistsError, match=r"grid.nc: holds another sweep: seed is 0 there"):
        im.sweep(energy, RING, seed=1, **arguments)
    assert os.listdir(tmp_path) == ["grid.nc"]
    monkeypatch.setattr(PointFolder, "take", late)
    im.sweep(energy, RING, **arguments)


def test_a_finished_sweep_leaves_the_points_of_another(tmp_path, calls, monkeypatch):
    target = tmp_path / "grid.nc"
    finished = {"J": [0.2, 0.4], "path": target}
    im.sweep(energy, RING, **finished)
    verb, _ = interrupted(tmp_path, 6.0, overwrite=True)
    im.sweep(energy, RING, **finished)
    assert PointFolder(target).finished() == set(range(6))
    monkeypatch.setenv("GO_ON", "1")
    im.sweep(verb, RING, J=np.arange(10.0), path=target, overwrite=True)
    assert called(calls) == list(range(10))


def test_a_zarr_store_is_written_too(tmp_path):
    pytest.importorskip("zarr")
    axes = {"J": [0.5, 1.0], "n_sites": [4, 6]}
    stored = im.sweep(im.solve, RING, path=tmp_path / "grid.zarr", **axes)
    assert same(stored.drop_encoding(), im.sweep(im.solve, RING, **axes))
    assert os.listdir(tmp_path) == ["grid.zarr"]
    assert same(stored, im.sweep(im.solve, RING, path=tmp_path / "grid.zarr", **axes))


@pytest.fixture(scope="module")
def dask_client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
            protocol="inproc://",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_dask_client_computes_the_points(tmp_path, dask_client):
    axes = {"J": np.linspace(0, 1, 7), "n_sites": [4, 9]}
    serial = im.sweep(im.solve, RING, n_workers=1, **axes)
    assert same(serial, im.sweep(im.solve, RING, client=dask_client, **axes))
    stored = im.sweep(im.solve, RING, client=dask_client, path=tmp_path / "grid.nc", **axes)
    assert same(serial, stored.drop_encoding())
    with pytest.raises(ValueError, match=r"^at J = 0, h = 0.5: h: expected none$"):
        im.sweep(failing, RING, J=[0.0], h=[0.5], client=dask_client)


def test_a_dask_client_warns_as_one_process_does(tmp_path, dask_client):
    J = [0.1, 0.6, 0.9]
    assert warned(J=J, client=dask_client) == MUCH
    for _ in range(2):
        assert warned(J=J, client=dask_client, path=tmp_path / "grid.nc") == MUCH


def test_a_dask_sweep_goes_on(tmp_path, dask_client):
    path = tmp_path / "grid.nc"
    with pytest.raises(ValueError, match="h: expected none"):
        im.sweep(failing, RING, J=np.arange(5.0), h=[0.0, 1.0], client=dask_client, path=path)
    assert 0 in PointFolder(path).finished()


SCRIPT = """
import os, sys, time
import numpy as np, xarray as xr
import isingmoe as im

def verb(chain, seed):
    with open("begun", "a") as begun:
        begun.write(f"{round(chain.J * 100)}\\n")
    rng = np.random.default_rng(seed)
    time.sleep(0.01 + 0.01 * rng.random())
    return xr.Dataset({"x": ("n", rng.random(int(chain.n_sites) * 1000))})

def run(path, n_workers):
    chain = im.IsingChain(J=1.0)
    J = np.arange(25) / 100
    return im.sweep(verb, chain, J=J, n_sites=[3, 5, 4, 2], path=path, n_workers=n_workers, seed=3)

if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]))
"""


def start(folder, path, n_workers):
    return subprocess.Popen(
        [sys.executable, "study.py", path, str(n_workers)], cwd=folder, start_new_session=True
    )


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_killed_at_ten_moments_nothing_finished_is_lost(tmp_path):
    (tmp_path / "study.py").write_text(SCRIPT)
    begun = tmp_path / "begun"
    rng = np.random.default_rng(1)
    folder = PointFolder(tmp_path / "killed.nc")
    finished: set[int] = set()
    for kill in range(10):
        begun.write_text("")
        process = start(tmp_path, "killed.nc", 2 if kill % 4 == 3 else 1)
        wait_until(lambda: begun.read_text().count("\n") > 1)
        time.sleep(0.1 * rng.random())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda group=process.pid: not alive(group))
        now = folder.finished()
        assert finished <= now
        assert set(folder.read()) == now
        assert json.loads(folder.manifest())["verb"] == "sweep"
        assert not (tmp_path / "killed.nc").exists()
        numbers = [int(line) for line in begun.read_text().split()]
        again = {J: sum(index // 4 == J for index in finished) for J in set(numbers)}
        assert all(numbers.count(J) + again[J] <= 4 for J in again)
        finished = now
    assert 10 < len(finished) < 100
    begun.write_text("")
    assert start(tmp_path, "killed.nc", 1).wait() == 0
    assert len(begun.read_text().split()) == 100 - len(finished)
    assert start(tmp_path, "whole.nc", 1).wait() == 0
    assert (tmp_path / "killed.nc").read_bytes() == (tmp_path / "whole.nc").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["begun", "killed.nc", "study.py", "whole.nc"]


def test_killed_while_the_result_is_written_nothing_is_left_half(tmp_path):
    writing = """
    def half(self, path, **_):
        open(path, "w").write("half")
        os.kill(os.getpid(), 9)

    if sys.argv[1] == "killed.nc" and not os.path.exists("killed.nc.points"):
        xr.Dataset.to_netcdf = half
"""
    (tmp_path / "study.py").write_text(
        SCRIPT.replace("    run(sys", f"{writing}    run(sys").replace("sleep(0.01", "sleep(0")
    )
    assert start(tmp_path, "killed.nc", 1).wait() == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == ["begun", "killed.nc.points", "study.py"]
    assert len(PointFolder(tmp_path / "killed.nc").finished()) == 100
    assert start(tmp_path, "killed.nc", 1).wait() == 0
    assert len((tmp_path / "begun").read_text().split()) == 100
    assert sorted(os.listdir(tmp_path)) == ["begun", "killed.nc", "study.py"]
    assert read_dataset(tmp_path / "killed.nc").sizes["J"] == 25


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_is_left_behind(tmp_path, how):
    (tmp_path / "study.py").write_text(SCRIPT.replace("time.sleep(0.01", "time.sleep(0.3"))
    process = start(tmp_path, "grid.nc", 2)
    wait_until(lambda: (tmp_path / "begun").exists())
    # The parent alone.
    os.kill(process.pid, how)
    assert process.wait(20) != 0
    wait_until(lambda: not alive(process.pid), 20)


AT_A_PROMPT = """
import isingmoe as im, isingmoe._workers
isingmoe._workers._WORTH_SECONDS = -1.0

def verb(chain):
    return im.solve(chain, max_distance=0)

grid = im.sweep(verb, im.IsingChain(J=1.0), J=[1.0, 2.0, 3.0])
print(grid.sizes["J"])
"""


def test_a_script_from_stdin_is_run_here():
    ran = subprocess.run(
        [sys.executable], input=AT_A_PROMPT, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "3\n")
    text = "the points are computed one after another: there is no file <stdin> that worker"
    assert text in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("<stdin>:8: UserWarning: ")


def test_a_verb_of_a_prompt_is_run_here():
    ran = subprocess.run(
        [sys.executable, "-c", AT_A_PROMPT], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "3\n")
    assert "one after another: what is defined at a prompt cannot be loaded by" in ran.stderr
    assert "Traceback" not in ran.stderr
    from_package = AT_A_PROMPT.replace("(verb,", "(im.solve,")
    ran = subprocess.run(
        [sys.executable, "-c", from_package], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "3\n", "")


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.2, 0.6])
def test_an_interrupt_while_workers_start_is_heard_by_the_parent_alone(tmp_path, delay):
    watching = f"""
    import multiprocessing, signal, threading

    def interrupt():
        while not multiprocessing.active_children():
            time.sleep(0.001)
        time.sleep({delay})
        # As a terminal does, to all of them.
        os.killpg(os.getpgrp(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        run(sys.argv[1], int(sys.argv[2]))
    except KeyboardInterrupt:
        print("heard")
"""
    main = "    run(sys.argv[1], int(sys.argv[2]))\n"
    assert main in SCRIPT
    (tmp_path / "study.py").write_text(SCRIPT.replace(main, watching))
    process = subprocess.Popen(
        [sys.executable, "study.py", "grid.nc", "3"],
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.communicate(timeout=60) == ("heard\n", "")
    wait_until(lambda: not alive(process.pid), 20)


def test_workers_have_one_thread_and_their_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    with processes(1, print) as executor:
        assert "NUMBA_NUM_THREADS" not in os.environ
        assert os.environ["OMP_NUM_THREADS"] == "7"
        assert executor.submit(os.getenv, "NUMBA_NUM_THREADS").result() == "1"
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"


def test_a_script_without_a_guard_is_run_all_the_same(tmp_path):
    text = SCRIPT.replace('if __name__ == "__main__":\n    ', "im._workers._WORTH_SECONDS = 0.2\n")
    text = text.replace("n_workers=n_workers", "n_workers=None").replace(
        "as im", "as im, isingmoe._workers"
    )
    (tmp_path / "study.py").write_text(text)
    ran = subprocess.run(
        [sys.executable, "study.py", "grid.nc", "2"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "one after another: worker processes cannot start; in a script put" in ran.stderr
    assert len((tmp_path / "begun").read_text().split()) == 100


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "grid: expected a parameter with its values, such as J=[0.5, 1.0], got none"),
        ({"J": 0.5}, "J: expected a list of values, got 0.5; "),
        ({"J": np.float64(0.5)}, "J: expected a list of values, got "),
        ({"J": np.array(0.5)}, "J: expected a list of values, got the single array(0.5); "),
        ({"J": "0:1:5"}, "J: expected a list of values, got '0:1:5'; "),
        ({"J": []}, "J: expected at least one value, got an empty list"),
        ({"J": [[0.1, 0.2]]}, "J: expected a list of numbers, got shape (1, 2); for a parameter"),
        ({"J": [0.1, np.nan]}, "J: expected finite numbers, got nan at place 1"),
        ({"J": [0.1, np.inf]}, "J: expected finite numbers, got inf at place 1"),
        ({"J": ["a"]}, "J: expected numbers, got ['a']"),
        ({"J": [None, 1]}, "J: expected numbers, got [None, 1]"),
        ({"J": [0.1, 0.2, 0.1]}, "J: expected different values, got 0.1 more than once"),
        (
            {"K": [0.1]},
            "K: expected a parameter of IsingChain (J, h, n_sites, temperature, alpha, ",
        ),
        ({"boundary": ["open"]}, "boundary: expected a parameter of IsingChain"),
        ({"q": [2, 3]}, "q: expected a parameter of IsingChain"),
        ({"alpha": [1.0], "length": [2.0]}, "grid: expected one of alpha and length, got both"),
        ({"alpha": [0.0, 1.0]}, "at alpha = 0: alpha: expected a positive number, got 0.0"),
        ({"temperature": [1.0, -1.0]}, "at temperature = -1: temperature: expected a positive"),
        ({"n_sites": [0, 5]}, "at n_sites = 0: n_sites: expected at least 3 on a chain with peri"),
        ({"n_sites": [4.5]}, "n_sites: expected whole numbers, got 4.5; round them"),
        ({"n_sites": [1e300]}, "n_sites: expected whole numbers, got 1e+300; round them"),
        ({"J": [1.0, 100.0], "temperature": [0.5, 1]}, "at J = 100, temperature = 0.5: J: expect"),
        ({"J": range(10**9)}, "grid: expected at most 1000000 points, got 1000000000 (J 10000000"),
        ({"J": range(40_000), "h": range(25_000)}, "grid: expected at most 1000000 points, got 1"),
        ({"J": [1.0], "chain": 3}, "chain: expected a chain, or a function that makes one, got in"),
        ({"J": [1.0], "chain": im.IsingChain}, "chain: expected a chain, or a function that make"),
        ({"J": [1.0], "chain": lambda x: RING}, "chain: expected a function of J, the names in t"),
        ({"J": [1.0], "chain": lambda J: J}, "chain: expected a function that makes a chain, got"),
        ({"J": [1.0], "verb": "solve"}, "verb: expected solve, simulate or a function of a chain"),
        ({"J": [1.0], "verb": lambda chain: 3.0}, "at J = 1: verb: expected it to return a Datase"),
        ({"J": [1.0], "options": {"scal": 2}}, "options: expected the arguments of energy: got a"),
        ({"J": [1.0], "options": {"seed": 2}}, "options: expected no seed, as each point has its"),
        ({"J": [1.0], "seed": -1}, "seed: expected a whole number from 0 or a SeedSequence, got -"),
        ({"J": [1.0], "seed": np.random.default_rng(0)}, "seed: expected a whole number from 0 or"),
        ({"J": [1.0], "n_workers": 0}, "n_workers: expected at least 1, got 0"),
        ({"J": [1.0], "n_workers": 1.5}, "n_workers: expected an integer or None, got 1.5"),
        ({"J": [1.0], "client": 3}, "client: expected a dask.distributed Client, got int"),
        ({"J": [1.0], "drop_dims": "site"}, "drop_dims: expected a sequence of names, got 'site'"),
        ({"length": [1, 2], "verb": parts}, "length: expected another name for the parameter, as"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    called = {"verb": energy, "chain": RING, **arguments}
    with pytest.raises((TypeError, ValueError)) as error:
        im.sweep(**called)
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "text"), [("absent/grid.nc", "no folder"), (".", "holds something else")]
)
def test_an_output_that_cannot_be_written_is_named_before_anything_is_done(
    path, text, tmp_path, calls
):
    with pytest.raises(OSError, match=text):
        im.sweep(noting, RING, J=[1.0], path=tmp_path / path)
    assert called(calls) == []


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        (xr.Dataset({"z": 1j}), "variable z: expected numbers or text, got complex128"),
        (xr.Dataset({"z": ("n", np.array([{}, 1], object))}), "variable z: expected numbers or te"),
        (xr.Dataset(attrs={"none": None}), "attribute none: expected text or numbers, got NoneTyp"),
        (xr.Dataset({"z": ((), 1, {"b": True})}), "attribute variable z: b: expected text or numb"),
    ],
)
def test_results_that_no_file_can_hold_are_named(dataset, text):
    with pytest.raises(TypeError) as error:
        im.sweep(lambda chain: dataset, RING, J=[1.0])
    assert str(error.value).startswith(f"at J = 1: {text}")


def test_results_that_do_not_fit_are_refused_after_the_first_point(monkeypatch, calls):
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    with pytest.raises(MemoryError, match=r"grid: 10000 points take .* GiB, more than fits; leave"):
        im.sweep(noting, RING, J=np.linspace(0, 1, 10_000), n_workers=1)
    assert len(called(calls)) == 1


def test_a_dataset_survives_as_bytes():
    dataset = xr.Dataset(
        {
            "a": (("x", "y"), np.arange(6.0).reshape(2, 3)[:, ::-1], {"units": "1", "n": 3}),
            "b": ((), np.float32(np.nan)),
            "c": ("y", np.array(["p", "qq", ""])),
            "d": ("y", np.array([1, 2, 3], ">i4")),
            "e": ("none", np.empty(0)),
        },
        coords={"x": [5, 3], "s": ((), 4)},
        attrs={"list": [1, 2.5], "number": np.float64(np.inf)},
    )
    stored = encode(dataset)
    frame = frame_of(stored.frame)
    (row,) = np.frombuffer(stored.data, frame.dtype)
    assert set(frame.dtype.names) == {"a", "b", "c", "d", "e", "s"}
    for name in frame.dtype.names:
        np.testing.assert_array_equal(row[name], dataset[name])
        assert frame.variables[name] == (dataset[name].dims, dataset[name].attrs, name == "s")
    np.testing.assert_array_equal(frame.index["x"], [5, 3])
    assert frame.attributes == {"list": [1, 2.5], "number": np.inf}


def test_logs_of_several_processes_are_read_together(tmp_path):
    folder = PointFolder(tmp_path / "grid.nc")
    folder.take()
    folder.begin("{}")
    logs = [PointLog(folder.path) for _ in range(4)]

    def fill(first):
        for index in range(first, 400, 4):
            logs[first].add(index, Stored(bytes([index % 3]), index.to_bytes(8, "little")))

    threads = [threading.Thread(target=fill, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    expected = {i: Stored(bytes([i % 3]), i.to_bytes(8, "little")) for i in range(400)}
    assert folder.read() == expected
    assert folder.finished() == set(range(400))
    folder.clear()
    folder.release()
    assert not folder.path.exists()


def test_points_are_numbered_with_the_last_parameter_first():
    grid = Grid.of({"a": [1, 2], "b": [10.5, 20.5, 30.5]})
    assert grid.size == 6
    assert grid.at(4) == {"a": 2, "b": 20.5}
    assert grid.where(4) == "a = 2, b = 20.5"
    assert grid.probes == list(range(6))
    large = Grid.of({"a": range(1000), "b": range(MAX_POINTS // 1000)})
    corners = {0, 999, 999_000, 999_999}
    assert corners <= set(large.probes)
    assert len(large.probes) < 100
