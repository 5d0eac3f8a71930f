"""Numba kernels: plain arrays and scalars in and out, no xarray, no files."""
