"""Coordinates in which the curvature of a likelihood is about one.

The experts of a token are taken as if each were drawn for itself, with its own chance. The
curvature then falls apart into one small matrix for each expert, even with thousands of
couplings and a random field for every text, and only the sum over experts, which changes no
probability, is curved too much. Steps in these coordinates need few iterations, and the
matrices say about how many parameters the data determine against a Gaussian prior. Where
couplings tie the experts together in any case, the curvature is exact if that costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, cholesky

from isingmoe._kernels.information import information, row_information
from isingmoe.histories import Histories, by_value
from isingmoe.parameters import Parameters

__all__ = ["Landscape", "Precision", "block_of", "expert_pairs", "flattened"]

Array = NDArray[Any]

# Added to the number of tokens that have a row, times the mean variance of an expert: its
# curvature is then positive.
_LEAST_COUNT = 0.5
# Tokens that are looked at.
_ENOUGH = 1 << 14
# Parameters of which all second derivatives are worth having.
_FEW_PARAMETERS = 2048
# Elements of the mixed derivatives of fixed rows and the values of a grouping.
_LARGEST = 2 * 10**7


@dataclass(frozen=True)
class Precision:
    """Inverse variances of Gaussian priors of mean zero, in the zero-sum gauge.

    Attributes
    ----------
    coupling : ndarray (distance,)
        Of every element of the couplings at each distance.
    field, position : float
        Of the field of an expert, and of its changes over the text.
    groups : tuple of float
        Of the random field of an expert for a value of each grouping.
    """

    coupling: Array
    field: float
    position: float
    groups: tuple[float, ...] = ()

    def matrix(self, parameters: Parameters) -> Array:
        """Second derivatives of the penalty on the parameters."""
        m = parameters.n_field
        rest = parameters.n - parameters.n_couplings - m
        fields = np.repeat([self.field, self.position], [m, rest])
        gram = parameters.weighed(np.eye(parameters.of_distance))
        return np.asarray(block_diag(*(l2 * gram for l2 in self.coupling), np.diag(fields)))

    def pull(self, parameters: Parameters, x: Array) -> Array:
        """Gradient of the penalty on the parameters; the penalty is half of it times x."""
        result = np.empty_like(x)
        n, m = parameters.n_couplings, parameters.n_field
        own = x[:n].reshape(parameters.n_distances, parameters.of_distance)
        result[:n] = (parameters.weighed(own) * self.coupling[:, None]).ravel()
        result[n : n + m] = self.field * x[n : n + m]
        result[n + m :] = self.position * x[n + m :]
        return result


class Landscape:
    """Coordinates in which the curvature is about one.

    A point is the parameters, and for each grouping a random field (value, expert - 1) in
    the contrasts of the parameters. The fields of the first grouping are eliminated, where
    that is not too much to hold; those of others are taken as if nothing else moved.

    Parameters
    ----------
    problem : Histories
    parameters : Parameters
    table : ndarray (row, expert)
        Log-weights where the chances of the experts are taken.
    precision : Precision
    """

    def __init__(
        self, problem: Histories, parameters: Parameters, table: Array, precision: Precision
    ) -> None:
        self._parameters, self._precision = parameters, precision
        q, n = problem.n_experts, problem.n_fixed
        # Of many tokens some say as much; fields are eliminated with what all of them say.
        is_whole = bool(problem.groups) or problem.weight.size > 0
        every = 1 if is_whole else max(len(problem.sets) // _ENOUGH, 1)
        features = np.ascontiguousarray(problem.features[::every])
        self._is_product = not parameters.both_sides and (
            parameters.coupling == "full" or parameters.n_couplings == 0
        )
        is_exact = (
            not (self._is_product or problem.groups)
            and (parameters.of_distance > q or problem.weight.size > 0)
            and parameters.n <= _FEW_PARAMETERS
        )
        tiles = information(
            features, problem.strength, problem.weight, table, problem.top_k, n, is_exact
        )
        by_pair = flattened(tiles, q * (q + 1) // 2 if is_exact else q)
        by_pair *= len(problem.sets) / len(features)
        pairs = row_pairs(np.arange(n)[:, None], np.arange(n))
        shared = by_pair[:, np.diagonal(expert_pairs(q))][pairs] if is_exact else by_pair[pairs]
        own = shared[n - problem.n_blocks :, n - problem.n_blocks :].sum((0, 1))
        least = _LEAST_COUNT * (own + 1) / problem.n_tokens
        self._groups, self._mixed = [], np.zeros((q, n, 0))
        for which, tau in enumerate(precision.groups):
            size = problem.groups[which]
            is_mixed = which == 0 and size * n * q < _LARGEST
            rows = _of_values(problem, table, which, n if is_mixed else 0)
            self._groups.append(rows[:, -1] + tau)
            if is_mixed:
                self._mixed = np.ascontiguousarray(rows[:, :-1].T)
        if is_exact:
            on_row = np.diagonal(pairs)[:, None]
            by_pair[on_row, np.diagonal(expert_pairs(q))] += least
            self._inverse = self._factor_whole(block_of(by_pair, n, q))
            return
        shared[np.arange(n), np.arange(n)] += least
        shared = np.ascontiguousarray(np.moveaxis(shared, 2, 0))
        self._inverse = (
            self._factor_products(shared)
            if self._is_product
            else self._factor_whole(self._block_of_each(shared))
        )

    def _factor_products(self, shared: Array) -> Array:
        """Inverse Cholesky factors, one for each expert, (expert, row, row)."""
        p, precision = self._parameters, self._precision
        blocks, prior = [np.zeros((p.n_distances * p.n_experts, 0))], [np.zeros(0)]
        if p.n_couplings:
            blocks = [p.contrast] * p.n_distances
            prior += [np.repeat(precision.coupling, p.n_experts - 1)]
        shapes = p.shape_columns() if p.has_field else np.zeros((p.n_blocks, 0))
        if p.has_field:
            prior += [np.r_[precision.field, np.full(shapes.shape[1] - 1, precision.position)]]
        project = np.asarray(block_diag(*blocks, shapes))
        self._mixed = project.T @ self._mixed
        curvature = project.T @ shared @ project + np.diag(np.concatenate(prior))
        if self._mixed.size:
            curvature -= (self._mixed / self._groups[0].T[:, None, :]) @ self._mixed.swapaxes(1, 2)
        return np.linalg.inv(np.linalg.cholesky(curvature))

    def _block_of_each(self, shared: Array) -> Callable[[slice, slice], Array]:
        """Second derivatives by rows of the table, those of different experts none."""
        p = self._parameters
        experts = np.arange(p.n_experts)

        def block(left: slice, right: slice) -> Array:
            total = shared[:, left, right].copy()
            if self._mixed.size:
                scaled = self._mixed[:, left] / self._groups[0].T[:, None, :]
                total -= scaled @ self._mixed[:, right].swapaxes(1, 2)
            result = np.zeros((*total.shape[1:], p.n_experts, p.n_experts))
            result[:, :, experts, experts] = np.moveaxis(total, 0, 2)
            return result

        return block

    def _factor_whole(self, block: Callable[[slice, slice], Array]) -> Array:
        """Inverse Cholesky factor of the curvature by all parameters."""
        p = self._parameters
        curvature = p.pulled_curvature(block) + self._precision.matrix(p)
        return np.linalg.inv(cholesky(curvature, lower=True))

    def step(self, z: Array) -> tuple[Array, list[Array]]:
        """Change of the parameters and of the random fields, from that of the coordinates."""
        p = self._parameters
        C = p.contrast
        z_x, *z_u = self._split(z)
        fields = [u / np.sqrt(d) for u, d in zip(z_u, self._groups, strict=True)]
        if self._is_product:
            rows = np.einsum("bji,jb->ib", self._inverse, z_x, optimize=True)
            x = (rows @ C).ravel()
        else:
            x = self._inverse.T @ z_x
            rows = p.table(x)
        if self._mixed.size:
            fields[0] -= np.einsum("bis,ib->sb", self._mixed, rows, optimize=True) / self._groups[0]
        return x, [u @ C for u in fields]

    def gradient(self, by_x: Array, by_fields: list[Array]) -> Array:
        """Derivatives by the coordinates, from those by parameters and random fields."""
        p = self._parameters
        C = p.contrast
        turned = [g @ C.T for g in by_fields]
        t = by_x.reshape(-1, C.shape[1]) @ C.T if self._is_product else by_x
        if self._mixed.size:
            rows = np.einsum("bis,sb->ib", self._mixed, turned[0] / self._groups[0], optimize=True)
            t = t - (rows if self._is_product else p.pulled(rows))
        if self._is_product:
            t = np.einsum("bij,jb->ib", self._inverse, t, optimize=True)
        else:
            t = self._inverse @ t
        scaled = [g / np.sqrt(d) for g, d in zip(turned, self._groups, strict=True)]
        return np.concatenate([t.ravel(), *(g.ravel() for g in scaled)])

    def _split(self, z: Array) -> list[Array]:
        shape = self._shape
        n = int(np.prod(shape))
        parts, at = [z[:n].reshape(shape)], n
        for d in self._groups:
            parts.append(z[at : at + d.size].reshape(d.shape))
            at += d.size
        return parts

    @property
    def _shape(self) -> tuple[int, ...]:
        inverse = self._inverse
        return (inverse.shape[1], len(inverse)) if self._is_product else (len(inverse),)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return int(np.prod(self._shape)) + sum(d.size for d in self._groups)

    def determined(self) -> tuple[Array, float, tuple[float, ...]]:
        """Effective number of parameters that the data determine against the prior.

        Returns
        -------
        coupling : ndarray (distance,)
        position : float
        groups : tuple of float

        Notes
        -----
        The number of parameters less the trace of prior precision times posterior variance.
        D. J. C. MacKay, Neural Comput. 4, 415 (1992).
        """
        p, precision = self._parameters, self._precision
        # Of q experts, one combination is free of the data.
        share = 1 - 1 / p.n_experts
        groups = tuple(
            share * (d.size - tau * float((1 / d).sum()))
            for d, tau in zip(self._groups, precision.groups, strict=True)
        )
        n_moving = p.n - p.n_couplings - p.n_field
        if self._is_product:
            variance = share * (self._inverse**2).sum((0, 1))
            n_rows = p.n_couplings // max(p.n_experts - 1, 1)
            spread = variance[:n_rows].reshape(p.n_distances, -1 if n_rows else 0).sum(1)
            moving = variance[n_rows + 1 :].sum()
        else:
            columns = self._inverse[:, : p.n_couplings]
            columns = columns.reshape(p.n, p.n_distances, p.of_distance)
            spread = (p.weighed(columns) * columns).sum((0, 2))
            moving = (self._inverse[:, p.n_couplings + p.n_field :] ** 2).sum()
        return (
            p.of_distance - precision.coupling * spread,
            n_moving - precision.position * float(moving),
            groups,
        )


def row_pairs(one: Array, other: Array) -> Array:
    """Place of pairs of rows among the pairs f <= g of the information."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    return high * (high + 1) // 2 + low


def flattened(tiles: Array, n_columns: int) -> Array:
    """Tiles of the information side by side, (pair of rows, column)."""
    return np.moveaxis(tiles, 0, 1).reshape(tiles.shape[1], -1)[:, :n_columns]


def expert_pairs(q: int) -> NDArray[np.intp]:
    """Place of each pair of experts among the pairs b <= c."""
    place = np.zeros((q, q), np.intp)
    upper = np.triu_indices(q)
    place[upper] = np.arange(len(upper[0]))
    return np.maximum(place, place.T)


def block_of(flat: Array, n_rows: int, q: int) -> Callable[[slice, slice], Array]:
    """Second derivatives by some rows of the table, from those of pairs of rows."""
    pair = expert_pairs(q)

    def block(left: slice, right: slice) -> Array:
        rows = row_pairs(np.arange(n_rows)[left, None], np.arange(n_rows)[None, right])
        return flat[rows][..., pair]

    return block


def _of_values(problem: Histories, table: Array, which: int, n_rows: int) -> Array:
    """Curvature of the field of each value, after its mixed ones, (value, n_rows + 1, expert)."""
    features, edges = by_value(problem, which)
    return row_information(features, edges, problem.strength, table, problem.top_k, n_rows, False)
