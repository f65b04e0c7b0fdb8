# SPDX-License-Identifier: Apache-2.0
"""Between Arrow's columns and NumPy's arrays, without waking pandas.

pyarrow's own `to_numpy` and `pa.array` look whether they have a pandas object before them, and so
import pandas wherever it is installed: 0.9 s, the time of a whole `fusetune fuse`.

Shapes: N rows.
"""

from typing import TYPE_CHECKING

import numpy as np

from fusetune.predictions.kinds import Array

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["arrow_of", "numpy_of"]

FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}  # Arrow's → NumPy's


def numpy_of(column: "pa.ChunkedArray | pa.Array") -> Array:
    """`(N,)` values of a column of numbers, booleans or text, not copied where they need not be.

    Empty cells of numbers become NaN (integers and booleans then become float64); text has none.
    """
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=str) if len(column) else np.empty(0, dtype="U1")
    filled_N = None
    if column.null_count:
        filled_N = numpy_of(column.is_valid())
    if pa.types.is_boolean(kind):
        values_N = _fixed_width(column.cast(pa.uint8())).astype(bool)
    else:
        values_N = _fixed_width(column)
    if filled_N is None:
        return values_N
    if values_N.dtype.kind != "f":
        values_N = values_N.astype(np.float64)
    return np.where(filled_N, values_N, values_N.dtype.type(np.nan))


def arrow_of(values_N: "Array | pa.Array") -> "pa.Array":
    """An Arrow array of `(N,)` numbers (not copied), booleans or text; itself if it is one."""
    import pyarrow as pa

    if isinstance(values_N, pa.Array):
        return values_N
    values_N = np.ascontiguousarray(values_N)
    number = len(values_N)
    if values_N.dtype.kind == "U":
        return _text(values_N.tolist())
    if values_N.dtype.kind == "b":
        return arrow_of(values_N.view(np.uint8)).cast(pa.bool_())
    if values_N.dtype.kind not in "iuf" or values_N.dtype.itemsize > 8:
        return pa.array(values_N)
    kind = pa.from_numpy_dtype(values_N.dtype)
    return pa.Array.from_buffers(kind, number, [None, pa.py_buffer(values_N)])


def _fixed_width(numbers: "pa.Array") -> Array:
    """`(N,)` numbers as they lie in Arrow's buffer; what lies under empty cells is arbitrary."""
    dtype = np.dtype(FLOATS.get(str(numbers.type), str(numbers.type)))
    if not len(numbers):
        return np.empty(0, dtype=dtype)
    start = numbers.offset * dtype.itemsize
    return np.frombuffer(numbers.buffers()[1], dtype=dtype, count=len(numbers), offset=start)


def _text(texts: list[str]) -> "pa.Array":
    import pyarrow as pa

    encoded = [text.encode() for text in texts]
    ends_N = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    short = bool(ends_N[-1] < 2**31)
    ends = pa.py_buffer(ends_N.astype(np.int32) if short else ends_N)
    held = pa.StringArray if short else pa.LargeStringArray
    return held.from_buffers(len(texts), ends, pa.py_buffer(b"".join(encoded)))
