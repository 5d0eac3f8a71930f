"""The algorithms that sample chains."""

from isingmoe.algorithms.exact import Exact

__all__ = ["Exact"]
