"""Training with the Trainer of transformers, looked at on its way."""

from __future__ import annotations

import sys
import tempfile
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from trained_models.measuring import follow, is_silent
from trained_models.recipes import Recipe
from trained_models.sizes import Size
from trained_models.text import Text

if TYPE_CHECKING:
    from trained_models.store import Store

__all__ = ["train"]


def train(recipe: Recipe, store: Store, seed: int) -> tuple[PreTrainedModel, xr.Dataset]:
    """Train a model.

    Parameters
    ----------
    recipe : Recipe
    store : Store
        Says how large it is, and has the text.
    seed : int
        Of the initial weights and of the order of the windows.

    Returns
    -------
    model : PreTrainedModel
        In evaluation mode.
    followed : Dataset (step,)
        What `measuring.follow` says at `size.n_points` steps and before the first.
    """
    size, text = store.size, store.text
    start = recipe.start(store, seed)
    set_seed(seed)
    model = recipe.build(size) if start is None else start()
    callbacks = recipe.prepare(model, store, seed)
    steps = recipe.steps(size)
    watch = _Watch(model, recipe, size, text, steps)
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        max_steps=steps,
        per_device_train_batch_size=size.batch_size,
        learning_rate=size.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(steps // 20, 1),
        weight_decay=0.1,
        adam_beta2=0.95,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=is_silent(),
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=seed,
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=recipe.examples(text.training),
        callbacks=[*callbacks, watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.of = recipe, size
    # The Trainer prints to standard output, which is kept for the results.
    with redirect_stdout(sys.stderr):
        trainer.train()
    return model.eval(), xr.concat(watch.points, "step")


class _Trainer(Trainer):
    """A Trainer whose loss has the recipe's loss of load."""

    of: tuple[Recipe, Size]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """Cross-entropy and loss of load."""
        recipe, size = self.of
        outputs = model(**inputs, output_router_logits=True)
        loss = outputs.loss + recipe.balance_loss(recipe.router_logits(outputs), size)
        return (loss, outputs) if return_outputs else loss


class _Watch(TrainerCallback):
    """Looks at the model at steps that lie evenly on a logarithmic scale."""

    def __init__(
        self, model: PreTrainedModel, recipe: Recipe, size: Size, text: Text, last: int
    ) -> None:
        self._model, self._recipe, self._size, self._text = model, recipe, size, text
        points = np.geomspace(min(8, last), last, size.n_points)
        self._steps = {0, *points.round().astype(int).tolist()}
        self.points: list[xr.Dataset] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the first step."""
        self._look(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a step."""
        self._look(state.global_step)

    def _look(self, step: int) -> None:
        if step not in self._steps:
            return
        training = self._model.training
        point = follow(self._recipe, self._model.eval(), self._text.followed(self._size))
        self._model.train(training)
        self.points.append(point.assign_coords(step=step))
