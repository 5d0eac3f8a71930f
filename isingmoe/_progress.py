"""How far a capture is, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import ProgressColumn, Task, TaskID, TaskProgressColumn
from rich.text import Text

from isingmoe._text import progress_bar

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
def shown(enabled: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr, where that is a terminal.

    Parameters
    ----------
    enabled : bool

    Yields
    ------
    callable
        To be told how many tokens are done, and how many there are. What it is told first was
        done before, and says nothing of the speed.
    """
    with progress_bar(TaskProgressColumn(), _Count(), _Speed(), enabled=enabled) as progress:
        tasks: list[TaskID] = []

        def tell(done: int, total: int) -> None:
            if tasks:
                progress.update(tasks[0], completed=done, total=total)
            else:
                tasks.append(progress.add_task("capture", total=total, completed=done))

        yield tell
