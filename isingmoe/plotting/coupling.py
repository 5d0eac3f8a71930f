"""The matrix of couplings, experts that attract each other side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from isingmoe.plotting.style import DIVERGING, known_layer, new_axes, shown

if TYPE_CHECKING:
    from isingmoe.fitted import Fit

__all__ = ["clustered_order", "plot_coupling"]

# With more experts not every one has its number written.
_MOST_NAMES = 16


def clustered_order(J: NDArray[np.floating]) -> NDArray[np.int64]:
    """Experts in the order of a clustering by their symmetrised couplings.

    Parameters
    ----------
    J : ndarray (expert, next_expert)

    Returns
    -------
    ndarray of int (expert,)

    Notes
    -----
    Average linkage on the largest coupling less the pair's own, the leaves in the order
    that keeps neighbours as close as the tree allows (Z. Bar-Joseph, D. K. Gifford and
    T. S. Jaakkola, Bioinformatics 17, S22 (2001)).
    """
    if len(J) < 3:
        return np.arange(len(J))
    both = np.nan_to_num((J + J.T) / 2)
    apart = both.max() - both
    np.fill_diagonal(apart, 0)
    return leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True))


def plot_coupling(
    fit: Fit, layer: int | None = None, *, distance: int = 1, ax: Axes | None = None
) -> Axes:
    """Fitted couplings of one layer as a map, the experts ordered by clustering.

    Parameters
    ----------
    fit : Fit
    layer : int, optional
        The model's own number; not needed where there is one.
    distance : int
        At which the experts are coupled, in tokens.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no such layer or distance, or the chains are of single experts.
    """
    data = fit.data
    layer = known_layer(data["layer"].values, layer)
    if "next_expert" not in data["J"].dims:
        raise ValueError(
            f"fit: expected a chain with couplings between experts, got {data.attrs['chain']} "
            "chains of single experts; fit another --chain"
        )
    J = data["J"].sel(layer=layer)
    if "distance" in J.dims:
        known = J["distance"].values.tolist()
        if distance not in known:
            raise ValueError(f"distance: expected one of {known}, got {distance}")
        J = J.sel(distance=distance)
    elif distance != 1:
        raise ValueError(f"distance: expected 1 for a {data.attrs['chain']} chain, got {distance}")
    matrix = J.transpose("expert", "next_expert").values
    order = clustered_order(matrix)
    matrix = matrix[np.ix_(order, order)]
    size = float(np.nanmax(np.abs(matrix), initial=0)) or 1.0
    ax = new_axes(4.8, 4.2, is_square=True) if ax is None else ax
    image = ax.imshow(matrix, cmap=DIVERGING, vmin=-size, vmax=size, interpolation="none")
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label("coupling J (units of T)", fontsize=9)
    bar.outline.set_linewidth(0.5)
    names = np.asarray(data["expert"].values)[order]
    places = np.arange(len(names))[:: -(-len(names) // _MOST_NAMES)]
    ax.set_xticks(places, [str(n) for n in names[places]], fontsize=6.5, rotation=90)
    ax.set_yticks(places, [str(n) for n in names[places]], fontsize=6.5)
    ax.set_xlabel(f"expert {distance} token{'s' if distance > 1 else ''} on")
    ax.set_ylabel("expert")
    ax.set_title(f"{shown(data.attrs['model'], 44)}, layer {layer}", fontsize=10)
    return ax
