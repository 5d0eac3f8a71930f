"""Modules whose experts do not stand in the arguments of their call, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Adapter", "adapter_of", "capture_adapter", "router_logits", "row_splitter"]

Reader = Callable[[Any, Mapping[str, Any], Any], tuple[Any, ...]]
Splitter = Callable[[Mapping[str, Any]], dict[str, Tensor] | None]


@dataclass(frozen=True)
class Adapter:
    """How to read the experts of a class of modules.

    Parameters
    ----------
    read : callable
        From the module, the arguments of its call by name and its output to the expert ids,
        the weights and, if there are any, the router logits.
    num_experts : str or None
        Attribute of the module that counts its experts; found by its usual names where None.
    inner : tuple of str
        Submodules whose first argument `read` wants as well, under their names.
    has_router : bool
        Whether the module's input, where no router stands beside it, is that of a router.
    """

    read: Reader
    num_experts: str | None = None
    inner: tuple[str, ...] = ()
    has_router: bool = True


_ADAPTERS: dict[str, Adapter] = {}


def capture_adapter(
    *class_names: str,
    num_experts: str | None = None,
    inner: tuple[str, ...] = (),
    has_router: bool = True,
) -> Callable[[Reader], Reader]:
    """Teach the capture to read a class of modules that it does not know.

    Any module whose `forward` takes the expert ids as `top_k_index`, `router_indices`,
    `selected_experts` or `router_mask` is read without an adapter. A model that keeps its ids
    to itself, as the code that comes with some checkpoints does, needs one, for its gate or
    for its whole block: whichever shows what the experts received.

    Parameters
    ----------
    *class_names : str
        Names of the classes of the modules, as in `type(module).__name__`; subclasses count.
        A name registered before is read as said last.
    num_experts : str, optional
        Attribute of the module that counts its experts, if it has an unusual name.
    inner : tuple of str, optional
        Names of submodules, as `"embed"` or `"lookup.embed"`, whose first argument is wanted as
        well: it is found in the arguments under that name.
    has_router : bool, optional
        False where the experts follow from no router, so that no hidden state belongs to one.

    Returns
    -------
    callable
        The decorator of a function from the module, the arguments of its call (a mapping from
        the names of the parameters of `forward` to values) and its output to a tuple of

        - expert ids, an integer tensor (row, rank), -1 where the row was sent nowhere,
        - their weights (row, rank), or None,
        - optionally, the router logits (row, expert), or None;

        rows in (batch, position) order. It must change none of what it is given and should
        not wait for the device (`.item()`, `.tolist()`, `.cpu()`).

    Raises
    ------
    TypeError
        If a class name is not a string.

    Examples
    --------
    A gate that returns ids, weights and an auxiliary loss:

    >>> import isingmoe as im
    >>> @im.capture_adapter("MoEGate", num_experts="n_routed_experts")
    ... def gate(module, arguments, output):
    ...     index, weight, _ = output
    ...     return index, weight

    A block that returns its logits and takes the k largest of their softmax:

    >>> @im.capture_adapter("SparseMoeBlock")
    ... def block(module, arguments, output):
    ...     _, logits = output
    ...     weight, index = logits.softmax(-1).topk(module.top_k)
    ...     return index, weight, logits
    """
    for name in class_names or (None,):
        if not isinstance(name, str):
            raise TypeError(f"class_names: expected the names of classes, got {name!r}")

    def register(read: Reader) -> Reader:
        for name in class_names:
            _ADAPTERS[name] = Adapter(read, num_experts, inner, has_router)
        return read

    return register


def adapter_of(module: nn.Module) -> Adapter | None:
    """The adapter of a module's class, or of the nearest base class that has one."""
    for cls in type(module).__mro__:
        if cls.__name__ in _ADAPTERS:
            return _ADAPTERS[cls.__name__]
    return None


def router_logits(router: nn.Module, output: Any, num_experts: int) -> Tensor | None:
    """The logits (row, expert) among what a router returned; None if it returned none."""
    if type(router).__name__ == "NllbMoeTop2Router":
        # The combining weights, of the same shape, come first.
        return output[2]
    for part in output if isinstance(output, tuple | list) else (output,):
        if isinstance(part, Tensor) and part.is_floating_point() and part.shape[-1] >= num_experts:
            return part
    return None


def row_splitter(
    module: nn.Module,
) -> Callable[[Mapping[str, Any]], dict[str, Tensor] | None] | None:
    """For a block that sends some rows to one child and some to another: which, by child."""
    return _SPLITTERS.get(type(module).__name__)


def _by_modality(arguments: Mapping[str, Any]) -> dict[str, Tensor] | None:
    kind = arguments.get("moe_mm_token_type_ids")
    if kind is None:
        return None
    seen = kind.bool().reshape(-1)
    return {"text_moe": ~seen, "vision_moe": seen}


# Ernie 4.5 VL has experts for text and others for images; older releases wrote it so.
_SPLITTERS = {"Ernie4_5_VLMoeMoeBlock": _by_modality, "Ernie4_5_VL_MoeMoeBlock": _by_modality}


@capture_adapter("Llama4Router")
def _scores(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """Llama 4 runs every expert on its input times a score, zero unless chosen."""
    score, logits = output
    weight, index = score.topk(module.top_k, dim=-1)
    return index.masked_fill(weight == 0, -1), weight, logits


@capture_adapter(
    "JetMoeTopKGating",
    "GraniteMoeTopKGating",
    "GraniteMoeHybridTopKGating",
    "GraniteMoeSharedTopKGating",
)
def _grouped(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """Gates that return the slots (token, rank) in order of the expert that each goes to."""
    slot, _, gate, size, logits = output
    expert = torch.arange(len(size)).repeat_interleave(torch.as_tensor(size)).to(slot.device)
    index = torch.empty_like(slot).scatter_(0, slot, expert)
    weight = torch.empty_like(gate).scatter_(0, slot, gate)
    return index.view(-1, module.top_k), weight.view(-1, module.top_k), logits


@capture_adapter("DogeCDMoE", inner=("down_embed",))
def _product_keys(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """Doge looks its experts up in an embedding; an id is a pair of keys, a score their sum."""
    index, logits = arguments["down_embed"], output[1]
    row = logits[0].gather(-1, index // module.num_keys)
    weight = (row + logits[1].gather(-1, index % module.num_keys)).softmax(-1)
    if module.norm_topk_prob:
        weight = weight / weight.sum(-1, keepdim=True)
    return index, weight


@capture_adapter("VitPoseNaiveMoe", has_router=False)
def _given(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """ViTPose is told the expert of each image."""
    n_positions = arguments["hidden_state"].shape[1]
    index = arguments["indices"].reshape(-1, 1).repeat_interleave(n_positions, dim=0)
    return index, torch.ones_like(index, dtype=output.dtype)


@capture_adapter("SwitchTransformersExperts")
def _one_hot(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """Switch marks the expert in a row of zeros, which stays empty past the capacity."""
    chosen, index = arguments["selected_experts"].max(dim=-1)
    dropped = chosen == 0
    return index.masked_fill(dropped, -1), arguments["routing_weights"].masked_fill(dropped, 0.0)


@capture_adapter("NllbMoeExperts")
def _mask_as_index(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """NLLB-MoE takes a mask of zeros and ones for ids, so that only experts 0 and 1 ever run."""
    mask, weight = arguments["router_mask"], arguments["router_probs"]
    weight = torch.stack([(weight * (mask == expert)).sum(-1) for expert in (0, 1)], dim=-1)
    index = torch.arange(2, device=mask.device).expand_as(weight)
    return index.masked_fill(weight == 0, -1), weight


@capture_adapter("ZayaExperts")
def _skipped(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """Zaya sends a token that skips the experts to the first one, with weight zero."""
    index, weight = arguments["top_k_index"], arguments["top_k_weights"]
    return index.masked_fill(weight == 0, -1), weight


@capture_adapter("AriaExperts")
def _routing_experts(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """Aria's experts took logits and chose for themselves, once."""
    if "router_logits" not in arguments:
        return arguments["top_k_index"], arguments["top_k_weights"]
    return module.route_tokens_to_experts(arguments["router_logits"])


@capture_adapter("Mxfp4GptOssMLP")
def _packed(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """gpt-oss in MXFP4 calls a kernel, which prefers the smaller id where logits are equal."""
    value, index = output[1].sort(dim=-1, descending=True, stable=True)
    k = module.router.top_k
    return index[:, :k], value[:, :k].softmax(-1), output[1]


@capture_adapter("Mxfp4GptOssExperts")
def _kernel_plan(module: Any, arguments: Mapping[str, Any], output: Any) -> tuple[Any, ...]:
    """The same in older releases, whose experts are called with the kernel's plan."""
    if "routing_data" not in arguments:
        return arguments["top_k_index"], arguments["top_k_weights"]
    plan, slot = arguments["routing_data"], arguments["gather_idx"].src_indx.long()
    experts = torch.arange(module.num_experts, device=slot.device)
    expert = experts.repeat_interleave(plan.expt_hist.long(), output_size=len(slot))
    index = torch.empty_like(slot).scatter_(0, slot, expert)
    weight = torch.empty_like(plan.gate_scal).scatter_(0, slot, plan.gate_scal)
    return index.view(-1, plan.n_expts_act), weight.view(-1, plan.n_expts_act)
