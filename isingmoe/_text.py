"""Text for people: tables, numbers and names that come out of files."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

__all__ = [
    "about",
    "interval",
    "number",
    "p_text",
    "plain",
    "printable",
    "progress_bar",
    "render",
    "report",
    "track",
    "with_errors",
]

_WIDTH = 180


def plain(text: object, limit: int = 100) -> str:
    """A text from a file, on one line, without control characters, cut to a length."""
    line = " ".join(printable(str(text)).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def printable(text: str) -> str:
    """A text without control characters, which a terminal would obey, but with its lines."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def number(value: float, digits: int = 3) -> str:
    """A number to so many decimals; infinity as a sign, none as a dash."""
    if math.isnan(value):
        return "–"
    if value == math.inf:
        return "∞"
    return f"{value:.{digits}f}"


def p_text(p: float, smallest: float = 0.0) -> str:
    """A p-value; as a bound, where no smaller one could have come of so few simulations."""
    if math.isnan(p):
        return "–"
    if 0 < p <= smallest * (1 + 1e-9):
        return f"≤ {p:.2g}"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def with_errors(values: Iterable[float], errors: Iterable[float], digits: int = 3) -> list[str]:
    """Values, each with its standard error; a value alone where that is not known."""
    return [
        number(v, digits) if math.isnan(e) else f"{number(v, digits)} ± {number(e, digits)}"
        for v, e in zip(values, errors, strict=True)
    ]


def about(long_name: str, units: str = "1") -> dict[str, str]:
    """Attributes of a variable: what it is, and its units."""
    return {"long_name": long_name, "units": units}


def interval(value: float, low: float, high: float, digits: int = 1) -> str:
    """A value and its 95 % interval."""
    if math.isnan(low):
        return number(value, digits)
    ends = f"{number(low, digits)}..{number(high, digits)}"
    return f"{number(value, digits)} [{ends}]"


def report(
    title: str, columns: Mapping[str, Sequence[Any]], notes: Sequence[str]
) -> tuple[RenderableType, ...]:
    """A title, a table with a column for each entry, and the notes below it."""
    body = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        body.add_column(name, justify="right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        body.add_row(*map(str, row))
    return title, body, *notes


def render(*parts: RenderableType) -> str:
    """What a terminal would show, without colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, color_system=None, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")


def track(items: Iterable[Any], description: str, *, enabled: bool = True) -> Iterator[Any]:
    """Iterate with a progress bar on stderr, where that is a terminal."""
    items = list(items)
    with progress_bar(MofNCompleteColumn(), enabled=enabled) as progress:
        yield from progress.track(items, description=description)


def progress_bar(*columns: ProgressColumn, enabled: bool = True) -> Progress:
    """A bar on stderr, where that is a terminal, with columns between it and the time left."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (enabled and console.is_terminal),
    )
