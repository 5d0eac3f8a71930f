"""Words as sets of bits."""

import numba as nb
import numpy as np


@nb.njit(cache=True, nogil=True, inline="always")
def count_bits(word):
    """Bits of a uint64 that are set."""
    # LLVM recognises this form and emits the processor's own instruction.
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@nb.njit(cache=True, nogil=True, inline="always")
def lowest_bit(word):
    """Index of the lowest bit of a uint64 that is set; 64 if none is."""
    # This form too is an instruction of its own.
    return count_bits(~word & (word - np.uint64(1)))
