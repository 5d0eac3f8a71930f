"""The page: what stands where, filled into the template."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import xarray as xr
from markupsafe import Markup

from isingmoe._provenance import describe, software_version
from isingmoe._text import plain, printable
from isingmoe.reports import citation
from isingmoe.reports.calls import LEVEL, called, controlled
from isingmoe.reports.findings import Costs, Findings
from isingmoe.reports.law_words import read_law
from isingmoe.reports.panels import Panel, depth_panels, layer_panels
from isingmoe.reports.reading import READING
from isingmoe.reports.rows import columns
from isingmoe.reports.verdicts import Verdict, verdict
from isingmoe.reports.words import amount

__all__ = ["render_page"]

Track = Callable[[Iterable[int], str], Iterable[int]]

# Attributes of a trace that are shown as they are.
_ATTRIBUTES = ("router", "text", "source", "licence", "architecture")
_LONGEST = 500
# Characters of a provenance that are read as JSON.
_MOST_JSON = 100_000


@dataclass(frozen=True)
class _Layer:
    number: int
    verdict: Verdict
    panels: list[dict[str, Any]]
    is_open: bool


def render_page(
    found: Findings, costs: Costs, seed: int, command: str | None, track: Track | None
) -> str:
    """The whole page as HTML.

    Parameters
    ----------
    found : Findings
    costs : Costs
    seed : int
    command : str, optional
        What was typed.
    track : callable, optional
        Wraps an iteration over layers, given what it is for.

    Returns
    -------
    str
        It asks for nothing from elsewhere, and forbids the browser to.
    """
    template = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(_file),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("template.html.jinja")
    script = _file("script.js").strip()
    table = columns(found)
    layers = [int(layer) for layer in found.traces["layer"].values]
    opened = _most_telling(found)
    tracked = layers if track is None else track(layers, "figures")
    return template.render(
        version=software_version(),
        model=plain(found.traces.attrs["model"], 90),
        lead=_lead(found),
        brief=_brief(found),
        facts=_facts(found, costs, seed, command),
        cautions=found.cautions,
        columns=table,
        rows=list(zip(*(column.cells for column in table), strict=True)),
        depth_title="Over depth" if len(layers) > 1 else "Equilibrium",
        depth_panels=[_safe(panel) for panel in depth_panels(found)],
        layers=[
            _Layer(
                layer,
                verdict(found, layer),
                [_safe(panel) for panel in layer_panels(found, layer)],
                layer == opened,
            )
            for layer in tracked
        ],
        absent=[line[0].upper() + line[1:] for line in found.absent.values()],
        reading=READING,
        software=citation.software(software_version()),
        paper=citation.PAPER,
        paper_url=citation.PAPER_URL,
        bibtex=citation.bibtex(software_version()),
        provenance=_provenance(found),
        style=Markup(_file("style.css").strip()),
        script=Markup(script),
        script_hash=_hash(script),
    )


def _file(name: str) -> str:
    return (resources.files("isingmoe.reports") / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """By which the browser knows the one script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _safe(panel: Panel) -> dict[str, Any]:
    """A panel whose SVG is not escaped: it is ours, its letters were escaped when drawn."""
    return {
        "name": panel.name,
        "title": panel.title,
        "caption": panel.caption,
        "svg": Markup(panel.svg),
    }


def _lead(found: Findings) -> str:
    a = found.traces.attrs
    length = found.traces["length"].values
    texts = f"{len(length)} sequences" if len(length) > 1 else "one sequence"
    span = f"{length.min()} to {length.max()}" if length.min() < length.max() else f"{length[0]}"
    n_layers = found.traces.sizes["layer"]
    return (
        f"{n_layers} layer{'s' if n_layers > 1 else ''} of {a['num_experts']} experts, "
        f"top-{a['top_k']}; {texts} of {span} tokens, {length.sum():,} tokens in all."
    )


def _brief(found: Findings) -> list[str]:
    """What holds of all layers together."""
    lines = [*_rejections(found)]
    mem = found.parts.get("mem")
    if mem is not None:
        states, numbers = np.unique(mem["mem_state"].values.astype(str), return_counts=True)
        held = ", ".join(f"{s} in {n}" for s, n in zip(states, numbers, strict=True))
        lines.append(f"The load is {held} of {numbers.sum()} layers.")
    data = found.comparison.data
    lengths = {
        "the chains": data["predicted_length"].values,
        "what is measured": data["correlation_length"].sel(centre="global").values,
    }
    if "sequence" in data["centre"]:
        within = data["correlation_length"].sel(centre="sequence").values
        lengths["what is measured within texts"] = within
    middle = [
        f"{amount(float(np.nanmedian(values)), 1)} tokens by {what}"
        for what, values in lengths.items()
        if not np.isnan(values).all()
    ]
    lines.append(f"Correlation length, median over layers: {'; '.join(middle)}.")
    return [*lines, *_likeliest(data)]


def _rejections(found: Findings) -> Iterator[str]:
    """In how many layers each test speaks."""
    control = f"false discovery rate {LEVEL:.0%} over layers"
    for part, name, what, them in (
        ("goodness", "discrepancy_p_value", "Short-range chains are", "them"),
        ("ck", "ck_p_value", "A memory of one token (Chapman-Kolmogorov) is", "it"),
    ):
        calls = Counter(called(found.parts.get(part), name, found.simulations(part)).values())
        n = calls.total()
        if not n:
            continue
        line = f"{what} rejected in {calls['rejected']} of {n} layers"
        if calls["too few"]:
            more = " more" if calls["rejected"] else ""
            line += f"; in {calls['too few']}{more} the simulations are too few to call"
        if calls["open"]:
            line += (
                f"; {calls['open']} {'do' if calls['open'] > 1 else 'does'} not contradict {them}"
            )
        yield f"{line} ({control})."
    q = controlled(found.parts.get("activation"), "layer_drift_p_value")
    if q:
        n = sum(value < LEVEL for value in q.values())
        yield f"Rates are seen to change along the text in {n} of {len(q)} layers ({control})."


def _likeliest(data: xr.Dataset) -> Iterator[str]:
    """Which decay laws lead, and in how many layers they fail all the same."""
    laws = [read_law(data.isel(layer=place)) for place in range(data.sizes["layer"])]
    known = [law for law in laws if law is not None]
    if not known:
        return
    failed = Counter(law.short for law in known if law.fails)
    ranked = [
        f"{name} in {n}"
        + (f" (in {failed[name]} it does not describe the decay)" if failed[name] else "")
        for name, n in Counter(law.short for law in known).most_common()
    ]
    yield f"Likeliest decay law: {', '.join(ranked)} of {len(known)} layers."
    none = sum(law.none_fits for law in known)
    if none:
        yield f"None of the decay laws describes what is measured in {none} of them (p ≤ {LEVEL})."


def _facts(found: Findings, costs: Costs, seed: int, command: str | None) -> list[tuple[str, str]]:
    a, origin = found.traces.attrs, describe(found.traces)
    chain = found.fit.data.attrs
    facts = [("model", plain(a["model"], _LONGEST))]
    if "file" in origin:
        facts += [("file", plain(origin["file"], _LONGEST)), ("SHA-256", str(origin["sha256"]))]
    facts += [(name, plain(a[name], _LONGEST)) for name in _ATTRIBUTES if name in a]
    order = "ranked by weight" if a["ranked"] else "in no order, so that there is no primary expert"
    drawn = _drawn(found)
    facts += [
        ("experts", f"{a['num_experts']}, {a['top_k']} to a token, {order}"),
        (
            "chain",
            f"{chain['chain']}, coupling {chain['coupling']}, field {chain['field']}, "
            f"reach {chain.get('reach', 1)}",
        ),
        (
            "effort",
            f"distances up to {costs.max_distance}, {costs.n_resamples} bootstrap resamples of the "
            f"texts, {drawn}{costs.n_folds} folds, seed {seed}",
        ),
        ("version", f"isingmoe {software_version()}"),
    ]
    return facts if command is None else [*facts, ("command", plain(command, 2000))]


def _drawn(found: Findings) -> str:
    """How many data sets were simulated, for which test where the numbers differ."""
    of = {"the decay": found.simulations("goodness"), "Chapman-Kolmogorov": found.simulations("ck")}
    of = {name: n for name, n in of.items() if n}
    if len(set(of.values())) > 1:
        return " and ".join(f"{n} simulated data sets for {name}" for name, n in of.items()) + ", "
    return "".join(f"{n} simulated data sets, " for n in set(of.values()))


def _most_telling(found: Findings) -> int:
    """The layer whose measured decay is longest."""
    data = found.comparison.data
    centre = "sequence" if "sequence" in data["centre"] else "global"
    length = data["correlation_length"].sel(centre=centre).values
    known = np.where(np.isfinite(length), length, -1)
    return int(found.traces["layer"].values[known.argmax()])


def _provenance(found: Findings) -> list[tuple[str, str]]:
    entries = {"traces": found.traces.attrs, "fit": found.fit.data.attrs}
    entries["comparison"] = found.comparison.data.attrs
    return [
        (name, _pretty(str(attrs["provenance"])))
        for name, attrs in entries.items()
        if "provenance" in attrs
    ]


def _pretty(text: str) -> str:
    """JSON with its lines, cut where it is endless."""
    try:
        if len(text) > _MOST_JSON:
            raise ValueError("too long to be ours")
        text = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = plain(text[:_MOST_JSON], 3000)
    text = printable(text)
    return text if len(text) <= 3000 else f"{text[:3000]}\n..."
