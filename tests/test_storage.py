from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe import _provenance
from isingmoe._storage import check_output, read_dataset, replace_whole, write_dataset

HOSTILE = {
    "markup": "<script>alert('x')</script> & \"quotes\" `id` $(id) %s {0} \\n",
    "controls": "\x01\x07\x1b[31mred\x1b[0m\x1b]0;title\x07\r\n\ttab\x7f\x9b",
    "long": "x" * 10_000,
    "unicode": "ξ ± \u202e\u200b\ufeff \U0001f600 é",
    "json": '{"a": null}',
    "empty": "",
    "space": "  padded \n",
}


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def stop_midway(error: BaseException):
    def write(part: Path) -> None:
        part.write_bytes(b"half of it")
        raise error

    return write


@pytest.fixture
def dataset() -> xr.Dataset:
    return xr.Dataset({"x": ("layer", np.arange(3))}, attrs={"name": "first"})


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("old", [b"the old file", None])
def test_a_write_that_stops_midway_leaves_what_was_there(tmp_path, error, old):
    target = tmp_path / "fit.nc"
    if old is not None:
        target.write_bytes(old)
    before = listing(tmp_path)
    with pytest.raises(type(error)):
        replace_whole(target, stop_midway(error))
    assert listing(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == len(before)


def test_the_target_is_whole_or_old_while_it_is_written(tmp_path):
    target = tmp_path / "fit.nc"
    target.write_bytes(b"old")

    def write(part: Path) -> None:
        part.write_bytes(b"half")
        assert target.read_bytes() == b"old"
        assert part != target
        assert part.stat().st_dev == target.stat().st_dev
        part.write_bytes(b"new and whole")

    assert replace_whole(target, write) == target
    assert listing(tmp_path) == {"fit.nc": b"new and whole"}


def test_a_store_that_stops_midway_leaves_the_old_store(tmp_path, dataset):
    target = tmp_path / "fit.zarr"
    write_dataset(dataset, target)
    before = listing(tmp_path)

    def write(part: Path) -> None:
        part.mkdir()
        (part / "zarr.json").write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_whole(target, write)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_encoder_that_stops_leaves_the_old_file(tmp_path, monkeypatch, dataset, suffix, error):
    target = tmp_path / f"fit.{suffix}"
    write_dataset(dataset, target)
    before = listing(tmp_path)
    method = "to_netcdf" if suffix == "nc" else "to_zarr"
    whole = getattr(xr.Dataset, method)

    def stop(self: xr.Dataset, part: Path, **options: Any) -> None:
        whole(self, part, **options)
        raise error

    monkeypatch.setattr(xr.Dataset, method, stop)
    with pytest.raises(type(error)):
        write_dataset(dataset.assign_attrs(name="second"), target, overwrite=True)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_what_exists_is_kept_unless_asked(tmp_path, dataset, suffix):
    target = tmp_path / f"fit.{suffix}"
    other = dataset.assign_attrs(name="second").isel(layer=[0])
    assert write_dataset(dataset, target) == target
    before = listing(tmp_path)
    with pytest.raises(FileExistsError, match=r"exists and is kept; say --overwrite, or another"):
        write_dataset(other, target)
    assert listing(tmp_path) == before
    write_dataset(other, target, overwrite=True)
    xr.testing.assert_identical(read_dataset(target), other)


@pytest.mark.parametrize("name", ["results", "fit.zarr"])
def test_a_folder_that_is_no_store_is_never_replaced(tmp_path, dataset, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "precious.txt").write_text("the work of a year")
    before = listing(tmp_path)
    with pytest.raises(OSError, match=rf"{name}: .*(directory|folder)"):
        write_dataset(dataset, folder, overwrite=True)
    assert listing(tmp_path) == before


def test_outputs_need_a_folder_that_can_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(NotADirectoryError, match=r"fit.nc: no folder .*; make it first"):
            check_output(folder / "fit.nc", overwrite=False)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(PermissionError, match=r"fit.nc: folder .* cannot be written to; name"):
        check_output(tmp_path / "fit.nc", overwrite=False)


def test_integers_stay_integers_and_variables_can_be_left(tmp_path, dataset):
    whole = dataset.assign(y=("layer", np.array([-1, 0, 7], np.int16)))
    write_dataset(whole, tmp_path / "a.nc")
    assert read_dataset(tmp_path / "a.nc")["y"].dtype == np.int16
    assert list(read_dataset(tmp_path / "a.nc", ("x",)).data_vars) == ["y"]


def test_a_read_file_can_be_removed_and_replaced(tmp_path, dataset):
    write_dataset(dataset, tmp_path / "a.nc")
    opened = read_dataset(tmp_path / "a.nc")
    write_dataset(opened, tmp_path / "a.nc", overwrite=True)
    (tmp_path / "a.nc").unlink()
    assert opened["x"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_strings_survive(tmp_path, make_traces, suffix, text):
    traces = make_traces(model=text).assign_attrs(source=text)
    im.save_traces(traces, tmp_path / f"traces.{suffix}")
    opened = im.open_traces(tmp_path / f"traces.{suffix}")
    assert opened.attrs["model"] == text
    assert opened.attrs["source"] == text


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_missing_parts_of_a_store_are_not_read_as_experts(tmp_path, make_traces, suffix):
    traces = make_traces(n_layers=1, top_k=1)
    file = tmp_path / f"traces.{suffix}"
    im.save_traces(traces, file)
    if suffix == "nc":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        chunks = [p for p in (file / "expert_index" / "c").rglob("*") if p.is_file()]
        chunks[0].unlink()
    with pytest.raises(ValueError, match=rf"traces\.{suffix}: "):
        im.open_traces(file)


def provenance(dataset: xr.Dataset) -> dict[str, Any]:
    return json.loads(dataset.attrs["provenance"])


@pytest.fixture
def opened(make_traces, tmp_path) -> xr.Dataset:
    traces = make_traces(n_sequences=12, n_positions=60, num_experts=4)
    im.save_traces(traces, tmp_path / "traces.nc")
    return im.open_traces(tmp_path / "traces.nc")


def test_a_fit_says_what_made_it(opened, tmp_path):
    sha256 = hashlib.sha256((tmp_path / "traces.nc").read_bytes()).hexdigest()
    padded = im.MaximumLikelihood(pseudocount=0.25)
    fit = im.fit(opened, chain="potts", coupling="diagonal", estimator=padded)
    fit.save(tmp_path / "fit.nc")
    saved = im.open_fit(tmp_path / "fit.nc").data
    assert provenance(saved) == {
        "isingmoe": im.__version__,
        "verb": "fit",
        "arguments": {
            "chain": "potts",
            "coupling": "diagonal",
            "field": "expert",
            "pseudocount": 0.25,
            "max_iterations": 500,
            "uncertainty": "sandwich",
            "n_resamples": 100,
        },
        "input": {"file": "traces.nc", "sha256": sha256},
        "seed": 0,
    }


def test_what_is_random_says_its_seed_and_input(opened, tmp_path):
    sha256 = hashlib.sha256((tmp_path / "traces.nc").read_bytes()).hexdigest()
    fit = im.fit(opened)
    results = {
        "baseline": im.baseline(opened, "shuffled", seed=42),
        "compare": im.compare(fit, opened, n_resamples=4, n_shuffles=2, n_folds=2, seed=42).data,
        "info": im.info(opened, n_shuffles=2, seed=42).data,
    }
    for verb, result in results.items():
        said = provenance(result)
        assert said["verb"] == verb
        assert said["seed"] == 42
        assert said["arguments"]
        inputs = said["input"]["traces"] if verb == "compare" else said["input"]
        assert inputs == {"file": "traces.nc", "sha256": sha256}


def test_a_choice_of_layers_keeps_the_input(opened, tmp_path):
    sha256 = hashlib.sha256((tmp_path / "traces.nc").read_bytes()).hexdigest()
    assert _provenance.describe(opened.sel(layer=[7]))["sha256"] == sha256


def test_windows_say_what_they_were_cut_from(opened, tmp_path):
    sha256 = hashlib.sha256((tmp_path / "traces.nc").read_bytes()).hexdigest()
    cut = im.windows(opened, 20, stride=10)
    assert provenance(cut)["verb"] == "windows"
    assert provenance(cut)["arguments"] == {"length": 20, "stride": 10}
    assert provenance(cut)["input"] == {"file": "traces.nc", "sha256": sha256}
    nested = provenance(im.fit(cut, coupling="uniform").data)["input"]["provenance"]
    assert nested["input"]["sha256"] == sha256


def test_foreign_provenance_is_no_obstacle(make_traces):
    traces = make_traces(n_positions=60).assign_attrs(provenance="captured by hand")
    assert "captured by hand" in im.baseline(traces, "shuffled").attrs["provenance"]


def test_provenance_is_deterministic(opened):
    def once() -> str:
        fit = im.fit(opened)
        result = im.compare(fit, opened, n_resamples=4, n_shuffles=2, n_folds=2, seed=3)
        return result.data.attrs["provenance"]

    assert once() == once()
    orders = [
        _provenance.record("fit", dict(pairs), seed=1)
        for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)])
    ]
    assert orders[0] == orders[1]
    assert "seed" not in json.loads(_provenance.record("fit", {}))


def test_fingerprint_of_a_store_knows_names_and_contents(tmp_path):
    def store(name: str, files: dict[str, str]) -> str:
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return _provenance.fingerprint(tmp_path / name)

    first = store("a.zarr", {"x/0": "one", "y/0": "two"})
    assert store("b.zarr", {"y/0": "two", "x/0": "one"}) == first
    assert store("c.zarr", {"x/0": "one", "z/0": "two"}) != first
    assert store("d.zarr", {"x/0": "one", "y/0": "TWO"}) != first


def test_files_hold_numbers_and_text_alone(opened, tmp_path):
    fit = im.fit(opened)
    fit.save(tmp_path / "fit.nc")
    im.compare(fit, opened, n_resamples=4, n_shuffles=2, n_folds=2).save(tmp_path / "compare.nc")
    write_dataset(im.solve(fit.chain(3)), tmp_path / "solve.nc")
    im.save_traces(im.windows(opened, 20), tmp_path / "windows.nc")
    im.save_traces(im.baseline(opened, "random"), tmp_path / "baseline.nc")
    written = {"traces", "fit", "compare", "solve", "windows", "baseline"}
    assert {path.stem for path in tmp_path.iterdir()} == written
    for name in written:
        with h5py.File(tmp_path / f"{name}.nc") as file:
            owners = [file, *file.values()]
            attributes = [item for owner in owners for item in owner.attrs.items()]
            for key, value in attributes:
                # What HDF5 itself says of its dimensions is left out.
                if not key.isupper() and not key.startswith("_Netcdf4"):
                    assert np.asarray(value).dtype.kind in "iufSU", (name, key, value)
                    assert str(value) not in ("None", "True", "False"), (name, key)
        said = read_dataset(tmp_path / f"{name}.nc")
        if name != "traces":
            assert provenance(said)["verb"]
        for variable in said.data_vars.values():
            assert {"long_name", "units"} <= set(variable.attrs), (name, variable.name)
