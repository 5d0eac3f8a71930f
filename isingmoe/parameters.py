"""Free parameters of couplings and fields, as coordinates of a table of log-weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
class _Part:
    """Rows of the table that depend on some parameters, and how.

    `pull` takes derivatives by those rows, (..., row, expert), to derivatives by the
    parameters, (..., parameter).
    """

    rows: slice
    parameters: slice
    pull: Callable[[Array], Array]


@dataclass(frozen=True)
class Parameters:
    """Coordinates of the couplings and fields that a kind of chain has, free of gauge.

    The table of log-weights (row, expert) is linear in them: rows of couplings for each
    distance, the same transposed where both sides count, then rows of fields for each block
    of positions.

    Attributes
    ----------
    coupling : str
        One of `COUPLINGS`.
    has_field : bool
        Whether experts differ in their field.
    n_experts, n_distances, n_blocks : int
    shapes : ndarray (block, shape), optional
        How fields may change over the blocks: orthonormal columns that sum to zero; any
        change by default.
    both_sides : bool
        Whether tokens after one act on it as well as those before.
    """

    coupling: str
    has_field: bool
    n_experts: int
    n_distances: int
    n_blocks: int = 1
    shapes: Array | None = None
    both_sides: bool = False

    @cached_property
    def contrast(self) -> Array:
        """Orthonormal vectors that sum to zero, (expert, expert - 1)."""
        return contrasts(self.n_experts)

    @cached_property
    def _shapes(self) -> Array:
        return contrasts(self.n_blocks) if self.shapes is None else self.shapes

    def shape_columns(self) -> Array:
        """How a field of all positions and its changes act on the blocks, (block, 1 + shape)."""
        return np.concatenate([np.ones((self.n_blocks, 1)), self._shapes], 1)

    @cached_property
    def _triangle(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.triu_indices(self.n_experts - 1)

    @property
    def of_distance(self) -> int:
        """Parameters of the coupling at one distance."""
        return free_couplings(self.coupling, self.n_experts)

    @property
    def n_couplings(self) -> int:
        """Parameters of all couplings."""
        return self.n_distances * self.of_distance

    @property
    def n_field(self) -> int:
        """Parameters of the field of all positions together."""
        return self.n_experts - 1 if self.has_field else 0

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return (1 + self.both_sides) * self.n_distances * self.n_experts + self.n_blocks

    @property
    def n(self) -> int:
        """Number of free parameters."""
        return self.n_couplings + (1 + self._shapes.shape[1]) * self.n_field

    def table(self, x: Array) -> Array:
        """Log-weights (row, expert)."""
        couplings = self.couplings(x)
        sides = [couplings, couplings.swapaxes(1, 2)] if self.both_sides else [couplings]
        return np.concatenate([s.reshape(-1, self.n_experts) for s in sides] + [self.fields(x)])

    def couplings(self, x: Array) -> Array:
        """Couplings (..., distance, expert, expert), up to what changes no probability."""
        q, C = self.n_experts, self.contrast
        own = x[..., : self.n_couplings].reshape(*x.shape[:-1], self.n_distances, self.of_distance)
        J = np.zeros((*own.shape[:-1], q, q))
        if self.coupling in ("uniform", "diagonal"):
            J[..., np.arange(q), np.arange(q)] = own
        elif self.coupling == "symmetric":
            inner = np.zeros((*own.shape[:-1], q - 1, q - 1))
            i, j = self._triangle
            inner[..., i, j] = own
            J = C @ (inner + inner.swapaxes(-1, -2)) @ C.T
        elif self.coupling == "full":
            J = C @ own.reshape(*own.shape[:-1], q - 1, q - 1) @ C.T
        return J

    def fields(self, x: Array) -> Array:
        """Fields (..., block, expert); zero where experts do not differ."""
        if not self.has_field:
            return np.zeros((*x.shape[:-1], self.n_blocks, self.n_experts))
        own = x[..., self.n_couplings :].reshape(*x.shape[:-1], -1, self.n_field)
        return self.shape_columns() @ own @ self.contrast.T

    def field(self, x: Array) -> Array:
        """Field of all positions together, (..., expert)."""
        if not self.has_field:
            return np.zeros((*x.shape[:-1], self.n_experts))
        return x[..., self.n_couplings : self.n_couplings + self.n_field] @ self.contrast.T

    def _coupling_pull(self, slope: Array) -> Array:
        """Derivatives by the couplings of one distance, from those by its rows."""
        C = self.contrast
        if self.coupling in ("uniform", "diagonal"):
            diagonal = np.diagonal(slope, axis1=-2, axis2=-1)
            return diagonal if self.of_distance > 1 else diagonal.sum(-1, keepdims=True)
        inner = C.T @ slope @ C
        if self.coupling == "symmetric":
            i, j = self._triangle
            return (inner + inner.swapaxes(-1, -2))[..., i, j]
        return inner.reshape(*inner.shape[:-2], -1)

    def _transposed_pull(self, slope: Array) -> Array:
        return self._coupling_pull(slope.swapaxes(-1, -2))

    def _field_pull(self, slope: Array) -> Array:
        by_field = self.shape_columns().T @ (slope @ self.contrast)
        return by_field.reshape(*by_field.shape[:-2], -1)

    def parts(self) -> Iterator[_Part]:
        """Which rows of the table depend on which parameters."""
        q, m = self.n_experts, self.of_distance
        pulls = (self._coupling_pull, self._transposed_pull)[: 1 + self.both_sides]
        row = 0
        for pull in pulls:
            for r in range(self.n_distances):
                if m:
                    yield _Part(slice(row, row + q), slice(r * m, (r + 1) * m), pull)
                row += q
        if self.has_field:
            yield _Part(slice(row, None), slice(self.n_couplings, None), self._field_pull)

    def pulled(self, slope: Array) -> Array:
        """Derivatives by the parameters, from those by the table, (..., row, expert)."""
        result = np.zeros((*slope.shape[:-2], self.n))
        for part in self.parts():
            result[..., part.parameters] += part.pull(slope[..., part.rows, :])
        return result

    def pulled_curvature(self, block: Callable[[slice, slice], Array]) -> Array:
        """Second derivatives by the parameters, from those by the table.

        Parameters
        ----------
        block : callable
            Given two slices of rows, the derivatives (row, row, expert, expert) by them.

        Returns
        -------
        ndarray (parameter, parameter)
        """
        result = np.zeros((self.n, self.n))
        parts = list(self.parts())
        for i, left in enumerate(parts):
            for right in parts[: i + 1]:
                by_table = block(left.rows, right.rows).swapaxes(1, 2)
                half = np.moveaxis(right.pull(by_table), -1, 0)
                both = left.pull(half).T
                result[left.parameters, right.parameters] += both
                if left is not right:
                    result[right.parameters, left.parameters] += both.T
        return result

    def weighed(self, own: Array) -> Array:
        """Half the gradient of the squares of the zero-sum couplings of a distance.

        Parameters
        ----------
        own : ndarray (..., parameter)
            Parameters of the coupling at one distance.

        Returns
        -------
        ndarray (..., parameter)
            Its product with `own` is the sum of squares.
        """
        q = self.n_experts
        if self.coupling == "full":
            return own
        if self.coupling == "symmetric":
            i, j = self._triangle
            return own * np.where(i == j, 4.0, 2.0)
        if self.of_distance < q:
            return own * (q - 1.0)
        return own @ (np.eye(q) - 1 / q) ** 2
