"""Which experts a model used, and with what weights, found without looking at its routing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

# The last weights of an expert: without them it gives nothing.
_LAST = (
    "down_proj",
    "down_proj_bias",
    "mlp.w2",
    "up_embed.weight",
    "output_linear.weight",
    "fc2.weight",
)


@dataclass
class Seen:
    """What a module was called with and gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def run(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """All tensors that a model gives."""
    with torch.no_grad():
        return list(tensors(model(**inputs)))


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def watch(
    model: nn.Module, inputs: dict[str, Any], names: tuple[str, ...] | None = None
) -> dict[str, Seen]:
    """What the modules, or those named, were called with, and gave, in one forward pass."""
    seen: dict[str, Seen] = {}

    def keep(name: str) -> Any:
        def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            copies = tree_map_only(Tensor, Tensor.clone, (args, kwargs, output))
            seen[name] = Seen(*copies)

        return hook

    handles = [
        module.register_forward_hook(keep(name), with_kwargs=True)
        for name, module in model.named_modules()
        if names is None or name in names
    ]
    run(model, inputs)
    for handle in handles:
        handle.remove()
    return seen


def experts_of(model: nn.Module, label: str) -> tuple[str, Any]:
    """The module that holds the weights of a site's experts."""
    modules = dict(model.named_modules())
    parent = label.rpartition(".")[0]
    for name in (label, f"{parent}.experts", parent):
        if name in modules and expert_weights(modules[name], 0, 1):
            return name, modules[name]
    raise LookupError(f"{label}: no module near it holds weights of experts")


def expert_weights(experts: nn.Module, expert: int, n_experts: int) -> list[Tensor]:
    """The last weights of one expert; none if it has none."""
    if isinstance(experts, nn.ModuleDict | nn.ModuleList):
        return [p.data for p in list(experts.children())[expert].parameters()]
    own = dict(experts.named_parameters())
    found = [own[name].data for name in _LAST if name in own]
    found = [p.view(n_experts, -1) if p.dim() == 2 and "mlp.w2" in own else p for p in found]
    return [p[expert] for p in found if expert < len(p)]


def used_experts(
    model: nn.Module,
    inputs: dict[str, Any],
    label: str,
    seen: dict[str, Seen],
    n_rows: int,
    n_experts: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether an expert's weights matter to what the block gives at a row (row, expert).

    Beside it, which experts have weights (expert).
    """
    name, experts = experts_of(model, label)
    block = _block(name, seen, n_rows)
    module, call = model.get_submodule(block), seen[block]
    before = _rows(call.output, n_rows)
    used, real = np.zeros((n_rows, n_experts), bool), np.zeros(n_experts, bool)
    for expert in range(n_experts):
        with _silenced(experts, expert, n_experts) as real[expert], torch.no_grad():
            if block.rpartition(".")[2].isdecimal():
                # A whole layer may have written to a cache: run it with all that precedes it.
                output = watch(model, inputs, (block,))[block].output
            else:
                output = module(*call.args, **call.kwargs)
            after = _rows(output, n_rows)
        used[:, expert] = (after != before).any(-1).numpy()
    return used, real


def _block(name: str, seen: dict[str, Seen], n_rows: int) -> str:
    """The innermost module around the experts that was called and gave something for each row."""
    if name.endswith("experts"):
        name = name.rpartition(".")[0]
    while name:
        if name in seen:
            given = next(tensors(seen[name].output))
            if given.dim() > 1 and given[..., 0].numel() == n_rows:
                return name
        name = name.rpartition(".")[0]
    raise LookupError("no block gave something for each row")


def _rows(output: Any, n_rows: int) -> Tensor:
    return next(tensors(output)).reshape(n_rows, -1).clone()


@contextmanager
def _silenced(experts: nn.Module, expert: int, n_experts: int) -> Iterator[bool]:
    parts = expert_weights(experts, expert, n_experts)
    kept = [part.clone() for part in parts]
    for part in parts:
        part.zero_()
    yield bool(parts)
    for part, values in zip(parts, kept, strict=True):
        part.copy_(values)


def summed(
    model: nn.Module, label: str, seen: dict[str, Seen], index: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor] | None:
    """What experts and weights amount to, and what the experts gave; None where neither shows."""
    name, experts = experts_of(model, label)
    if name not in seen or hasattr(experts, "up_embed"):
        return None
    call = seen[name]
    x = next(tensors((call.args, call.kwargs))).flatten(0, -2)
    given = next(tensors(call.output))
    given = given.reshape(-1, given.shape[-1]) - getattr(experts, "bias", 0)
    if len(x) < len(index):
        present = (index >= 0).any(-1)
        index, weight = index[present], weight[present]
    if type(experts).__name__ == "Llama4TextExperts":
        return _scaled_inputs(model, label, seen, experts, index, weight), _over_experts(
            given, len(index)
        )
    with torch.no_grad():
        n_experts = int(index.max()) + 1
        alone = [_alone(experts, expert, x) for expert in range(n_experts)]
        each = torch.stack([part.reshape(len(x), -1) for part in alone])
    row = torch.arange(len(x))
    total = sum(
        weight[:, j, None] * each[index[:, j].clamp(min=0), row] for j in range(index.shape[1])
    )
    return total, given


def _alone(experts: Any, expert: int, x: Tensor) -> Tensor:
    """What one expert gives for every row."""
    if isinstance(experts, nn.ModuleDict | nn.ModuleList):
        return list(experts.children())[expert](x)
    if hasattr(experts, "input_linear"):
        up, gate = (experts.input_linear.weight[expert] @ x.T).T.chunk(2, dim=-1)
        return (experts.activation(up) * gate) @ experts.output_linear.weight[expert].T
    ids = torch.full((len(x), 1), expert)
    if hasattr(experts, "route_tokens_to_experts"):
        logits = torch.zeros(len(x), experts.config.moe_num_experts).scatter(1, ids, 1e4)
        return experts(x, logits)
    # A second slot of weight zero, since some do not take a single one.
    ids = torch.cat([ids, (ids + 1) % 2], dim=1)
    return experts(x, ids, torch.tensor([[1.0, 0.0]]).repeat(len(x), 1))


def _scaled_inputs(
    model: nn.Module,
    label: str,
    seen: dict[str, Seen],
    experts: Any,
    index: Tensor,
    weight: Tensor,
) -> Tensor:
    """Llama 4's experts take their input times the weight, each all rows."""
    x, row = next(tensors(seen[label].args)), torch.arange(len(index))
    total = torch.zeros_like(x)
    with torch.no_grad():
        for j in range(index.shape[1]):
            copies = (x * weight[:, j, None]).repeat(experts.num_experts, 1)
            each = experts(copies).view(experts.num_experts, *x.shape)
            total += each[index[:, j], row]
    return total


def _over_experts(given: Tensor, n_rows: int) -> Tensor:
    return given.view(-1, n_rows, given.shape[-1]).sum(0)
