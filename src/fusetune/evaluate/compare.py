# SPDX-License-Identifier: Apache-2.0
"""Intervals of a score and of a paired gain, also of chosen ones, and McNemar's test.

All start from a metric's statistics of each row, so nothing is predicted or scored twice.

Shapes: N rows, S statistics of a row, R resamples, U distinct rows of statistics.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from fusetune.metric import Metric, same_width
from fusetune.predictions.kinds import Array, Floats, Kind

__all__ = [
    "Interval",
    "bootstrap_differences",
    "bootstrap_gain",
    "bootstrap_interval",
    "bootstrap_intervals",
    "bootstrap_selected_gain",
    "mcnemar_p",
]

RESAMPLES = 2000  # Efron & Tibshirani (1993), section 13.3, ask for 1,000 at least for percentiles
PART_RESAMPLES = 500  # for what is shown beside a verdict, and decides nothing
MEMORY_BYTES = 16 * 2**20  # of one block of resampling counts
KEPT_BYTES = 32 * 2**20  # of counts that are kept from one use to the next
WIDEST = 512  # statistics of a row that are looked at for equal rows: matches of boxes never are
FEW_ROWS = 200  # below it the interval is also held against an exact one; see `bootstrap_gain`


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its confidence interval, all in the metric's own units."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def covers(self, truth: float) -> bool:
        """Whether the truth lies in the closed interval."""
        return self.low <= truth <= self.high


def bootstrap_interval(
    metric: Metric[Kind],
    statistics_NS: Floats,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int,
) -> Interval:
    """Percentile bootstrap interval of one prediction's score; see `bootstrap_intervals`."""
    scored = [(metric, statistics_NS)]
    return bootstrap_intervals(scored, resamples=resamples, level=level, seed=seed)[0]


def bootstrap_intervals(
    scored: Sequence[tuple[Metric[Kind], Floats]],
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int,
) -> list[Interval]:
    """Percentile bootstrap intervals of several scores, which share their draws of the rows.

    Where each row is a hit or a miss and at most 200 rows are of one sort, the interval is
    widened to the exact (mid-p) binomial one: 30 hits of 30 do not prove a score of 100 %.

    Args:
        scored: Metrics, each with `(N, S)` statistics of the same N rows, N at least 1. Put all
            predictions and all metrics in one call: drawing costs more than computing.
        resamples: How many times the rows are drawn with replacement.
        level: Coverage that the interval aims at.
        seed: Of the draws.

    Cost: R·N draws, in blocks of bounded memory, and as many multiplications per score. Rows with
        equal statistics are drawn together, so that accuracy on a million rows takes milliseconds.
    """
    alone = [_merge_equal_rows([statistics_NS]) is not None for _, statistics_NS in scored]
    together = [pair for pair, is_alone in zip(scored, alone, strict=True) if not is_alone]
    drawn = iter(_resampled(together, resamples, seed) if together else ())
    found = []
    for pair, is_alone in zip(scored, alone, strict=True):
        values_R = _resampled([pair], resamples, seed)[0] if is_alone else next(drawn)
        found.append(_score_interval(*pair, values_R, level))
    return found


def _score_interval(
    metric: Metric[Kind], statistics_NS: Floats, values_R: Floats, level: float
) -> Interval:
    low, high = _percentiles(values_R, level)
    if _hits_and_misses(statistics_NS):
        num_rows, num_hits = len(statistics_NS), int(statistics_NS.sum())
        if min(num_hits, num_rows - num_hits) <= FEW_ROWS:
            exact = _binomial_interval(num_hits, num_rows, level)
            low, high = min(low, exact[0]), max(high, exact[1])
    return Interval(metric.value(statistics_NS), low, high, level)


def bootstrap_gain(
    metric: Metric[Kind],
    statistics_a_NS: Floats,
    statistics_b_NS: Floats,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int,
) -> Interval:
    """Paired percentile bootstrap interval of how much better `a` is than `b` (positive: better).

    Rows are drawn once for both. Few differing rows need a guard: with four rows that differ, all
    in favor of `a`, the percentile interval already excludes 0, which chance alone brings about
    once in eight times; and with none it is a point, though others of the rows to come may differ.
    So where the metric counts hits and at most 200 rows differ, the interval is widened to the one
    that belongs to the mid-p McNemar test (it then excludes 0 only when the test's p is below
    1 - level) and to Bonett and Price's, which adds one row to either side; for other metrics it
    is widened to hold 0 while even the most one-sided outcome on so few differing rows could not be
    significant (four at 95 %), and without any it is [0, 0].

    Args:
        metric: What the statistics belong to; decides which direction is better.
        statistics_a_NS: `(N, S)` statistics of the first prediction, N at least 1.
        statistics_b_NS: `(N, S)` of the second, of the same rows in the same order.
        resamples: How many times the rows are drawn with replacement.
        level: Coverage that the interval aims at.
        seed: Of the draws.

    Reference: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Fagerland,
        Lydersen & Laake, The McNemar test for binary matched-pairs data, BMC Medical Research
        Methodology 2013 (mid-p); Bonett & Price, Adjusted Wald confidence interval for a difference
        of binomial proportions based on paired data, Journal of Educational and Behavioral
        Statistics 2012.
    """
    pair = statistics_a_NS, statistics_b_NS = same_width([statistics_a_NS, statistics_b_NS])
    assert statistics_a_NS.shape == statistics_b_NS.shape
    value = float(metric.gain(*(metric.value(statistics_NS) for statistics_NS in pair)))
    differs_N = (statistics_a_NS != statistics_b_NS).any(axis=1)
    num_differ, num_rows = int(differs_N.sum()), len(differs_N)
    low = high = 0.0
    if num_differ:
        scored = [(metric, statistics_NS) for statistics_NS in pair]
        gains_R = np.asarray(metric.gain(*_resampled(scored, resamples, seed)))
        low, high = _percentiles(gains_R, level)
    if _hits_and_misses(statistics_a_NS) and _hits_and_misses(statistics_b_NS):
        if num_differ <= FEW_ROWS:
            won = int((statistics_a_NS > statistics_b_NS).sum())
            won = won if metric.higher_is_better else num_differ - won
            exact = _few_differ_interval(won, num_differ - won, num_rows, level)
            low, high = min(low, exact[0]), max(high, exact[1])
    elif (
        num_differ and 0.5**num_differ > 1 - level
    ):  # the mid-p of n rows that all speak for one side is 2^-n
        low, high = min(low, 0.0), max(high, 0.0)
    return Interval(value, low, high, level)


def bootstrap_selected_gain(
    metric: Metric[Kind],
    candidates: Sequence[Floats],
    members: Sequence[Floats],
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int,
) -> Interval:
    """Interval of the best-looking candidate's gain where the rows that judge also chose.

    What looks best on some rows looks better there than it is. So both choices are made again on
    every resample; how much better than on all rows the chosen ones look there estimates the
    optimism of each choice, b_c of the candidate and b_m of the best-looking member. With [low, high] from
    `bootstrap_gain` of the two that look best on all rows, the interval is

        [low - sqrt(2) b_c + b_m,  high - b_c + sqrt(2) b_m]  around  gain - b_c + b_m.

    Of equally good candidates a resample, which repeats the errors of the rows, shows only
    1 / sqrt(2) of the optimism; so the factor stands wherever it makes a claim smaller. The plain
    percentiles of the repeated choices would count the optimism twice instead of taking it off.

    Use it for cross-fitted predictions, where every row both chooses and judges. With a holdout
    that chooses and test rows that judge, nothing was chosen on the latter: `bootstrap_gain`. One
    candidate that was not chosen (`auto`, a method asked for by name) is a list of one. It does not
    cover what was fitted on these rows: hand in predictions of rows that fitted nothing.

    Args:
        metric: What the statistics belong to, and what chose.
        candidates: One or more `(N, S)` statistics; ties are chosen by order.
        members: One or more `(N, S)` statistics of the same rows; ties are chosen by order.
        resamples: How many times the rows are drawn with replacement.
        level: Coverage that the interval aims at; docs/results/verdict.md says what it reaches.
        seed: Of the draws.

    Cost: R N draws, and as many multiplications for every candidate and member.

    Reference: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 17 (optimism);
        Tsamardinos, Greasidou & Borboudakis, Bootstrapping the out-of-sample predictions, Machine
        Learning 2018 (choosing inside the resample; they judge outside it). The factor is ours.
    """
    scored = [(metric, statistics_NS) for statistics_NS in (*candidates, *members)]
    sign = 1 if metric.higher_is_better else -1
    seen_T = sign * np.array([metric.value(statistics_NS) for _, statistics_NS in scored])
    drawn_TR = sign * np.stack(_resampled(scored, resamples, seed))
    drawn_TR = drawn_TR[:, ~np.isnan(drawn_TR).any(axis=0)]  # no value without a class, say
    errors_TR = drawn_TR - seen_T[:, None]
    chosen, optimism = [], []
    for start, stop in ((0, len(candidates)), (len(candidates), len(scored))):
        first = start + int(seen_T[start:stop].argmax())
        again_R = start + drawn_TR[start:stop].argmax(axis=0)
        # Less the first choice's own error: 0 in the mean, and noise where the choice is clear.
        excess_R = errors_TR[again_R, np.arange(len(again_R))] - errors_TR[first]
        chosen.append(first)
        optimism.append(max(0.0, float(excess_R.mean())))
    pair = [scored[index][1] for index in chosen]
    plain = bootstrap_gain(metric, *pair, resamples=resamples, level=level, seed=seed)
    if np.array_equal(pair[0], pair[1]):
        return plain  # the same predictions gain nothing, however they were chosen
    of_candidate, of_member = optimism
    return Interval(
        plain.value - of_candidate + of_member,
        plain.low - math.sqrt(2) * of_candidate + of_member,
        plain.high - of_candidate + math.sqrt(2) * of_member,
        level,
    )


def bootstrap_differences(
    values_a: Callable[[Floats], Floats],
    values_b: Callable[[Floats], Floats],
    num_rows: int,
    *,
    resamples: int = PART_RESAMPLES,
    level: float = 0.95,
    seed: int,
) -> list[Interval]:
    """Paired percentile intervals of V differences at once, of classes say; rows are drawn once for all.

    Each interval is for its own difference: of twenty without any, one will exclude 0.

    Args:
        values_a: From `(R, N)` weightings of the rows to `(R, V)` values; NaN: no value.
        values_b: Likewise.
        num_rows: N, at least 1.
        resamples: How many times the rows are drawn with replacement; those in which a value is NaN
            are left out of its interval.
        level: Coverage that the intervals aim at.
        seed: Of the draws.
    """
    ones_1N = np.ones((1, num_rows))
    seen_V = (values_a(ones_1N) - values_b(ones_1N))[0]
    once_U = np.ones(num_rows, dtype=np.int64)
    drawn = [
        values_a(weights_RN) - values_b(weights_RN)
        for weights_RN in _weightings(once_U, resamples, seed)
    ]
    ends = [_percentiles(values_R, level) for values_R in np.concatenate(drawn).T]
    return [Interval(float(one), *pair, level) for one, pair in zip(seen_V, ends, strict=True)]


def mcnemar_p(correct_a_N: Array, correct_b_N: Array) -> float:
    """Two-sided mid-p McNemar test: how often chance alone would be this one-sided.

    Only rows on which exactly one of the two is right count; with none, p is 1.

    Args:
        correct_a_N: `(N,)` booleans, whether the first prediction is right.
        correct_b_N: `(N,)` booleans of the second, in the same order.

    Reference: Fagerland, Lydersen & Laake, BMC Medical Research Methodology 2013.

    Example:
        >>> mcnemar_p([True] * 5 + [False], [False] * 5 + [False])
        0.03125
    """
    a_N, b_N = np.asarray(correct_a_N, dtype=bool), np.asarray(correct_b_N, dtype=bool)
    assert a_N.shape == b_N.shape
    only_a, only_b = int((a_N & ~b_N).sum()), int((b_N & ~a_N).sum())
    total = only_a + only_b
    if only_a == only_b:
        return 1.0
    return min(1.0, 2 * _binomial_mid_p(min(only_a, only_b), total)(0.5))


def _binomial_mid_p(count: int, total: int) -> Callable[[float], float]:
    """Function of a probability: P(X < count) + P(X = count) / 2 for X ~ Binomial(total, it)."""
    ks = np.arange(count + 1, dtype=float)
    steps = np.log(total - ks[:-1]) - np.log(ks[:-1] + 1)  # C(n, k + 1) / C(n, k)
    log_choose = np.concatenate([[0.0], np.cumsum(steps)])
    shares = np.ones(count + 1)
    shares[-1] = 0.5

    def tail(probability: float) -> float:
        logs = ks * math.log(probability) + (total - ks) * math.log1p(-probability)
        return float(np.exp(log_choose + logs) @ shares)

    return tail


def _binomial_interval(count: int, total: int, level: float) -> tuple[float, float]:
    """Mid-p interval of a share, by inverting the test; works on the rarer outcome."""
    if count > total - count:
        low, high = _binomial_interval(total - count, total, level)
        return 1 - high, 1 - low
    tail, alpha = _binomial_mid_p(count, total), (1 - level) / 2
    low = _falling_root(tail, 1 - alpha) if count > 0 else 0.0
    return low, _falling_root(tail, alpha) if total > 0 else 1.0


def _few_differ_interval(won: int, lost: int, num_rows: int, level: float) -> tuple[float, float]:
    """Interval of the gain in hits that holds both the mid-p interval and Bonett and Price's.

    The first takes the number of rows that differ for granted; the second does not, and so is the
    wider one where hardly any do.
    """
    differ = won + lost
    mid_p = [
        (2 * share - 1) * differ / num_rows for share in _binomial_interval(won, differ, level)
    ]
    share_won, share_lost = (won + 1) / (num_rows + 2), (lost + 1) / (num_rows + 2)
    gain = share_won - share_lost
    spread = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(
        (share_won + share_lost - gain**2) / (num_rows + 2)
    )
    return min(mid_p[0], gain - spread), max(mid_p[1], gain + spread)


def _falling_root(function: Callable[[float], float], wanted: float) -> float:
    """Where a function that falls on (0, 1) takes a value: bisection to full precision."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > wanted else (low, middle)
    return (low + high) / 2


def _hits_and_misses(statistics_NS: Floats) -> bool:
    """Whether the metric is a share of hits: one statistic of 0 or 1 per row."""
    return statistics_NS.shape[1] == 1 and bool(np.isin(statistics_NS, (0, 1)).all())


def _percentiles(values_R: Floats, level: float) -> tuple[float, float]:
    """Ends of the middle share; resamples in which the metric has no value are left out."""
    known_R = values_R[~np.isnan(values_R)]
    if not len(known_R):
        return math.nan, math.nan
    low, high = np.quantile(known_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled(
    scored: Sequence[tuple[Metric[Kind], Floats]], resamples: int, seed: int
) -> list[Floats]:
    """`(R,)` values of each metric on the same R draws of the rows."""
    statistics = [statistics_NS for _, statistics_NS in scored]
    assert len(statistics[0]) > 0 and resamples > 0
    plain = (statistics, np.ones(len(statistics[0]), dtype=np.int64))
    distinct, repeats_U = _merge_equal_rows(statistics) or plain
    values: list[Floats] = [np.empty(resamples) for _ in scored]
    start = 0
    for weights_RU in _weightings(repeats_U, resamples, seed):
        stop = start + len(weights_RU)
        for (metric, _), statistics_US, values_R in zip(scored, distinct, values, strict=True):
            values_R[start:stop] = metric.values(statistics_US, weights_RU)
        start = stop
    return values


def _merge_equal_rows(statistics: Sequence[Floats]) -> tuple[list[Floats], Array] | None:
    """The distinct rows of joined statistics and how often each occurs; None if nearly all differ."""
    widths = [statistics_NS.shape[1] for statistics_NS in statistics]
    if sum(widths) > WIDEST:
        return None
    joined_NT = np.concatenate(statistics, axis=1)
    sample_NT = joined_NT[:4096]
    if len(_distinct(sample_NT)[0]) * 8 > len(sample_NT):
        return None
    distinct_UT, repeats_U = _distinct(joined_NT)
    return np.split(distinct_UT, np.cumsum(widths)[:-1], axis=1), repeats_U


def _distinct(rows_NT: Floats) -> tuple[Floats, Array]:
    """Distinct rows in rising order, and how often each occurs."""
    if rows_NT.shape[1] == 1:  # numbers sort ten times faster than rows
        distinct_U, repeats_U = np.unique(rows_NT[:, 0], return_counts=True)
        return distinct_U[:, None], repeats_U
    return np.unique(rows_NT, axis=0, return_counts=True)


def _weightings(repeats_U: Array, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of `(R, U)` counts of each distinct row, in R draws of N rows with replacement.

    Each block overwrites the one before.
    """
    num_rows, num_distinct = int(repeats_U.sum()), len(repeats_U)
    block = max(1, MEMORY_BYTES // (8 * num_distinct))
    buffer_RU = np.empty((min(block, resamples), num_distinct))
    random = np.random.default_rng(seed)
    plain = num_distinct == num_rows
    draw = _kept_counts if num_rows * resamples <= KEPT_BYTES else _counts
    drawn = iter(draw(num_rows, resamples, seed) if plain else ())
    for start in range(0, resamples, block):
        weights_RU = buffer_RU[: resamples - start]
        if plain:
            for row_U, counts_N in zip(weights_RU, drawn, strict=False):
                row_U[:] = counts_N  # a resample at a time: its counts stay in the cache
        else:
            weights_RU[:] = random.multinomial(num_rows, repeats_U / num_rows, len(weights_RU))
        yield weights_RU


def _counts(num_rows: int, resamples: int, seed: int) -> Iterator[Array]:
    """`(N,)` counts of each row in R draws of N rows with replacement."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(num_rows, size=num_rows), minlength=num_rows)


@lru_cache(maxsize=1)
def _kept_counts(num_rows: int, resamples: int, seed: int) -> Array:
    """`(R, N)` counts, kept: the scores, the gain and each choice are resampled by the same draws."""
    kept_RN = np.empty((resamples, num_rows), dtype=np.uint8)  # no row is drawn 256 times
    for row_N, counts_N in zip(kept_RN, _counts(num_rows, resamples, seed), strict=True):
        row_N[:] = counts_N
    return kept_RN
