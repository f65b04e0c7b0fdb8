# SPDX-License-Identifier: Apache-2.0
"""Permutation test of a gain in any metric, and Holm's correction for several tests at once.

Both say how surprising a gain would be if there were none; how large it is, and whether it is worth
anything, `compare` and `verdict` say.

Shapes: N rows, S statistics of a row, D distinct rows that differ, P permutations, H hypotheses,
F predictions that are compared with one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusetune.evaluate.compare import MEMORY_BYTES
from fusetune.metric import Metric, same_width
from fusetune.predictions.kinds import Floats, Kind

__all__ = ["enough_permutations", "holm", "permutation_p", "permutation_ps"]

Counts = npt.NDArray[np.int64]

PERMUTATIONS = 9999  # scipy.stats.permutation_test's default: p is sure to 0.002 where it is 0.05
MOST_PERMUTATIONS = 999  # for several predictions: p is sure to 0.007 where it is 0.05
FEWEST_PERMUTATIONS = 199  # the fewest that show p = 0.005
CHEAP, DEAR = 1_000_000_000, 20_000_000  # swaps of rows that take a second or two
MERGED = 64  # distinct rows that differ; up to so many, equal ones are swapped together
TIE = 1e-12  # gains closer than this share of the scores differ by rounding only


def permutation_p(
    metric: Metric[Kind],
    statistics_a_NS: Floats,
    statistics_b_NS: Floats,
    *,
    permutations: int = PERMUTATIONS,
    seed: int,
) -> float:
    """Two-sided p of a paired gain, for any metric: how often chance alone gives one as large.

    If the two predictions were equally good for every row, it would not matter which is called
    `a`: each row's statistics may be swapped by the toss of a coin, and p is the share of swaps
    whose gain is at least as far from 0 as the one seen. Ties count as that far. With few
    differing rows (at most 14 by default) every pattern of swaps is tried and p is exact; else
    `permutations` are drawn and p = (b + 1) / (P + 1) with b of P as far, which is never 0.

    Rows that do not differ cannot matter; with none that differ, or where the metric has no value, p
    is 1. Not for rows that hang
    together (several pictures of one object), which would have to be swapped as one, and not for a
    prediction that was picked from several on the same rows: see `holm`.

    Args:
        metric: What the statistics belong to.
        statistics_a_NS: `(N, S)` statistics of the first prediction, N at least 1.
        statistics_b_NS: `(N, S)` of the second, of the same rows in the same order.
        permutations: Patterns of swaps to draw, where there are too many to try all.
        seed: Of the draws.

    Cost: As the metric's `values` on P weightings of two rows for each distinct row that differs,
        in blocks of bounded memory; rows with equal statistics are swapped together. Where the
        metric is a mean over rows, P additions for each row.

    Reference: Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005, section 3.7;
        Phipson & Smyth, Permutation p-values should never be zero, Statistical Applications in
        Genetics and Molecular Biology 2010 (why 1 is added).

    Example:
        Six rows, all for `a`: all swapped and none swapped are as one-sided, 2 of 64 patterns.

        >>> from fusetune.metrics.accuracy import Accuracy
        >>> permutation_p(Accuracy(), np.ones((6, 1)), np.zeros((6, 1)), seed=0)
        0.03125
    """
    statistics_a_NS, statistics_b_NS = same_width([statistics_a_NS, statistics_b_NS])
    assert statistics_a_NS.shape == statistics_b_NS.shape and len(statistics_a_NS) > 0
    assert permutations > 0
    pairs = _Pairs.of(statistics_a_NS, statistics_b_NS, permutations)
    num_rows = len(pairs.repeats_D)
    if not num_rows:
        return 1.0
    seen_P, size = pairs.gains(metric, np.zeros((1, num_rows)))
    least = abs(float(seen_P[0])) - TIE * size
    if math.isnan(least):
        return 1.0
    if _signs_suffice(metric, statistics_a_NS) and not pairs.exact and num_rows > MERGED:
        differences_NF = statistics_a_NS - statistics_b_NS
        return _flipped_ps(differences_NF, permutations, seed)[0]
    block = max(1, MEMORY_BYTES // (8 * len(pairs.rows_TS)))
    as_far = total = 0
    for swapped_PD in pairs.swaps(permutations, block, seed):
        gains_P, _ = pairs.gains(metric, swapped_PD)
        as_far += int((np.abs(gains_P) >= least).sum())
        total += len(gains_P)
    return as_far / total if pairs.exact else (as_far + 1) / (total + 1)


def permutation_ps(
    metric: Metric[Kind],
    statistics_FNS: Sequence[Floats],
    statistics_b_NS: Floats,
    *,
    permutations: int = PERMUTATIONS,
    seed: int,
) -> list[float]:
    """`permutation_p` of several predictions against the same one; see there, and `holm`.

    Where the metric is a mean over rows they share their draws, so that many cost hardly more than
    one.

    Args:
        metric: What the statistics belong to.
        statistics_FNS: `(N, S)` statistics of each prediction.
        statistics_b_NS: `(N, S)` of the one that all are compared with.
        permutations: Patterns of swaps to draw for each.
        seed: Of the draws.
    """
    *statistics_FNS, statistics_b_NS = same_width([*statistics_FNS, statistics_b_NS])
    differing = [int((a_NS != statistics_b_NS).any(axis=1).sum()) for a_NS in statistics_FNS]
    few = min(differing, default=0) <= MERGED
    if few or not _signs_suffice(metric, statistics_b_NS):
        return [
            permutation_p(metric, a_NS, statistics_b_NS, permutations=permutations, seed=seed)
            for a_NS in statistics_FNS
        ]
    columns = [a_NS[:, 0] - statistics_b_NS[:, 0] for a_NS in statistics_FNS]
    return _flipped_ps(np.stack(columns, axis=1), permutations, seed)


def enough_permutations(metric: Metric[Kind], num_rows: int, num_predictions: int) -> int:
    """How many permutations several tests can afford: 999, or what about a second allows from 199 on."""
    swaps = CHEAP if metric.mean_of_rows else DEAR
    allowed = swaps // max(1, num_rows * num_predictions)
    return min(MOST_PERMUTATIONS, max(FEWEST_PERMUTATIONS, allowed))


def _signs_suffice(metric: Metric[Kind], statistics_NS: Floats) -> bool:
    """Whether a gain is as far from 0 as another just where the mean difference of the rows is.

    Swaps leave the sum of both means as it is, so that the difference of two values that rise with
    them rises with the difference of the means.
    """
    return metric.mean_of_rows and statistics_NS.shape[1] == 1


def _flipped_ps(differences_NF: Floats, permutations: int, seed: int) -> list[float]:
    """The p of each column: how often its sum is as far from 0 with the signs of random rows flipped."""
    differences_NF = differences_NF.astype(np.float64)
    differences_NF[:, ~np.isfinite(differences_NF).all(axis=0)] = 0  # no value proves nothing
    num_rows = len(differences_NF)
    sums_F = differences_NF.sum(axis=0)
    least_F = np.abs(sums_F) - TIE * np.abs(differences_NF).sum(axis=0)
    random = np.random.default_rng(seed)
    num_bytes = -(-num_rows // 8)
    block = max(1, MEMORY_BYTES // (8 * num_rows))
    as_far_F = np.zeros(len(sums_F), dtype=np.int64)
    for start in range(0, permutations, block):
        size = min(block, permutations - start)
        drawn = np.frombuffer(random.bytes(size * num_bytes), dtype=np.uint8)
        flipped_PN = np.unpackbits(drawn.reshape(size, num_bytes), axis=1, count=num_rows)
        gains_PF = sums_F - 2 * (flipped_PN.astype(np.float64) @ differences_NF)
        as_far_F += (np.abs(gains_PF) >= least_F).sum(axis=0)
    p_values: list[float] = ((as_far_F + 1) / (permutations + 1)).tolist()
    return p_values


def holm(p_values_H: Sequence[float] | Floats) -> npt.NDArray[np.float64]:
    """Adjusted p-values of several tests: below 0.05 for any only if that holds for all together.

    Of H methods compared with the best member, one looks good by chance more easily than a given
    one does. The smallest p is multiplied by H, the next by H - 1, and so on; none may be below
    the one before, none above 1. The chance of any false claim is then at most the level chosen,
    however the tests depend on each other. Uniformly better than Bonferroni's factor H for all.

    Args:
        p_values_H: `(H,)` p-values in [0, 1], in any order; none gives none.

    Returns:
        `(H,)` adjusted p-values in the order given; equal ones stay equal.

    Reference: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
        of Statistics 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
        [0.03, 0.06, 0.06]
    """
    p_H = np.asarray(p_values_H, dtype=np.float64)
    assert p_H.ndim == 1 and ((p_H >= 0) & (p_H <= 1)).all(), "p-values lie in [0, 1]"
    order = np.argsort(p_H, kind="stable")
    factors_H = np.arange(len(p_H), 0, -1)
    adjusted_H = np.empty(len(p_H))
    adjusted_H[order] = np.minimum(np.maximum.accumulate(p_H[order] * factors_H), 1.0)
    return adjusted_H


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Rows that differ, equal ones together, and all others; ready to be swapped.

    Args:
        rows_TS: Statistics of `a` for the D distinct pairs, of `b` for them, of the other rows.
        repeats_D: How many rows each distinct pair stands for.
        others: How many rows each of the other rows stands for.
        exact: Whether all patterns are few enough to be tried.
    """

    rows_TS: Floats
    repeats_D: Counts
    others: Counts
    exact: bool

    @classmethod
    def of(cls, statistics_a_NS: Floats, statistics_b_NS: Floats, permutations: int) -> "_Pairs":
        differs_N = (statistics_a_NS != statistics_b_NS).any(axis=1)
        pairs_DT = np.concatenate([statistics_a_NS, statistics_b_NS], axis=1)[differs_N]
        repeats_D = np.ones(len(pairs_DT), dtype=np.int64)
        exact = len(pairs_DT) <= permutations.bit_length()  # 2^(D-1) <= P
        if not exact:  # else row by row
            pairs_DT, repeats_D = np.unique(pairs_DT, axis=0, return_counts=True)
        same_NS, others = np.unique(statistics_a_NS[~differs_N], axis=0, return_counts=True)
        return cls(
            np.concatenate([*np.split(pairs_DT, 2, axis=1), same_NS]), repeats_D, others, exact
        )

    def gains(self, metric: Metric[Kind], swapped_PD: Floats) -> tuple[Floats, float]:
        """`(P,)` gains where so many rows of each pair are swapped; and how large scores are."""
        weights_PT = np.empty((len(swapped_PD), len(self.rows_TS)))
        num_distinct = len(self.repeats_D)
        weights_PT[:, 2 * num_distinct :] = self.others
        kept_PD = self.repeats_D - swapped_PD
        values = []
        for first_PD, second_PD in ((kept_PD, swapped_PD), (swapped_PD, kept_PD)):
            weights_PT[:, :num_distinct] = first_PD
            weights_PT[:, num_distinct : 2 * num_distinct] = second_PD
            values.append(metric.values(self.rows_TS, weights_PT))
        return np.asarray(metric.gain(values[0], values[1])), float(np.abs(values).max())

    def swaps(self, permutations: int, block: int, seed: int) -> Iterator[Floats]:
        """Blocks of `(P, D)` counts: all patterns, or so many drawn by the toss of coins.

        A pattern and its opposite give opposite gains, so of all patterns those serve in which
        the first row stays.
        """
        num_distinct = len(self.repeats_D)
        total = 2 ** (num_distinct - 1) if self.exact else permutations
        random = np.random.default_rng(seed)
        for start in range(0, total, block):
            stop = min(start + block, total)
            if self.exact:
                numbers_P1 = np.arange(start, stop)[:, None] << 1
                yield (numbers_P1 >> np.arange(num_distinct) & 1).astype(np.float64)
            elif (self.repeats_D == 1).all():
                shape = (stop - start, num_distinct)
                yield random.integers(2, size=shape, dtype=np.uint8).astype(np.float64)
            else:
                shape = (stop - start, num_distinct)
                yield random.binomial(self.repeats_D, 0.5, size=shape).astype(np.float64)
