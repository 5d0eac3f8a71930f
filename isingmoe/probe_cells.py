"""One target of one layer, probed from every input with its controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isingmoe._seeds import seed_sequence
from isingmoe.linear_probes import (
    SPLITS,
    Scored,
    counting_error,
    interval_of,
    prediction_interval,
    scored,
)
from isingmoe.probe_tokens import Target, Tokens, few_arrangements, shifted, shuffled
from isingmoe.subspaces import random_basis

__all__ = ["CELLS", "CONTROLS", "Cell", "Question"]

CONTROLS = ("shuffled", "shifted")

_OF_INPUTS, _OF_CONTROLS = ("input", "split"), ("input", "split", "control")
# Dims beside layer and target, what it is, and its units.
CELLS = {
    "accuracy": (_OF_INPUTS, "share of held-out tokens whose class is told", "1"),
    "accuracy_error": (_OF_INPUTS, "standard error of the accuracy, over sequences", "1"),
    "accuracy_low": (_OF_INPUTS, "lower end of the 95 % interval of the accuracy", "1"),
    "accuracy_high": (_OF_INPUTS, "upper end of the 95 % interval of the accuracy", "1"),
    "majority": (_OF_INPUTS, "accuracy of the commonest class of the training tokens", "1"),
    "control_accuracy": (_OF_CONTROLS, "accuracy for labels that say nothing of position", "1"),
    "control_low": (_OF_CONTROLS, "lower end of where 95 % of such accuracies lie", "1"),
    "control_high": (_OF_CONTROLS, "upper end of where 95 % of such accuracies lie", "1"),
    "p_value": (_OF_INPUTS, "p-value of the accuracy, against shifted labels", "1"),
    "n_classes": ((), "classes that are told apart", "1"),
    "n_tokens": ((), "tokens that are probed", "token"),
    "n_sequences": ((), "sequences they are of", "1"),
    "band_accuracy": (("split", "band"), "accuracy from the subspace of one band", "1"),
    "band_accuracy_error": (("split", "band"), "standard error of it, over sequences", "1"),
    "random_accuracy": (("split",), "accuracy from random subspaces of that dimension", "1"),
    "random_low": (("split",), "lower end of where 95 % of such accuracies lie", "1"),
    "random_high": (("split",), "upper end of where 95 % of such accuracies lie", "1"),
}

Array = NDArray[np.float32]
Labels = NDArray[np.int64]


class Cell(NamedTuple):
    """What was found of one target in one layer.

    Attributes
    ----------
    values : dict
        For the names of `CELLS`, without those of bands where none is probed, nested lists
        over the dims.
    n_unconverged, n_fits : int
        Regressions that stopped early, and all.
    """

    values: dict[str, Any]
    n_unconverged: int
    n_fits: int


@dataclass(frozen=True)
class Question:
    """What is told from what, and how it is scored.

    Attributes
    ----------
    target : Target
    splits : tuple of str
    n_folds, n_shuffles : int
    seed : int
    """

    target: Target
    splits: tuple[str, ...]
    n_folds: int
    n_shuffles: int
    seed: int

    def answered(self, features: Mapping[str, Array], tokens: Tokens, basis: Array | None) -> Cell:
        """Probe every input, and the bands of the hidden states.

        Parameters
        ----------
        features : mapping of str to float32 ndarray (token, feature)
            By the name of the input.
        tokens : Tokens
        basis : float32 ndarray (band, direction, feature), optional
        """
        work = _Work(self, tokens)
        rows = [[work.probed(features[name], s) for s in self.splits] for name in features]
        values: dict[str, Any] = {
            name: [[one[name] for one in row] for row in rows] for name in rows[0][0]
        }
        values |= work.sizes()
        if basis is not None:
            bands = [work.bands(features["hidden_state"], s, basis) for s in self.splits]
            values |= {name: [one[name] for one in bands] for name in bands[0]}
        return Cell(values, work.count["unconverged"], work.count["fits"])

    def rng(self, *key: int) -> np.random.Generator:
        """A generator of its own for each key, whatever else is probed."""
        whole = seed_sequence(self.seed)
        spawn_key = (*whole.spawn_key, self.target.block_length, *key)
        return np.random.default_rng(np.random.SeedSequence(whole.entropy, spawn_key=spawn_key))


class _Work:
    """Regressions on the tokens of one question, and how many of them there were."""

    def __init__(self, question: Question, tokens: Tokens) -> None:
        self.question, self.tokens = question, tokens
        self.labels = question.target.labels(tokens.position)
        self.least_p = few_arrangements(question.target, self.labels, tokens)
        self.fold_seed = int(seed_sequence(question.seed).generate_state(1)[0])
        self.count: Counter[str] = Counter()

    def sizes(self) -> dict[str, int]:
        """How much there is to tell, and from how much."""
        return {
            "n_classes": len(np.unique(self.labels)),
            "n_tokens": len(self.labels),
            "n_sequences": len(np.unique(self.tokens.sequence)),
        }

    def probed(self, features: Array, split: str) -> dict[str, Any]:
        """An input with its controls."""
        one = self._scored(features, self.labels, split)
        found = interval_of(one.correct, self.tokens.sequence)
        draws = [
            [
                self._scored(features, labels, split).correct.mean()
                for labels in self._controls(control, split)
            ]
            for control in CONTROLS
        ]
        least_spread = counting_error(one)
        (plain, _), (moved, p) = (
            prediction_interval(each, found.value, least_spread) for each in draws
        )
        return {
            "accuracy": found.value,
            "accuracy_error": found.error,
            "accuracy_low": found.low,
            "accuracy_high": found.high,
            "majority": one.majority.mean(),
            "control_accuracy": [plain.value, moved.value],
            "control_low": [plain.low, moved.low],
            "control_high": [plain.high, moved.high],
            "p_value": p if np.isnan(p) else max(p, self.least_p),
        }

    def bands(self, states: Array, split: str, basis: Array) -> dict[str, Any]:
        """The subspace of each band, and random ones."""
        found = [
            interval_of(
                self._scored(states @ each.T, self.labels, split).correct, self.tokens.sequence
            )
            for each in basis
        ]
        _, n_directions, n_features = basis.shape
        drawn = []
        for draw in range(self.question.n_shuffles):
            rng = self.question.rng(SPLITS.index(split), len(CONTROLS), draw)
            each = random_basis(n_directions, n_features, rng)
            drawn.append(self._scored(states @ each.T, self.labels, split).correct.mean())
        random, _ = prediction_interval(drawn, np.nan)
        return {
            "band_accuracy": [one.value for one in found],
            "band_accuracy_error": [one.error for one in found],
            "random_accuracy": random.value,
            "random_low": random.low,
            "random_high": random.high,
        }

    def _controls(self, control: str, split: str) -> list[Labels]:
        """Labels that say nothing of position."""
        target, tokens, made = self.question.target, self.tokens, []
        key = SPLITS.index(split), CONTROLS.index(control)
        for draw in range(self.question.n_shuffles):
            rng = self.question.rng(*key, draw)
            if control == "shifted":
                made.append(shifted(target, self.labels, tokens, rng))
            else:
                made.append(shuffled(self.labels, tokens, split == "sequence", rng))
        return made

    def _scored(self, features: Array, labels: Labels, split: str) -> Scored:
        found = scored(
            features,
            labels,
            self.tokens.sequence,
            split=split,
            n_folds=self.question.n_folds,
            seed=self.fold_seed,
        )
        self.count["unconverged"] += found.n_unconverged
        self.count["fits"] += found.n_fits
        return found
