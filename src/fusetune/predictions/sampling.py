# SPDX-License-Identifier: Apache-2.0
"""A sample of rows that stands for all of them: each stratum in proportion, weighted by its share.

Shapes: N rows.
"""

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Array, Floats

__all__ = ["stratified_sample"]

FEWEST = 5  # rows of a stratum, if it has so many: one for every fold of a cross-fit


def stratified_sample(
    strata_N: Array, order_N: Array, size: int, weights_N: Floats | None = None
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Rows of a sample, and the weights that make it stand for all rows.

    Every stratum gives some five rows, if it has them, and its share of the rest. The weights of a
    stratum's rows add up to those of all its rows: what the five and rounding distort, the weights
    put right. With fewer rows than two for each stratum, strata are not looked at.

    Args:
        strata_N: `(N,)` whole numbers from 0.
        order_N: `(N,)` numbers by which rows are taken within a stratum, the smallest first;
            hashes of ids make the sample independent of the order of the rows.
        size: Rows to take, up to rounding in every stratum.
        weights_N: `(N,)` weights of the rows; None: all 1.

    Returns:
        `(n,)` rising positions and `(n,)` weights with mean 1; all rows if there are no more than
        `size`.

    Example:
        >>> rows, weights_n = stratified_sample(np.zeros(20, dtype=int), np.arange(20), 10)
        >>> rows.tolist(), float(weights_n.sum())
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 10.0)
    """
    weights_N = np.ones(len(strata_N)) if weights_N is None else weights_N
    if len(strata_N) <= size:
        return np.arange(len(strata_N)), weights_N / weights_N.mean()
    counts = np.bincount(strata_N)
    each = min(FEWEST, size // (2 * int(np.count_nonzero(counts))))
    if not each:  # too few rows for strata
        rows = np.sort(np.argsort(order_N, kind="stable")[:size])
        return rows, weights_N[rows] / weights_N[rows].mean()
    fewest = np.minimum(counts, each)
    share = (size - fewest.sum()) / (len(strata_N) - fewest.sum())
    quota = fewest + np.rint((counts - fewest) * share)
    order = np.lexsort((order_N, strata_N))
    starts = np.cumsum(counts) - counts
    rank_N = np.arange(len(order)) - starts[strata_N[order]]
    rows = np.sort(order[rank_N < quota[strata_N[order]]])
    strata_n, weights_n = strata_N[rows], weights_N[rows]
    whole = np.bincount(strata_N, weights_N, len(counts))
    taken = np.bincount(strata_n, weights_n, len(counts))
    factors = np.divide(whole, taken, out=np.zeros(len(counts)), where=taken > 0)
    weights_n = weights_n * factors[strata_n]
    return rows, weights_n / weights_n.mean()
