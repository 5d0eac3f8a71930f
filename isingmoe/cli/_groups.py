"""Options that belong together as one dataclass, shared by the commands that take them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

__all__ = ["changed", "spread"]


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with the fields of its dataclass parameters as options of their own.

    Parameters
    ----------
    command : callable
        Its parameters are annotated with dataclasses, whose fields typer could take, or as
        typer wants them.

    Returns
    -------
    callable
        For typer: it gathers the options of each dataclass again and calls the command.
    """
    hints = get_type_hints(command, include_extras=True)
    options: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            options.append(_option(parameter.name, kind, parameter.default))
            continue
        inner = get_type_hints(kind, include_extras=True)
        options += [_option(field.name, inner[field.name], field.default) for field in fields(kind)]
        groups[parameter.name] = kind, [field.name for field in fields(kind)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        gathered = {
            name: kind(**{field: values.pop(field) for field in names})
            for name, (kind, names) in groups.items()
        }
        command(**gathered, **values)

    vars(run)["__signature__"] = inspect.Signature(options)
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def changed(group: Any) -> list[str]:
    """The options of a dataclass that are not at their defaults, as one types them."""
    hints = get_type_hints(type(group), include_extras=True)
    names = []
    for field in fields(group):
        if getattr(group, field.name) != field.default:
            (option,) = hints[field.name].__metadata__
            # Of an annotation, typer keeps the first name there.
            name = f"--{field.name.replace('_', '-')}"
            typed = option.default if isinstance(option.default, str) else name
            names.append(typed.rpartition("/")[2])
    return names


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
