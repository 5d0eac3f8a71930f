"""What the Switch layer of the transformers that is found here does; one JSON object.

Runs by itself, with nothing but torch and transformers, of releases 4 and 5.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
import transformers
from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration
from transformers.models.switch_transformers import modeling_switch_transformers as switch

N_EXPERTS, CAPACITY, N_SEQUENCES, N_TOKENS = 4, 3, 2, 8
# The expert that all tokens are sent to: not the first, whose id also stands for none in places.
BUSY = 1


def config_of(**settings: Any) -> SwitchTransformersConfig:
    """Two layers in each stack, the second of experts with a capacity of three tokens."""
    sizes = {
        "vocab_size": 32,
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_decoder_layers": 2,
        "num_sparse_decoder_layers": 1,
        "num_heads": 4,
        "num_experts": N_EXPERTS,
        "expert_capacity": CAPACITY,
        "dropout_rate": 0.0,
        "router_jitter_noise": 0.0,
        "decoder_start_token_id": 0,
    }
    return SwitchTransformersConfig(**{**sizes, **settings})


def layer_of(**settings: Any) -> tuple[Any, torch.Tensor]:
    """A layer of experts, and hidden states that its router sends to one expert."""
    torch.manual_seed(0)
    layer = switch.SwitchTransformersSparseMLP(config_of(**settings))
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_(0, 0.3)
        layer.router.classifier.weight.zero_()
        layer.router.classifier.weight[BUSY] = 1.0
    return layer, torch.rand(N_SEQUENCES, N_TOKENS, 16) + 0.5


@torch.no_grad()
def served() -> dict[str, Any]:
    """Positions of each sequence whose tokens an expert served, all being sent to one."""
    layer, hidden = layer_of()
    out = layer.eval()(hidden)
    out = out[0] if isinstance(out, tuple) else out
    rows = [(one.abs().sum(-1) > 0).nonzero().flatten().tolist() for one in out]
    counts = [len(row) for row in rows]
    if max(counts) > CAPACITY:
        told = "none"
    else:
        told = "each sequence" if min(counts) == CAPACITY else "the batch"
    return {
        "served_positions": rows,
        "capacity_of": told,
        "first_come": told == "each sequence" and rows == [list(range(CAPACITY))] * N_SEQUENCES,
    }


@torch.no_grad()
def noise() -> dict[str, Any]:
    """Whether the noise of the router, on in training alone, changes what experts read."""
    layer, hidden = layer_of(router_jitter_noise=0.5)
    given = hidden.clone()
    layer.train()(hidden)
    return {"noise_changes_input_of_experts": not torch.equal(given, hidden)}


def meaning(found: torch.Tensor | None, logits: torch.Tensor) -> str:
    """What a tensor is, by comparison with what the classifier of the router gave."""
    if found is None:
        return "nothing"
    if not found.is_floating_point() or set(found.unique().tolist()) <= {0.0, 1.0}:
        return "one-hot mask"
    logits = logits.reshape(-1, N_EXPERTS)
    if found.shape[-1] == N_EXPERTS and torch.allclose(found.reshape(logits.shape), logits):
        return "raw logits"
    largest = logits.softmax(-1).amax(-1)
    if found.numel() == largest.numel() and torch.allclose(found.flatten(), largest):
        return "largest probability"
    return "something else"


def model_of(capacity: int) -> tuple[Any, list[torch.Tensor], torch.Tensor]:
    """A model, the logits that its encoder's router will have given, and tokens to read."""
    torch.manual_seed(0)
    model = SwitchTransformersForConditionalGeneration(config_of(expert_capacity=capacity)).eval()
    logits: list[torch.Tensor] = []
    for name, module in model.encoder.named_modules():
        if name.endswith("classifier"):
            module.register_forward_hook(lambda *call: logits.append(call[-1].detach().clone()))
    return model, logits, torch.randint(1, 32, (N_SEQUENCES, 16))


@torch.no_grad()
def recorded() -> dict[str, Any]:
    """What the encoder gives for router logits."""
    model, logits, tokens = model_of(CAPACITY)
    out = model.encoder(input_ids=tokens, output_router_logits=True, return_dict=True)
    given = getattr(out, "router_logits", None) or getattr(out, "router_probs", None)
    # Releases 4 give something for the layer without experts as well.
    given = [one for one in given or () if _first(one) is not None]
    return {"router_logits": meaning(_first(given[0]) if given else None, logits[0])}


def _first(one: Any) -> torch.Tensor | None:
    first = one[0] if isinstance(one, tuple) else one
    return first if isinstance(first, torch.Tensor) and first.numel() > 1 else None


@torch.no_grad()
def losses() -> dict[str, Any]:
    """Whether the losses of a model are those of the equations, with and without overflow."""
    found: dict[str, Any] = {}
    for name, capacity in (("", 16), ("_where_tokens_overflow", CAPACITY)):
        model, logits, tokens = model_of(capacity)
        out = model(input_ids=tokens, labels=tokens, output_router_logits=True)
        raw = logits[0].reshape(N_SEQUENCES, -1, N_EXPERTS)
        gates, chosen = raw.softmax(-1), raw.argmax(-1)
        share = torch.nn.functional.one_hot(chosen, N_EXPERTS).float().mean(1)
        load = N_EXPERTS * (share * gates.mean(1)).sum(-1).mean()
        z = (raw.logsumexp(-1) ** 2).mean()
        found[f"z_loss_is_right{name}"] = _equal(out.encoder_z_loss, z)
        found[f"load_loss_is_right{name}"] = _equal(out.encoder_aux_loss, load)
    return found


def _equal(found: Any, expected: torch.Tensor) -> bool:
    return isinstance(found, torch.Tensor) and math.isclose(
        float(found), float(expected), rel_tol=1e-4
    )


def tried(probe: Any) -> dict[str, Any]:
    """What a probe finds, or the error that ended it."""
    try:
        return probe()
    except Exception as error:
        return {f"{probe.__name__}_error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    found = {"transformers": transformers.__version__, "torch": torch.__version__}
    for probe in (served, noise, recorded, losses):
        found |= tried(probe)
    print(json.dumps(found))
