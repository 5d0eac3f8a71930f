"""Rings of spins with power-law couplings, and what is sampled on them."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import zeta

import isingmoe as im

__all__ = ["image_ring", "ring", "sample"]


def ring(K: float, n_sites: int, alpha: float) -> im.IsingChain:
    """A ring in units of the temperature."""
    return im.IsingChain(J=K, n_sites=n_sites, boundary="periodic", decay=im.power_law(alpha))


def image_ring(K: float, n_sites: int, alpha: float) -> im.IsingChain:
    """A ring of odd length where a spin also feels every periodic image of the others.

    Its couplings add up to those of the infinite chain, 2 K zeta(alpha). Without images a
    share L**-(alpha - 1) of them is missing, at alpha = 1.1 half of it for 1000 sites, and
    crossings say more about that than about the transition.
    """
    # Odd, so that every pair has one shorter distance.
    r = np.arange(1, (n_sites + 1) // 2) / n_sites
    decay = (zeta(alpha, r) + zeta(alpha, 1 - r)) / n_sites**alpha
    return im.IsingChain(
        J=K * decay[0], n_sites=n_sites, boundary="periodic", decay=decay / decay[0]
    )


def sample(
    K: np.ndarray, n_sites: int, alpha: float, n_samples: int, seed: tuple[int, ...]
) -> xr.Dataset:
    """Second moment of the magnetization and Binder cumulant at some couplings of one ring.

    At alpha = 2 a single cluster holds most of the sites; below, at criticality, a share
    that vanishes with the length, and all clusters are updated.
    """
    algorithm = im.Wolff() if alpha == 2 else im.SwendsenWang()
    make = image_ring if alpha < 2 else ring
    rows = []
    for i, coupling in enumerate(K):
        run = im.simulate(
            make(coupling, n_sites, alpha),
            algorithm,
            n_samples=n_samples,
            n_replicas=4,
            max_distance=-1,
            seed=np.random.SeedSequence(seed, spawn_key=(n_sites, i)),
        )
        square = run["order_parameter_series"] ** 2
        time = run["susceptibility_autocorrelation_time"]
        names = ["binder_cumulant", "binder_cumulant_error", "order_parameter"]
        row = run[[*names, "order_parameter_error"]].reset_coords(drop=True)
        row["square"] = square.mean()
        row["square_error"] = square.std() * np.sqrt(2 * time / square.size)
        row["time"] = time
        rows.append(row.drop_attrs())
    return xr.concat(rows, "K").assign_coords(K=K)
