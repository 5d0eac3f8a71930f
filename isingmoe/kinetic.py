"""Maximum of the likelihood of sets of experts given what they depend on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from isingmoe._kernels.kinetic import log_likelihood
from isingmoe.conditioning import Landscape, Precision
from isingmoe.curvature import effective_fields
from isingmoe.histories import Histories
from isingmoe.parameters import Parameters

__all__ = [
    "Maximum",
    "Prior",
    "full_table",
    "maximise",
    "value_and_slope",
]

Array = NDArray[Any]

# With more tokens than this one in so many is fitted first, with so many iterations.
_MANY, _EVERY, _FIRST = 1 << 14, 4, 30
# Iterations between two looks at the curvature and the prior.
_ROUND = 12
# Twice what is left to gain, in nats, where the prior is judged and the maximum is reached.
_CLOSE, _CONVERGED = 0.1, 1e-4
# The same where a pass over the tokens costs little: parameters to 1e-6 of their errors.
_EXACT = 1e-12
# Of a log-likelihood, relative.
_ROUNDING = 4e-16
# Share of the change of a precision that is else left alone, there.
_FINELY = 0.05
# Values of a grouping for which the posterior covariances are computed exactly.
_FEW_VALUES = 2000
# Largest relative change of a precision that is left alone, with few parameters and many.
_SETTLED, _FINEST = 0.2, 0.03
_WEAKEST, _STRONGEST = 1e-3, 1e6
# Of the field of an expert: one that never fires has a finite field.
_FIELD_PRECISION = 1e-2


@dataclass(frozen=True)
class Prior:
    """How strongly parameters are drawn to zero.

    Attributes
    ----------
    coupling : float or None
        Precision of the elements of the couplings; None lets the data choose one for each
        distance, by maximum evidence. Zero is the bare likelihood.
    position : float or None
        Precision of changes of the field over the text.
    groups : tuple of float or None
        Precision of the random fields of each grouping.
    """

    coupling: float | None = None
    position: float | None = None
    groups: tuple[float | None, ...] = ()

    def start(self, parameters: Parameters) -> Precision:
        """Where to begin."""
        first = 1.0 if self.coupling is None else self.coupling
        return Precision(
            np.full(parameters.n_distances, first),
            0.0 if self.coupling == 0 else _FIELD_PRECISION,
            1.0 if self.position is None else self.position,
            tuple(1.0 if tau is None else tau for tau in self.groups),
        )


@dataclass(frozen=True)
class Maximum:
    """Where the penalised likelihood of a layer is largest.

    Attributes
    ----------
    x : ndarray (parameter,)
    fields : list of ndarray (value, expert)
        Random fields of each grouping, which sum to zero.
    log_likelihood : float
        Without the penalty, in nats.
    precision : Precision
    determined : float
        Effective number of parameters, random fields included.
    gradient : ndarray (parameter,)
        What is left of that of the penalised log-likelihood.
    converged : bool
    n_passes : int
        Evaluations of the likelihood and its gradient.
    """

    x: Array
    fields: list[Array]
    log_likelihood: float
    precision: Precision
    determined: float
    gradient: Array
    converged: bool
    n_passes: int = field(compare=False)


def full_table(parameters: Parameters, x: Array, fields: list[Array]) -> Array:
    """Log-weights of all rows, with the last one, which is zero."""
    last = np.zeros((1, parameters.n_experts))
    return np.concatenate([parameters.table(x), *fields, last])


def value_and_slope(problem: Histories, table: Array) -> tuple[Array, Array]:
    """Log-likelihood of each token once, and the gradient of their weighted sum by the table."""
    n_parts = 4 * numba.get_num_threads()
    return log_likelihood(
        problem.sets, problem.features, problem.strength, problem.weight, table, n_parts
    )


def maximise(
    problem: Histories,
    parameters: Parameters,
    prior: Prior | None = None,
    *,
    max_iterations: int = 200,
    start: Maximum | None = None,
) -> Maximum:
    """Fit the couplings and fields of a layer.

    Parameters
    ----------
    problem : Histories
    parameters : Parameters
    prior : Prior, optional
    max_iterations : int
    start : Maximum, optional
        That of a similar problem.

    Returns
    -------
    Maximum

    Notes
    -----
    The log-likelihood is concave. L-BFGS goes up in coordinates in which its curvature is
    about one, as if the experts of a token were drawn each for itself. Precisions that are
    not given are moved towards maximum evidence after every round, gamma / (sum of squares)
    with the effective number gamma of parameters (D. J. C. MacKay, Neural Comput. 4, 415
    (1992)).
    """
    prior = Prior(groups=(None,) * len(problem.groups)) if prior is None else prior
    problem = problem.merged()
    point = _Point(parameters, np.zeros(parameters.n), [])
    if start is None and len(problem.sets) > _MANY and not problem.weight.size:
        # Far from the maximum some of the tokens say as well where to go.
        some = problem.of(np.arange(0, len(problem.sets), _EVERY))
        start = maximise(some, parameters, prior, max_iterations=_FIRST)
    if start is None:
        precision = prior.start(parameters)
        none = [np.zeros((n, parameters.n_experts - 1)) for n in problem.groups]
        point = _Point(parameters, _load(problem, parameters), none)
    else:
        precision = start.precision
        point = _Point(parameters, start.x, _known(problem, parameters, start.fields))
    is_settled = _is_given(prior, parameters)
    landscape = Landscape(problem, parameters, point.table(), precision)
    enough, share = (_CONVERGED, 1.0) if len(problem.sets) > _MANY else (_EXACT, _FINELY)
    n_passes = 0
    while True:
        objective = _Objective(problem, landscape, precision, point)
        objective.descend(
            min(_ROUND, max_iterations - n_passes), enough if is_settled else _CLOSE / 2
        )
        # Near the maximum rounding may leave nothing that is seen to be gained.
        is_stuck = objective.gained <= _ROUNDING * abs(objective.best_likelihood)
        is_stuck = is_stuck and objective.gain < _CONVERGED
        point, gain = objective.best, objective.gain
        n_passes += objective.n_passes
        is_reached = gain < objective.least(enough)
        if (is_settled and (is_reached or is_stuck)) or n_passes >= max_iterations:
            break
        if not is_settled:
            gamma = _determined(prior, precision, landscape, point, problem, gain < _CLOSE)
            updated = _more_evident(prior, precision, gamma, point)
            is_settled = gain < _CLOSE and _is_near(precision, updated, gamma, share)
            precision = updated
        if gain > _CLOSE or not is_settled:
            landscape = Landscape(problem, parameters, point.table(), precision)
    coupling, position, groups = landscape.determined()
    return Maximum(
        point.x,
        [u @ parameters.contrast.T for u in point.fields],
        objective.best_likelihood,
        precision,
        parameters.n_field + float(coupling.sum()) + position + sum(groups),
        -objective.best_slope,
        gain < _CONVERGED,
        n_passes,
    )


@dataclass(frozen=True)
class _Point:
    parameters: Parameters
    x: Array
    fields: list[Array]

    def table(self) -> Array:
        C = self.parameters.contrast
        return full_table(self.parameters, self.x, [u @ C.T for u in self.fields])


class _Objective:
    """Minus the penalised log-likelihood, in the coordinates of a landscape about a point."""

    def __init__(
        self,
        problem: Histories,
        landscape: Landscape,
        precision: Precision,
        point: _Point,
    ) -> None:
        self._problem, self._landscape = problem, landscape
        self._precision, self._about = precision, point
        self.n_passes = 0
        self._best_value = np.inf
        self.gained = 0.0
        self.best, self.best_likelihood, self.best_slope = point, -np.inf, point.x
        self.gain = np.inf

    def __call__(self, z: Array) -> tuple[float, Array]:
        self.n_passes += 1
        p, precision = self._about.parameters, self._precision
        dx, du = self._landscape.step(z)
        fields = [u + d for u, d in zip(self._about.fields, du, strict=True)]
        point = _Point(p, self._about.x + dx, fields)
        values, slope = value_and_slope(self._problem, point.table())
        pull = precision.pull(p, point.x)
        penalty = float(pull @ point.x) + sum(
            tau * float((u**2).sum()) for tau, u in zip(precision.groups, fields, strict=True)
        )
        by_x = pull - p.pulled(slope[: p.n_rows])
        by_fields, row = [], p.n_rows
        for tau, u in zip(precision.groups, fields, strict=True):
            by_fields.append(tau * u - slope[row : row + len(u)] @ p.contrast)
            row += len(u)
        gradient = self._landscape.gradient(by_x, by_fields)
        weight = self._problem.weight
        likelihood = float(values @ weight if weight.size else values.sum())
        value = penalty / 2 - likelihood
        if value < self._best_value:
            if self.n_passes > 1:
                self.gained += self._best_value - value
            self._best_value, self.best = value, point
            self.best_likelihood, self.best_slope = likelihood, by_x
            self.gain = float(gradient @ gradient)
        return value, gradient

    def least(self, enough: float) -> float:
        """What may be left to gain: no less than rounding lets be seen."""
        return max(enough, _ROUNDING * abs(self.best_likelihood))

    def descend(self, n_iterations: int, enough: float) -> None:
        """Some iterations of L-BFGS, or fewer where no more than enough is left to gain."""

        def stop(intermediate_result: Any) -> None:
            if self.gain < self.least(enough):
                raise StopIteration

        options = {"maxcor": 8, "maxiter": max(n_iterations, 1), "gtol": 0.0, "ftol": 0.0}
        minimize(
            self,
            np.zeros(self._landscape.size),
            jac=True,
            method="L-BFGS-B",
            callback=stop,
            options=options,
        )


def _is_given(prior: Prior, parameters: Parameters) -> bool:
    """Whether nothing is left for the data to choose."""
    free = [
        prior.coupling is None and parameters.n_couplings > 0,
        prior.position is None and parameters.n > parameters.n_couplings + parameters.n_field,
        *(tau is None for tau in prior.groups),
    ]
    return not any(free)


def _determined(
    prior: Prior,
    precision: Precision,
    landscape: Landscape,
    point: _Point,
    problem: Histories,
    is_close: bool,
) -> tuple[Array, float, tuple[float, ...]]:
    """Effective numbers of parameters; those of random fields exact near the maximum."""
    coupling, position, groups = landscape.determined()
    if is_close:
        table = point.table()
        groups = tuple(
            effective_fields(problem, table, which, tau)[0]
            if prior.groups[which] is None and problem.groups[which] <= _FEW_VALUES
            else about
            for which, (tau, about) in enumerate(zip(precision.groups, groups, strict=True))
        )
    return coupling, position, groups


def _more_evident(
    prior: Prior,
    precision: Precision,
    gamma: tuple[Array, float, tuple[float, ...]],
    point: _Point,
) -> Precision:
    """Precisions nearer to those under which the data are most probable."""
    p = point.parameters
    coupling, position, groups = gamma

    def updated(effective: Any, squares: Any) -> Any:
        ratio = effective / np.maximum(squares, 1e-12)
        return np.clip(ratio, _WEAKEST, _STRONGEST)

    own = point.x[: p.n_couplings].reshape(p.n_distances, p.of_distance)
    squares = (p.weighed(own) * own).sum(1)
    moving = point.x[p.n_couplings + p.n_field :]
    if prior.coupling is None and p.n_couplings:
        precision = replace(precision, coupling=updated(coupling, squares))
    if prior.position is None and len(moving):
        precision = replace(precision, position=float(updated(position, (moving**2).sum())))
    taus = [
        tau if given is not None else float(updated(effective, (u**2).sum()))
        for tau, given, effective, u in zip(
            precision.groups, prior.groups, groups, point.fields, strict=True
        )
    ]
    return replace(precision, groups=tuple(taus))


def _is_near(
    one: Precision,
    other: Precision,
    gamma: tuple[Array, float, tuple[float, ...]],
    share: float,
) -> bool:
    """Whether precisions differ by a share at most of what changes the evidence by a nat.

    Its second derivative by the logarithm of a precision is about half of gamma.
    """
    triples = [
        *zip(one.coupling, other.coupling, gamma[0], strict=True),
        (one.position, other.position, gamma[1]),
        *zip(one.groups, other.groups, gamma[2], strict=True),
    ]
    limit = [max(2 / np.sqrt(max(effective, 1e-9)), _FINEST) for _, _, effective in triples]
    return all(
        a == b or abs(np.log(b / a)) < min(_SETTLED, share * most)
        for (a, b, _), most in zip(triples, limit, strict=True)
    )


def _known(problem: Histories, parameters: Parameters, fields: list[Array]) -> list[Array]:
    """Random fields of values that occur; those of others are zero."""
    result = []
    for which, u in enumerate(fields):
        occurs = np.bincount(problem.group_of(which), minlength=len(u) + 1)[: len(u)] > 0
        result.append(np.where(occurs[:, None], u @ parameters.contrast, 0.0))
    return result


def _load(problem: Histories, parameters: Parameters) -> Array:
    """Parameters of independent tokens with about the observed load."""
    x = np.zeros(parameters.n)
    q, n = problem.n_experts, problem.n_tokens
    if parameters.has_field:
        weight = np.repeat(problem.weight, problem.top_k) if problem.weight.size else None
        counts = np.bincount(problem.sets.ravel(), weight, minlength=q) + 0.5
        rate = np.minimum(counts / (n + 0.5 * q / problem.top_k), 1 - 0.5 / n)
        at = parameters.n_couplings
        x[at : at + q - 1] = (np.log(rate) - np.log1p(-rate)) @ parameters.contrast
    return x
