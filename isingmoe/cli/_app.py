"""The application: commands, errors in one line, warnings in one line."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from isingmoe._text import printable
from isingmoe.cli import (
    INTERRUPTED,
    budget,
    capture,
    compare,
    example,
    fit,
    generate,
    import_,
    info,
    irreversibility,
    phase_diagram,
    plot,
    probe,
    report,
    simulate,
    solve,
    sweep,
)
from isingmoe.errors import ConvergenceError

__all__ = ["app", "run"]

_EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    MemoryError,
    OverflowError,
    ConvergenceError,
)


# Typer may bring a click of its own.
_UsageError: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """Runs a command; what a user can mend is said in one line, without a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        nothing = not args
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            if nothing:
                # The help is shown.
                raise
            raise _ended(_usage(error), 2) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has had enough; click ends quietly.
            raise
        except _UsageError as error:
            raise _ended(_usage(error), 2) from None
        except _EXPECTED as error:
            # A capture notes what it has kept.
            message = "; ".join([str(error), *getattr(error, "__notes__", [])])
        except KeyboardInterrupt as error:
            message = str(error) or INTERRUPTED
        except SystemError as error:
            # What an interrupt becomes when it falls inside a compiled kernel.
            if not _was_interrupted(error):
                raise
            message = INTERRUPTED
        raise _ended(message, 1)


def _ended(message: str, status: int) -> typer.Exit:
    """Say what was wrong; to be raised."""
    typer.echo(f"isingmoe: error: {' '.join(printable(message).split())}", err=True)
    return typer.Exit(status)


def _usage(error: Any) -> str:
    """What was wrong in a command as it was typed, and where its options are listed."""
    message = error.format_message().removeprefix("Invalid value: ").replace("Value error, ", "")
    command = error.ctx.command_path if error.ctx is not None else "isingmoe"
    return f"{message.rstrip('.')}; see {command} --help"


def _was_interrupted(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(info.info)
app.command()(capture.capture)
app.command("import")(import_.import_)
app.command()(fit.fit)
app.command()(compare.compare)
app.command()(budget.budget)
app.command()(irreversibility.irreversibility)
app.command()(generate.generate)
app.command()(solve.solve)
app.command()(simulate.simulate)
app.command()(sweep.sweep)
app.command("phase-diagram")(phase_diagram.phase_diagram)
app.command()(probe.probe)
app.command()(plot.plot)
app.command()(report.report)
app.command()(example.example)


def _print_version(wanted: bool) -> None:
    if wanted:
        import isingmoe

        typer.echo(f"isingmoe {isingmoe.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Statistical physics of expert routing in Mixture-of-Experts models.

    Start with [bold]isingmoe fit traces.nc[/bold]; without a trace of your own,
    [bold]isingmoe example -o traces.nc[/bold] gives you one.
    """


def _say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"isingmoe: warning: {' '.join(printable(str(message)).split())}", err=True)


def run() -> None:
    """Run the command that was typed."""
    warnings.showwarning = _say_warning
    # A table is UTF-8 whatever the locale of the terminal says.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    app()
