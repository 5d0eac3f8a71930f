"""The hooks of a model's layer where another router decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isingmoe.capturing.adapters import router_logits
from isingmoe.capturing.sites import Site, id_parameter, parameters, weight_parameter
from isingmoe.moe.gating import GateLaw
from isingmoe.moe.routers import Router, Tokens

__all__ = ["ONE_HOT", "Place", "Told"]

# Their ids are rows of zeros with a one in the place of the expert.
ONE_HOT = ("SwitchTransformersExperts",)


@dataclass
class Told:
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


class Place:
    """One site with a router of ours."""

    def __init__(self, site: Site, router: Router, told: Told, fixed: Tensor | None) -> None:
        self.site, self.router, self.told, self.fixed = site, router, told, fixed
        module = site.module
        self.names = parameters(module)
        self.ids, self.weights = id_parameter(module), weight_parameter(module)
        self.is_one_hot = type(module).__name__ in ONE_HOT
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

    place: Place
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
    # One answer to wait for, where a GPU gives it.
    if ((index < 0) | (index >= site.num_experts)).any():
        raise ValueError(
            f"{type(router).__name__}: expected ids of 0 to {site.num_experts - 1} for layer "
            f"{site.layer}, got {int(index.min())} to {int(index.max())}; a router has to send "
            "every token, as those that the model's own dropped (-1)"
        )


def _marked(one_hot: Tensor) -> Tensor:
    """Expert of each row of zeros and a one; -1 where there is none."""
    largest, index = one_hot.max(-1, keepdim=True)
    return index.masked_fill(largest == 0, -1)
