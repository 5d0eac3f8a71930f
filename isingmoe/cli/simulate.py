"""`isingmoe simulate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import isingmoe as im
from isingmoe.cli._chain_options import ChainOptions
from isingmoe.cli._groups import spread
from isingmoe.cli._options import Json, Output, Overwrite, check_target, emit_json, emit_text
from isingmoe.cli._sweeps import AlgorithmName, algorithm_named

if TYPE_CHECKING:
    import xarray as xr


@spread
def simulate(
    model: ChainOptions,
    algorithm: Annotated[
        AlgorithmName | None,
        typer.Option(help="How the chain is sampled (default: heat-bath; exact if kinetic)."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Of each replica.")] = 1000,
    replicas: Annotated[int, typer.Option(min=1, help="Independent replicas.")] = 8,
    sweeps: Annotated[int, typer.Option(min=1, help="Sweeps to a sample.")] = 1,
    equilibration: Annotated[
        int | None, typer.Option(min=0, help="Samples discarded before (default: a fifth).")
    ] = None,
    max_distance: Annotated[
        int | None,
        typer.Option(min=-1, help="Largest distance of C(d) (default: 64, or the chain's)."),
    ] = None,
    keep_states: Annotated[bool, typer.Option(help="Write the states, too.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
    output: Output = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Sample a chain by Monte Carlo: every mean with its error and autocorrelation time.

    Example: isingmoe simulate --J 0.6 --n-sites 512 --boundary periodic --alpha 2 --algorithm wolff

    Example: isingmoe simulate fit.nc --layer 7 --n-sites 512 --algorithm exact -o samples.nc
    """
    from isingmoe._storage import write_dataset
    from isingmoe._text import track

    if output is not None:
        check_target(output, overwrite, *model.inputs)
    if keep_states and output is None:
        raise typer.BadParameter("--keep-states needs --output")
    chain = model.make()
    if algorithm is None:
        algorithm = "exact" if isinstance(chain, im.KineticChain) else "heat-bath"
    result = im.simulate(
        chain,
        algorithm_named(algorithm),
        n_samples=samples,
        n_replicas=replicas,
        n_sweeps=sweeps,
        n_equilibration=equilibration,
        max_distance=max_distance,
        keep_states=keep_states,
        seed=seed,
        track=lambda steps: track(steps, "sampling"),
    )
    if output is not None:
        write_dataset(result, output, overwrite=overwrite)
    if json:
        emit_json(result, ("distance", "expert", "state", "site"))
        return
    emit_text(_text(result))
    if output is not None:
        emit_text(f"\nWritten: {output}")


def _text(result: xr.Dataset) -> str:
    """The scalars with their errors and autocorrelation times, and the first correlations."""
    from isingmoe._text import number, plain, render, report

    scalars = [
        name[: -len("_error")] for name in map(str, result.data_vars) if name.endswith("_error")
    ]
    scalars = [name for name in scalars if not result[name].dims]
    columns = {
        "quantity": scalars,
        "mean": [f"{float(result[name]):.8g}" for name in scalars],
        "error": [f"{float(result[f'{name}_error']):.2g}" for name in scalars],
        "autocorrelation time": [
            number(float(result[f"{name}_autocorrelation_time"]), 1) for name in scalars
        ],
        "unit": [result[name].attrs["units"] for name in scalars],
    }
    shown = list(
        zip(result["correlation"].values[:6], result["correlation_error"].values, strict=False)
    )
    decay = "C(d), d = 0..{}: {}".format(
        len(shown) - 1, "  ".join(f"{value:.5f} ± {error:.5f}" for value, error in shown)
    )
    size = "{} replicas of {} samples".format(*result["order_parameter_series"].shape)
    notes = [*([decay] if shown else []), f"{result.attrs['algorithm']}, {size}; times in sweeps"]
    return render(*report(plain(result.attrs["chain"], 140), columns, notes))
