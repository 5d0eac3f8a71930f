"""How each family of models chooses its experts, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isingmoe.capturing.sites import Site

__all__ = ["router_rule"]

_SIGMOID = "sigmoid of the logits plus a bias, top-k"
_NORMALISED = "weights are the sigmoids, normalised and scaled"
_GROUPS = "in the groups with the largest sum of two"
_RULES = {
    "softmax, top-k, weights normalised if norm_topk_prob": (
        "flex_olmo",
        "mellum",
        "olmoe",
        "qwen2_moe",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_omni_moe_talker_text",
        "qwen4_exp_text",
    ),
    "softmax, top-k, weights normalised": (
        "hunyuan_v1_moe",
        "minimax",
        "mixtral",
        "qwen3_5_moe_text",
        "qwen3_omni_moe_text",
        "qwen3_vl_moe_text",
    ),
    "softmax, top-k": ("jamba",),
    "softmax, top-k, weights divided by their p-norm": ("dbrx",),
    "top-k of the logits, softmax over the k": (
        "aria_text",
        "gpt_oss",
        "granitemoe",
        "granitemoe_swa",
        "granitemoehybrid",
        "granitemoeshared",
        "jetmoe",
    ),
    "top-k of the logits, softmax over the k or sigmoid": ("cohere2_moe",),
    "top-k of the logits, softmax over the k, divided by k": ("openai_privacy_filter",),
    f"{_SIGMOID} {_GROUPS}, {_NORMALISED}": (
        "axk1",
        "axk2",
        "bailing_hybrid",
        "beam",
        "deepseek_v3",
        "deepseek_v32",
        "dots1",
        "dots3_note_text",
        "exaone_moe",
        "glm4_moe",
        "glm4_moe_lite",
        "glm4v_moe_text",
        "glm5_next_text",
        "glm_moe_dsa",
        "hy_v4",
        "kimi_linear",
        "mimo_v2_flash",
        "nemotron_h",
        "solar_open",
    ),
    f"{_SIGMOID}, {_NORMALISED}": (
        "afmoe",
        "dots3_note_vision_encoder",
        "hy_v3",
        "inkling2_text",
        "laguna",
        "lfm2_moe",
        "minimax_m2",
        "minimax_m3_vl_text",
        "muse_spark_text",
        "step3p5",
    ),
    f"{_SIGMOID}, weights normalised over routed and shared experts": ("inkling_text",),
    "sigmoid of the logits, top-k": ("flint",),
    "logits plus a bias, top-k, weights are the sigmoids": ("kolibri1",),
    "square root of softplus plus a bias, top-k, weights normalised and scaled; in hash layers a "
    "table of token ids": ("deepseek_v4",),
    "softmax plus a bias, top-k, weights are the softmax, normalised": (
        "ernie4_5_moe",
        "ernie4_5_vl_moe_text",
    ),
    "softmax, top-k of all or of the groups with the largest expert, weights scaled": (
        "deepseek_ocr2_text",
        "deepseek_v2",
        "unlimited_ocr_text",
    ),
    f"softmax, top-k {_GROUPS}, weights normalised and scaled": (
        "mistral4",
        "mistral_large4_text",
    ),
    "softmax of normalised and scaled states, top-k, weights normalised and scaled by expert": (
        "diffusion_gemma",
        "gemma4_text",
    ),
    "top-k of the logits, whose sigmoid multiplies the input of the expert": ("llama4_text",),
    "softmax plus a bias, top-k, weights scaled; ids past the experts are identities": (
        "longcat_flash",
    ),
    "sparsemixer: the largest logit, then the largest of the others": ("phimoe",),
    "softmax plus a bias of an MLP that sees the layer before, top-1, one class for none": (
        "zaya",
    ),
    "largest softmax, tokens past the capacity of the expert dropped": ("switch_transformers",),
    "experts 0 and 1 whatever the two chosen are, tokens past the capacity dropped": ("nllb-moe",),
    "product keys, top-k of the sums of two": ("doge",),
}
_RULE_OF = {family: rule for rule, families in _RULES.items() for family in families}
# Of a configuration: what the rules above depend on.
_SETTINGS = (
    "norm_topk_prob",
    "scoring_func",
    "expert_selection_fn",
    "topk_method",
    "n_group",
    "topk_group",
    "routed_scaling_factor",
    "expert_capacity",
)


def router_rule(config: Any, sites: Sequence[Site]) -> str:
    """What the experts of a token are, and what their weights.

    Parameters
    ----------
    config : PretrainedConfig
        Of the model.
    sites : sequence of Site

    Returns
    -------
    str
        The rule, where the family is known, its settings, and the router's class.
    """
    parts = [config, *(getattr(config, name, None) for name in ("text_config", "thinker_config"))]
    families = [getattr(part, "model_type", "") for part in parts]
    rule = next((_RULE_OF[family] for family in families if family in _RULE_OF), None)
    settings = [
        f"{name} {value}"
        for name in _SETTINGS
        if (value := next((getattr(p, name) for p in parts if hasattr(p, name)), None)) is not None
    ]
    routers = sorted({type(site.router or site.module).__name__ for site in sites})
    told = [*([rule] if rule else []), *settings, f"as {', '.join(routers)} does"]
    return "; ".join(told)
