"""How far estimates would move with other texts: information, sandwich and bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from isingmoe._kernels.kinetic import run_slopes
from isingmoe.curvature import Curvature, exact_curvature
from isingmoe.histories import Histories, runs
from isingmoe.regression import Estimated

__all__ = [
    "MOST_PARAMETERS",
    "UNCERTAINTIES",
    "Spread",
    "bootstrap_spread",
    "curvature_of",
    "information_spread",
    "sandwich_spread",
    "sequence_scores",
]

Array = NDArray[Any]

UNCERTAINTIES = ("sandwich", "information", "bootstrap", "none")

# More parameters than this have a curvature that does not fit in memory.
MOST_PARAMETERS = 20_000
# Columns of a factor that are turned into couplings at once.
_AT_ONCE = 128


@dataclass(frozen=True)
class Spread:
    """Covariance of estimated parameters, by a factor.

    Attributes
    ----------
    columns : ndarray (column, parameter)
        The covariance is the sum over columns of their outer products.
    known : bool
        Whether it was asked for, and there are sequences enough to tell.
    """

    columns: Array
    known: bool = True

    def of(self, linear: Callable[[Array], Array]) -> Array:
        """Standard error of something that is linear in the parameters; NaN if not known.

        Parameters
        ----------
        linear : callable
            Takes (..., parameter) to (..., *shape).
        """
        if not (self.known and len(self.columns)):
            shape = linear(np.zeros((1, self.columns.shape[1]))).shape[1:]
            return np.full(shape, 0.0 if self.known else np.nan)
        total: Array | float = 0.0
        for start in range(0, len(self.columns), _AT_ONCE):
            total = total + (linear(self.columns[start : start + _AT_ONCE]) ** 2).sum(0)
        return np.sqrt(total)


def curvature_of(found: Estimated) -> Curvature:
    """Curvature at an estimate, by its parameters and that of its decay if it has one.

    Raises
    ------
    LinAlgError
        If some direction of the parameters is not determined.
    """
    p, law = found.kind.parameters, found.kind.law
    curvature = exact_curvature(found.problem, p, found.table, found.maximum.precision)
    if law is None or found.strength is None:
        return curvature
    return law.extended(curvature, found.problem, p, found.maximum, found.strength)


def information_spread(curvature: Curvature) -> Spread:
    """As if the model were right and every token new: the inverse observed information."""
    identity = np.eye(len(curvature.factor))
    return Spread(solve_triangular(curvature.factor, identity, lower=True))


def sandwich_spread(curvature: Curvature, found: Estimated) -> Spread:
    """As if only the sequences were new: what a text repeats it says once.

    The covariance of the scores of whole sequences between two inverses of the information.
    It holds whatever the model leaves out, with as many sequences as can be counted on.

    References
    ----------
    P. J. Huber, Proc. Fifth Berkeley Symp. 1, 221 (1967); K.-Y. Liang and S. L. Zeger,
    Biometrika 73, 13 (1986).
    """
    scores = sequence_scores(found)
    scores -= scores.mean(0)
    n = len(scores)
    columns = curvature.solve(scores.T).T
    return Spread(columns * np.sqrt(n / max(n - 1, 1)), known=n > 1)


def bootstrap_spread(found: Estimated, n_resamples: int, seed: int) -> Spread:
    """Fits to sequences drawn with replacement."""
    kind, problem = found.kind, found.problem
    pieces = runs(problem.sequence)
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_resamples):
        drawn = rng.integers(len(pieces), size=len(pieces))
        again = kind.estimate(_resampled(found, pieces, drawn), _without_fields(found))
        x = again.maximum.x
        rows.append(x if again.strength is None else np.r_[x, again.strength])
    columns = np.array(rows)
    columns = (columns - columns.mean(0)) / np.sqrt(max(n_resamples - 1, 1))
    return Spread(columns, known=len(pieces) > 1 and n_resamples > 1)


def _resampled(
    found: Estimated, pieces: list[tuple[int, int]], drawn: NDArray[np.int64]
) -> Histories:
    """Tokens of sequences that were drawn, each draw a sequence of its own."""
    problem = found.problem
    tokens = np.concatenate([np.arange(*pieces[s]) for s in drawn])
    length = np.array([pieces[s][1] - pieces[s][0] for s in drawn])
    again = problem.of(tokens)
    own = np.repeat(np.arange(len(drawn), dtype=np.int32), length)
    if "sequence" not in found.kind.field:
        return replace(again, sequence=own)
    column = len(problem.strength) - len(problem.groups)
    again.features[:, column] = problem.n_fixed + own
    return replace(again, sequence=own)


def _without_fields(found: Estimated) -> Estimated:
    """Where to begin: the random fields belong to other draws of the sequences."""
    fields = [np.zeros_like(u) for u in found.maximum.fields]
    return replace(found, maximum=replace(found.maximum, fields=fields))


def sequence_scores(found: Estimated) -> Array:
    """Gradient of the log-likelihood of each sequence that has tokens, (sequence, parameter)."""
    p, law, problem = found.kind.parameters, found.kind.law, found.problem
    pieces = runs(problem.sequence)
    edges = np.array([start for start, _ in pieces] + [len(problem.sets)])
    slopes = run_slopes(
        problem.sets, problem.features, edges, problem.strength, found.table, p.n_rows
    )
    scores = p.pulled(slopes)
    if law is None or found.strength is None:
        return scores
    along = [
        law.slope(problem.of(np.arange(*piece)), p, found.maximum, found.strength).sum()
        for piece in pieces
    ]
    return np.column_stack([scores, along])
