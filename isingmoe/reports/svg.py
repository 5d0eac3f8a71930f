"""Figures as inline SVG that takes the colours and the letters of the page it is on."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = ["STYLE", "inline_svg"]

# Letters stay letters, so that they can be read aloud, searched and set in the page's font.
STYLE: Any = {
    "svg.fonttype": "none",
    "axes.linewidth": 0.7,
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

# Colours of figures, and the variables of the page's style that stand for them.
_THEMED = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--orange)",
    "#009e73": "var(--green)",
    "#888888": "var(--grey)",
    "#999999": "var(--grey)",
    "#808080": "var(--grey)",
    "#dddddd": "var(--faint)",
    "#cccccc": "var(--faint)",
    "#cc79a7": "var(--purple)",
    "#56b4e9": "var(--sky)",
    "#e69f00": "var(--yellow)",
}

_COLOUR = re.compile(r"\b(fill|stroke): ?(#[0-9a-f]{6})")
_LONG_NUMBER = re.compile(r"(\d\.\d{2})\d+")
_TAG = re.compile(r"<[a-z][^>]*>")
_FONT = re.compile(r"font(-family)?: ([^;\"]*)")
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]*)')


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as an SVG element for a page.

    Parameters
    ----------
    figure : Figure
    name : str
        Of letters, digits and dashes; one for each figure of a page, so that no two of them
        share an id.
    description : str
        What is to be seen, for whoever does not see it.

    Returns
    -------
    str
        Black and white, and the colours of the package, are variables of the page's style.
    """
    with mpl.rc_context({"svg.hashsalt": name}):
        stream = io.StringIO()
        for part in (figure, *figure.axes):
            part.patch.set_alpha(0)
        # Not by savefig, which draws everything twice.
        FigureCanvasSVG(figure).print_svg(stream, metadata=_NO_METADATA)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    used = set(_REFERENCE.findall(text))
    text = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = _REFERENCE.sub(lambda m: m[0].replace("#", f"#{name}-", 1), text)
    text = _COLOUR.sub(lambda m: f"{m[1]}: {_THEMED.get(m[2], m[2])}", text)
    text = _FONT.sub(_without_family, text)
    text = _TAG.sub(lambda m: _LONG_NUMBER.sub(r"\1", m[0]), text)
    text = re.sub(r">\s+<", "><", text)
    box = re.search(r'viewBox="([^"]*)"', text)
    size = box[1] if box else "0 0 1 1"
    width, height = size.split()[2:]
    opening = (
        f'<svg class="figure" viewBox="{size}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(description, quote=True)}" fill="currentColor" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return opening + text[text.index(">") + 1 :].strip()


_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _without_family(found: re.Match[str]) -> str:
    """The size and the weight of letters; which letters is said by the page."""
    if found[1]:
        return ""
    size = re.search(r"[\d.]+px", found[2])
    weight = "font-weight: bold; " if "bold" in found[2] else ""
    return f"{weight}font-size: {size[0]}" if size else ""
