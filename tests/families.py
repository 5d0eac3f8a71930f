"""Small models with experts, weights at random, of any family that transformers has."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

_ROUTED = re.compile(r"(^|\.)(gate|router|router_gate|experts)\.")
VOCABULARY = 64
BATCH, LENGTH = 2, 6

# What a configuration is given of these is what it knows of them.
SMALL = {
    "vocab_size": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "hidden_size": 32,
    "intermediate_size": 24,
    "dense_intermediate_size": 24,
    "intermediate_size_mlp": 24,
    "ffn_hidden_size": 24,
    "moe_intermediate_size": 16,
    "expert_ffn_hidden_size": 16,
    "moe_hidden_size": 16,
    "shared_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_experts_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "share_expert_dim": 16,
    "router_hidden_size": 16,
    "num_hidden_layers": 3,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "linear_num_heads": 4,
    "linear_head_dim": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "index_n_heads": 4,
    "index_head_dim": 8,
    "index_topk": 32,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 8,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 3,
    "top_k_experts": 3,
    "moe_topk": 3,
    "moe_k": 3,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "hc_mult": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tokens(length: int = LENGTH, seed: int = 1) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (BATCH, length), generator=drawn)


def reads() -> dict[str, Any]:
    return {"input_ids": tokens(), "use_cache": False}


@dataclass(frozen=True)
class Family:
    """`models`: names of the class in newer and older releases; `sizes` beside the small ones.

    `since`: the first release in which its experts run, where older ones have a fault.
    """

    folder: str
    models: str
    inputs: Callable[[], dict[str, Any]]
    sizes: Mapping[str, Any]
    without: tuple[str, ...] = ()
    configure: Callable[[Any], Any] | None = None
    since: tuple[int, int] = (5, 0)

    def model_class(self) -> Any:
        """The class of the model, None where this release has none that runs."""
        if tuple(map(int, transformers.__version__.split(".")[:2])) < self.since:
            return None
        package = f"transformers.models.{self.folder}"
        if importlib.util.find_spec(package) is None:
            return None
        module = importlib.import_module(f"{package}.modeling_{self.folder}")
        return next((getattr(module, n) for n in self.models.split() if hasattr(module, n)), None)

    def build(self, seed: int = 0) -> nn.Module:
        """A model with weights at random, in eval mode."""
        cls = self.model_class()
        torch.manual_seed(seed)
        if self.configure is not None:
            config = self.configure(cls)
        else:
            config = small(cls.config_class, self.without, **self.sizes)
        model = cls(config).eval()
        enliven(model, seed)
        return model


def family(
    folder: str,
    models: str,
    inputs: Callable[[], dict[str, Any]] = reads,
    without: tuple[str, ...] = (),
    **sizes: Any,
) -> Family:
    return Family(folder, models, inputs, sizes, without)


def small(config_class: Any, without: tuple[str, ...] = (), **sizes: Any) -> Any:
    """A configuration with every size that it knows made small, and some as given."""
    known = {*config_class().to_dict(), *config_class.attribute_map} - set(without)
    # Some configurations of older releases do not know of padding, though their models ask.
    known.add("pad_token_id")
    return config_class(**({name: SMALL[name] for name in SMALL if name in known} | sizes))


def enliven(model: nn.Module, seed: int) -> None:
    """Draw routers, experts and biases anew, so that every part of a selection rule matters."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            last = name.rpartition(".")[2]
            uniform = torch.rand(value.shape, generator=draw)
            if last == "tid2eid":
                value.copy_(torch.rand(len(value), 8, generator=draw).argsort(-1)[:, :3])
            elif "statics" in name:
                value.copy_(uniform / 10 - 0.05)
            elif last.endswith(("bias", "biases")):
                value.copy_(uniform / 2 - 0.25)
            elif last in ("scale", "per_expert_scale"):
                value.copy_(uniform + 0.5)
            elif _ROUTED.search(name) and value.dim() > 1:
                value.copy_((uniform - 0.5) * 5 / value.shape[-1] ** 0.5)
