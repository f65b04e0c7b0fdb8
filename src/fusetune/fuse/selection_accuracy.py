# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a pool with one more member, for each member in turn.

A row counts by bounds where no member can change the decision, and by the classes that a member
could still bring before the true one elsewhere. What each member does to such a pair of a row and
a class is gathered once, for the pairs hardly change from round to round.

Shapes: M members, N rows, C classes, F rows that can flip, A active rows, P open pairs of a row and
a class, S stored pairs.
"""

import itertools

import numpy as np
import numpy.typing as npt

from fusetune.fuse.pool_values import PoolValues
from fusetune.predictions.kinds import Floats

__all__ = ["Accuracies"]

SLACK = 1e-6  # rounding of bounds on probabilities, in single precision and in their sums
ROWS = 2_000  # a block of rows of a few members fits a core's cache
STORED = 2**25  # numbers to keep between rounds: 256 MB
ROOM = 1.5  # columns of the table for each open pair: a few open later
IDLE = 3  # stored pairs for each open one, at which the table is cut

Integers = npt.NDArray[np.int64]


class Accuracies(PoolValues):
    """Counts rows by their bounds where no single member can change the decision.

    Args:
        arrays: M arrays `(N, C)` of probabilities whose rows sum to 1.
        columns_N: `(N,)` column of the true class, -1 where no member knows it.
        shares_N: `(N,)` non-negative, summing to 1.
    """

    def __init__(self, arrays: list[Floats], columns_N: Integers, shares_N: Floats) -> None:
        used_N = (columns_N >= 0) & (shares_N > 0)
        if not used_N.all():
            arrays = [array_NC[used_N] for array_NC in arrays]
            columns_N, shares_N = columns_N[used_N], shares_N[used_N]
        num_classes = arrays[0].shape[1]
        # How far a member can move a class away from the true one, at most and at least.
        most_NC = np.full((len(columns_N), num_classes), -np.inf)
        least_NC = np.full(most_NC.shape, np.inf)
        self.alone_M = np.zeros(len(arrays))
        for start in range(0, len(columns_N), ROWS):
            rows = slice(start, start + ROWS)
            blocks = [array_NC[rows] for array_NC in arrays]
            rights = _bound(blocks, columns_N[rows], most_NC[rows], least_NC[rows])
            self.alone_M += _share(rights, shares_N[rows])
        own_N = np.arange(len(columns_N)) * num_classes + columns_N
        most_NC.put(own_N, -np.inf)
        least_NC.put(own_N, -np.inf)
        # Class by class: along long rows, NumPy compares many numbers at once.
        most_CN, least_CN = np.ascontiguousarray(most_NC.T), np.ascontiguousarray(least_NC.T)
        always_N = most_CN.max(axis=0) < 0
        self.always = float(shares_N[always_N].sum())
        rows_F = np.flatnonzero(~always_N & (least_CN.max(axis=0) <= 0))
        self.most_CF, self.least_CF = most_CN[:, rows_F], least_CN[:, rows_F]
        self.shares_F = shares_N[rows_F]
        self.margins = _Margins(arrays, rows_F, columns_N[rows_F])
        self.sums_CF = np.zeros(self.most_CF.shape)

    def with_each(self, counts_M: Integers, members: Integers) -> Floats:
        """`(len(members),)` accuracies of the pool with one more of each."""
        if not counts_M.any():
            return self.alone_M[members]
        lead_CF = self.sums_CF - np.take_along_axis(
            self.sums_CF, self.margins.columns_F[None], axis=0
        )
        wrong_F = (lead_CF + self.least_CF).max(axis=0) > SLACK
        open_CF = lead_CF + self.most_CF >= -SLACK
        open_CF &= ~wrong_F
        active, cells_P, ends = _pairs(open_CF)
        values = np.full(len(members), self.always)
        values += self.shares_F[~(wrong_F | open_CF.any(axis=0))].sum()
        step = max(1, STORED // max(1, len(cells_P)))
        for start in range(0, len(members), step):
            some = slice(start, start + step)
            beaten_BP = self.margins.beaten(members[some], cells_P, lead_CF)
            right_BA = beaten_BP[:, : len(active)]
            for first, end in itertools.pairwise(ends):
                right_BA[:, : end - first] &= beaten_BP[:, first:end]
            values[some] += _share(right_BA, self.shares_F[active])
        return values

    def add(self, member: int) -> None:
        """Choose a member."""
        self.sums_CF += self.margins.arrays[member].take(self.margins.rows_F, axis=0).T


class _Margins:
    """How much more every member gives to the true class than to another: stored for open pairs.

    Pairs are named by their cells, row * C + class, in the rows that can flip.
    """

    def __init__(self, arrays: list[Floats], rows_F: Integers, columns_F: Integers) -> None:
        self.arrays, self.rows_F, self.columns_F = arrays, rows_F, columns_F
        self.num_classes = arrays[0].shape[1]
        self.table_MS = np.empty((len(arrays), 0))
        self.cells_S = np.empty(0, dtype=np.int64)
        self.place = np.full(len(rows_F) * self.num_classes, -1)

    def beaten(
        self, members: Integers, cells_P: Integers, lead_CF: Floats
    ) -> npt.NDArray[np.bool_]:
        """`(members, P)` whether the true class, with the member added, is before the other.

        Args:
            members: Which members.
            cells_P: `(P,)` cells of the pairs.
            lead_CF: `(C, F)` how far a class is before the true one, without the member.
        """
        if len(self.arrays) * len(cells_P) > STORED:
            margins_BP = np.empty((len(members), len(cells_P)))
            self._gather(members, cells_P, margins_BP)
            return margins_BP > self._needed(cells_P, lead_CF)
        self._store(cells_P)
        table_BS = self.table_MS if len(members) == len(self.arrays) else self.table_MS[members]
        beaten_BS = table_BS[:, : len(self.cells_S)] > self._needed(self.cells_S, lead_CF)
        return beaten_BS.take(self.place[cells_P], axis=1)

    def _needed(self, cells: Integers, lead_CF: Floats) -> Floats:
        """What a margin has to exceed; a later class loses ties, so a nearly equal one will do."""
        rows, columns = np.divmod(cells, self.num_classes)
        leads = lead_CF[columns, rows]
        needed: Floats = np.where(
            columns > self.columns_F[rows], np.nextafter(leads, -np.inf), leads
        )
        return needed

    def _store(self, cells_P: Integers) -> None:
        """Have all these pairs in the table; where most of it is idle, only these."""
        stored = len(self.cells_S)
        missing = np.sort(cells_P[self.place[cells_P] < 0])
        crowded = stored + len(missing) > self.table_MS.shape[1]
        if crowded or IDLE * len(cells_P) < stored:
            kept = np.sort(self.place[cells_P])
            kept = kept[kept >= 0]
            table_MS = np.empty((len(self.arrays), int(ROOM * len(cells_P)) + 1))
            table_MS[:, : len(kept)] = self.table_MS.take(kept, axis=1)
            self.place[self.cells_S] = -1
            self.table_MS, self.cells_S, stored = table_MS, self.cells_S[kept], len(kept)
            self.place[self.cells_S] = np.arange(stored)
        if len(missing):
            self.place[missing] = stored + np.arange(len(missing))
            self.cells_S = np.concatenate([self.cells_S, missing])
            members = np.arange(len(self.arrays))
            self._gather(members, missing, self.table_MS[:, stored : len(self.cells_S)])

    def _gather(self, members: Integers, cells: Integers, margins: Floats) -> None:
        """Read the margins of some members and pairs from their probabilities."""
        rows, columns = np.divmod(cells, self.num_classes)
        read, places = np.unique(rows, return_inverse=True)
        others = places * self.num_classes + columns
        own = places * self.num_classes + self.columns_F[rows]
        read = self.rows_F[read]
        for member, margin in zip(members.tolist(), margins, strict=True):
            some = self.arrays[member].take(read, axis=0)
            np.subtract(some.take(own), some.take(others), out=margin, dtype=np.float64)


def _share(right_BA: npt.NDArray[np.bool_], shares_A: Floats) -> Floats:
    """`(B,)` shares of the rows that are right; counted where all rows count alike."""
    if len(shares_A) and (shares_A == shares_A[0]).all():
        return shares_A[0] * np.array([np.count_nonzero(right_A) for right_A in right_BA])
    return right_BA @ shares_A


def _bound(
    blocks: list[Floats], columns_N: Integers, most_NC: Floats, least_NC: Floats
) -> npt.NDArray[np.bool_]:
    """`(M, N)` where each member is right by itself; widens the bounds of the classes' leads."""
    rows_N, num_classes = np.arange(len(columns_N)), most_NC.shape[1]
    cells_N = rows_N * num_classes + columns_N
    right_MN = np.empty((len(blocks), len(columns_N)), dtype=bool)
    lead_NC = np.empty(most_NC.shape)
    for block_NC, right_N in zip(blocks, right_MN, strict=True):
        own_N = block_NC.take(cells_N)
        np.subtract(block_NC, own_N[:, None], out=lead_NC, dtype=np.float64)
        np.maximum(most_NC, lead_NC, out=most_NC)
        np.minimum(least_NC, lead_NC, out=least_NC)
        # More than half is the largest, less than an even share is not: rows sum to 1.
        np.greater(own_N, 0.5 + SLACK, out=right_N)
        unclear = np.flatnonzero(~right_N & (own_N > 1 / num_classes - SLACK))
        largest = block_NC.take(unclear, axis=0).argmax(axis=1)
        right_N[unclear] = largest == columns_N[unclear]
    return right_MN


def _pairs(
    open_CF: npt.NDArray[np.bool_],
) -> tuple[Integers, Integers, tuple[int, ...]]:
    """The open classes of the rows that have some.

    Returns:
        `(A,)` rows, those with the most open classes first; `(P,)` cells of the pairs: first one
        class of each row, then a second of those that have two, and so on; and where each such run
        ends.
    """
    cells = np.flatnonzero(np.ascontiguousarray(open_CF.T))
    counts_F = np.bincount(cells // len(open_CF), minlength=open_CF.shape[1])
    starts_F = np.cumsum(counts_F) - counts_F
    active = np.flatnonzero(counts_F)
    active = active[np.argsort(-counts_F[active], kind="stable")]
    starts_A, counts_A = starts_F[active], counts_F[active]
    runs = [
        cells[starts_A[: np.count_nonzero(counts_A > number)] + number]
        for number in range(int(counts_A.max(initial=0)))
    ]
    ends = np.cumsum([len(run) for run in runs], dtype=np.int64)
    return active, np.concatenate([cells[:0], *runs]), tuple(ends.tolist())
