"""Laws of decay of a measured correlation, ranked by Akaike's criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import f as f_law

from isingmoe import _provenance
from isingmoe._text import about
from isingmoe.laws import LAWS, PARAMETERS, LawFit, fit_law

__all__ = ["decay_laws"]

Array = NDArray[np.floating]

# Bins of distances, and degrees of freedom of the covariance for each of them.
_MOST_BINS, _FEWEST_BINS, _FREEDOM = 16, 6, 4
# Of the resamples, to count a distance that some sequences do not reach.
_KNOWN = 0.9
# Beside the curve's size a spread like this is rounding.
_ROUNDING = 1e-10
# Smallest eigenvalue of the correlations between bins that are not bound to each other.
_DEPENDENT = 1e-6


def decay_laws(measured: xr.Dataset) -> xr.Dataset:
    """Fit a family of decay laws to the measured correlation and rank them.

    Parameters
    ----------
    measured : Dataset
        From `correlation`: `correlation`, `correlation_error` (layer, distance) and
        `resample` (layer, resample, distance), and the attribute `n_sequences`.

    Returns
    -------
    Dataset
        For each law of "exponential" A exp(-d/xi), "power-law" A d^-alpha, "stretched"
        A exp(-(d/xi)^beta), "exponential+constant" A exp(-d/xi) + c and "two-exponentials"
        A exp(-d/xi) + A_2 exp(-d/xi_2), xi < xi_2, A and A_2 of one sign: `law_chi2`,
        `law_dof`, `law_p_value`, `law_aic` and `law_weight` (layer, law); `law_parameter` and
        its standard error `law_parameter_error` (layer, law, parameter), NaN where a law has
        no such parameter; `law_curve` (layer, law, distance), NaN at d = 0, which no law
        describes. `law_first` and `law_last` (layer) are the ends of the distances fitted,
        `law_bins` the number of data and `law_freedom` the degrees of freedom of their
        covariance.

    Raises
    ------
    TypeError
        If `measured` is not a Dataset.
    ValueError
        If it lacks one of the three variables or the attribute.

    Notes
    -----
    C(d) is averaged over bins of distances, one distance wide at first and growing in
    proportion, at most 16 and at most a quarter of the degrees of freedom of the covariance,
    but not fewer than six. Model curves are averaged alike, so that a bin's width costs no
    bias. S sequences and R resamples make a bootstrap covariance as noisy as that of
    nu + 1 curves, 1/nu = 1/(S - 1) + 1/(R - 1). Its inverse is too large by nu/(nu - K - 1)
    for K bins (Hartlap et al. 2007) and is divided by that; the p-value is that of
    Hotelling's T^2, and the parameters' variance has the factor for GLS with an estimated
    covariance (Toussaint and Freeman 2008), nu (nu - 1)/((nu - m)(nu - m - 1)) with m the degrees
    of freedom of the fit. Where nu is less than four times the six bins, or bins are bound
    to each other, the correlations between them are shrunk by the share that makes their
    expected error smallest (Schaefer and Strimmer 2005), no other correction is made, and there
    is no p-value. One sequence tells nothing of the covariance: its bins are weighted by the
    errors of uncorrelated tokens, too small and taken as independent over the distances.
    Parameters, curve and chi-square are of that; `law_freedom` is 0, and there is neither
    p-value, AIC, weight nor error of a parameter.

    AIC = chi2 + 2 parameters: for a Gaussian of known covariance it needs no correction for
    few data. The weights exp(-AIC/2) sum to one over the laws that were fitted. A law with
    more parameters than there are bins is NaN, and so is the error of a parameter at an end of
    its range: lengths from 0.2 to 100 times the largest distance (twice of one beside another
    term), alpha 0 to 8, beta 0.2 to 3 with a length from 0.001 to 10^4 times the largest
    distance and xi^-beta at most 10, xi_2/xi 1.25 to 1000. Where two terms of one sign fit no
    better than one of them, the other is nought and its error and that of its length NaN.

    References
    ----------
    K. P. Burnham and D. R. Anderson, Model Selection and Multimodel Inference (Springer, 2002);
    J. Hartlap, P. Simon and P. Schneider, Astron. Astrophys. 464, 399 (2007); D. Toussaint and
    W. Freeman, arXiv:0808.2211 (2008); J. Schaefer and K. Strimmer, Stat. Appl. Genet. Mol. Biol.
    4, 32 (2005).
    """
    _validate(measured)
    distance = measured["distance"].values.astype(float)
    rows = [_layer_laws(measured.isel(layer=i), distance) for i in range(measured.sizes["layer"])]
    names = [law.name for law in LAWS]
    by_law = {
        "law_chi2": about("chi-square of a decay law"),
        "law_dof": about("degrees of freedom of a decay law's chi-square"),
        "law_p_value": about("probability of a larger chi-square if the decay law holds"),
        "law_aic": about("Akaike's criterion of a decay law"),
        "law_weight": about("Akaike weight of a decay law"),
    }
    by_layer = {
        "law_first": about("smallest distance fitted", "token"),
        "law_last": about("largest distance fitted", "token"),
        "law_bins": about("bins of distances fitted"),
        "law_freedom": about("degrees of freedom of the covariance of the bins"),
    }
    dims: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
        **{name: (("layer", "law"), text) for name, text in by_law.items()},
        "law_parameter": (("layer", "law", "parameter"), about("parameter of a decay law")),
        "law_parameter_error": (
            ("layer", "law", "parameter"),
            about("standard error of a decay law's parameter"),
        ),
        "law_curve": (("layer", "law", "distance"), about("correlation by a decay law")),
        **{name: (("layer",), text) for name, text in by_layer.items()},
    }
    return xr.Dataset(
        {
            name: (dim, np.array([row[name] for row in rows]), text)
            for name, (dim, text) in dims.items()
        },
        coords={
            "layer": measured["layer"],
            "law": names,
            "parameter": list(PARAMETERS),
            "distance": measured["distance"],
        },
        attrs={
            "provenance": _provenance.record(
                "decay_laws", {}, inputs={"measured": _provenance.describe(measured)}
            )
        },
    )


def _validate(measured: xr.Dataset) -> None:
    if not isinstance(measured, xr.Dataset):
        raise TypeError(
            f"measured: expected a Dataset from isingmoe.correlation, got {type(measured).__name__}"
        )
    if "n_sequences" not in measured.attrs:
        raise ValueError(
            "measured: expected the attribute n_sequences, got none; "
            "make it with isingmoe.correlation"
        )
    needed = {
        "correlation": {"layer", "distance"},
        "correlation_error": {"layer", "distance"},
        "resample": {"layer", "resample", "distance"},
    }
    for name, dims in needed.items():
        if name not in measured or set(measured[name].dims) != dims:
            found = sorted(map(str, measured[name].dims)) if name in measured else "none"
            raise ValueError(
                f"measured: expected {name} ({', '.join(sorted(dims))}), got {found}; "
                "make it with isingmoe.correlation"
            )


@dataclass(frozen=True)
class _Binned:
    """Averages of the curve over bins of distances, and what is known of their errors."""

    distance: Array
    smear: Array
    data: Array
    factor: Array
    freedom: float
    is_shrunk: bool
    is_alone: bool = False

    @property
    def n_bins(self) -> int:
        return len(self.data)


def _layer_laws(measured: xr.Dataset, distance: Array) -> dict[str, Any]:
    binned = _binned(
        distance,
        measured["correlation"].values,
        measured["correlation_error"].values,
        measured["resample"].transpose("resample", "distance").values,
        int(measured.attrs["n_sequences"]),
    )
    n_laws, n_parameters = len(LAWS), len(PARAMETERS)
    row: dict[str, Any] = {
        name: np.full(n_laws, np.nan) for name in ("law_chi2", "law_dof", "law_p_value", "law_aic")
    }
    row["law_parameter"] = np.full((n_laws, n_parameters), np.nan)
    row["law_parameter_error"] = np.full((n_laws, n_parameters), np.nan)
    row["law_curve"] = np.full((n_laws, len(distance)), np.nan)
    row["law_first"], row["law_last"] = _ends(binned)
    row["law_bins"], row["law_freedom"] = binned.n_bins, binned.freedom
    whitened = np.linalg.solve(binned.factor, binned.smear)
    data = np.linalg.solve(binned.factor, binned.data)
    for i, law in enumerate(LAWS):
        own = [PARAMETERS.index(name) for name in law.parameters]
        dof = binned.n_bins - len(own)
        if dof < 0 or not binned.n_bins:
            continue
        fit = fit_law(law, binned.distance, whitened, data)
        chi2 = fit.chi2 / _excess_of_inverse(binned)
        row["law_chi2"][i], row["law_dof"][i] = chi2, dof
        row["law_parameter"][i, own] = fit.parameter
        row["law_curve"][i, distance > 0] = fit.curve(distance[distance > 0])
        if binned.is_alone:
            continue
        row["law_aic"][i] = chi2 + 2 * len(own)
        row["law_p_value"][i] = _p_value(fit, dof, binned)
        variance = fit.covariance.diagonal() * _excess_of_variance(dof, binned)
        row["law_parameter_error"][i, own] = np.sqrt(variance)
    row["law_weight"] = _weights(row["law_aic"])
    return row


def _ends(binned: _Binned) -> tuple[float, float]:
    """First and last distance that enters; NaN where there is none."""
    used = binned.distance[(binned.smear > 0).any(0)] if binned.n_bins else np.empty(0)
    return (float(used[0]), float(used[-1])) if used.size else (np.nan, np.nan)


def _weights(aic: Array) -> Array:
    known = np.isfinite(aic)
    if not known.any():
        return np.full_like(aic, np.nan)
    weight = np.where(known, np.exp(-(aic - aic[known].min()) / 2), 0)
    return np.where(known, weight / weight[known].sum(), np.nan)


def _excess_of_inverse(binned: _Binned) -> float:
    """How much too large the inverse of an estimated covariance is on average."""
    if binned.is_shrunk or binned.is_alone:
        return 1.0
    return binned.freedom / (binned.freedom - binned.n_bins - 1)


def _excess_of_variance(dof: int, binned: _Binned) -> float:
    """What the parameters' variance has to be multiplied with, as the covariance is estimated."""
    nu = binned.freedom
    if binned.is_shrunk:
        return 1.0
    return nu * (nu - 1) / ((nu - dof) * (nu - dof - 1))


def _p_value(fit: LawFit, dof: int, binned: _Binned) -> float:
    if not dof or binned.is_shrunk:
        return np.nan
    nu = binned.freedom
    return float(f_law.sf(fit.chi2 * (nu - dof + 1) / (nu * dof), dof, nu - dof + 1))


def _binned(
    distance: Array, curve: Array, error: Array, resample: Array, n_sequences: int
) -> _Binned:
    """Averages over bins as narrow as the number of sequences allows."""
    is_used = (distance >= 1) & np.isfinite(curve) & np.isfinite(error)
    is_used &= error > _ROUNDING * np.nanmax(np.abs(curve), initial=0)
    share_known = np.isfinite(resample).mean(0)
    is_alone = not share_known.any()
    if not is_alone:
        is_used &= share_known >= _KNOWN
        resample = resample[np.isfinite(resample[:, is_used]).all(1)]
    freedom = 0.0 if is_alone else _freedom(len(resample), n_sequences)
    place = np.flatnonzero(is_used)
    if not place.size or not (freedom or is_alone):
        nothing = np.empty((0, 0))
        return _Binned(np.empty(0), nothing, np.empty(0), nothing, freedom, False)
    wanted = _MOST_BINS if is_alone else int(freedom // _FREEDOM)
    bins = _bins(distance[place], min(max(wanted, _FEWEST_BINS), _MOST_BINS))
    d = np.arange(1, int(distance[place[-1]]) + 1, dtype=float)
    smear = np.zeros((bins.max() + 1, len(d)))
    smear[bins, distance[place].astype(int) - 1] = 1
    smear /= smear.sum(1, keepdims=True)
    mean = smear[:, distance[place].astype(int) - 1]
    data = mean @ curve[place]
    if is_alone:
        factor = np.diag(np.sqrt(mean**2 @ error[place] ** 2))
        return _Binned(d, smear, data, factor, freedom, False, is_alone)
    covariance = np.atleast_2d(np.cov(resample[:, place] @ mean.T, rowvar=False))
    # Centred on their own sequences, all distances together obey a sum rule.
    spread = np.sqrt(covariance.diagonal())
    smallest = np.linalg.eigvalsh(covariance / np.outer(spread, spread))[0]
    is_shrunk = freedom < _FREEDOM * len(data) or smallest < _DEPENDENT
    if is_shrunk:
        covariance = _shrunk(covariance, freedom)
    return _Binned(d, smear, data, np.linalg.cholesky(covariance), freedom, is_shrunk)


def _freedom(n_resamples: int, n_sequences: int) -> float:
    """Degrees of freedom of the covariance of resamples."""
    if n_resamples < 2:
        return 0.0
    noise = 1 / (n_resamples - 1)
    if n_sequences > 1:
        noise += 1 / (n_sequences - 1)
    return 1 / noise


def _bins(distance: Array, n_bins: int) -> NDArray[np.int64]:
    """The bin of each distance: widths from one on, growing in proportion."""
    for growth in np.geomspace(1, 4, 400):
        edges = [distance[0]]
        while edges[-1] <= distance[-1]:
            edges.append(max(edges[-1] + 1, np.rint(edges[-1] * growth)))
        bins = np.unique(np.searchsorted(edges, distance, "right"), return_inverse=True)[1]
        if bins.max() < n_bins:
            return bins
    return np.zeros(len(distance), np.int64)


def _shrunk(covariance: Array, freedom: float) -> Array:
    """Correlations drawn towards none, by the share that makes their expected error smallest."""
    spread = np.sqrt(covariance.diagonal())
    r = covariance / np.outer(spread, spread)
    off = ~np.eye(len(r), dtype=bool)
    noise, size = ((1 - r[off] ** 2) ** 2).sum() / freedom, (r[off] ** 2).sum()
    share = min(1.0, noise / size) if size > 0 else 1.0
    # A sequence too few leaves directions without any spread, which need some.
    share = max(share, min(1.0, 1 / (1 + freedom)))
    return np.where(off, (1 - share) * covariance, covariance)
