# SPDX-License-Identifier: Apache-2.0
"""Rows of any length in flat arrays: row n owns the entries from offsets[n] to offsets[n + 1].

Shapes: N rows, K entries of all rows.
"""

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Array

__all__ = ["Offsets", "as_offsets", "entries_of", "offsets_of", "rows_of_entries"]

Offsets = npt.NDArray[np.int64]


def offsets_of(counts_N: Array) -> Offsets:
    """`(N + 1,)` places where each row begins, and the end, from the rows' lengths.

    Example:
        >>> offsets_of([2, 0, 1]).tolist()
        [0, 2, 2, 3]
    """
    return np.concatenate([[0], np.cumsum(counts_N, dtype=np.int64)]).astype(np.int64)


def rows_of_entries(offsets: Offsets) -> Offsets:
    """`(K,)` the row that owns each entry.

    Example:
        >>> rows_of_entries(np.array([0, 2, 2, 3])).tolist()
        [0, 0, 2]
    """
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def entries_of(offsets: Offsets, rows: Array) -> tuple[Offsets, Offsets]:
    """What rows, by position or by mask, own: their offsets, and the positions of their entries.

    Example:
        >>> offsets, entries = entries_of(np.array([0, 2, 2, 3]), [2, 0])
        >>> offsets.tolist(), entries.tolist()
        ([0, 1, 3], [2, 0, 1])
    """
    starts_N, counts_N = offsets[:-1][rows], np.diff(offsets)[rows]
    taken = offsets_of(counts_N)
    return taken, np.arange(taken[-1]) + np.repeat(starts_N - taken[:-1], counts_N)


def as_offsets(offsets: Array, num_rows: int, num_entries: int) -> Offsets:
    """The offsets as integers; that they fit the rows and entries is up to the caller."""
    offsets = np.asarray(offsets, dtype=np.int64)
    assert offsets.shape == (num_rows + 1,) and offsets[0] == 0 and offsets[-1] == num_entries
    assert (np.diff(offsets) >= 0).all()
    return offsets
