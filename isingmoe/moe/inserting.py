"""Another router in place of a model's own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

import torch
import xarray as xr
from torch import Tensor, nn

from isingmoe.capturing.adapters import adapter_of
from isingmoe.capturing.sites import (
    Site,
    around,
    find_sites,
    id_parameter,
    parameters,
)
from isingmoe.moe.places import ONE_HOT, Place, Told
from isingmoe.moe.routers import Router

__all__ = ["Inserted", "insert_router", "remove_router"]

Weights = Literal["gate"] | float | xr.DataArray

# Experts modules that have a router of ours.
_TAKEN: WeakKeyDictionary[nn.Module, Inserted] = WeakKeyDictionary()


class Inserted:
    """A router in a model, until `remove`; a context manager as well.

    Attributes
    ----------
    router : Router
    layers : tuple of int
        Where it decides, by the model's own numbers.
    """

    def __init__(self, router: Router, layers: tuple[int, ...]) -> None:
        self.router, self.layers = router, layers
        self._undo: list[Callable[[], Any]] = []

    def remove(self) -> None:
        """Take the router out: the model is as before, to the bit."""
        while self._undo:
            self._undo.pop()()
        for module in [module for module, found in _TAKEN.items() if found is self]:
            del _TAKEN[module]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


def insert_router(
    model: nn.Module,
    router: Router,
    *,
    layers: Collection[int] | None = None,
    stack: str | None = None,
    weights: Weights = "gate",
) -> Inserted:
    """Let a router decide which experts the tokens of a model go to, in place of its own.

    The model's own router still runs: its logits may weigh the experts that are chosen, and
    are what some routers go by. No parameter of the model changes.

    Parameters
    ----------
    model : Module
        A model of transformers whose experts are told their tokens by expert ids, as those of
        almost all families are.
    router : Router
    layers : collection of int, optional
        By the model's own numbers; all MoE layers by default.
    stack : str, optional
        Which stack of layers, of a model that has several ("encoder", "decoder"); all by
        default. A router or weights that differ between layers are for one.
    weights : "gate", float or DataArray (layer, expert)
        What the experts that are chosen are multiplied with. "gate": what the model's own
        router would give them, by its logits; gradients reach them. A number is that of every
        expert, and an array one for each, as `mean_gate_weight` finds them: then the logits
        have no say.

    Returns
    -------
    Inserted
        Its method `remove`, and `remove_router`, take the router out.

    Raises
    ------
    ValueError
        If the model has no experts, keeps their ids to itself, or checkpoints gradients; a
        layer has a router of ours already, or is not there; the router is for other layers or
        another number of experts; weights do not cover the layers; or two stacks have layers of
        one number, and router or weights know them by it.

    Notes
    -----
    What a model does to limit its experts goes with its own router: a capacity is not enforced
    while another decides, and biases or groups have no say.

    Examples
    --------
    >>> from isingmoe.moe import StaticRouter, insert_router
    >>> with insert_router(model, StaticRouter.from_fit(fit)):
    ...     loss = model(input_ids, labels=input_ids).loss
    """
    name = type(model).__name__
    sites = find_sites(model)
    if not sites:
        raise ValueError(f"{name}: expected a model with routed experts, got a dense one")
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ValueError(
            f"{name}: expected a model without gradient checkpointing, which runs layers twice and "
            "would have them routed twice; call model.gradient_checkpointing_disable()"
        )
    sites = _of_stack(sites, stack, name)
    known = {site.layer for site in sites}
    wanted = known if layers is None else set(layers)
    if not wanted or not wanted <= known:
        raise ValueError(f"layers: expected some of {sorted(known)}, got {sorted(wanted)}")
    chosen = [site for site in sites if site.layer in wanted]
    if router.is_by_layer or isinstance(weights, xr.DataArray):
        _check_one_stack(chosen, name)
    modules = dict(model.named_modules())
    for site in chosen:
        _check(site, router)
    inserted = Inserted(router, tuple(sorted(wanted)))
    router.reset()
    try:
        told: dict[nn.Module, Told] = {}
        for site in chosen:
            owner = _owner(modules, site.label)
            if owner not in told:
                told[owner] = Told(parameters(owner))
                handle = owner.register_forward_pre_hook(told[owner].hear, with_kwargs=True)
                inserted._undo.append(handle.remove)
            place = Place(site, router, told[owner], _fixed(weights, site))
            for handle in place.hooked():
                inserted._undo.append(handle.remove)
            _TAKEN[site.module] = inserted
    except BaseException:
        inserted.remove()
        raise
    return inserted


def remove_router(model: nn.Module) -> None:
    """Take out what `insert_router` put into a model: it is as before, to the bit.

    Parameters
    ----------
    model : Module

    Raises
    ------
    ValueError
        If there is none.
    """
    found = {_TAKEN[module] for module in model.modules() if module in _TAKEN}
    if not found:
        raise ValueError(f"{type(model).__name__}: expected a router of insert_router, got none")
    for inserted in found:
        inserted.remove()


def _of_stack(sites: tuple[Site, ...], stack: str | None, name: str) -> tuple[Site, ...]:
    if stack is None:
        return sites
    stacks = sorted({site.stack for site in sites})
    if stack not in stacks:
        known = ", ".join(one or "'', the only one" for one in stacks)
        raise ValueError(f"{name}: stack: expected one of {known}, got {stack!r}")
    return tuple(site for site in sites if site.stack == stack)


def _check_one_stack(sites: list[Site], name: str) -> None:
    stacks: dict[int, set[str]] = {}
    for site in sites:
        stacks.setdefault(site.layer, set()).add(site.stack)
    for layer, found in stacks.items():
        if len(found) > 1:
            raise ValueError(
                f"{name}: expected one stack for a router or weights that know layers by their "
                f"numbers, got layer {layer} of {' and '.join(sorted(found))}; name one with stack="
            )


def _check(site: Site, router: Router) -> None:
    kind = type(site.module).__name__
    if site.module in _TAKEN:
        raise ValueError(
            f"{site.label}: has a router of insert_router already; call remove_router(model) first"
        )
    one_hot = kind in ONE_HOT
    if (adapter_of(site.module) is not None and not one_hot) or not id_parameter(site.module):
        raise ValueError(
            f"{site.label}: expected experts that are called with expert ids, got {kind}, which "
            "chooses inside; its router cannot be exchanged"
        )
    router.check(site.layer, site.num_experts)


def _owner(modules: dict[str, nn.Module], label: str) -> nn.Module:
    """The innermost module around a site that is given the tokens."""
    for _, module in around(modules, label):
        if {"input_ids", "inputs_embeds"} & set(parameters(module)):
            return module
    raise ValueError(f"{label}: expected a module around it that takes input_ids, got none")


def _fixed(weights: Weights, site: Site) -> Tensor | None:
    """Weight of each expert of a site; None where its own router weighs them."""
    if isinstance(weights, str):
        if weights != "gate":
            raise ValueError(f"weights: expected gate, a number or an array, got {weights!r}")
        return None
    if not isinstance(weights, xr.DataArray):
        return torch.full((site.num_experts,), float(weights))
    if set(weights.dims) != {"layer", "expert"} or site.layer not in weights["layer"].values:
        raise ValueError(
            f"weights: expected an array (layer, expert) with layer {site.layer}, got "
            f"{tuple(weights.dims)}"
        )
    row = weights.transpose("layer", "expert").sel(layer=site.layer).values
    if row.shape != (site.num_experts,):
        raise ValueError(
            f"weights: expected those of {site.num_experts} experts, got {len(row)} in layer "
            f"{site.layer}"
        )
    return torch.from_numpy(row.astype("float32"))
