"""Where a model sends tokens to experts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from isingmoe.capturing.adapters import adapter_of

__all__ = [
    "Site",
    "are_probabilities",
    "around",
    "find_sites",
    "id_parameter",
    "logit_meaning",
    "parameters",
    "weight_parameter",
]

_IDS = ("top_k_index", "router_indices", "selected_experts", "router_mask")
_WEIGHTS = ("top_k_weights", "routing_weights", "router_probs")
_COUNTS = (
    "total_experts",
    "num_experts",
    "moe_num_experts",
    "num_local_experts",
    "n_routed_experts",
    "num_routed_experts",
)
_RANKS = ("top_k", "num_experts_per_tok", "moe_top_k", "moe_topk")
_ROUTERS = ("router", "gate")
_ROLES = {
    "encoder": "encoder",
    "decoder": "decoder",
    "vision": "vision",
    "visual": "vision",
    "audio": "audio",
    "text": "text",
    "language": "text",
    "attention": "attention",
    "attn": "attention",
    "mlp": "mlp",
}
_PROBABILITIES = ("Gemma4TextRouter", "DiffusionGemmaTextRouter")
_ALTERED = {"router_logit_softcapping": "soft-capped logits", "output_multiplier": "scaled logits"}


@dataclass(frozen=True)
class Site:
    """A module that receives tokens together with their experts.

    Parameters
    ----------
    label : str
        Qualified name of the module in the model.
    stack : str
        Which of the model's stacks of layers it belongs to: one trace each. "" if there is one.
    layer : int
        The model's own number of the layer, from the name.
    num_experts : int
        Experts that an id may name; identity experts count, a skip does not.
    top_k : int or None
        Experts of a token; None where the model does not say before it runs.
    module : Module
        What is hooked.
    router : Module or None
        What gives the logits and receives the hidden states, where there is one.
    """

    label: str
    stack: str
    layer: int
    num_experts: int
    top_k: int | None
    module: nn.Module = field(repr=False)
    router: nn.Module | None = field(default=None, repr=False)


def find_sites(model: nn.Module) -> tuple[Site, ...]:
    """Find the modules of a model that receive tokens together with their experts.

    Parameters
    ----------
    model : Module
        Any: what counts is the names of the parameters of its modules' `forward`, or an
        adapter (`capture_adapter`).

    Returns
    -------
    tuple of Site
        In the order in which the model names them, which is that of execution; empty for a
        dense model.

    Raises
    ------
    ValueError
        If a site does not say how many experts it has.
    """
    modules = dict(model.named_modules())
    labels: list[str] = []
    for label, module in modules.items():
        # What an outer site passes on within itself is the same call again.
        inside = any(label.startswith(f"{outer}." if outer else "") for outer in labels)
        if not inside and (adapter_of(module) or id_parameter(module)):
            labels.append(label)
    places = _places(labels)
    return tuple(_site(model, modules, label, *places[label]) for label in labels)


def logit_meaning(model: nn.Module, router_logit: Tensor | None = None) -> str:
    """What the router logits of a model are.

    Parameters
    ----------
    model : Module
    router_logit : Tensor (row, expert), optional
        Logits that a call recorded. They tell apart releases of transformers before 5.6, whose
        softmax routers return probabilities under the name of logits.

    Returns
    -------
    str
        "raw logits", "softmax probabilities", "soft-capped logits" or "scaled logits".
    """
    if router_logit is not None and are_probabilities(router_logit):
        return "softmax probabilities"
    for router in (site.router for site in find_sites(model)):
        if type(router).__name__ in _PROBABILITIES:
            return "softmax probabilities"
        for name, meaning in _ALTERED.items():
            if getattr(router, name, None):
                return meaning
    return "raw logits"


def are_probabilities(router_logit: Tensor) -> bool:
    """Whether there are rows (.., expert), and all of them are probabilities."""
    value = router_logit.detach().float()
    if not value.numel():
        return False
    sums = (value.sum(dim=-1) - 1).abs().max()
    return bool((value.min() >= 0) & (sums < 1e-2))


def around(modules: Mapping[str, nn.Module], label: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a module is in, by their names, from the innermost to the model."""
    while label:
        label = label.rpartition(".")[0]
        yield label, modules[label]


def parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a module's `forward`, in order."""
    # The class's, not the instance's: libraries that move arguments between devices wrap the
    # latter and hide the names.
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def id_parameter(module: nn.Module) -> str | None:
    """The parameter of a module's `forward` that takes the expert ids."""
    return next((name for name in parameters(module) if name in _IDS), None)


def weight_parameter(module: nn.Module) -> str | None:
    """The parameter of a module's `forward` that takes the weights of the experts."""
    return next((name for name in parameters(module) if name in _WEIGHTS), None)


def _site(
    model: nn.Module, modules: dict[str, nn.Module], label: str, stack: str, layer: int
) -> Site:
    module, adapter = modules[label], adapter_of(modules[label])
    block = modules[label.rpartition(".")[0]] if label else None
    beside = dict(block.named_children()) if block is not None else {}
    router = next((beside[name] for name in _ROUTERS if name in beside), None)
    if router is None and adapter is not None and adapter.has_router:
        router = module
    owners = (
        module,
        router,
        getattr(module, "config", None),
        block,
        getattr(model, "config", None),
    )
    names = _COUNTS if adapter is None or adapter.num_experts is None else (adapter.num_experts,)
    num_experts = _number(owners, names) or _number(module.children(), names)
    if num_experts is None:
        raise ValueError(
            f"{label or type(model).__name__}: num_experts: expected an attribute that counts the "
            f"experts of {type(module).__name__}, got none of {', '.join(names)}; name it with "
            "capture_adapter(..., num_experts=...)"
        )
    return Site(label, stack, layer, num_experts, _number(owners[:2], _RANKS), module, router)


def _number(owners: Iterable[object], names: Sequence[str]) -> int | None:
    for owner in owners:
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


@dataclass
class _Stack:
    """Layers that follow each other: same beginning of the name, each number once."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    layers: set[int]


def _places(labels: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Stack and layer of each label."""
    columns: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, int]] = {}
    for label in labels:
        before, layer, after = _split(label)
        columns.setdefault((before, after), {})[label] = layer
    stacks: list[_Stack] = []
    home: dict[str, tuple[_Stack, int]] = {}
    for (before, after), numbered in columns.items():
        layers = set(numbered.values())
        # A layer that calls its experts by another name is still of its stack.
        fits = (s for s in stacks if s.before == before and s.layers.isdisjoint(layers))
        stack = next(fits, None)
        if stack is None:
            stack = _Stack(before, after, set())
            stacks.append(stack)
        stack.layers |= layers
        home |= {label: (stack, layer) for label, layer in numbered.items()}
    names = _stack_names(stacks)
    return {label: (names[stacks.index(stack)], layer) for label, (stack, layer) in home.items()}


def _split(label: str) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """What stands before the number of the layer, the number, what stands after it."""
    parts = tuple(label.split("."))
    for place, part in enumerate(parts):
        if part.isdecimal():
            return parts[:place], int(part), parts[place + 1 :]
    return (), 0, parts


def _stack_names(stacks: Sequence[_Stack]) -> list[str]:
    if len(stacks) < 2:
        return [""] * len(stacks)
    words = [(*stack.before, *stack.after) for stack in stacks]
    common = set.intersection(*map(set, words))
    own = [[word for word in group if word not in common] for group in words]
    roles = [_role(group) for group in own]
    if len(set(roles)) == len(stacks):
        return roles
    plain = ["-".join(group) for group in own]
    if len(set(plain)) == len(stacks):
        return plain
    return [f"{name}-{place}" for place, name in enumerate(plain)]


def _role(words: Sequence[str]) -> str:
    """The first word that says what a stack is for, or all of them."""
    return next((_ROLES[role] for w in words for role in _ROLES if role in w), "-".join(words))
