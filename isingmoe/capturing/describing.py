"""What a capture depends on, as attributes of its traces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from isingmoe.capturing.adapters import adapter_of
from isingmoe.capturing.rules import router_rule
from isingmoe.capturing.sites import Site

__all__ = ["context_length", "describe_model", "model_name", "text_config", "weight_hash"]

_PACKAGES = ("isingmoe", "torch", "transformers", "tokenizers", "accelerate")
_SAMPLED = 64


def model_name(model: object) -> str:
    """The name that a model was loaded by, or its class."""
    config = getattr(model, "config", None)
    return getattr(config, "name_or_path", "") or type(model).__name__


def text_config(model: object) -> Any:
    """The configuration of a model, or the part of it that is of its language model."""
    return _of_text(getattr(model, "config", None))


def context_length(model: object) -> int | None:
    """Tokens that the model can read at once; None where nothing says."""
    config = text_config(model)
    length = getattr(config, "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def describe_model(
    model: nn.Module, sites: Sequence[Site], tokenizer: Any, revision: str | None
) -> dict[str, str]:
    """Attributes that say what ran, and on what.

    Parameters
    ----------
    model : Module
    sites : sequence of Site
        Those of the stack that is described.
    tokenizer : PreTrainedTokenizerBase or None
    revision : str or None
        Branch, tag or commit that was asked for.

    Returns
    -------
    dict of str
    """
    config = getattr(model, "config", None)
    found = {
        "architecture": type(model).__name__,
        "revision": getattr(config, "_commit_hash", None) or revision or "not known",
        "dtype": ", ".join(
            sorted({_dtype(p) for p in model.parameters() if p.is_floating_point()})
        ),
        "device": ", ".join(sorted({_device(p.device) for p in model.parameters()})),
        "threads": str(torch.get_num_threads()),
        "experts_implementation": _implementation(config, "_experts_implementation"),
        "attention_implementation": _implementation(config, "_attn_implementation"),
        "router": router_rule(config, sites),
        "adapters": _adapters(sites),
        "position_encoding": _position_encoding(model),
        "tokenizer": _tokenizer(tokenizer),
    }
    found |= {f"{name}_version": told for name in _PACKAGES if (told := _version(name))}
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None:
        told = quantisation if isinstance(quantisation, dict) else vars(quantisation)
        found["quantization"] = _json(told)
    return found


def weight_hash(model: nn.Module) -> str:
    """A hash of some values of every parameter and buffer, to tell models apart."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        # Quantised layers keep more than tensors.
        if not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        # Of what is kept on the disk only the shape is at hand.
        if value.device.type != "meta" and value.numel():
            flat = value.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED]
            digest.update(sample.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _adapters(sites: Sequence[Site]) -> str:
    """The functions that read modules which do not show their experts."""
    found = (adapter_of(site.module) for site in sites)
    readers = {f"{one.read.__module__}.{one.read.__qualname__}" for one in found if one is not None}
    return ", ".join(sorted(readers)) or "none"


def _of_text(config: Any) -> Any:
    """The part of a configuration that is of the language model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _dtype(parameter: torch.Tensor) -> str:
    return str(parameter.dtype).removeprefix("torch.")


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _implementation(config: Any, name: str) -> str:
    return str(getattr(_of_text(config), name, None) or getattr(config, name, None) or "its own")


def _position_encoding(model: nn.Module) -> str:
    """What tells the model where a token is, with its parameters."""
    config = text_config(model)
    classes = {type(module).__name__.lower() for module in model.modules()}
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    kinds = []
    if any("rotary" in name for name in classes):
        rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
        theta = getattr(config, "rope_theta", None)
        parameters = rope or ({} if theta is None else {"rope_theta": theta})
        kinds.append(f"rotary {_json(parameters)}" if parameters else "rotary")
    if "relative_attention_bias" in names:
        told = [
            f"{name} {getattr(config, name)}"
            for name in ("relative_attention_num_buckets", "relative_attention_max_distance")
            if hasattr(config, name)
        ]
        kinds.append(", ".join(["relative bias", *told]))
    if any("sinusoidal" in name for name in classes):
        kinds.append("sinusoidal")
    if names & {"wpe", "position_embeddings", "embed_positions", "position_embedding"} and not any(
        "sinusoidal" in name for name in classes
    ):
        kinds.append("learned")
    if getattr(config, "alibi", False):
        kinds.append("ALiBi")
    limit = context_length(model)
    if limit is not None:
        kinds.append(f"max_position_embeddings {limit}")
    return "; ".join(kinds) or "none found"


def _tokenizer(tokenizer: Any) -> str:
    if tokenizer is None:
        return "none: token ids were given"
    kind, name = type(tokenizer).__name__, getattr(tokenizer, "name_or_path", "") or "no name"
    if not hasattr(tokenizer, "get_vocab"):
        return kind
    vocabulary = tokenizer.get_vocab()
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    content = backend.to_str() if hasattr(backend, "to_str") else _json(vocabulary)
    sha256 = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind} {name}, {len(vocabulary)} tokens, sha256 {sha256[:16]}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
