"""The command line: one module for each command."""

from isingmoe.cli._app import app, main

__all__ = ["app", "main"]
