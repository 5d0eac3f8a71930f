"""Couplings of one shape at all distances, and how fast they fall, fitted together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root_scalar

from isingmoe.curvature import Curvature
from isingmoe.histories import Histories
from isingmoe.kinetic import Maximum, Prior, full_table, maximise, value_and_slope
from isingmoe.parameters import Parameters

__all__ = ["DECAYS", "Decay"]

Array = NDArray[np.floating]

# Range of the parameter of each decay.
DECAYS = {"power-law": (0.02, 8.0), "exponential": (0.1, 1e3)}
# Relative step of differences of the exact slopes.
_STEP = 1e-4
# Curvature of a parameter that is held.
_HELD = 1e200


@dataclass(frozen=True)
class Decay:
    """Couplings J r^-alpha, or J exp(-(r - 1) / length), up to some reach.

    Attributes
    ----------
    name : {"power-law", "exponential"}
    reach : int
    """

    name: str
    reach: int

    def strengths(self, parameter: float) -> Array:
        """Factor of the couplings at the distances 1 to the reach."""
        r = np.arange(1.0, self.reach + 1)
        return r**-parameter if self.name == "power-law" else np.exp(-(r - 1) / parameter)

    def slopes(self, parameter: float) -> Array:
        """Derivative of the factors by the parameter."""
        r, w = np.arange(1.0, self.reach + 1), self.strengths(parameter)
        return -np.log(r) * w if self.name == "power-law" else (r - 1) / parameter**2 * w

    def maximise(
        self,
        problem: Histories,
        parameters: Parameters,
        prior: Prior,
        *,
        start: Maximum | None = None,
        **options: Any,
    ) -> tuple[Maximum, float]:
        """Maximum of the penalised likelihood over couplings, fields and decay.

        At every decay the likelihood is maximised over all else; there its slope along the
        decay alone is that of the maximum, and its zero is searched for.
        """
        low, high = np.log(DECAYS[self.name])
        best, at = start, 0.0

        def slope(log_parameter: float) -> float:
            nonlocal best, at
            at = float(np.exp(log_parameter))
            best = maximise(self.at(problem, at), parameters, prior, start=best, **options)
            return self.slope(problem, parameters, best, at).sum() * at

        if slope(low) <= 0:
            end = low
        elif slope(high) >= 0:
            end = high
        else:
            end = root_scalar(slope, bracket=(low, high), xtol=1e-5).root
        slope(end)
        if best is None:
            raise RuntimeError("decay: the likelihood was never evaluated")
        return best, at

    def is_inside(self, parameter: float) -> bool:
        """Whether a parameter is not at an end of its range, where the data have no say."""
        low, high = DECAYS[self.name]
        return low * (1 + _STEP) < parameter < high * (1 - _STEP)

    def at(self, problem: Histories, parameter: float) -> Histories:
        """The same tokens with another parameter of the decay."""
        strength = problem.strength.copy()
        strength[: self.reach * problem.top_k] = np.repeat(self.strengths(parameter), problem.top_k)
        return replace(problem, strength=strength)

    def slope(
        self, problem: Histories, parameters: Parameters, found: Maximum, parameter: float
    ) -> Array:
        """Derivative of the log-likelihood by the decay's parameter, from each distance."""
        q, k, reach = problem.n_experts, problem.top_k, self.reach
        J = parameters.couplings(found.x)[0]
        rest = full_table(parameters, found.x, found.fields)[q:]
        table = np.concatenate([*(w * J for w in self.strengths(parameter)), rest])
        shift = np.full(len(problem.strength), (reach - 1) * q, np.int32)
        shift[: reach * k] = np.repeat(np.arange(reach, dtype=np.int32) * q, k)
        apart = replace(
            problem,
            features=problem.features + shift,
            strength=np.ones(len(problem.strength)),
            n_distances=reach,
        )
        _, by_row = value_and_slope(apart, table)
        along = (by_row[: reach * q].reshape(reach, q, q) * J).sum((1, 2))
        return along * self.slopes(parameter)

    def extended(
        self,
        curvature: Curvature,
        problem: Histories,
        parameters: Parameters,
        found: Maximum,
        parameter: float,
    ) -> Curvature:
        """Curvature by the parameters and the decay's own, by differences of exact slopes.

        Random fields are held; what they would follow of the decay is left out. At an end of
        its range the decay is held too.
        """
        if not self.is_inside(parameter):
            return curvature.extended(np.zeros(parameters.n), _HELD)
        step = _STEP * parameter
        table = full_table(parameters, found.x, found.fields)
        by_x, own = [], []
        for there in (parameter + step, parameter - step):
            _, slope = value_and_slope(self.at(problem, there), table)
            by_x.append(parameters.pulled(slope[: parameters.n_rows]))
            own.append(self.slope(problem, parameters, found, there).sum())
        mixed = -(by_x[0] - by_x[1]) / (2 * step)
        return curvature.extended(mixed, -(own[0] - own[1]) / (2 * step))
