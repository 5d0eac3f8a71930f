"""What a model's configuration declares and a server does not say: experts, top-k, layers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Declared", "declared"]

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k")
_LAYERS = ("num_hidden_layers",)
_DENSE = ("first_k_dense_replace",)
# Where models of several modalities keep their language model's.
_PARTS = ("text_config", "language_config", "llm_config")


@dataclass(frozen=True)
class Declared:
    """What a configuration declares; None for what it does not, or differs by layer.

    Attributes
    ----------
    num_experts : int or None
        Number of routed experts, E.
    top_k : int or None
        Experts per token, k.
    num_layers : int or None
        All layers of the model, with experts or without.
    first_dense : int or None
        Layers without experts before the others, where it declares such.
    """

    num_experts: int | None = None
    top_k: int | None = None
    num_layers: int | None = None
    first_dense: int | None = None


def declared(names: Iterable[str]) -> Declared:
    """Look up the configuration of a model.

    Parameters
    ----------
    names : iterable of str
        Folders or names on the Hugging Face Hub, the first that has one counts.

    Returns
    -------
    Declared
        Of nothing where there is no configuration, or it cannot be reached.
    """
    for name in dict.fromkeys(names):
        try:
            config = json.loads(_file_of(name).read_text("utf-8"))
        # Offline, private, gated or only a name that the server was given: it is asked for then.
        except (OSError, ValueError, ImportError):
            continue
        if isinstance(config, dict):
            parts = [
                config,
                *(config[part] for part in _PARTS if isinstance(config.get(part), dict)),
            ]
            found = [
                Declared(*(_number(part, names) for names in (_EXPERTS, _TOP_K, _LAYERS, _DENSE)))
                for part in parts
            ]
            return next((one for one in found if one.num_experts), Declared())
    return Declared()


def _file_of(name: str) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder / "config.json"
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    kept = try_to_load_from_cache(name, "config.json")
    return Path(kept if isinstance(kept, str) else hf_hub_download(name, "config.json"))


def _number(config: dict[str, Any], names: Iterable[str]) -> int | None:
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)
