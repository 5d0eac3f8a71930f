"""Sums of bits in columns: sixteen rows of bits at once, by carry-save adders.

A counter of a column is spread over rows: row l of a state holds bit l of the counters of 256
columns, one column a bit. Adding a row to all of them is then a handful of bit operations, and
16 rows together take 15 full adders (Harley and Seal's count of bits, by columns: Muła, Kurz
and Lemire, Comput. J. 61, 111 (2018)). What does not fit into four rows is a row of carries,
worth 16, to be added in turn.
"""

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

ROW = 4
"""Words of a row: 256 columns."""
GROUP = 16
"""Rows added at once."""
LEVELS = 4
"""Rows of a state: counters up to 15."""


def _full_adder(builder, a, b, c):
    """Carry and sum of three rows."""
    half = builder.xor(a, b)
    carry = builder.or_(builder.and_(a, b), builder.and_(half, c))
    return carry, builder.xor(half, c)


def _added(builder, state, rows):
    """The state after a number of rows that is a power of two, and the carries out of it."""
    if len(rows) == 1:
        return state, rows[0]
    half = len(rows) // 2
    state, first = _added(builder, state, rows[:half])
    state, second = _added(builder, state, rows[half:])
    level = half.bit_length() - 1
    carry, total = _full_adder(builder, state[level], first, second)
    return [*state[:level], total, *state[level + 1 :]], carry


def _add_rows(typingctx, source, offset, first, shift, state, place, carries):
    """Add 16 rows to the counters of a state.

    Parameters
    ----------
    source : uint64 array
        Holds the rows, one-dimensional and contiguous.
    offset : int32 array
        Bytes of `source` at which rows begin; a row may begin within a word.
    first : int64
        The first of the 16 offsets.
    shift : int64
        Bytes by which all rows begin later.
    state : uint64 array
        Counters, changed in place.
    place : int64
        Word at which they begin.
    carries : int64
        Word of `state` at which the row of carries is written.
    """

    def generate(context, builder, signature, arguments):
        number = ir.IntType(64)
        vector = ir.VectorType(number, ROW).as_pointer()

        def data(i):
            return make_array(signature.args[i])(context, builder, arguments[i]).data

        begin = builder.gep(builder.bitcast(data(0), ir.IntType(8).as_pointer()), [arguments[3]])
        offsets = builder.gep(data(1), [arguments[2]])
        levels = [builder.add(arguments[5], number(ROW * i)) for i in range(LEVELS)]

        def row(i):
            at = builder.sext(builder.load(builder.gep(offsets, [number(i)])), number)
            return load(builder.gep(begin, [at]))

        def load(pointer):
            value = builder.load(builder.bitcast(pointer, vector))
            value.align = 1
            return value

        def counters(word):
            return builder.gep(data(4), [word])

        rows = [row(i) for i in range(GROUP)]
        after, out = _added(builder, [load(counters(level)) for level in levels], rows)
        for value, word in zip([*after, out], [*levels, arguments[6]], strict=True):
            stored = builder.store(value, builder.bitcast(counters(word), vector))
            stored.align = 1
        return context.get_dummy_value()

    number = types.int64
    return types.void(source, offset, number, number, state, number, number), generate


add_rows: Any = intrinsic(_add_rows)


@nb.njit(cache=True, nogil=True)
def add_counters(state, place, weight, counts, n_columns):
    """Add one row of counters, worth `weight` each, to integers.

    Parameters
    ----------
    state : uint64 array
    place : int64
        Word at which the row begins.
    weight : int64
    counts : int64 array (column or more,)
        Added to in place.
    n_columns : int64
        A multiple of 64, at most 256.
    """
    for w in range(n_columns // 64):
        word = state[place + w]
        if word == 0:
            continue
        column = counts[64 * w : 64 * w + 64]
        for bit in range(64):
            column[bit] += weight * np.int64((word >> np.uint64(bit)) & np.uint64(1))
