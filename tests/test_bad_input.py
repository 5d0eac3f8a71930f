from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import xarray as xr

import isingmoe as im

QUICK = ("--resamples", 4, "--folds", 2)


def content(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden or not; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@contextmanager
def nothing_written(folder: Path) -> Iterator[None]:
    before = content(folder)
    yield
    assert content(folder) == before


def one_line(ran) -> str:
    """The message of a command that failed as it should."""
    assert ran.exit_code == 1
    assert ran.stdout == ""
    assert ran.stderr.endswith("\n")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("isingmoe: error: ")
    return line.removeprefix("isingmoe: error: ")


@pytest.fixture(scope="module")
def traces(make_traces) -> xr.Dataset:
    return make_traces(n_sequences=12, n_positions=60, num_experts=4, weights=True, token_ids=True)


@pytest.fixture(scope="module")
def valid_files(traces, tmp_path_factory) -> Path:
    """Valid traces, a fit and a comparison."""
    folder = tmp_path_factory.mktemp("valid")
    im.save_traces(traces, folder / "traces.nc")
    fit = im.fit(traces)
    fit.save(folder / "good.fit.nc")
    comparison = im.compare(fit, traces, n_resamples=4, n_shuffles=2, n_folds=2)
    comparison.save(folder / "good.comparison.nc")
    return folder


@pytest.fixture
def folder(valid_files, tmp_path, monkeypatch) -> Path:
    """The current folder, with a copy of the valid files."""
    shutil.copytree(valid_files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unchecked(traces: xr.Dataset, name: str = "bad.nc") -> None:
    traces.to_netcdf(name, engine="h5netcdf")


def put(**values: tuple[object, object]) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(traces: xr.Dataset) -> xr.Dataset:
        for name, (place, value) in values.items():
            traces[name].values[place] = value
        return traces

    return change


def cut_file(share: float) -> Callable[[xr.Dataset], None]:
    def make(_: xr.Dataset) -> None:
        whole = Path("traces.nc").read_bytes()
        Path("bad.nc").write_bytes(whole[: int(len(whole) * share)])

    return make


def one_expert(traces: xr.Dataset) -> xr.Dataset:
    traces["expert_index"].values[...] = [2, 3]
    return traces


def two_by_turns(traces: xr.Dataset) -> xr.Dataset:
    experts = np.arange(60) % 2
    traces["expert_index"].values[...] = np.stack([experts, experts + 2], -1)
    return traces


def one_token(traces: xr.Dataset) -> xr.Dataset:
    short = traces.isel(sequence=[0], position=[0])
    return short.assign(length=("sequence", np.ones(1, np.int32)))


@dataclass(frozen=True)
class Case:
    """A bad input: what makes bad.nc, the command, and the line it must end in.

    A line that starts with ^ is a regular expression.
    """

    make: Callable[[xr.Dataset], xr.Dataset | None] | None
    line: str
    command: tuple[object, ...] = ("fit", "bad.nc")


CASES = {
    "missing file": Case(None, "bad.nc: no such file; check the name"),
    "dangling link": Case(
        lambda _: Path("bad.nc").symlink_to("nowhere.nc"), "bad.nc: no such file; check the name"
    ),
    "directory": Case(
        lambda _: Path("bad.nc").mkdir(),
        "bad.nc: expected a NetCDF file or a .zarr store, got a directory; name a file in it",
    ),
    "empty file": Case(
        lambda _: Path("bad.nc").touch(),
        "bad.nc: empty file; expected NetCDF-4, write it again",
    ),
    "text file": Case(
        lambda _: Path("bad.nc").write_text("layer,sequence,expert\n"),
        "bad.nc: expected NetCDF-4, got another kind of file; check the name",
    ),
    "NetCDF-3": Case(
        lambda _: Path("bad.nc").write_bytes(b"CDF\x01" + bytes(40)),
        "bad.nc: expected NetCDF-4, got NetCDF-3; convert it with `nccopy -k nc4`",
    ),
    **{
        f"truncated to {share:.1%}": Case(
            cut_file(share),
            r"^bad\.nc: cannot be read, probably truncated \(.+\); copy or write it again$",
        )
        for share in (0.002, 0.5, 0.999)
    },
    "no expert_index": Case(
        lambda t: t.drop_vars("expert_index"),
        "bad.nc: expert_index: missing; expected dims (layer, sequence, position, rank)",
    ),
    "wrong dims": Case(
        lambda t: t.assign(expert_index=t["expert_index"].transpose("sequence", "layer", ...)),
        "bad.nc: expert_index: expected dims (layer, sequence, position, rank), "
        "got (sequence, layer, position, rank); transpose or rename them",
    ),
    "float dtype": Case(
        lambda t: t.assign(expert_index=t["expert_index"].astype(np.float32)),
        "bad.nc: expert_index: expected dtype int16, got float32; convert it with astype",
    ),
    "id too large": Case(
        put(expert_index=((1, 2, 3, 1), 4)),
        "bad.nc: expert_index: expected ids below num_experts = 4, got 4, first at index "
        "layer 1, sequence 2, position 3, rank 1; correct num_experts or the ids",
    ),
    "id of -2": Case(
        put(expert_index=((1, 2, 3, 1), -2)),
        "bad.nc: expert_index: expected ids from 0 up, or -1 for none, got -2, first at index "
        "layer 1, sequence 2, position 3, rank 1",
    ),
    "length beyond the positions": Case(
        put(length=(2, 61)),
        "bad.nc: length: expected 0 to 60, the size of dimension position, got 61 at sequence 2; "
        "correct it or pad the positions",
    ),
    "id past the length": Case(
        put(length=(2, 10)),
        "^"
        + re.escape("bad.nc: expert_index: expected -1 past the sequence's length, got ")
        + r"\d"
        + re.escape(", first at index layer 0, sequence 2, position 10, rank 0")
        + "$",
    ),
    "duplicate expert": Case(
        put(expert_index=((0, 1, 2), 3)),
        "bad.nc: expert_index: expected different experts for one token, got 3 twice, first at "
        "index layer 0, sequence 1, position 2, rank 1; keep one, and -1 for the other",
    ),
    "other top_k": Case(
        lambda t: t.assign_attrs(top_k=3),
        "bad.nc: attribute top_k: expected 2, the size of dimension rank of expert_index, got 3",
    ),
    "too many experts": Case(
        lambda t: t.assign_attrs(num_experts=10**6),
        "bad.nc: attribute num_experts: expected at most 32768, what int16 ids can name, "
        "got 1000000",
        ("info", "bad.nc"),
    ),
    "one expert in all": Case(
        lambda t: (
            t.isel(rank=[0])
            .assign_attrs(top_k=1, num_experts=1)
            .assign(expert_index=t["expert_index"].isel(rank=[0]) * np.int16(0))
        ),
        "bad.nc: num_experts: expected at least 2, got 1",
    ),
    "no sequences": Case(
        lambda t: t.isel(sequence=[]),
        "bad.nc: dimension sequence: expected at least 1, got 0; the trace is empty",
    ),
    "one token": Case(
        one_token,
        "bad.nc: expert_index: expected 2 neighbouring tokens in some sequence of layer 3, "
        "got none; a chain needs longer sequences",
    ),
    "one token, for primary experts": Case(
        one_token,
        "bad.nc: expert_index: expected two neighbouring tokens in some sequence of layer 3, "
        "got none; a chain needs longer sequences",
        ("fit", "bad.nc", "--chain", "potts"),
    ),
    "one token, for info": Case(
        one_token,
        "bad.nc: length: expected a sequence of at least two tokens, got 1; "
        "a chain needs longer sequences",
        ("info", "bad.nc"),
    ),
    "gaps alone": Case(
        put(expert_index=(..., -1)),
        "bad.nc: expert_index: expected 3 neighbouring tokens in some sequence of layer 3, "
        "got none; use a smaller reach or longer sequences",
        ("fit", "bad.nc", "--reach", 2),
    ),
    "all tokens in one expert": Case(
        one_expert,
        "bad.nc: expert_index: expected at least two experts in layer 3, "
        "got every token in expert 2; leave the layer out",
        ("fit", "bad.nc", "--chain", "potts"),
    ),
    **{
        f"all tokens in one set, {chain}": Case(
            one_expert,
            "bad.nc: expert_index: expected sets of experts that differ in layer 3, "
            "got the same for every token; leave the layer out",
            ("fit", "bad.nc", "--chain", chain),
        )
        for chain in ("ising", "kinetic", "topk")
    },
    "no primary expert": Case(
        lambda t: t.assign_attrs(ranked=0),
        "bad.nc: ranked: expected 1 for a primary expert, got 0 (the order of the ranks means "
        "nothing); use chain='ising'",
        ("fit", "bad.nc", "--chain", "potts"),
    ),
    "weight that is not a number": Case(
        put(gate_weight=((0, 1, 2, 0), np.nan)),
        "bad.nc: gate_weight: expected finite weights, got nan in 1 places, first at index "
        "layer 0, sequence 1, position 2, rank 0; drop the variable, or capture again",
    ),
    "rising weights": Case(
        put(gate_weight=((0, 1, 2), [0.1, 0.2])),
        "bad.nc: gate_weight: expected falling weights along rank where ranked = 1, got a rise "
        "after index layer 0, sequence 1, position 2, rank 0; set ranked to 0 or sort the ranks",
    ),
    "several faults": Case(
        lambda t: t.assign(
            expert_index=t["expert_index"].astype(float), length=t["length"].astype(np.int64)
        ).assign_attrs(ranked=2, top_k=3),
        "bad.nc: 4 faults: attribute ranked: expected 0 or 1, got 2; "
        "expert_index: expected dtype int16, got float64; convert it with astype; "
        "length: expected dtype int32, got int64; convert it with astype; "
        "attribute top_k: expected 2, the size of dimension rank of expert_index, got 3",
    ),
    "several bad values": Case(
        put(expert_index=((1, 2, [3, 4], 1), [4, -2]), gate_weight=((0, 0, 0, 0), np.inf)),
        "^bad.nc: 3 faults: .* got 4, .* position 3.* got -2, .* position 4.* got inf .*",
    ),
    "unknown layer": Case(
        None,
        "traces.nc: layer: expected some of 3, 7, got 5",
        ("fit", "traces.nc", "--layer", 3, "--layer", 5),
    ),
    "unknown layer, for info": Case(
        None, "traces.nc: layer: expected some of 3, 7, got -1", ("info", "traces.nc", "--layer=-1")
    ),
    "layer asked for twice": Case(
        None,
        "traces.nc: layer: expected different numbers, got 3, 3",
        ("fit", "traces.nc", "--layer", 3, "--layer", 3),
    ),
    "unknown layer of a fit": Case(
        None, "layer: expected one of [3, 7], got 5", ("solve", "good.fit.nc", "--layer", 5)
    ),
    "unknown layer of a comparison": Case(
        None,
        "layer: expected one of [3, 7], got 5",
        ("plot", "decay", "good.comparison.nc", "--layer", 5),
    ),
    "no folder": Case(
        None,
        "absent/fit.nc: no folder absent; make it first",
        ("fit", "traces.nc", "-o", "absent/fit.nc"),
    ),
    "file for a folder": Case(
        None,
        "traces.nc/fit.nc: no folder traces.nc; make it first",
        ("fit", "traces.nc", "-o", "traces.nc/fit.nc"),
    ),
    "no folder for a figure": Case(
        None,
        "absent/a.png: no folder absent; make it first",
        ("fit", "traces.nc", "--figure", "absent/a.png"),
    ),
    "unknown kind of figure": Case(
        None,
        r"^a\.xyz: expected an ending of .*\bpng\b",
        ("fit", "traces.nc", "--figure", "a.xyz", *QUICK),
    ),
    "unknown kind of plot": Case(
        None,
        r"^a\.xyz: expected an ending of .*\bpng\b",
        ("plot", "layers", "good.comparison.nc", "-o", "a.xyz"),
    ),
    "output that exists": Case(
        None,
        "good.fit.nc: exists and is kept; say --overwrite, or another name",
        ("fit", "traces.nc", "-o", "good.fit.nc"),
    ),
    "output that is a folder": Case(
        lambda _: Path("results").mkdir(),
        "results: is a folder; name a file in it",
        ("fit", "traces.nc", "-o", "results", "--overwrite", *QUICK),
    ),
    "output that is read": Case(
        None,
        "traces.nc: is read, and cannot be written to; name another output",
        ("fit", "traces.nc", "-o", "./traces.nc", "--overwrite", *QUICK),
    ),
    "traces for a fit": Case(
        None,
        "traces.nc: attribute conventions: expected 'isingmoe-fit-1', got 'isingmoe-traces-1'; "
        "make a fit with `isingmoe fit`",
        ("compare", "traces.nc", "traces.nc", "-o", "new.nc"),
    ),
    "fit for traces": Case(
        None,
        "^good.fit.nc: .*attribute conventions: expected 'isingmoe-traces-1', "
        "got 'isingmoe-fit-1'.*; expert_index: missing;",
        ("info", "good.fit.nc"),
    ),
    "fit for a comparison": Case(
        None,
        "good.fit.nc: attribute conventions: expected 'isingmoe-comparison-1', "
        "got 'isingmoe-fit-1'; make one with `isingmoe compare`",
        ("plot", "layers", "good.fit.nc"),
    ),
    "traces of another model": Case(
        lambda t: t.assign_attrs(num_experts=5),
        "bad.nc: num_experts: expected 4 as in the fit, got 5; these traces are of another model",
        ("compare", "good.fit.nc", "bad.nc"),
    ),
    "traces without the layers": Case(
        lambda t: t.isel(layer=[0]),
        "bad.nc: layer: the fit has [7], the traces do not; fit again",
        ("compare", "good.fit.nc", "bad.nc"),
    ),
    "coupling that spins do not have": Case(
        None,
        "coupling: the Ising chain of an expert is coupled to itself alone; expected none, uniform "
        "or diagonal, got 'full'",
        ("fit", "traces.nc", "--chain", "ising", "--coupling", "full"),
    ),
    "pair that never occurs": Case(
        two_by_turns,
        r"^(bad\.nc: )?pseudocount: expected a positive number where a pair of states never "
        r"occurs, got 0\.0 with \d+ such pairs",
        ("fit", "bad.nc", "--chain", "potts", "--pseudocount", 0),
    ),
    "pseudocount of kinetic chains": Case(
        None,
        "pseudocount: kinetic chains have none, got 1.0; use l2",
        ("fit", "traces.nc", "--pseudocount", 1),
    ),
    "more memory than there is": Case(
        None, "^Unable to allocate .*", ("solve", "--J", 1, "--max-distance", 10**17)
    ),
    "ring of two sites": Case(
        None,
        "n_sites: expected at least 3 on a chain with periodic ends, got 2",
        ("solve", "--J", 1, "--n-sites", 2, "--boundary", "periodic"),
    ),
    "coupling that is not a number": Case(
        None, "J: expected finite numbers, got nan", ("solve", "--J", "nan")
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_ends_in_one_line(folder, run_cli, traces, case):
    if case.make is not None:
        made = case.make(traces.copy(deep=True))
        if isinstance(made, xr.Dataset):
            unchecked(made)
    with nothing_written(folder):
        line = one_line(run_cli(*case.command))
    if case.line.startswith("^"):
        assert re.search(case.line, line)
    else:
        assert line == case.line


@pytest.mark.parametrize("command", ["fit", "info"])
def test_input_is_checked_before_anything_is_done(folder, run_cli, traces, command):
    unchecked(put(expert_index=((1, 4, 59, 0), 40))(traces.copy(deep=True)))
    with nothing_written(folder):
        assert one_line(run_cli(command, "bad.nc", "--layer", 3)).startswith("bad.nc: expert_index")


@pytest.mark.parametrize("variable", ["J", "h", "n_parameters", "self_coupling"])
def test_damaged_fits_are_named(folder, run_cli, variable):
    unchecked(im.open_fit("good.fit.nc").data.drop_vars(variable))
    with nothing_written(folder):
        line = one_line(run_cli("compare", "bad.nc", "traces.nc", *QUICK))
    assert line == f"bad.nc: {variable}: missing; make a fit with `isingmoe fit`"


def test_damaged_comparisons_are_named(folder, run_cli):
    unchecked(im.open_comparison("good.comparison.nc").data.drop_vars("predicted_length"))
    with nothing_written(folder):
        line = one_line(run_cli("plot", "layers", "bad.nc"))
    assert line == "bad.nc: predicted_length: missing; make one with `isingmoe compare`"


def _remove(path: str) -> Callable[[Path], None]:
    return lambda store: (store / path).unlink()


def _spoil(path: str) -> Callable[[Path], None]:
    return lambda store: (store / path).write_bytes(b"{garbage")


def _chunk(store: Path) -> Path:
    return next(p for p in sorted((store / "expert_index" / "c").rglob("*")) if p.is_file())


def _empty(store: Path) -> None:
    shutil.rmtree(store)
    store.mkdir()


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (_remove("zarr.json"), r"cannot be read as a Zarr store \(.+\); copy or write it again"),
        (_spoil("zarr.json"), r"cannot be read as a Zarr store \(.+\); copy or write it again"),
        (_empty, r"cannot be read as a Zarr store \(.+\); copy or write it again"),
        (
            _spoil("length/zarr.json"),
            r"cannot be read as a Zarr store \(.+\); copy or write it again",
        ),
        (_remove("length/zarr.json"), r"length: missing; expected dims \(sequence\)"),
        (
            lambda store: _chunk(store).write_bytes(b"garbage"),
            r"cannot be read as a Zarr store \(.+\); copy or write it again",
        ),
        (lambda store: _chunk(store).unlink(), "expert_index: expected .*"),
    ],
    ids=[
        "no group",
        "spoilt group",
        "empty folder",
        "spoilt variable",
        "no variable",
        "spoilt chunk",
        "no chunk",
    ],
)
def test_damaged_stores_are_named(folder, run_cli, traces, damage, line):
    im.save_traces(traces, "bad.zarr")
    damage(folder / "bad.zarr")
    with nothing_written(folder):
        assert re.fullmatch(rf"bad\.zarr: {line}", one_line(run_cli("fit", "bad.zarr")))


def test_a_read_only_folder_is_named(folder, run_cli, monkeypatch):
    # Permission bits do not bind root, so that the answer is forged.
    (folder / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "closed")
    with nothing_written(folder):
        line = one_line(run_cli("fit", "traces.nc", "-o", "closed/fit.nc"))
    assert line == "closed/fit.nc: folder closed cannot be written to; name another"


def test_results_go_here_where_the_traces_are_read_only(folder, run_cli, monkeypatch):
    (folder / "closed").mkdir()
    (folder / "traces.nc").rename("closed/traces.nc")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "closed")
    assert run_cli("fit", "closed/traces.nc", *QUICK).exit_code == 0
    assert im.open_fit("fit.nc").data["layer"].values.tolist() == [3, 7]
    assert [path.name for path in Path("closed").iterdir()] == ["traces.nc"]


def test_a_full_disk_leaves_the_old_fit(folder, run_cli, monkeypatch):
    def full(self: xr.Dataset, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with nothing_written(folder):
        command = ("fit", "traces.nc", "--chain", "kinetic", "-o", "good.fit.nc", "--overwrite")
        line = one_line(run_cli(*command, *QUICK))
    assert "No space left on device" in line


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("fit", "traces.nc", *QUICK), "fit.nc"),
        (("compare", "good.fit.nc", "traces.nc", *QUICK), "comparison.nc"),
        (("plot", "layers", "good.comparison.nc"), "figure.png"),
        (("solve", "--J", 1, "-o", "exact.nc"), "exact.nc"),
    ],
    ids=["fit", "compare", "plot", "solve"],
)
def test_outputs_are_kept_unless_asked(folder, run_cli, command, output):
    Path(output).write_bytes(b"precious")
    with nothing_written(folder):
        line = one_line(run_cli(*command))
    assert line == f"{output}: exists and is kept; say --overwrite, or another name"
    assert run_cli(*command, "--overwrite").exit_code == 0
    assert Path(output).read_bytes()[:4] in (b"\x89HDF", b"\x89PNG")


@pytest.mark.parametrize("verb", ["fit", "compare", "info", "solve"])
def test_an_interrupted_calculation_leaves_no_file(folder, run_cli, monkeypatch, verb):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(im, verb, interrupt)
    arguments = {
        "fit": ("traces.nc",),
        "compare": ("good.fit.nc", "traces.nc"),
        "info": ("traces.nc",),
        "solve": ("--J", 1, "-o", "exact.nc"),
    }
    with nothing_written(folder):
        line = one_line(run_cli(verb, *arguments[verb]))
    assert line == "interrupted; no file was left half-written"


def test_an_interrupt_inside_a_kernel_is_one(folder, run_cli, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as pressed:
            inner = SystemError("unpickling returned a result with an exception set")
            inner.__cause__ = pressed
        raise SystemError("CPUDispatcher returned a result with an exception set") from inner

    monkeypatch.setattr(im, "fit", interrupt)
    line = one_line(run_cli("fit", "traces.nc"))
    assert line == "interrupted; no file was left half-written"

    def fail(*_: object, **__: object) -> None:
        raise SystemError("something else")

    monkeypatch.setattr(im, "fit", fail)
    with pytest.raises(SystemError, match="something else"):
        run_cli("fit", "traces.nc")


@pytest.mark.parametrize(
    ("owner", "method", "command"),
    [
        (xr.Dataset, "to_netcdf", ("fit", "traces.nc", "--chain", "kinetic", *QUICK)),
        (xr.Dataset, "to_zarr", ("fit", "traces.nc", "--chain", "potts", "-o", "fit.zarr", *QUICK)),
        (matplotlib.figure.Figure, "savefig", ("plot", "layers", "good.comparison.nc")),
    ],
    ids=["nc", "zarr", "png"],
)
def test_an_interrupted_write_leaves_no_file(folder, run_cli, monkeypatch, owner, method, command):
    def interrupt(self: object, part: Path, **_: object) -> None:
        target = part / "zarr.json" if part.suffix == ".zarr" else part
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, method, interrupt)
    with nothing_written(folder):
        line = one_line(run_cli(*command))
    assert line == "interrupted; no file was left half-written"


@pytest.mark.parametrize(
    "command",
    [
        ("fit",),
        ("fit", "traces.nc", "--bogus"),
        ("fit", "traces.nc", "--layer", "x"),
        ("fit", "traces.nc", "--chain", "x"),
        ("fit", "traces.nc", "--coupling", "x"),
        ("fit", "traces.nc", "--pseudocount", -1),
        ("fit", "traces.nc", "--max-distance", 0),
        ("fit", "traces.nc", "--seed", -1),
        ("compare", "good.fit.nc"),
        ("plot",),
        ("plot", "layers"),
        ("plot", "spectrum", "good.comparison.nc"),
        ("plot", "layers", "good.comparison.nc", "--layer", 3),
        ("plot", "decay", "good.comparison.nc", "--fit", "good.fit.nc"),
        ("solve",),
        ("solve", "good.fit.nc"),
        ("solve", "--J", 1, "--chain", "heisenberg"),
        ("example", "extra"),
        ("anneal",),
    ],
    ids=lambda command: " ".join(map(str, command)),
)
def test_wrong_usage_exits_with_2(folder, run_cli, command):
    with nothing_written(folder):
        ran = run_cli(*command)
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert re.fullmatch(r"isingmoe: error: .*; see isingmoe( \w+)? --help\n", ran.stderr)
    assert "Traceback" not in ran.stderr


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


HOSTILE = (
    "<img src=x onerror=alert(1)>\"'&`$(touch pwned)` [bold red]rich[/] [link=x]"
    "\x1b[2J\x1b[31m\x1b]0;title\x07\x9b31m\r\n\t\b\u202e" + "y" * 10_000
)


def test_a_hostile_name_of_a_model_is_harmless(folder, run_cli, traces):
    hostile = dict.fromkeys(("model", "router", "text", "source", "licence"), HOSTILE)
    im.save_traces(traces.assign_attrs(hostile), "bad.nc")
    for command in (
        ("info", "bad.nc"),
        ("fit", "bad.nc", "--chain", "kinetic", "--figure", "bad.png", *QUICK),
        ("compare", "bad.fit.nc", "bad.nc", *QUICK),
        ("plot", "layers", "bad.comparison.nc", "-o", "bad2.png"),
        ("solve", "bad.fit.nc", "--layer", 3),
        ("info", "bad.nc", "--json"),
    ):
        ran = run_cli(*command)
        assert ran.exit_code == 0
        assert harmless(ran.stdout)
        assert ran.stderr == ""
        if "--json" not in command:
            assert max(map(len, ran.stdout.splitlines())) <= 180
        if command[0] in ("info", "fit", "compare") and "--json" not in command:
            # Markup is text: it is shown as it is written.
            assert "[bold red]rich[/]" in ran.stdout
    fit, comparison = im.open_fit("bad.fit.nc"), im.open_comparison("bad.comparison.nc")
    assert fit.data.attrs["model"] == HOSTILE
    for shown in (fit, comparison, im.info(im.open_traces("bad.nc"))):
        assert harmless(str(shown))
    assert not Path("pwned").exists()


def test_hostile_names_of_variables_and_dims_are_harmless(folder, run_cli, traces):
    unchecked(traces.assign({"a\x1b[31mb": ("sequence", np.zeros(12))}), "variable.nc")
    ran = run_cli("info", "variable.nc")
    assert ran.exit_code == 0
    assert harmless(ran.stdout)
    unchecked(traces.rename(position="a\x1b[31mb"), "dim.nc")
    line = one_line(run_cli("info", "dim.nc"))
    assert harmless(line)
    assert "expert_index: expected dims" in line


def test_hostile_names_of_files_are_harmless(folder, run_cli):
    assert harmless(one_line(run_cli("fit", "a\x1b[31mb\nc.nc")))
    Path("traces.nc").rename("a\x1b[31mb.nc")
    ran = run_cli("fit", "a\x1b[31mb.nc", *QUICK)
    assert ran.exit_code == 0
    assert harmless(ran.stdout + ran.stderr)
    assert Path("a\x1b[31mb.fit.nc").is_file()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("solve", "--J", 1, "--boundary", "perodic"),
            "Invalid value for '--boundary': 'perodic' is not one of 'open', 'periodic'; "
            "see isingmoe solve --help",
        ),
        (
            ("simulate", "--J", 1, "--algorithm", "glauber"),
            "Invalid value for '--algorithm': 'glauber' is not one of 'exact', 'heat-bath', "
            "'metropolis', 'wolff', 'swendsen-wang'; see isingmoe simulate --help",
        ),
        (("solve",), "give a fit, or --J; see isingmoe solve --help"),
        (("anneal",), "No such command 'anneal'; see isingmoe --help"),
        (("--anneal",), "No such option: --anneal; see isingmoe --help"),
        (("solve", "--anneal"), "No such option: --anneal; see isingmoe solve --help"),
        (("compare",), "Missing argument 'FIT'; see isingmoe compare --help"),
        (("solve", "\x1b[31m", "--J", "\x1b[31mx"), None),
    ],
)
def test_wrong_usage_is_said_in_one_line(folder, run_cli, command, said):
    ran = run_cli(*command)
    assert (ran.exit_code, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("isingmoe: error: ")
    assert "\x1b" not in line
    assert said is None or line == f"isingmoe: error: {said}"


def test_help_is_shown_as_before(folder, run_cli):
    for command in ("--help",), ("solve", "--help"), ("solve", "-h"):
        ran = run_cli(*command)
        assert ran.exit_code == 0
        assert "Usage: isingmoe" in " ".join(re.sub(r"\x1b\[[\d;]*m", "", ran.stdout).split())
