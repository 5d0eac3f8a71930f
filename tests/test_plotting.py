"""Figures: what is drawn is what was measured, on the axes that were given."""

from __future__ import annotations

import io
import itertools

import made_findings
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from made_findings import findings
from matplotlib.figure import Figure

import isingmoe as im
from isingmoe.plotting import plot_ck, plot_coupling, plot_decay, plot_lengths, save_figure
from isingmoe.plotting.coupling import clustered_order
from isingmoe.plotting.style import DIVERGING, figure_of, shown

mpl.use("Agg")

NASTY = r"<b>$\frac{1}{0}$ & $$ \$ {{7*7}} 漢字 " + "\u202e\x1b[31m" + "x" * 10_000


@pytest.fixture(scope="module")
def found(make_traces):
    return findings(make_traces)


@pytest.fixture
def ax():
    """Axes of a figure that no window knows of."""
    return Figure(layout="constrained").subplots()


@pytest.fixture(autouse=True)
def closed():
    yield
    mpl.pyplot.close("all")


def every_plot(found):
    """Each kind of figure, as a function of the axes."""
    return {
        "decay": lambda ax: im.plot_decay(found.comparison, 3, ax=ax),
        "lengths": lambda ax: im.plot_lengths(found.comparison, ax=ax),
        "coupling": lambda ax: im.plot_coupling(found.fit, 3, ax=ax),
        "ck": lambda ax: im.plot_ck(found.parts["ck"], 3, ax=ax),
        "blocks": lambda ax: im.plot_block_sizes(found.parts["blocks"], 3, ax=ax),
        "rates": lambda ax: im.plot_rates(found.parts["activation"], 3, ax=ax),
        "mem": lambda ax: im.plot_mem(found.comparison.data, ax=ax),
    }


KINDS = ("decay", "lengths", "coupling", "ck", "blocks", "rates", "mem")


@pytest.mark.parametrize("kind", KINDS)
def test_axes_in_axes_out(found, ax, kind):
    draw = every_plot(found)[kind]
    before = mpl.pyplot.get_fignums()
    assert draw(ax) is ax
    assert ax.has_data()
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert mpl.pyplot.get_fignums() == before
    new = draw(None)
    assert new is not ax
    assert len(mpl.pyplot.get_fignums()) == len(before) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sticks_out_of_a_figure(found, kind):
    """Ticks, labels and legends lie inside, and the legend on no axis."""
    figure = figure_of(every_plot(found)[kind](None))
    figure.canvas.draw()
    inside = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert inside.x0 >= -0.02
    assert inside.y0 >= -0.02
    assert inside.x1 <= width + 0.02
    assert inside.y1 <= height + 0.02


def test_maps_of_rates_have_room_beside_each_other(found):
    """Whether experts drift or not: what marks them must not stretch to the figure's corner."""
    drift = found.parts["activation"]
    still = drift.assign(uniformity_q_value=drift["uniformity_q_value"] * 0 + 1)
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, one in zip(axes, (still, drift, still), strict=True):
        im.plot_rates(one, 3, ax=ax)
    figure.savefig(io.BytesIO())
    boxes = [ax.get_tightbbox() for ax in axes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_layers_take_four_axes(found):
    axes = np.array([Figure().subplots() for _ in range(4)])
    assert im.plot_layers(found.comparison, axes=axes) is axes
    assert all(ax.has_data() for ax in axes)
    with pytest.raises(ValueError, match="axes: expected 4, got 3"):
        im.plot_layers(found.comparison, axes=axes[:3])


def test_decay_draws_what_was_measured(found, ax):
    plot_decay(found.comparison, 7, ax=ax)
    data = found.comparison.data.sel(layer=7)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    lines = {line.get_label(): line for line in ax.lines}
    for centre, label in {
        "global": "measured, about the global mean",
        "sequence": "measured, within texts",
    }.items():
        row = data["measured"].sel(centre=centre).values
        value = row[1:] / row[0]
        drawn = lines[label].get_ydata()
        seen = ~np.isnan(drawn)
        np.testing.assert_allclose(drawn[seen], value[seen])
        # Whatever is not drawn lies below the floor, where a triangle stands for it.
        assert (value[~seen] <= ax.get_ylim()[0]).all()
    chain = next(line for label, line in lines.items() if label.startswith("chain, ξ = "))
    predicted = data["predicted"].values / float(data["predicted"][0])
    positive = predicted[1:] > 0
    np.testing.assert_allclose(chain.get_ydata()[positive], predicted[1:][positive])
    triangles = [line for line in ax.lines if line.get_marker() == "v"]
    lost = sum(
        (data["measured"].sel(centre=c) / data["measured"].sel(centre=c)[0] <= ax.get_ylim()[0])
        .values.sum()
        .item()
        for c in data["centre"].values
    )
    assert sum(len(line.get_xdata()) for line in triangles) == lost


def test_bands_are_95_percent(found, ax):
    plot_decay(found.comparison, 3, ax=ax)
    data = found.comparison.data.sel(layer=3, centre="global")
    scale = float(data["measured"][0])
    top = (data["measured"] + 1.96 * data["measured_error"]).values[1:] / scale
    highest = [band.get_paths()[0].vertices[:, 1].max() for band in ax.collections]
    assert any(np.isclose(value, top.max(), rtol=1e-6) for value in highest)


def test_the_likeliest_law_comes_first(found, ax):
    plot_decay(found.comparison, 3, laws=2, ax=ax)
    row = found.comparison.data.sel(layer=3)
    names = row["law"].values[np.argsort(-row["law_weight"].values)]
    drawn = [line.get_label() for line in ax.lines if " law, weight " in line.get_label()]
    assert [label.split(" law")[0] for label in drawn] == names[:2].tolist()


def test_baselines_are_drawn_with_their_spread(found, ax):
    plot_decay(found.comparison, 3, ax=ax)
    labels = [line.get_label() for line in ax.lines]
    assert "tokens of each text in random order" in labels


def test_lengths_without_an_upper_end_have_a_triangle(found, ax):
    data = found.comparison.data.copy(deep=True)
    data["correlation_length_high"][:] = np.inf
    data["predicted_length"][:] = np.nan
    plot_lengths(im.Comparison(data), ax=ax)
    shown_top = [line for line in ax.lines if str(line.get_label()).startswith("_fit")]
    assert shown_top
    assert np.isfinite(ax.get_ylim()).all()


def test_experts_that_attract_stand_together():
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat([0, 1, 2], 5))
    J = np.where(group[:, None] == group, 1.0, -0.5) + 0.01 * rng.standard_normal((15, 15))
    order = clustered_order(J)
    assert sorted(order) == list(range(15))
    assert np.count_nonzero(np.diff(group[order])) == 2
    assert clustered_order(np.zeros((2, 2))).tolist() == [0, 1]


def test_coupling_map_is_the_matrix_in_that_order(found, ax):
    plot_coupling(found.fit, 3, ax=ax)
    J = found.fit.data["J"].sel(layer=3).transpose("expert", "next_expert").values
    order = clustered_order(J)
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), J[np.ix_(order, order)])
    assert image.norm.vmin == -image.norm.vmax
    assert [int(t.get_text()) for t in ax.get_yticklabels()] == order.tolist()


def test_coupling_of_a_longer_reach(make_traces, ax):
    traces = make_traces(n_sequences=20, n_positions=40, num_experts=4)
    fit = im.fit(traces.isel(layer=[0]), reach=2, coupling="diagonal", uncertainty="none")
    assert "2 tokens" in plot_coupling(fit, distance=2, ax=ax).get_xlabel()
    with pytest.raises(ValueError, match=r"distance: expected one of \[1, 2\], got 3"):
        plot_coupling(fit, distance=3, ax=ax)


def test_chains_of_single_experts_have_no_matrix(make_traces, ax):
    fit = im.fit(make_traces(n_positions=60), chain="ising", uncertainty="none")
    with pytest.raises(ValueError, match="expected a chain with couplings between experts"):
        plot_coupling(fit, 3, ax=ax)


def test_points_of_the_markov_test(ax):
    ck = made_findings.kolmogorov(np.array([2]), 5)
    plot_ck(ck, ax=ax)
    drawn = np.concatenate([container.lines[0].get_xydata() for container in ax.containers])
    # The first distance is alike by construction, and is left out.
    x, y = (ck[name][0, 1:].values.ravel() for name in ("persistence_predicted", "persistence"))
    np.testing.assert_allclose(drawn, np.column_stack([x, y]))
    empty = ck.assign(persistence=ck["persistence"] * np.nan)
    plot_ck(empty, 2, ax=Figure().subplots())


@pytest.mark.parametrize("kind", ["decay", "coupling", "ck"])
def test_the_layer_is_one_that_there_is(found, ax, kind):
    draw = {
        "decay": lambda layer: im.plot_decay(found.comparison, layer, ax=ax),
        "coupling": lambda layer: im.plot_coupling(found.fit, layer, ax=ax),
        "ck": lambda layer: im.plot_ck(found.parts["ck"], layer, ax=ax),
    }[kind]
    with pytest.raises(ValueError, match=r"layer: expected one of \[3, 7\], got 5"):
        draw(5)
    with pytest.raises(ValueError, match=r"layer: expected one of \[3, 7\], got none"):
        draw(None)


def test_names_from_files_are_text(found, ax):
    nasty = im.Comparison(found.comparison.data.assign_attrs(model=NASTY))
    plot_decay(nasty, 3, ax=ax)
    title = ax.get_title()
    assert len(title) < 100
    stream = io.StringIO()
    ax.figure.savefig(stream, format="svg")
    assert all(c.isprintable() for c in title)


def test_a_formula_is_not_one(ax):
    ax.set_title(shown(r"$x^2$ costs 5$"))
    text = ax.title
    assert text._preprocess_math(text.get_text())[1] is False
    assert text._preprocess_math(text.get_text())[0] == "$x^2$ costs 5$"


def test_maps_are_transparent_where_nothing_is():
    assert DIVERGING(0.5)[3] < 0.02
    assert DIVERGING(0.0)[3] == 1
    assert DIVERGING(1.0)[3] == 1


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_axes_are_saved_as_figures(found, tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    assert save_figure(plot_lengths(found.comparison), path) == path
    assert path.stat().st_size > 1000
    with pytest.raises(FileExistsError, match="exists and is kept"):
        save_figure(plot_lengths(found.comparison), path)


def test_plot_command_draws_every_kind(found, tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    im.save_traces(found.traces, "traces.nc")
    found.fit.save("fit.nc")
    found.comparison.save("comparison.nc")
    im.budget(found.traces, reach=1, n_folds=2, coupling="diagonal").save("budget.nc")
    for kind, file, more in (
        ("decay", "comparison.nc", ("--layer", 3)),
        ("layers", "comparison.nc", ()),
        ("lengths", "comparison.nc", ()),
        ("coupling", "fit.nc", ("--layer", 7)),
        ("budget", "budget.nc", ()),
        ("rates", "traces.nc", ("--layer", 7)),
        ("mem", "traces.nc", ("--fit", "fit.nc")),
        ("blocks", "traces.nc", ("--layer", 3, "--fit", "fit.nc")),
        ("ck", "traces.nc", ("--layer", 3)),
        ("mem", "comparison.nc", ("-o", "mem2.svg")),
        ("rates", "comparison.nc", ("--layer", 3, "-o", "rates2.svg")),
        ("blocks", "comparison.nc", ("--layer", 3, "-o", "blocks2.svg")),
    ):
        name = more[-1] if "-o" in more else f"{kind}.svg"
        ran = run_cli("plot", kind, file, "-o", name, *more)
        assert (ran.exit_code, ran.stdout) == (0, f"Written: {name}\n"), ran.stderr
        assert "<svg" in (tmp_path / name).read_text("utf-8")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("coupling", "traces.nc"), "traces.nc: attribute conventions: expected 'isingmoe-fit-1'"),
        (("decay", "fit.nc"), "fit.nc: attribute conventions: expected 'isingmoe-comparison-1'"),
        (("budget", "fit.nc"), "fit.nc: attribute conventions: expected 'isingmoe-budget-1'"),
        (("rates", "fit.nc"), "fit.nc: .*expected 'isingmoe-traces-1'"),
        (("ck", "comparison.nc"), "comparison.nc: ck: the comparison has none; give the traces"),
        (("ck", "traces.nc", "--layer", "5"), "traces.nc: layer: expected some of 3, 7, got 5"),
        (("rates", "traces.nc"), r"layer: expected one of \[3, 7\], got none"),
        (("decay", "absent.nc"), "absent.nc: no such file"),
    ],
)
def test_plot_command_says_what_it_wants(found, tmp_path, monkeypatch, run_cli, command, line):
    monkeypatch.chdir(tmp_path)
    im.save_traces(found.traces, "traces.nc")
    found.fit.save("fit.nc")
    found.comparison.save("comparison.nc")
    ran = run_cli("plot", *command)
    assert ran.exit_code == 1
    assert ran.stderr.startswith("isingmoe: error: ")
    assert ran.stderr.count("\n") == 1
    import re

    assert re.search(line, ran.stderr), ran.stderr
    assert not (tmp_path / "figure.png").exists()


def test_datasets_stay_as_they_were(found, ax):
    before = found.comparison.data.copy(deep=True)
    plot_decay(found.comparison, 3, ax=ax)
    xr.testing.assert_identical(before, found.comparison.data)
