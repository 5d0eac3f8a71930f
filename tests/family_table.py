"""Which families there are, what is peculiar to their small models, and what these read."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from families import BATCH, LENGTH, VOCABULARY, Family, family, reads, small, tokens

DENSE_FIRST = ["dense", "sparse", "sparse"]
# Latent attention has as many keys as queries, and a head size of its own making.
OWN_HEAD = ("head_dim",)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def reads_and_writes() -> dict[str, Any]:
    return {**reads(), "decoder_input_ids": tokens(5, seed=2)}


def hears() -> dict[str, Any]:
    """States in place of tokens."""
    states = torch.randn(BATCH, LENGTH, 32, generator=torch.Generator().manual_seed(1))
    return {"inputs_embeds": states, "use_cache": False}


def reads_and_sees() -> dict[str, Any]:
    """Tokens, some of them of images."""
    kinds = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 1]])
    return {**reads(), "moe_mm_token_type_ids": kinds}


def patches() -> dict[str, Any]:
    """Two images, one after the other."""
    pixels = torch.randn(24, 48, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels, "grid_thw": torch.tensor([[1, 4, 4], [1, 2, 4]])}


def poses() -> dict[str, Any]:
    """Two images, of different data sets."""
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels, "dataset_index": torch.tensor([1, 3])}


def _dbrx(cls: Any) -> Any:
    heads = {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8}
    experts = {"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": 8, "moe_top_k": 3}
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": VOCABULARY}
    return cls.config_class(**sizes, max_seq_len=64, attn_config=heads, ffn_config=experts)


def _diffusion_gemma(cls: Any) -> Any:
    home = importlib.import_module(cls.config_class.__module__)
    vision_home = importlib.import_module("transformers.models.gemma4.configuration_gemma4")
    text = small(home.DiffusionGemmaTextConfig, tie_word_embeddings=True)
    vision = small(
        vision_home.Gemma4VisionConfig, num_hidden_layers=1, num_key_value_heads=4, patch_size=4
    )
    tokens = {"image_token_id": 60, "boi_token_id": 61, "eoi_token_id": 62}
    return cls.config_class(text_config=text, vision_config=vision, canvas_length=5, **tokens)


def _ernie_vl(inputs: Any) -> Family:
    return family(
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoeTextModel Ernie4_5_VL_MoeTextModel",
        inputs,
        moe_intermediate_size=[16, 8],
        moe_num_shared_experts=1,
        rope_parameters=ROPE | {"mrope_section": [1, 1, 2]},
    )


def _latent(folder: str, models: str, since: tuple[int, int] = (5, 0), **sizes: Any) -> Family:
    return Family(folder, models, reads, sizes | {"num_key_value_heads": 4}, OWN_HEAD, since=since)


FAMILIES = {
    "olmoe": family("olmoe", "OlmoeForCausalLM"),
    "flex_olmo": family("flex_olmo", "FlexOlmoForCausalLM"),
    "mellum": family("mellum", "MellumForCausalLM"),
    "qwen2_moe": family("qwen2_moe", "Qwen2MoeForCausalLM"),
    "qwen3_moe": family("qwen3_moe", "Qwen3MoeForCausalLM"),
    "qwen3_next": family("qwen3_next", "Qwen3NextForCausalLM"),
    "qwen3_5_moe": family("qwen3_5_moe", "Qwen3_5MoeForCausalLM"),
    "qwen4_exp": family(
        "qwen4_exp",
        "Qwen4ExpForCausalLM",
        hc_count=2,
        hc_lowrank=8,
        ngram_vocab_size_base=64,
        split_ngram_parts=1,
    ),
    "mixtral": family("mixtral", "MixtralForCausalLM"),
    "minimax": family("minimax", "MiniMaxForCausalLM"),
    "qwen3_vl_moe": family("qwen3_vl_moe", "Qwen3VLMoeTextModel"),
    "jamba": family(
        "jamba",
        "JambaForCausalLM",
        num_hidden_layers=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        use_mamba_kernels=False,
    ),
    "hunyuan_v1_moe": family("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM"),
    "granitemoe": family("granitemoe", "GraniteMoeForCausalLM"),
    "granitemoe_swa": family("granitemoe_swa", "GraniteMoeSWAForCausalLM"),
    "granitemoeshared": family("granitemoeshared", "GraniteMoeSharedForCausalLM"),
    "granitemoehybrid": family(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        layer_types=["mamba", "attention"],
        num_hidden_layers=2,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
    ),
    "aria": family("aria", "AriaTextForCausalLM"),
    "gpt_oss": family("gpt_oss", "GptOssForCausalLM"),
    "openai_privacy_filter": family("openai_privacy_filter", "OpenAIPrivacyFilterModel"),
    "jetmoe": family("jetmoe", "JetMoeForCausalLM", kv_channels=8, num_experts_per_tok=2),
    "cohere2_moe": family("cohere2_moe", "Cohere2MoeForCausalLM"),
    "dbrx": Family("dbrx", "DbrxForCausalLM", reads, {}, configure=_dbrx),
    "axk1": _latent("axk1", "AXK1ForCausalLM", mlp_layer_types=DENSE_FIRST),
    "axk2": _latent("axk2", "AXK2ForCausalLM", mlp_layer_types=DENSE_FIRST),
    "deepseek_v3": _latent("deepseek_v3", "DeepseekV3ForCausalLM"),
    "deepseek_v32": _latent("deepseek_v32", "DeepseekV32ForCausalLM"),
    "glm4_moe_lite": _latent("glm4_moe_lite", "Glm4MoeLiteForCausalLM"),
    "glm_moe_dsa": _latent("glm_moe_dsa", "GlmMoeDsaForCausalLM", mlp_layer_types=DENSE_FIRST),
    "mistral4": _latent("mistral4", "Mistral4ForCausalLM"),
    "mistral_large4": _latent("mistral_large4", "MistralLarge4TextModel"),
    "kimi_linear": _latent(
        "kimi_linear",
        "KimiLinearForCausalLM",
        q_lora_rank=None,
        layer_types=["linear_attention", "full_attention", "full_attention"],
    ),
    "bailing_hybrid": family(
        "bailing_hybrid",
        "BailingHybridForCausalLM",
        num_key_value_heads=4,
        layer_group_size=2,
        num_mtp_layers=0,
    ),
    "deepseek_v2": _latent("deepseek_v2", "DeepseekV2ForCausalLM"),
    "deepseek_v2 of groups": _latent(
        "deepseek_v2", "DeepseekV2ForCausalLM", (5, 14), topk_method="group_limited_greedy"
    ),
    "dots1": family("dots1", "Dots1ForCausalLM"),
    "glm4_moe": family("glm4_moe", "Glm4MoeForCausalLM"),
    "mimo_v2_flash": family("mimo_v2_flash", "MiMoV2FlashForCausalLM"),
    "solar_open": family("solar_open", "SolarOpenForCausalLM"),
    "exaone_moe": family("exaone_moe", "ExaoneMoeForCausalLM"),
    "hy_v3": family("hy_v3", "HYV3ForCausalLM"),
    "hy_v4": family("hy_v4", "HYV4ForCausalLM"),
    "nemotron_h": family(
        "nemotron_h",
        "NemotronHForCausalLM",
        layers_block_type=["mamba", "moe", "attention", "moe"],
        mamba_num_heads=4,
        mamba_head_dim=16,
        ssm_state_size=8,
        n_groups=2,
        chunk_size=8,
        use_mamba_kernels=False,
    ),
    "dots3_note": _latent(
        "dots3_note",
        "Dots3NoteForCausalLM",
        head_dim=12,
        use_sliding_window=False,
        mlp_layer_types=DENSE_FIRST,
    ),
    "glm5_next": _latent(
        "glm5_next",
        "Glm5NextTextModel",
        qk_rope_head_dim=0,
        index_kpool=2,
        mlp_layer_types=DENSE_FIRST,
    ),
    "glm4v_moe": family(
        "glm4v_moe",
        "Glm4vMoeTextModel",
        rope_parameters=ROPE | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0},
    ),
    "beam": family("beam", "BeamForCausalLM", mlp_layer_types=DENSE_FIRST),
    "minimax_m2": family("minimax_m2", "MiniMaxM2ForCausalLM"),
    "minimax_m3_vl": family("minimax_m3_vl", "MiniMaxM3VLForCausalLM"),
    "laguna": family("laguna", "LagunaForCausalLM", moe_router_logit_softcapping=2.0),
    "afmoe": family("afmoe", "AfmoeForCausalLM"),
    "lfm2_moe": family(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        layer_types=["conv", "full_attention", "conv"],
    ),
    "muse_spark": family("muse_spark", "MuseSparkTextModel"),
    "inkling": family("inkling", "InklingForCausalLM", n_shared_experts=2),
    "inkling2": family("inkling2", "Inkling2ForCausalLM"),
    "deepseek_v4": family(
        "deepseek_v4",
        "DeepseekV4ForCausalLM",
        num_key_value_heads=1,
        head_dim=16,
        o_groups=2,
        o_lora_rank=8,
        mlp_layer_types=["hash_moe", "moe", "moe"],
    ),
    "flint": family("flint", "FlintForCausalLM", mlp_only_layers=[0]),
    "kolibri1": family("kolibri1", "Kolibri1ForCausalLM"),
    "ernie4_5_moe": family("ernie4_5_moe", "Ernie4_5_MoeForCausalLM"),
    "gemma4": family("gemma4", "Gemma4ForCausalLM", enable_moe_block=True),
    "llama4": family("llama4", "Llama4ForCausalLM", num_experts_per_tok=2, moe_layers=[0, 2]),
    "longcat_flash": family(
        "longcat_flash",
        "LongcatFlashForCausalLM",
        reads,
        ("num_hidden_layers",),
        num_key_value_heads=4,
        head_dim=4,
        zero_expert_num=4,
        moe_topk=4,
    ),
    "phimoe": family("phimoe", "PhimoeForCausalLM", num_experts_per_tok=2, router_jitter_noise=0.3),
    "zaya": family("zaya", "ZayaForCausalLM", num_experts_per_tok=1),
    "switch_transformers": family(
        "switch_transformers",
        "SwitchTransformersForConditionalGeneration",
        reads_and_writes,
        d_model=32,
        d_kv=8,
        d_ff=16,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        expert_capacity=1,
        decoder_start_token_id=0,
    ),
    "nllb_moe": family(
        "nllb_moe",
        "NllbMoeForConditionalGeneration",
        reads_and_writes,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_sparse_step=2,
        decoder_sparse_step=2,
        expert_capacity=64,
        moe_token_dropout=0.0,
    ),
    "qwen3_omni thinker": family("qwen3_omni_moe", "Qwen3OmniMoeThinkerTextModel"),
    "qwen3_omni talker": family(
        "qwen3_omni_moe", "Qwen3OmniMoeTalkerModel", hears, shared_expert_intermediate_size=16
    ),
    "step3p7": family("step3p7", "Step3p7TextModel", mlp_layer_types=DENSE_FIRST),
    "deepseek_ocr2": family("deepseek_ocr2", "DeepseekOcr2TextModel", mlp_layer_types=DENSE_FIRST),
    "unlimited_ocr": family("unlimited_ocr", "UnlimitedOcrTextModel"),
    "ernie4_5_vl_moe": _ernie_vl(reads),
    "ernie4_5_vl_moe with images": _ernie_vl(reads_and_sees),
    "dots3_note vision": family(
        "dots3_note",
        "Dots3NoteVisionModel",
        patches,
        OWN_HEAD,
        patch_size=4,
        adapter_in_dim=32,
        adapter_out_dim=32,
        pyramid_num_routed=[-1, 4, 8],
        capacity_factor=2,
        num_experts_per_tok=2,
    ),
    "vitpose_backbone": family(
        "vitpose_backbone",
        "VitPoseBackbone",
        poses,
        image_size=(32, 32),
        patch_size=(16, 16),
        num_hidden_layers=2,
        num_experts=4,
        part_features=8,
        out_indices=[-1],
    ),
    "diffusion_gemma": Family(
        "diffusion_gemma",
        "DiffusionGemmaForBlockDiffusion",
        reads_and_writes,
        {},
        configure=_diffusion_gemma,
    ),
    "doge": Family(
        "doge",
        "DogeForCausalLM",
        reads,
        {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4},
        since=(5, 18),
    ),
}
