"""How far a capture is, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["shown"]


class _Speed(ProgressColumn):
    """Tokens per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} tokens/s")


class _Count(ProgressColumn):
    """Tokens that are done, and all."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,} tokens")


@contextmanager
def shown(total: int, done: int, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, where that is a terminal.

    Parameters
    ----------
    total, done : int
        Tokens of all sequences, and of those that an earlier capture did.
    enabled : bool

    Yields
    ------
    callable
        To be told how many more tokens are done.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Count(),
        _Speed(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (enabled and console.is_terminal),
    ) as progress:
        task = progress.add_task("capture", total=total, completed=done)
        yield lambda n_tokens: progress.advance(task, n_tokens)
