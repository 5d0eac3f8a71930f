"""The algorithms that sample chains."""

from isingmoe.algorithms.cluster import SwendsenWang, Wolff
from isingmoe.algorithms.exact import Exact
from isingmoe.algorithms.local import HeatBath, Metropolis

__all__ = ["Exact", "HeatBath", "Metropolis", "SwendsenWang", "Wolff"]
