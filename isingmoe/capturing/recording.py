"""What the experts of a model received while it ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from isingmoe.capturing.adapters import Splitter, adapter_of, router_logits, row_splitter
from isingmoe.capturing.sites import (
    Site,
    find_sites,
    id_parameter,
    parameters,
    weight_parameter,
)

__all__ = ["Call", "Recorder", "recorded"]

_UNCOMPILED = (
    "capture the model that was compiled (model._orig_mod), or load it again without torch.compile"
)
_TRAINED = (
    "expected a model in eval mode, got train mode, in which routers add noise and dropout changes "
    "what they see; call model.eval() first"
)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one site. Rows are those of the block's input, in (batch, position) order.

    Parameters
    ----------
    site : Site
    expert_index : Tensor (row, rank)
        int32, in the order in which the model gave them; -1 where the row was sent nowhere.
        An id may occur twice; ids past the experts with weights are the model's identity
        experts.
    gate_weight : Tensor (row, rank) or None
        What the experts were multiplied with, in the model's dtype.
    router_logit : Tensor (row, expert) or None
        What the router gave (`logit_meaning`), without the class of a skip; NaN where a row
        did not come here.
    hidden : Tensor (row, feature) or None
        What the router received; NaN where a row did not come here.
    """

    site: Site
    expert_index: Tensor
    gate_weight: Tensor | None
    router_logit: Tensor | None
    hidden: Tensor | None


class Recorder:
    """Collects the calls of a model's sites; made by `recorded`.

    Parameters
    ----------
    model : Module
    sites : tuple of Site
    weights, logits, hidden : bool
        What to keep beside the ids.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[Site, ...],
        *,
        weights: bool,
        logits: bool,
        hidden: bool,
    ) -> None:
        self.weights, self.logits, self.hidden = weights, logits, hidden
        self._name = type(model).__name__
        self._sites = {site.label: site for site in sites}
        self._calls: list[Call] = []
        self._called = False
        self._fault: str | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, with `top_k` filled in from the calls seen so far."""
        return tuple(self._sites.values())

    def take(self) -> list[Call]:
        """Give what was called since the last time, and forget it.

        Returns
        -------
        list of Call
            In call order, on the model's devices; those of a forward pass that failed midway
            are among them.

        Raises
        ------
        ValueError
            If no site was ever called, one was called in train mode, or one gives no logits
            or hidden states although they were asked for.
        """
        if not self._called:
            raise ValueError(
                f"{self._name}: expected calls of its {len(self._sites)} expert modules, got none; "
                "run the model before taking, and where torch.compile holds it or its forward, "
                + _UNCOMPILED
            )
        if self._fault is not None:
            raise ValueError(self._fault)
        calls, self._calls = self._calls, []
        return calls

    def add(
        self, label: str, index: Tensor, weight: Tensor | None, logit: Tensor | None, hidden: Any
    ) -> None:
        """Keep one call of a site."""
        site = self._sites[label]
        if site.top_k is None:
            site = self._sites[label] = replace(site, top_k=index.shape[-1])
        for name, asked, value in (
            ("logits", self.logits, logit),
            ("hidden", self.hidden, hidden),
        ):
            if asked and value is None:
                self._fault = (
                    f"{label}: {name}: expected the router to show them, got none from "
                    f"{type(site.router or site.module).__name__}; capture without {name}"
                )
        if site.module.training:
            self._fault = f"{label}: {_TRAINED}"
        self._called = True
        self._calls.append(Call(site, index, weight, logit, hidden))


@contextmanager
def recorded(
    model: nn.Module, *, weights: bool = True, logits: bool = False, hidden: bool = False
) -> Iterator[Recorder]:
    """Record what the experts of a model receive.

    The model's outputs stay the same to the bit. Nothing is copied from the device, and nothing
    of size (token, expert) is kept unless `logits` asks for it. The hooks are gone when the
    block is left, however it is left.

    Parameters
    ----------
    model : Module
        In eval mode, not compiled.
    weights : bool
        Keep the weights of the experts.
    logits : bool
        Keep the router logits.
    hidden : bool
        Keep the hidden states that the router receives.

    Yields
    ------
    Recorder
        Its method `take` gives what was called.

    Raises
    ------
    ValueError
        If the model has no experts, is in train mode or was compiled.

    Examples
    --------
    >>> with recorded(model) as recorder:
    ...     model(input_ids)
    ...     calls = recorder.take()
    """
    sites = find_sites(model)
    _check(model, sites)
    recorder = Recorder(model, sites, weights=weights, logits=logits, hidden=hidden)
    modules = dict(model.named_modules())
    with ExitStack() as hooks:
        for site in sites:
            for handle in _Tap(recorder, site).hooked(modules):
                hooks.callback(handle.remove)
        yield recorder


class _Tap:
    """One site while it is recorded."""

    def __init__(self, recorder: Recorder, site: Site) -> None:
        self.recorder, self.site = recorder, site
        self.adapter = adapter_of(site.module)
        self.names = parameters(site.module)
        self.ids, self.weights = id_parameter(site.module), weight_parameter(site.module)
        self.logit: Tensor | None = None
        self.hidden: Tensor | None = None
        self.rows: Tensor | None = None
        self.inner: dict[str, Any] = {}

    def hooked(self, modules: dict[str, nn.Module]) -> Iterator[Any]:
        """Set the hooks, the router's before the module's, which may be the same."""
        module, router = self.site.module, self.site.router
        if router is not None and (self.recorder.logits or self.recorder.hidden):
            yield router.register_forward_hook(self.routed, with_kwargs=True)
        if self.adapter is None:
            # Before the call: an implementation may change its arguments in place.
            yield module.register_forward_pre_hook(self.before, with_kwargs=True)
        else:
            for name in self.adapter.inner:
                inner, hook = module.get_submodule(name), partial(self.seen, name)
                yield inner.register_forward_pre_hook(hook, with_kwargs=True)
            yield module.register_forward_hook(self.after, with_kwargs=True)
        parts = self.site.label.split(".")
        for n, child in enumerate(parts):
            block = modules[".".join(parts[:n])]
            if (splitter := row_splitter(block)) is not None:
                hook = partial(self.split, splitter, parameters(block), child)
                yield block.register_forward_pre_hook(hook, with_kwargs=True)

    def split(
        self,
        splitter: Splitter,
        names: tuple[str, ...],
        child: str,
        module: nn.Module,
        args: Any,
        kwargs: Any,
    ) -> None:
        """Before a block that sends its rows to several sites."""
        masks = splitter(dict(zip(names, args, strict=False)) | kwargs)
        self.rows = None if masks is None else masks[child]

    def seen(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a submodule whose first argument the adapter wants."""
        self.inner[name] = next(iter((*args, *kwargs.values())), None)

    def routed(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """After the router: logits and hidden states wait for the ids."""
        if _replayed():
            return
        if self.recorder.logits and module is not self.site.module:
            logit = router_logits(module, output, self.site.num_experts)
            self.logit = None if logit is None else self.trimmed(logit)
        if self.recorder.hidden:
            hidden = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
            self.hidden = None if hidden is None else _rows(hidden).clone()

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before the experts: ids and weights by the names of the parameters."""
        if not _replayed():
            arguments = dict(zip(self.names, args, strict=False)) | kwargs
            weight = arguments.get(self.weights) if self.weights is not None else None
            self.record(arguments[self.ids], weight)

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """After a module that has an adapter."""
        if _replayed() or self.adapter is None:
            return
        arguments = dict(zip(self.names, args, strict=False)) | kwargs | self.inner
        index, weight, *more = self.adapter.read(module, arguments, output)
        self.inner.clear()
        if self.recorder.logits and more and more[0] is not None:
            self.logit = self.trimmed(more[0])
        self.record(index, weight)

    def record(self, index: Tensor, weight: Tensor | None) -> None:
        """Keep copies of what was received, at the rows of the block's input."""
        if index.dtype not in _INTEGERS:
            raise TypeError(
                f"{self.site.label}: expert ids: expected integers, got {index.dtype}; "
                f"register an adapter for {type(self.site.module).__name__} with capture_adapter"
            )
        index = _rows(index).to(torch.int32, copy=True)
        weight = _rows(weight).clone() if self.recorder.weights and weight is not None else None
        if weight is not None and weight.shape != index.shape:
            raise ValueError(
                f"{self.site.label}: weights: expected one for each of {tuple(index.shape)} expert "
                f"ids, got {tuple(weight.shape)}; update transformers, or register an adapter for "
                f"{type(self.site.module).__name__} with capture_adapter"
            )
        logit, hidden, self.logit, self.hidden = self.logit, self.hidden, None, None
        nan = float("nan")
        self.recorder.add(
            self.site.label,
            _placed(index, self.rows, -1),
            None if weight is None else _placed(weight, self.rows, 0.0),
            None if logit is None else _placed(logit, self.rows, nan),
            None if hidden is None else _placed(hidden, self.rows, nan),
        )

    def trimmed(self, logit: Tensor) -> Tensor:
        return _rows(logit)[:, : self.site.num_experts].clone()


def _check(model: nn.Module, sites: tuple[Site, ...]) -> None:
    name = type(model).__name__
    if not sites:
        raise ValueError(
            f"{name}: expected a model with routed experts, got one in which no module takes "
            "expert ids; a dense model has no routing, and for a model whose code keeps its ids to "
            "itself register an adapter with capture_adapter"
        )
    for label, module in model.named_modules():
        compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        inside = label == "" or any(f"{site.label}.".startswith(f"{label}.") for site in sites)
        if compiled and inside:
            raise ValueError(
                f"{label or name}: expected a model that is not compiled, got one that "
                f"torch.compile holds, where hooks are not called; {_UNCOMPILED}"
            )
    if model.training or any(site.module.training for site in sites):
        raise ValueError(f"{name}: {_TRAINED}")


def _replayed() -> bool:
    """Whether this is a second run of a forward pass, for a backward pass that stored no states."""
    return torch._C._current_graph_task_id() != -1


def _rows(values: Tensor) -> Tensor:
    values = values.detach()
    return values.reshape(-1, values.shape[-1] if values.dim() > 1 else 1)


def _placed(values: Tensor, rows: Tensor | None, fill: float) -> Tensor:
    """Values of the rows in a mask, at their places among all rows."""
    if rows is None:
        return values
    if not len(values):
        return values.new_full((len(rows), values.shape[-1]), fill)
    # Counting finds the places without asking the device how many there are.
    place = (rows.cumsum(0) - 1).clamp(min=0)
    return values[place].masked_fill(~rows[:, None], fill)
