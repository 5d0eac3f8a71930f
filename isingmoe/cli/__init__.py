"""The command line: one module for each command."""

import os

# Threads of a kernel that wait for work sleep instead of spinning: on a machine whose cores
# are busy a spinning thread keeps the core from the one that it waits for. To be said before
# the threads are started.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from isingmoe.cli._app import app, main

__all__ = ["app", "main"]
