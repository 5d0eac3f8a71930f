"""The model: a small OLMoE, trained by the Trainer of transformers."""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch.nn.functional import cross_entropy
from transformers import OlmoeConfig, OlmoeForCausalLM, Trainer, TrainingArguments, set_seed


@dataclass(frozen=True)
class Settings:
    """Sizes of the study; `CONTEXT` is the same in all."""

    n_years: int | None = None
    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 256
    n_layers: int = 4
    n_heads: int = 6
    n_experts: int = 16
    top_k: int = 2
    steps: int = 4000
    batch_size: int = 4
    learning_rate: float = 2.5e-3
    n_evaluations: int = 25
    n_curve_windows: int = 48
    n_sequences: int = 224


FULL = Settings()
QUICK = Settings(
    n_years=15,
    vocab_size=512,
    hidden_size=32,
    intermediate_size=32,
    n_heads=2,
    steps=20,
    batch_size=2,
    n_evaluations=4,
    n_curve_windows=4,
    n_sequences=12,
)
CONTEXT = 512


class CrossEntropyTrainer(Trainer):
    """A Trainer that evaluates the cross-entropy alone.

    The configuration adds the router's balance loss to the training loss; in an evaluation it
    would hide what the loss says about the text.
    """

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Ask for router logits, and with them the balance loss, in training only."""
        inputs = {**inputs, "output_router_logits": model.training}
        return super().compute_loss(model, inputs, *args, **kwargs)


def build(settings: Settings) -> OlmoeForCausalLM:
    """Make a model in float32 with fresh weights from torch's random state."""
    config = OlmoeConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        num_experts=settings.n_experts,
        num_experts_per_tok=settings.top_k,
        max_position_embeddings=CONTEXT,
        router_aux_loss_coef=0.01,
        output_router_logits=True,
        pad_token_id=None,
        eos_token_id=0,
        use_cache=False,
    )
    config._experts_implementation = experts_implementation()
    return OlmoeForCausalLM(config)


def load(folder: Path) -> OlmoeForCausalLM:
    """Read a trained model, in evaluation mode, onto a GPU where there is one."""
    model = OlmoeForCausalLM.from_pretrained(
        folder, experts_implementation=experts_implementation()
    )
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def experts_implementation() -> str:
    """Choose a loop over the experts on a CPU, where it is faster than a grouped product."""
    return "grouped_mm" if torch.cuda.is_available() else "eager"


def examples(windows: np.ndarray) -> list[dict[str, torch.Tensor]]:
    """Make an example of each window: its first token is given, the others are predicted."""
    token_id = torch.from_numpy(windows.astype(np.int64))
    labels = token_id.clone()
    labels[:, 0] = -100
    return [
        {"input_ids": row, "labels": label} for row, label in zip(token_id, labels, strict=True)
    ]


def train(
    settings: Settings, training: np.ndarray, held_out: np.ndarray, seed: int, scratch: Path
) -> tuple[OlmoeForCausalLM, xr.Dataset]:
    """Train a model and record its loss along the way.

    Parameters
    ----------
    settings : Settings
    training, held_out : ndarray of int, shape (window, position)
    seed : int
        Of the initial weights and of the order of the windows.
    scratch : Path
        Folder that the Trainer may write into.

    Returns
    -------
    model : OlmoeForCausalLM
        In evaluation mode.
    curve : Dataset
        `train_loss` and `held_out_loss` (step): cross-entropy on `settings.n_curve_windows`
        windows of each kind, evenly spaced.
    """
    set_seed(seed)
    model = build(settings)
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(settings.steps // 20, 1),
        weight_decay=0.1,
        adam_beta2=0.95,
        eval_strategy="steps",
        eval_on_start=True,
        eval_steps=max(settings.steps // settings.n_evaluations, 1),
        logging_steps=max(settings.steps // settings.n_evaluations, 1),
        prediction_loss_only=True,
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    slices = {
        name: examples(
            windows[np.linspace(0, len(windows) - 1, settings.n_curve_windows, dtype=int)]
        )
        for name, windows in {"train": training, "held_out": held_out}.items()
    }
    trainer = CrossEntropyTrainer(
        model=model, args=arguments, train_dataset=examples(training), eval_dataset=slices
    )
    # The Trainer prints its progress to standard output, which is kept for the results.
    with redirect_stdout(sys.stderr):
        trainer.train()
    return model.eval(), loss_curve(trainer.state.log_history)


def loss_curve(log_history: list[dict[str, float]]) -> xr.Dataset:
    """Collect the evaluations in a Trainer's log as a Dataset over steps."""
    points = defaultdict(dict)
    for entry in log_history:
        for name in {"eval_train_loss", "eval_held_out_loss"} & entry.keys():
            points[name.removeprefix("eval_")][entry["step"]] = entry[name]
    steps = sorted(points["held_out_loss"])
    long_name = {
        "train_loss": "cross-entropy on windows of the training speeches",
        "held_out_loss": "cross-entropy on windows of the held-out speeches",
    }
    return xr.Dataset(
        {
            name: (
                "step",
                [points[name][step] for step in steps],
                {"long_name": text, "units": "nat per token"},
            )
            for name, text in long_name.items()
        },
        coords={"step": ("step", steps, {"long_name": "optimiser steps", "units": "1"})},
    )


@torch.no_grad()
def token_log_probability(
    model: OlmoeForCausalLM, windows: np.ndarray, batch_size: int = 8
) -> np.ndarray:
    """Compute the natural log-probability of each token after the first of its window.

    Parameters
    ----------
    model : OlmoeForCausalLM
    windows : ndarray of int, shape (window, position)

    Returns
    -------
    ndarray of float32, shape (window, position - 1)
    """
    blocks = []
    for start in range(0, len(windows), batch_size):
        token_id = torch.from_numpy(windows[start : start + batch_size].astype(np.int64))
        token_id = token_id.to(model.device)
        logits = model(input_ids=token_id, output_router_logits=False).logits[:, :-1]
        loss = cross_entropy(logits.transpose(1, 2).float(), token_id[:, 1:], reduction="none")
        blocks.append(-loss.cpu().numpy())
    return np.concatenate(blocks)
