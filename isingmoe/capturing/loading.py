"""Models and tokenizers by their names."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isingmoe.capturing.sites import find_sites

__all__ = [
    "Loading",
    "Prepared",
    "is_out_of_memory",
    "library",
    "load_model",
    "load_tokenizer",
    "memory_told",
    "prepare_model",
]

_DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")
# The first that knows the configuration is taken.
_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForImageTextToText",
    "AutoModel",
)


_TOO_LARGE = (
    "{name}: its weights are more than {device} has memory for; spread it with device_map "
    "(--device-map auto), or choose another dtype"
)


@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    Attributes
    ----------
    revision : str, optional
        Branch, tag or commit on the hub.
    dtype : str
        float64, float32, bfloat16, float16; `auto`: the checkpoint's own.
    device : str, optional
        As torch names it; a GPU where there is one by default.
    device_map : str or dict, optional
        `auto` spreads the model over all devices and the memory; needs accelerate.
    trust_remote_code : bool
        Whether code that comes with the checkpoint may run.
    experts_implementation : str, optional
        eager, batched_mm, grouped_mm; the library's own choice by default.
    """

    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    device_map: str | dict[str, Any] | None = None
    trust_remote_code: bool = False
    experts_implementation: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if self.device_map is not None:
            if self.device is not None:
                raise ValueError("device_map: expected without device, got both; name one")
            if importlib.util.find_spec("accelerate") is None:
                raise ImportError(
                    "device_map: a model spread over devices needs accelerate; install it with "
                    "`pip install accelerate`"
                )


@dataclass(frozen=True)
class Prepared:
    """A model with experts whose weights are still to be loaded.

    Attributes
    ----------
    name : str
        On the Hugging Face hub, or a folder.
    config : PretrainedConfig
    maker : str
        The auto class of transformers that makes it.
    device : device
        Where it is to run, unless it is spread over several.
    """

    name: str
    config: Any
    maker: str
    device: torch.device


def prepare_model(name: str | os.PathLike[str], loading: Loading) -> Prepared:
    """Find out what can be seen of a model before its weights are downloaded.

    Raises
    ------
    OSError
        If there is no such model, or it cannot be reached.
    ValueError
        If it is dense, or cannot be loaded as asked.
    """
    name, device = os.fspath(name), _device(loading.device)
    with _few_words():
        config = _config(name, loading)
        experts = loading.experts_implementation
        if experts is None and loading.dtype == "float64":
            # The others have no product of so many digits.
            experts = "eager"
        if experts is not None:
            config._experts_implementation = experts
        maker = _maker(name, config)
        _check_experts(name, maker, config, loading)
    return Prepared(name, config, maker, device)


def load_model(prepared: Prepared, loading: Loading) -> nn.Module:
    """Load a model for inference.

    Parameters
    ----------
    prepared : Prepared
    loading : Loading

    Returns
    -------
    Module
        In eval mode.

    Raises
    ------
    OSError
        If its weights cannot be reached.
    ValueError
        If it cannot be loaded as asked.
    MemoryError
        If there is not enough memory for it.
    """
    name = prepared.name
    with _few_words():
        given: dict[str, Any] = {
            "config": prepared.config,
            "revision": loading.revision,
            "dtype": loading.dtype,
            "trust_remote_code": loading.trust_remote_code,
        }
        if loading.device_map is not None:
            given["device_map"] = loading.device_map
        with memory_told(_TOO_LARGE.format(name=name, device=prepared.device)):
            with _one_line(name, "a model that transformers can load"):
                model = getattr(library(), prepared.maker).from_pretrained(name, **given)
            if loading.device_map is None:
                model = model.to(prepared.device)
    return model.eval()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has no class for that of the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def memory_told(text: str) -> Iterator[None]:
    """Raise a MemoryError with a text where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(text) from error


def library() -> Any:
    """Transformers, behind a name that keeps type checkers from reading all of its models."""
    return importlib.import_module("transformers")


def load_tokenizer(name: str | os.PathLike[str], loading: Loading) -> Any:
    """Load the tokenizer of a model.

    Returns
    -------
    PreTrainedTokenizerBase

    Raises
    ------
    OSError, ValueError
        If the model has none.
    """
    name = os.fspath(name)
    with _few_words(), _one_line(name, "a tokenizer beside the model (or tokenizer=, token ids)"):
        tokenizer = library().AutoTokenizer.from_pretrained(
            name, revision=loading.revision, trust_remote_code=loading.trust_remote_code
        )
        # One without a file is made of nothing but special tokens.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ValueError("there is no file of a tokenizer")
    return tokenizer


def _config(name: str, loading: Loading) -> Any:
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{name}: expected a folder with a model, got one without config.json; check the name"
        )
    if folder.is_file():
        raise NotADirectoryError(f"{name}: expected a folder with a model, got a file")
    with _one_line(name, "a folder, or a model of the Hugging Face hub"):
        return library().AutoConfig.from_pretrained(
            name, revision=loading.revision, trust_remote_code=loading.trust_remote_code
        )


def _maker(name: str, config: Any) -> str:
    """The auto class of transformers that makes a model of this kind."""
    own = getattr(config, "auto_map", None) or {}
    for maker in _CLASSES:
        if maker in own or type(config) in getattr(library(), maker)._model_mapping:
            return maker
    raise ValueError(
        f"{name}: expected a model that reads text, got {config.model_type}, which transformers "
        "has no class for; load it yourself and give the model"
    )


def _check_experts(name: str, maker: str, config: Any, loading: Loading) -> None:
    """Raise where a model is dense, before its weights are downloaded."""
    if loading.trust_remote_code:
        return
    with torch.device("meta"), _one_line(name, "a model that transformers can make"):
        skeleton = getattr(library(), maker).from_config(config)
    if not find_sites(skeleton):
        raise ValueError(
            f"{name}: expected a model with routed experts, got {type(skeleton).__name__}, which "
            "is dense and has no routing; name a Mixture-of-Experts model"
        )


def _device(name: str | None) -> torch.device:
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # What torch raises depends on the device that is missing.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f"device: expected one that torch has here, got {name!r} ({_first_line(error)}); "
            "name another, such as cpu"
        ) from error
    return device


@contextmanager
def _few_words() -> Iterator[None]:
    """Keep the libraries from telling of every attempt at a connection."""
    transformers = library()
    level = transformers.logging.get_verbosity()
    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    silent = transformers.logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    transformers.logging.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    if silent:
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if silent:
            transformers.logging.enable_progress_bar()
        transformers.logging.set_verbosity(level)
        hub.setLevel(before)


@contextmanager
def _one_line(name: str, expected: str) -> Iterator[None]:
    """Say in one line why something could not be loaded."""
    try:
        yield
    # Whatever a hub, a damaged file or code that comes with a model may raise.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = f"{name}: expected {expected}, got none ({_first_line(error)}); {_remedy(error)}"
        kinds = (OSError, ImportError)
        kind = next((known for known in kinds if isinstance(error, known)), ValueError)
        raise kind(text) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".: ") if lines else type(error).__name__


def _remedy(error: BaseException) -> str:
    text = str(error)
    if "gated" in text or "401" in text:
        return "ask for access on its page, and log in with `hf auth login`"
    if "trust_remote_code" in text:
        return "say --trust-remote-code if you trust the code that comes with it"
    if "connect" in text or "offline" in text or "cached" in text:
        return "check the name and the network, or name a folder that holds the model"
    return "check the name, or what is in the folder"
