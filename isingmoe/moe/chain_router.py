"""The sets before decide which experts a token goes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isingmoe._seeds import Seed, seed_sequence
from isingmoe.chains import KineticChain
from isingmoe.fitted import Fit
from isingmoe.forward import draw
from isingmoe.generation import Law
from isingmoe.moe.routers import Router, Tokens, check_layer, laws_of

__all__ = ["ChainRouter"]

Array = NDArray[np.floating]
Ids = NDArray[np.integer]

_RULES = ("draw", "likely")


class ChainRouter(Router):
    """The sets before decide, by a fitted kinetic chain.

    Parameters
    ----------
    laws : mapping of int to Law
        For each layer, by the model's own number; `from_fit` makes them.
    given : {"own", "gate"}
        Whose sets: those that it chose itself, so that its choices are a run of the chain and
        know nothing of the text; or those that the model's own router would have chosen for
        the tokens before.
    rule : {"draw", "likely"}
        Whether a set is drawn, or the most probable one is taken.
    seed : int, SeedSequence or Generator
        Of what is drawn.

    Raises
    ------
    ValueError
        If an argument is impossible.
    """

    is_by_layer = True

    def __init__(
        self,
        laws: Mapping[int, Law],
        *,
        given: Literal["own", "gate"] = "own",
        rule: Literal["draw", "likely"] = "draw",
        seed: Seed = 0,
    ) -> None:
        for name, value, known in (("given", given, ("own", "gate")), ("rule", rule, _RULES)):
            if value not in known:
                raise ValueError(f"{name}: expected {' or '.join(known)}, got {value!r}")
        self.given, self.rule = given, rule
        self._laws, self._seed = dict(laws), seed
        self.reset()

    @classmethod
    def from_fit(
        cls,
        fit: Fit,
        *,
        given: Literal["own", "gate"] = "own",
        rule: Literal["draw", "likely"] = "draw",
        seed: Seed = 0,
    ) -> Self:
        """The fitted chains, without random fields of single texts.

        Parameters
        ----------
        fit : Fit
            Kinetic; any reach and any field.
        given, rule, seed
            As for the class.

        Returns
        -------
        ChainRouter

        Raises
        ------
        ValueError
            If the chains are not kinetic.
        """
        return cls(laws_of(fit), given=given, rule=rule, seed=seed)

    def reset(self) -> None:
        """As `Router.reset`."""
        self._seeds = seed_sequence(self._seed)
        self._before: dict[int, Ids] = {}

    def check(self, layer: int, num_experts: int) -> None:
        """As `Router.check`."""
        sizes = {known: law.field.shape[1] for known, law in self._laws.items()}
        check_layer(layer, num_experts, sizes)

    def choose(self, tokens: Tokens) -> Tensor:
        """As `Router.choose`.

        Raises
        ------
        ValueError
            If the chain has another k, or the sequences that go on are others than before.
        """
        law = self._laws[tokens.layer]
        if law.top_k != tokens.top_k:
            raise ValueError(
                f"router: expected chains of sets of {tokens.top_k}, as layer {tokens.layer} has, "
                f"got {law.top_k}"
            )
        mask, position = tokens.mask.cpu().numpy(), tokens.position.cpu().numpy()
        before = self._kept(tokens, law)
        if self.given == "gate":
            # A pad stands before no token.
            known = np.where(mask[..., None], tokens.chosen.cpu().numpy(), -1)
            sets = np.concatenate([before, known], 1)
            made = self._following(law, position, sets)
        elif self.rule == "draw" and tokens.past == 0 and (np.diff(position, axis=1) >= 0).all():
            made = self._drawn(law, position)
            sets = np.concatenate([before, np.where(mask[..., None], made, -1)], 1)
        else:
            made, sets = self._run(law, position, mask, before)
        self._before[tokens.layer] = sets[:, sets.shape[1] - len(law.coupling) :]
        return torch.from_numpy(made.astype(np.int64)).to(tokens.mask.device)

    def _kept(self, tokens: Tokens, law: Law) -> Ids:
        """The last sets of earlier calls (sequence, reach, rank); -1 before the beginning."""
        shape = (len(tokens.mask), len(law.coupling), law.top_k)
        if tokens.past == 0:
            return np.full(shape, -1)
        kept = self._before.get(tokens.layer)
        if kept is None or kept.shape != shape:
            raise ValueError(
                f"layer {tokens.layer}: expected sequences that this router chose for from their "
                "beginning, got a cache of others; run them from the first token"
            )
        return kept

    def _following(self, law: Law, position: Ids, sets: Ids) -> Ids:
        """A set for each position of a call, given those before each, which end with its own."""
        n = position.shape[1]
        theta = law.field_at(position)
        for r, coupling in enumerate(law.coupling, 1):
            start = sets.shape[1] - n - r
            # What stands before the beginning of a text, where several are packed, is another's.
            own = np.where((position >= r)[..., None], sets[:, start : start + n], -1)
            theta = theta + _pull(coupling, own)
        return self._ruled(theta.reshape(-1, theta.shape[-1]), law.top_k).reshape(
            *position.shape, law.top_k
        )

    def _drawn(self, law: Law, position: Ids) -> Ids:
        """Its own sets from the beginning, all positions at once."""
        n_sites = int(position.max()) + 1
        field = law.field_at(np.arange(n_sites))
        chain = KineticChain(J=law.coupling, h=field, top_k=law.top_k, n_sites=n_sites)
        sets = draw(chain, len(position), n_sites, seed=self._seeds.spawn(1)[0])
        return np.take_along_axis(sets, position[..., None], 1)

    def _run(
        self, law: Law, position: Ids, mask: NDArray[np.bool_], before: Ids
    ) -> tuple[Ids, Ids]:
        """Its own sets one after another, and the same behind those before, without pads."""
        made, sets = [], before
        for t in range(mask.shape[1]):
            # The place of the set itself is not looked at.
            here = np.concatenate([sets, sets[:, -1:]], 1)
            made.append(self._following(law, position[:, t : t + 1], here))
            sets = np.concatenate([sets, np.where(mask[:, t, None, None], made[-1], -1)], 1)
        return np.concatenate(made, 1), sets

    def _ruled(self, theta: Array, top_k: int) -> Ids:
        """A set for each row of log-weights (row, expert)."""
        if self.rule == "likely":
            return np.argsort(-theta, axis=1, kind="stable")[:, :top_k]
        # Without couplings, the sites of a chain are independent rows.
        n_rows, q = theta.shape
        rows = KineticChain(J=np.zeros((1, q, q)), h=theta, top_k=top_k, n_sites=n_rows)
        return draw(rows, 1, n_rows, seed=self._seeds.spawn(1)[0])[0]


def _pull(coupling: Array, sets: Ids) -> Array:
    """What sets (.., rank) add to the log-weights (.., expert); -1 adds nothing."""
    none = np.concatenate([coupling, np.zeros((1, coupling.shape[1]))])
    return none[sets].sum(-2)
