"""What decides which experts a token goes to: the position in the text, or chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isingmoe._seeds import Seed, seed_sequence
from isingmoe.fitted import Fit
from isingmoe.generation import Law, law_of

__all__ = [
    "RandomRouter",
    "Router",
    "StaticRouter",
    "Tokens",
    "check_layer",
    "check_sets",
    "enough",
    "laws_of",
]

Ids = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one call of one layer, as a router is told of them.

    Attributes
    ----------
    layer, num_experts : int
    token_id : Tensor (sequence, position) or None
        None where the model was given embeddings.
    position : Tensor (sequence, position)
        In the text, from 0; pads count nothing.
    mask : bool Tensor (sequence, position)
        False at pads.
    past : int
        Tokens that the model keeps of earlier calls.
    chosen : Tensor (sequence, position, rank)
        What the model's own router chose; -1 where it sent a token nowhere.
    scored : callable
        Gives `score`, so that it is computed where it is wanted.
    is_training : bool
    """

    layer: int
    num_experts: int
    token_id: Tensor | None
    position: Tensor
    mask: Tensor
    past: int
    chosen: Tensor
    scored: Callable[[], Tensor]
    is_training: bool

    @property
    def top_k(self) -> int:
        """Experts of a token."""
        return self.chosen.shape[-1]

    @property
    def score(self) -> Tensor:
        """Softmax or sigmoid scores of the model's own router (sequence, position, expert).

        Raises
        ------
        ValueError
            If it shows no logits, or weighs experts by other scores.
        """
        return self.scored()


class Router:
    """What decides which experts a token goes to; `insert_router` puts it into a model.

    Attributes
    ----------
    is_by_layer : bool
        Whether it knows or keeps something of each layer, by the number of the layer. Such a
        router goes into one stack of a model.
    """

    is_by_layer: bool = False

    def choose(self, tokens: Tokens) -> Tensor:
        """Choose as many experts for each token as the model's own router does.

        Parameters
        ----------
        tokens : Tokens

        Returns
        -------
        int64 Tensor (sequence, position, rank)
            Different ids for each token.
        """
        raise NotImplementedError(f"{type(self).__name__}.choose")

    def check(self, layer: int, num_experts: int) -> None:
        """Raise a ValueError where it is not for such a layer."""

    def reset(self) -> None:
        """Forget what was chosen; called when it is put into a model."""


class StaticRouter(Router):
    """The position in the text decides: a table of sets.

    Parameters
    ----------
    sets : mapping of int to int array (position, rank)
        For each layer, by the model's own number, the experts of each position, the best
        first; past the last position, its experts go on.
    num_experts : int

    Raises
    ------
    ValueError
        If there is no position, or an id is out of range or twice in a set.
    """

    is_by_layer = True

    def __init__(self, sets: Mapping[int, Ids], *, num_experts: int) -> None:
        self._sets = {layer: np.asarray(one, np.int64) for layer, one in sets.items()}
        for layer, one in self._sets.items():
            check_sets(f"sets: layer {layer}", one, num_experts)
            if not len(one):
                raise ValueError(f"sets: layer {layer}: expected at least one position, got none")
        self.num_experts = num_experts

    @classmethod
    def from_fit(cls, fit: Fit) -> Self:
        """The experts with the largest fitted fields at each position.

        Parameters
        ----------
        fit : Fit
            Kinetic, with `field="position"`, and `coupling="none"` for fields that follow the
            rates alone; without fields over the text, one set for all positions. A token
            that has none before it is not fitted, so that the first has no field of its own.

        Returns
        -------
        StaticRouter

        Raises
        ------
        ValueError
            If the chains are not kinetic.
        """
        best = {}
        for layer, law in laws_of(fit).items():
            field = law.field_at(np.arange(law.end))
            best[layer] = np.argsort(-field, axis=1, kind="stable")
        return cls(best, num_experts=int(fit.data.attrs["num_experts"]))

    def check(self, layer: int, num_experts: int) -> None:
        """As `Router.check`."""
        check_layer(layer, num_experts, dict.fromkeys(self._sets, self.num_experts))

    def choose(self, tokens: Tokens) -> Tensor:
        """As `Router.choose`."""
        table = enough(self._sets[tokens.layer], tokens.top_k, "sets")
        position = tokens.position.clamp(max=len(table) - 1)
        return torch.from_numpy(table).to(position.device)[position]


class RandomRouter(Router):
    """Chance decides: every set of k experts is as probable, each time anew.

    Parameters
    ----------
    seed : int, SeedSequence or Generator
    """

    def __init__(self, seed: Seed = 0) -> None:
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """As `Router.reset`."""
        self._random = np.random.default_rng(seed_sequence(self._seed))

    def choose(self, tokens: Tokens) -> Tensor:
        """As `Router.choose`."""
        chance = self._random.random((*tokens.mask.shape, tokens.num_experts))
        made = np.argpartition(chance, tokens.top_k - 1, axis=-1)[..., : tokens.top_k]
        return torch.from_numpy(made).to(tokens.mask.device)


def laws_of(fit: Fit) -> dict[int, Law]:
    """The law of each layer; a ValueError where chains are not kinetic."""
    if fit.data.attrs["chain"] != "kinetic":
        raise ValueError(
            f"fit: expected kinetic chains, got {fit.data.attrs['chain']}; fit(traces, "
            "chain='kinetic')"
        )
    layers = fit.data["layer"].values.tolist()
    return {layer: law_of(fit, place) for place, layer in enumerate(layers)}


def check_layer(layer: int, num_experts: int, known: Mapping[int, int]) -> None:
    """Raise a ValueError where a router, which knows layers by their experts, is for others."""
    if layer not in known:
        raise ValueError(
            f"router: expected layer {layer} of the model among its own, got {sorted(known)}; "
            "name others with layers="
        )
    if num_experts != known[layer]:
        raise ValueError(
            f"router: expected {num_experts} experts, as layer {layer} has, got {known[layer]}"
        )


def check_sets(name: str, sets: Ids, num_experts: int) -> None:
    """Raise a ValueError where rows are no sets of experts."""
    if sets.ndim != 2 or (sets.size and not 0 <= sets.min() <= sets.max() < num_experts):
        raise ValueError(f"{name}: expected ids of 0 to {num_experts - 1} (.., rank)")
    rising = np.sort(sets, 1)
    if (rising[:, 1:] == rising[:, :-1]).any():
        raise ValueError(f"{name}: expected different experts in a set, got one twice")


def enough(table: Ids, top_k: int, name: str) -> Ids:
    """The best k of each row; a ValueError where there are fewer."""
    if table.shape[1] < top_k:
        raise ValueError(
            f"{name}: expected sets of {top_k}, as the model has, got {table.shape[1]}"
        )
    return np.ascontiguousarray(table[:, :top_k])
