"""The command line: one module for each command."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isingmoe.cli._app import app

__all__ = ["app", "main"]

# Threads of a kernel that wait for work sleep instead of spinning: on a machine whose cores
# are busy a spinning thread keeps the core from the one that it waits for. To be said before
# the threads are started.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

INTERRUPTED = "interrupted; no file was left half-written"


def main() -> None:
    """Entry point of the command `isingmoe`."""
    try:
        # Here, so that an interrupt while all this is loaded is heard as any other.
        from isingmoe.cli._app import run

        run()
    except KeyboardInterrupt as error:
        sys.stderr.write(f"isingmoe: error: {str(error) or INTERRUPTED}\n")
        sys.exit(1)


def __getattr__(name: str) -> Any:
    if name == "app":
        from isingmoe.cli._app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
