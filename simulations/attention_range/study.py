"""Does the coupling of experts at a distance follow the attention at that distance.

Small OLMoE models whose attention is cut to windows or made to fall with the distance: fitted
couplings at each distance, against the attention weight that the trained models give to it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from arms import ARMS, WINDOWS, labels_of
from couplings import at_distances
from figures import correlation_figure, distance_figure, scatter_figure
from ranks import rank_correlations
from trained_models.exchanging import exchanged
from trained_models.intervals import told
from trained_models.measuring import capture
from trained_models.options import ModelStudy, parse
from trained_models.profiles import attention_profile
from trained_models.results import kept
from trained_models.store import Job, Store, measured_of_each

# Distances with a coupling, and elements of J that a layer has at most in all of them: a fit
# inverts a matrix of that many rows.
REACH, MOST_ELEMENTS = 8, 4096


def measured_of(store: Store, job: Job) -> xr.Dataset:
    """Couplings, correlations and attention of one model."""
    context = store.size.context
    max_lag = min(64, context // 4)
    reach = min(REACH, context // 8, MOST_ELEMENTS // store.size.n_experts**2)
    model = store.model(job)
    windows = store.text.held_out.token_id
    traces = capture(model, windows)
    kinds = {"data": traces, "exchanged": exchanged(traces, job.seed)}
    found = [at_distances(one, reach, max_lag) for one in kinds.values()]
    result = xr.concat(found, xr.Variable("kind", list(kinds)), combine_attrs="override")
    profile = attention_profile(model, store.text.followed(store.size), max_lag)
    loss = store.measured(job)["loss"].mean("window")
    perplexity = np.exp(loss).assign_attrs(long_name="held-out perplexity", units="1")
    return result.assign(attention=profile, perplexity=perplexity.drop_vars(["recipe", "seed"]))


def added(data: xr.Dataset) -> xr.Dataset:
    """What is left of each coupling without that of exchanged tokens: what the context adds."""
    names = ["strength", "self_coupling"]
    return data[names].sel(kind="data", drop=True) - data[names].sel(kind="exchanged", drop=True)


def table(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """Of each way to attend, means over layers, with intervals over seeds."""
    whole = data.sel(kind="data").mean("layer")
    more = added(data).mean("layer")
    last = int(data["distance"][-1])
    shown = [d for d in (1, 2, 4, 8) if d <= last]
    rows = {}
    for name, label in labels_of(data).items():
        one, beyond = whole.sel(recipe=name), more.sel(recipe=name)
        rows[label] = {"perplexity": told(one["perplexity"])}
        near = one["attention"].sel(lag=slice(1, last)).sum("lag")
        rows[label]["attention to itself"] = told(one["attention"].sel(lag=0))
        rows[label][f"attention to 1 to {last} before"] = told(near)
        for d in shown:
            rows[label] |= {
                f"strength at {d}": told(one["strength"].sel(distance=d), 3),
                f"strength at {d}, added by context": told(beyond["strength"].sel(distance=d), 3),
                f"self-coupling at {d}": told(one["self_coupling"].sel(distance=d), 3),
                f"self-coupling at {d}, added by context": told(
                    beyond["self_coupling"].sel(distance=d), 3
                ),
            }
    return rows


def by_layer(data: xr.Dataset) -> dict[str, dict[str, dict[str, str]]]:
    """What the context adds to the strength, for each layer and distance."""
    more = added(data)["strength"]
    return {
        label: {
            f"layer {layer}": {
                str(d): told(more.sel(recipe=name, layer=layer, distance=d), 3)
                for d in data["distance"].values.tolist()
            }
            for layer in data["layer"].values.tolist()
        }
        for name, label in labels_of(data).items()
    }


def far(data: xr.Dataset) -> dict[str, dict[str, str]]:
    """C(d) / C(0) far beyond what couplings are fitted to, of the data and of exchanged tokens."""
    lags = slice(int(data["lag"][-1]) // 3, 2 * int(data["lag"][-1]) // 3)
    curve = data["correlation"].sel(lag=lags).mean(("lag", "layer"))
    return {
        label: {
            f"{kind}, {lags.start} to {lags.stop}": told(curve.sel(recipe=name, kind=kind), 4)
            for kind in data["kind"].values.tolist()
        }
        for name, label in labels_of(data).items()
    }


def beyond_windows(more: xr.Dataset) -> dict[str, dict[str, dict[str, str]]]:
    """Mean of what the context adds at the distances that a layer can see, and further.

    A window w shows layer l, and all layers before it, (l + 1) w tokens back.
    """
    strength, last = more["strength"], int(more["distance"][-1])
    rows: dict[str, dict[str, dict[str, str]]] = {}
    for name, label in labels_of(more).items():
        if name not in WINDOWS:
            continue
        row, window = rows.setdefault(label, {}), WINDOWS[name]
        for layer in more["layer"].values.tolist():
            seen = (layer + 1) * window
            one = strength.sel(recipe=name, layer=layer)
            spans = {"seen": slice(1, seen), "further": slice(seen + 1, last)}
            parts = {title: one.sel(distance=span) for title, span in spans.items()}
            row[f"layer {layer}"] = {
                title: told(part.mean("distance"), 4)
                for title, part in parts.items()
                if part.sizes["distance"]
            }
    return rows


def main(study: ModelStudy) -> None:
    """Train, measure, draw, and conclude."""
    # Prepared once, to be sent to every process.
    _ = study.store.text
    data = kept(study, __file__, lambda: measured_of_each(study.store, ARMS, measured_of))
    more = added(data)
    study.draw("distances.png", distance_figure(data, more))
    study.draw("scatter.png", scatter_figure(data, more))
    study.draw("correlation.png", correlation_figure(data))
    study.conclude(
        {
            "arms": table(data),
            "rank correlation of coupling and attention": rank_correlations(data, more, WINDOWS),
            "mean strength added by context": beyond_windows(more),
            "strength added by context": by_layer(data),
            "correlation at a distance": far(data),
        }
    )


if __name__ == "__main__":
    main(parse(__doc__, __file__))
