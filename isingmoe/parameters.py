"""Free parameters of a kinetic chain, as coordinates of its table of log-weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["COUPLINGS", "Parameters", "contrasts", "free_couplings"]

COUPLINGS = ("none", "uniform", "diagonal", "symmetric", "full")

Array = NDArray[np.floating]


def contrasts(n: int) -> NDArray[np.float64]:
    """Orthonormal vectors that sum to zero, (n, n - 1)."""
    return np.linalg.qr(np.eye(n) - 1 / n)[0][:, : n - 1]


def free_couplings(coupling: str, n_states: int) -> int:
    """Free parameters of the coupling of q states at one distance."""
    q = n_states
    number = {
        "none": 0,
        "uniform": 1,
        # Two states have one coupling, whatever it is called.
        "diagonal": q if q > 2 else 1,
        "symmetric": q * (q - 1) // 2,
        "full": (q - 1) ** 2,
    }
    return number[coupling]


@dataclass(frozen=True)
class Parameters:
    """Coordinates of the couplings and fields that a kind of chain has, free of gauge.

    The table of log-weights (row, expert) is linear in them: rows of couplings for each
    distance, then rows of fields for each block of positions.

    Attributes
    ----------
    coupling : str
        One of `COUPLINGS`.
    has_field : bool
        Whether experts differ in their field.
    n_experts, reach, n_blocks : int
    shapes : ndarray (block, shape), optional
        How fields may change over the blocks: orthonormal columns that sum to zero; any
        change by default.
    """

    coupling: str
    has_field: bool
    n_experts: int
    reach: int
    n_blocks: int = 1
    shapes: Array | None = None

    @cached_property
    def _contrast(self) -> Array:
        return contrasts(self.n_experts)

    @cached_property
    def _shapes(self) -> Array:
        return contrasts(self.n_blocks) if self.shapes is None else self.shapes

    @cached_property
    def _triangle(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.triu_indices(self.n_experts - 1)

    @property
    def _of_distance(self) -> int:
        """Parameters of the coupling at one distance."""
        return free_couplings(self.coupling, self.n_experts)

    @property
    def n_couplings(self) -> int:
        """Parameters of all couplings."""
        return self.reach * self._of_distance

    @property
    def n(self) -> int:
        """Number of free parameters."""
        fields = (1 + self._shapes.shape[1]) * (self.n_experts - 1) if self.has_field else 0
        return self.n_couplings + fields

    def table(self, x: Array) -> Array:
        """Log-weights (row, expert)."""
        q = self.n_experts
        couplings = self.couplings(x).reshape(self.reach * q, q)
        return np.concatenate([couplings, self.fields(x)])

    def couplings(self, x: Array) -> Array:
        """Couplings (reach, expert, expert), up to what changes no probability."""
        q, C = self.n_experts, self._contrast
        own = x[: self.n_couplings].reshape(self.reach, -1)
        J = np.zeros((self.reach, q, q))
        if self.coupling in ("uniform", "diagonal"):
            J[:, np.arange(q), np.arange(q)] = own
        elif self.coupling == "symmetric":
            inner = np.zeros((self.reach, q - 1, q - 1))
            i, j = self._triangle
            inner[:, i, j] = own
            J = C @ (inner + inner.swapaxes(1, 2)) @ C.T
        elif self.coupling == "full":
            J = C @ own.reshape(self.reach, q - 1, q - 1) @ C.T
        return J

    def fields(self, x: Array) -> Array:
        """Fields (block, expert); zero where experts do not differ."""
        if not self.has_field:
            return np.zeros((self.n_blocks, self.n_experts))
        own = x[self.n_couplings :].reshape(-1, self.n_experts - 1)
        return (own[0] + self._shapes @ own[1:]) @ self._contrast.T

    def pulled(self, slope: Array) -> Array:
        """Derivative by the parameters, from that by the table (row, expert)."""
        q, C = self.n_experts, self._contrast
        by_J = slope[: self.reach * q].reshape(self.reach, q, q)
        parts: list[Array] = []
        if self.coupling in ("uniform", "diagonal"):
            diagonal = np.diagonal(by_J, axis1=1, axis2=2)
            parts.append(diagonal if self._of_distance > 1 else diagonal.sum(1))
        elif self.coupling == "symmetric":
            inner = C.T @ by_J @ C
            i, j = self._triangle
            parts.append((inner + inner.swapaxes(1, 2))[:, i, j])
        elif self.coupling == "full":
            parts.append(C.T @ by_J @ C)
        if self.has_field:
            by_field = slope[self.reach * q : self.reach * q + self.n_blocks] @ C
            parts += [by_field.sum(0), self._shapes.T @ by_field]
        return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)

    def pulled_curvature(self, curvature: Array) -> Array:
        """Second derivatives by the parameters, from those by the table.

        Parameters
        ----------
        curvature : ndarray (row, row, expert, expert)

        Returns
        -------
        ndarray (parameter, parameter)
        """
        n_rows, q = curvature.shape[0], self.n_experts
        half = np.empty((n_rows * q, self.n))
        columns = curvature.transpose(0, 2, 1, 3).reshape(n_rows * q, n_rows, q)
        for place, slope in enumerate(columns):
            half[place] = self.pulled(slope)
        return np.stack([self.pulled(row.reshape(n_rows, q)) for row in half.T])

    def basis(self) -> tuple[Array, Array]:
        """Derivatives of couplings (parameter, reach, expert, expert) and of fields."""
        unit = np.eye(self.n)
        return np.stack([self.couplings(x) for x in unit]), np.stack([self.fields(x) for x in unit])
