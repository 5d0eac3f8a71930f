"""Another router in place of a model's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary, ref

import torch
import xarray as xr
from torch import Tensor, nn

from isingmoe.capturing.adapters import adapter_of, router_logits
from isingmoe.capturing.sites import (
    Site,
    around,
    find_sites,
    id_parameter,
    parameters,
    weight_parameter,
)
from isingmoe.moe.gating import GateLaw
from isingmoe.moe.routers import Router, Tokens

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
        told: dict[nn.Module, _Told] = {}
        for site in chosen:
            owner = _owner(modules, site.label)
            if owner not in told:
                told[owner] = _Told(parameters(owner))
                handle = owner.register_forward_pre_hook(told[owner].hear, with_kwargs=True)
                inserted._undo.append(handle.remove)
            place = _Place(site, router, told[owner], _fixed(weights, site))
            for handle in place.hooked():
                inserted._undo.append(handle.remove)
            _TAKEN[site.module] = inserted
            inserted._undo.append(_forgotten(ref(site.module)))
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


def _forgotten(module: ref[nn.Module]) -> Callable[[], Any]:
    """What forgets that a module is taken; it does not keep the module alive."""

    def forget() -> None:
        if (found := module()) is not None:
            _TAKEN.pop(found, None)

    return forget


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
    one_hot = kind in _ONE_HOT
    if (adapter_of(site.module) is not None and not one_hot) or not id_parameter(site.module):
        raise ValueError(
            f"{site.label}: expected experts that are called with expert ids, got {kind}, which "
            "chooses inside; its router cannot be exchanged"
        )
    router.check(site.layer, site.num_experts)


# Their ids are rows of zeros with a one in the place of the expert.
_ONE_HOT = ("SwitchTransformersExperts",)


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


@dataclass
class _Told:
    """What the model was called with, for its layers."""

    names: tuple[str, ...]
    token_id: Tensor | None = None
    position: Tensor | None = None
    mask: Tensor | None = None
    past: int = 0

    def hear(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a forward pass."""
        told = dict(zip(self.names, args, strict=False)) | kwargs
        ids, embeds = told.get("input_ids"), told.get("inputs_embeds")
        tokens = ids if ids is not None else embeds
        if tokens is None:
            raise ValueError(
                f"{type(module).__name__}: expected input_ids or inputs_embeds, got neither"
            )
        shape, device = tokens.shape[:2], tokens.device
        cache = told.get("past_key_values")
        self.past = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0
        whole = told.get("attention_mask")
        if not isinstance(whole, Tensor) or whole.dim() != 2:
            whole = torch.ones((shape[0], self.past + shape[1]), dtype=torch.bool, device=device)
        whole = whole.bool()
        self.mask = whole[:, -shape[1] :]
        place = told.get("position_ids")
        if isinstance(place, Tensor) and place.dim() == 2 and place.shape[1] == shape[1]:
            # Of texts that are packed into one row, each has positions of its own.
            self.position = place.expand(shape).clamp(min=0)
        else:
            # Pads count nothing.
            self.position = (whole.long().cumsum(1) - 1).clamp(min=0)[:, -shape[1] :]
        self.token_id = ids


class _Place:
    """One site with a router of ours."""

    def __init__(self, site: Site, router: Router, told: _Told, fixed: Tensor | None) -> None:
        self.site, self.router, self.told, self.fixed = site, router, told, fixed
        module = site.module
        self.names = parameters(module)
        self.ids, self.weights = id_parameter(module), weight_parameter(module)
        self.is_one_hot = type(module).__name__ in _ONE_HOT
        self.law: GateLaw | None = None
        self.logit: Tensor | None = None

    def hooked(self) -> Iterator[Any]:
        """Set the hooks."""
        if self.site.router is not None:
            yield self.site.router.register_forward_hook(self.routed)
        yield self.site.module.register_forward_pre_hook(self.before, with_kwargs=True)

    def routed(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the model's own router."""
        logit = router_logits(module, output, self.site.num_experts)
        self.logit = None if logit is None else logit[..., : self.site.num_experts]

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Before the experts: other ids, other weights."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        own_index, own_weight = given[self.ids], given.get(self.weights)
        flat = own_index.reshape(-1, own_index.shape[-1])
        own = _marked(flat) if self.is_one_hot else flat
        gate = None if own_weight is None else _Gate(self, own, own_weight.reshape(own.shape))
        index = self.router.choose(self.tokens(own, gate)).reshape(own.shape).to(own.device)
        _check_ids(index, self.site, self.router)
        if gate is not None:
            weight = gate.weight(index) if self.fixed is None else self.fixed.to(own.device)[index]
            shape = given[self.weights].shape
            given[self.weights] = weight.to(gate.given.dtype).reshape(shape)
        # It holds what its gradients need.
        self.logit = None
        if self.is_one_hot:
            index = nn.functional.one_hot(index[:, 0], own_index.shape[-1])
        given[self.ids] = index.to(own_index.dtype).reshape(own_index.shape)
        named = self.names[: len(args)]
        return tuple(given[name] for name in named), {name: given[name] for name in kwargs}

    def tokens(self, own: Tensor, gate: _Gate | None) -> Tokens:
        """What the router is told."""
        told, site = self.told, self.site
        if told.mask is None or told.position is None or told.mask.numel() != len(own):
            raise ValueError(
                f"{site.label}: expected a row for each token of the call, got {len(own)}; models "
                "that send only some of their tokens here cannot be routed by another router"
            )
        shape = told.mask.shape

        def scored() -> Tensor:
            if gate is None:
                raise ValueError(f"{site.label}: expected experts with weights, got none")
            return gate.score().reshape(*shape, -1)

        return Tokens(
            layer=site.layer,
            num_experts=site.num_experts,
            token_id=told.token_id,
            position=told.position,
            mask=told.mask,
            past=told.past,
            chosen=own.reshape(*shape, -1),
            scored=scored,
            is_training=site.module.training,
        )


@dataclass(frozen=True, eq=False)
class _Gate:
    """What a model's own router said of the tokens of a call."""

    place: _Place
    index: Tensor
    given: Tensor

    def score(self) -> Tensor:
        """Scores (row, expert)."""
        return self._law.score(self._logit)

    def weight(self, index: Tensor) -> Tensor:
        """Weights (row, rank) of experts."""
        return self._law.weight(self._logit, index)

    @property
    def _logit(self) -> Tensor:
        logit, site = self.place.logit, self.place.site
        if logit is None:
            raise ValueError(
                f"{site.label}: expected a router that shows its logits, got "
                f"{type(site.router).__name__}; a router that needs no scores, with numbers for "
                "weights, can be inserted"
            )
        return logit.reshape(len(self.index), -1)

    @property
    def _law(self) -> GateLaw:
        """The same for all calls; found at the first that tells it."""
        if self.place.law is None:
            sent = (self.index >= 0).all(-1)
            logit, given = self._logit.detach()[sent], self.given.detach()[sent]
            self.place.law = GateLaw.found(logit, self.index[sent], given, self.place.site.label)
        return self.place.law


def _check_ids(index: Tensor, site: Site, router: Router) -> None:
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < site.num_experts:
        raise ValueError(
            f"{type(router).__name__}: expected ids of 0 to {site.num_experts - 1} for layer "
            f"{site.layer}, got {int(index.min())} to {int(index.max())}; a router has to send "
            "every token, as those that the model's own dropped (-1)"
        )


def _marked(one_hot: Tensor) -> Tensor:
    """Expert of each row of zeros and a one; -1 where there is none."""
    largest, index = one_hot.max(-1, keepdim=True)
    return index.masked_fill(largest == 0, -1)
