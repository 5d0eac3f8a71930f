"""What routing of pretrained models is made of: the budget of every layer.

For each model: the budget (load, position, topic, memory, token id), the held-out gain of
kinetic chains with fields over the text over the load alone, the coupling of an expert to
itself with and without a random field for every text, the entropy production, and how alike the
experts of two occurrences of one token id are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
from figures import coupling_figure, depth_figure, identity_figure
from identity import same_id_overlap
from rich.progress import track

import isingmoe as im

HERE = Path(__file__).resolve().parent
MODELS = ("gpt-oss-20b", "deepseek-v2-lite")
REACHES = (1, 4)


def layer_results(traces: xr.Dataset, n_folds: int, reaches: tuple[int, ...]) -> xr.Dataset:
    """All that is measured of one layer."""
    longest = max(reaches)
    parts = [im.budget(traces, reach=longest, n_folds=n_folds).data]
    scores = [
        im.cross_validate(traces, field="position", reach=reach, n_folds=n_folds)
        for reach in reaches
    ]
    joined = xr.concat(scores, xr.Variable("reach", list(reaches)), combine_attrs="drop")
    kinetic = {name: name.replace("held_out", "kinetic") for name in joined.data_vars}
    parts.append(joined.transpose("layer", "reach").rename(kinetic))
    whole = [
        im.fit(traces, field="position", reach=reach, uncertainty="none").data for reach in reaches
    ]
    parts.append(
        xr.Dataset(
            {
                "converged": (("layer", "reach"), [[int(fit["converged"][0]) for fit in whole]]),
                "finite": (
                    ("layer", "reach"),
                    [[int(all(np.isfinite(fit[v]).all() for v in ("J", "h"))) for fit in whole]],
                ),
            },
            coords={"layer": traces["layer"], "reach": list(reaches)},
        )
    )
    for name, field in (("plain", "expert"), ("between_texts", "sequence")):
        fit = im.fit(traces, coupling="diagonal", field=field).data
        wanted = ["self_coupling", "self_coupling_error"]
        if field == "sequence":
            wanted += ["sequence_spread", "sequence_spread_error"]
        names = {key: f"{key}_{name}" for key in wanted if key.startswith("self")}
        parts.append(fit[wanted].drop_vars("expert", errors="ignore").rename(names))
    parts.append(im.irreversibility(traces, n_folds=n_folds))
    return xr.merge(parts, combine_attrs="drop", compat="no_conflicts")


def of_model(
    traces: xr.Dataset, folder: Path, n_folds: int, reaches: tuple[int, ...]
) -> xr.Dataset:
    """Every layer, each kept as soon as it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for layer in track(traces["layer"].values.tolist(), folder.name):
        path = folder / f"{layer}.nc"
        if not path.exists():
            found = layer_results(traces.sel(layer=[layer]), n_folds, reaches)
            part = path.with_suffix(".part")
            found.to_netcdf(part, engine="h5netcdf")
            part.replace(path)
        rows.append(xr.load_dataset(path, engine="h5netcdf"))
    whole = xr.concat(rows, "layer", data_vars="minimal", combine_attrs="drop")
    return whole.merge(same_id_overlap(traces)).assign_attrs(
        model=str(traces.attrs["model"]), n_folds=n_folds, coupling="full", reach=max(reaches)
    )


def summary(data: xr.Dataset) -> dict[str, object]:
    """Numbers of the README."""
    gain = data["kinetic_bits_load"] - data["kinetic_bits"]
    driven = data["entropy_production"] / data["entropy_production_error"]
    return {
        "layers": data["layer"].values.tolist(),
        "bits_uniform": round(float(data["bits_uniform"].values.flat[0]), 3),
        "mean_bits": {
            share: round(float(data["bits"].sel(share=share).mean()), 3)
            for share in data["share"].values.tolist()
        },
        "gain_over_load": {
            int(reach): np.round(gain.sel(reach=reach).values, 3).tolist()
            for reach in data["reach"].values
        },
        "self_coupling": np.round(data["self_coupling_plain"].values, 3).tolist(),
        "self_coupling_between_texts": np.round(
            data["self_coupling_between_texts"].values, 3
        ).tolist(),
        "token_alone": np.round(data["bits_token_alone"].values, 3).tolist(),
        "beyond_token": np.round(data["bits_beyond_token"].values, 3).tolist(),
        "all_converged": bool(data["converged"].all()),
        "all_finite": bool(data["finite"].all()),
        "entropy_production": np.round(data["entropy_production"].values, 4).tolist(),
        "entropy_production_over_error": np.round(driven.values, 1).tolist(),
        "same_id_overlap": {
            alike: np.round(data["same_id"].sel(alike=alike).values, 3).tolist()
            for alike in data["alike"].values.tolist()
        },
        "neighbour_overlap": {
            which: np.round(data["neighbours"].sel(which=which).values, 3).tolist()
            for which in data["which"].values.tolist()
        },
    }


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the bundled trace, toy size")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--traces", type=Path, default=HERE.parents[2] / "shared" / "traces", help="their folder"
    )
    options = parser.parse_args()
    output = options.output or (Path(tempfile.mkdtemp()) if options.quick else HERE / "results")
    output.mkdir(parents=True, exist_ok=True)
    if options.quick:
        found = {"example": quick(output)}
    else:
        found = {
            name: of_model(
                im.open_traces(options.traces / f"{name}.nc"),
                output / "layers" / name,
                options.folds,
                REACHES,
            )
            for name in MODELS
        }
    for name, data in found.items():
        data.to_netcdf(output / f"{name}.nc", engine="h5netcdf")
        (output / f"{name}.txt").write_text(f"{im.Budget(data)}\n", "utf-8")
        depth_figure(data).savefig(output / f"{name}.png", dpi=120)
        coupling_figure(data).savefig(output / f"{name}_coupling.png", dpi=120)
        identity_figure(data).savefig(output / f"{name}_identity.png", dpi=120)
    text = json.dumps({name: summary(data) for name, data in found.items()}, indent=2)
    (output / "summary.json").write_text(text + "\n", "utf-8")
    print(text)


def quick(output: Path) -> xr.Dataset:
    """The same path on a few short windows of the bundled trace."""
    traces = im.example_traces().isel(layer=[0, 3], sequence=slice(0, 8))
    return of_model(im.windows(traces, 64), output / "layers" / "example", 2, (1, 2))


if __name__ == "__main__":
    main()
