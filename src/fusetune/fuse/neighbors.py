# SPDX-License-Identifier: Apache-2.0
"""Nearest rows by Euclidean distance, with ties settled by position and not by rounding.

Shapes: H stored rows, N rows asked about, F features, K neighbors, B rows of a block, G groups of
stored rows, W rows of a group, P pairs.
"""

import numpy as np
import numpy.typing as npt

from fusetune.fuse.threads import one_thread
from fusetune.predictions.kinds import Array, Floats

__all__ = ["nearest_rows"]

BLOCK = 2**20  # distances, or numbers under them, held at once: 8 MiB
WIDEST = 32  # rows of a group: a minimum of 32 costs a tenth of a partition
ROUNDING = 1e-10  # of the squared lengths: far above what the expanded square loses


def nearest_rows(stored_HF: Floats, rows_NF: Floats, num_neighbors: int) -> npt.NDArray[np.int64]:
    """`(N, K)` positions of the nearest stored rows, the nearest first; ties: the earlier row.

    Distances come from |a|^2 + |b|^2 - 2ab, as one matrix product. The K-th smallest of the minima
    of groups of rows bounds the K-th smallest distance from above; what lies within rounding of
    this bound (a dozen rows, or however many tie) is measured again by differences, so that
    neither ties nor the order of the rows asked about are decided by rounding.

    Args:
        stored_HF: `(H, F)` finite numbers in double precision, H and F at least 1.
        rows_NF: `(N, F)` likewise.
        num_neighbors: K; at most H are returned.

    Cost:
        N H F multiplications and a pass over N H distances, in blocks of 8 MiB.

    Example:
        >>> nearest_rows(np.array([[0.0], [4.0], [2.0]]), np.array([[3.0]]), 2).tolist()
        [[1, 2]]
    """
    num_stored = len(stored_HF)
    num_neighbors = min(num_neighbors, num_stored)
    width = max(1, min(WIDEST, num_stored // (4 * num_neighbors)))
    padding = -num_stored % width
    squares_H = (stored_HF**2).sum(axis=1)
    expanded_FH = np.vstack([-2 * stored_HF.T, squares_H])
    expanded_FH = np.pad(expanded_FH, ((0, 0), (0, padding)))
    expanded_FH[-1, num_stored:] = np.inf
    found_NK = np.empty((len(rows_NF), num_neighbors), dtype=np.int64)
    step = max(1, BLOCK // num_stored)
    for start in range(0, len(rows_NF), step):
        rows_BF = rows_NF[start : start + step]
        with one_thread():
            apart_BH = np.pad(rows_BF, ((0, 0), (0, 1)), constant_values=1) @ expanded_FH
        slack_B = ROUNDING * ((rows_BF**2).sum(axis=1) + squares_H.max())
        near_P, stored_P = _within_reach(
            apart_BH.reshape(len(rows_BF), -1, width), slack_B, num_neighbors
        )
        exact_P = _squared_distances(stored_HF, rows_BF, stored_P, near_P)
        order_P = np.lexsort((stored_P, exact_P, near_P))
        firsts_B = np.searchsorted(near_P, np.arange(len(rows_BF)))
        picked_BK = firsts_B[:, None] + np.arange(num_neighbors)
        found_NK[start : start + step] = stored_P[order_P[picked_BK]]
    return found_NK


def _within_reach(apart_BGW: Floats, slack_B: Floats, num_neighbors: int) -> tuple[Array, Array]:
    """`(P,)` rows asked about, in order, and `(P,)` stored rows that may be among the nearest."""
    minima_BG = apart_BGW.min(axis=2)
    reach_B = np.partition(minima_BG, num_neighbors - 1, axis=1)[:, num_neighbors - 1] + slack_B
    near_Q, group_Q = np.nonzero(minima_BG <= reach_B[:, None])
    pair_P, member_P = np.nonzero(apart_BGW[near_Q, group_Q] <= reach_B[near_Q, None])
    return near_Q[pair_P], group_Q[pair_P] * apart_BGW.shape[2] + member_P


def _squared_distances(
    stored_HF: Floats, rows_BF: Floats, stored_P: Array, near_P: Array
) -> Floats:
    exact_P = np.empty(len(stored_P))
    step = max(1, BLOCK // stored_HF.shape[1])
    for start in range(0, len(exact_P), step):
        some = slice(start, start + step)
        exact_P[some] = ((rows_BF[near_P[some]] - stored_HF[stored_P[some]]) ** 2).sum(axis=1)
    return exact_P
