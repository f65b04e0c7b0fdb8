# SPDX-License-Identifier: Apache-2.0
"""Intervals and McNemar's test, against scipy and against plain, unblocked computations."""

import tracemalloc
from dataclasses import dataclass
from math import comb
from typing import ClassVar

import numpy as np
import pytest

from fusetune.evaluate import compare
from fusetune.evaluate.compare import (
    bootstrap_gain,
    bootstrap_interval,
    bootstrap_intervals,
    bootstrap_selected_gain,
    mcnemar_p,
)
from fusetune.metric import Metric, weighted_means
from fusetune.metrics.roc_auc import RocAuc
from fusetune.predictions.kinds import Floats, Probabilities
from fusetune.predictions.targets import Targets

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Score(Metric[Probabilities]):
    """Mean of one statistic; the comparisons need no more of a metric."""

    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Score"

    def statistics(self, prediction: Probabilities, targets: Targets) -> Floats:
        raise AssertionError("the comparisons start from statistics")

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        return weighted_means(statistics_NS, weights_RN)


@dataclass(frozen=True)
class Loss(Score):
    """The same, lower is better."""

    higher_is_better: ClassVar[bool] = False


@dataclass(frozen=True)
class Ratio(Score):
    """Not a mean: a ratio of the sums of two statistics."""

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        sums_RS = weights_RN @ statistics_NS
        return sums_RS[:, 0] / sums_RS[:, 1]


def hits(wins: int, losses: int, both: int, neither: int = 0) -> tuple[Floats, Floats]:
    a = [1] * wins + [0] * losses + [1] * both + [0] * neither
    b = [0] * wins + [1] * losses + [1] * both + [0] * neither
    return np.array(a, dtype=float)[:, None], np.array(b, dtype=float)[:, None]


def exact_mid_p(wins: int, losses: int) -> float:
    """Whole-number arithmetic, independent of the implementation's logarithms."""
    total, fewer = wins + losses, min(wins, losses)
    doubled = 2 * sum(comb(total, k) for k in range(fewer)) + comb(total, fewer)
    return doubled / 2**total


@pytest.mark.parametrize(
    ("wins", "losses"),
    [(0, 0), (1, 0), (0, 1), (5, 0), (3, 3), (12, 4), (4, 12), (90, 61), (700, 641), (0, 900)],
)
def test_mcnemar_equals_exact_integers(wins: int, losses: int) -> None:
    a, b = hits(wins, losses, both=50, neither=7)
    assert mcnemar_p(a[:, 0], b[:, 0]) == pytest.approx(exact_mid_p(wins, losses), rel=1e-9)


def test_mcnemar_equals_scipys_binomial_on_many_rows() -> None:
    from scipy.stats import binom

    a, b = hits(50_600, 49_400, both=10)
    tail = 2 * binom.cdf(49_400, 100_000, 0.5) - binom.pmf(49_400, 100_000, 0.5)
    assert mcnemar_p(a[:, 0], b[:, 0]) == pytest.approx(tail, rel=1e-6)


def test_mcnemar_of_equal_counts_and_of_no_rows_is_one() -> None:
    a, b = hits(7, 7, both=1)
    assert mcnemar_p(a[:, 0], b[:, 0]) == 1.0
    assert mcnemar_p(np.empty(0, bool), np.empty(0, bool)) == 1.0


@pytest.mark.parametrize("metric", [Score(), Loss()])
def test_gain_interval_equals_scipys_paired_percentile_bootstrap(metric: Score) -> None:
    from scipy.stats import bootstrap

    random = np.random.default_rng(3)
    a, b = random.gamma(2, size=(400, 1)), random.gamma(2.2, size=(400, 1))
    found = bootstrap_gain(metric, a, b, resamples=20_000, seed=1)
    gains = (a - b)[:, 0] if metric.higher_is_better else (b - a)[:, 0]
    reference = bootstrap(
        (gains,), np.mean, n_resamples=20_000, method="percentile", rng=random, vectorized=True
    ).confidence_interval
    width = reference.high - reference.low
    assert found.value == pytest.approx(gains.mean())
    assert found.low == pytest.approx(reference.low, abs=0.03 * width)
    assert found.high == pytest.approx(reference.high, abs=0.03 * width)


def test_rows_are_drawn_once_for_both() -> None:
    """An unpaired bootstrap would give an interval as wide as the scores' own spread."""
    a = np.random.default_rng(0).normal(size=(500, 1)) * 10
    found = bootstrap_gain(Score(), a + 1, a, seed=0)
    assert (found.low, found.high) == pytest.approx((1, 1))


def test_merged_rows_give_the_same_interval_as_rows_drawn_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = hits(300, 250, both=1000, neither=200)
    merged = bootstrap_gain(Score(), a, b, resamples=20_000, seed=0)
    monkeypatch.setattr(compare, "_merge_equal_rows", lambda statistics: None)
    plain = bootstrap_gain(Score(), a, b, resamples=20_000, seed=0)
    assert (merged.low, merged.high) == pytest.approx((plain.low, plain.high), abs=0.0015)
    assert merged.value == plain.value


def test_merging_keeps_statistics_together_with_their_owners() -> None:
    """Predictions of several statistics each: the split must not mix their columns."""
    random = np.random.default_rng(5)
    a, b = random.integers(1, 3, size=(600, 2)) * 1.0, random.integers(1, 4, size=(600, 2)) * 1.0
    found = bootstrap_gain(Ratio(), a, b, seed=2)
    value = a[:, 0].sum() / a[:, 1].sum() - b[:, 0].sum() / b[:, 1].sum()
    assert found.value == pytest.approx(value)
    assert found.low < value < found.high


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 300, 1))
    whole = bootstrap_gain(Score(), a, b, resamples=501, seed=7)
    monkeypatch.setattr(compare, "MEMORY_BYTES", 8 * 300 * 7)
    pieces = bootstrap_gain(Score(), a, b, resamples=501, seed=7)
    assert (whole.low, whole.high) == pytest.approx((pieces.low, pieces.high), rel=1e-12)


def test_the_seed_decides() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 300, 1))
    first, again, other = (bootstrap_gain(Score(), a, b, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_shared_draws_give_each_score_its_own_interval() -> None:
    random = np.random.default_rng(0)
    losses, rates = random.gamma(2, size=(250, 1)), (random.random((250, 1)) < 0.8) * 1.0
    both = bootstrap_intervals([(Loss(), losses), (Score(), rates), (Loss(), losses + 1)], seed=4)
    assert both[0] == bootstrap_interval(Loss(), losses, seed=4)
    assert both[1] == bootstrap_interval(Score(), rates, seed=4)
    assert both[2].low == pytest.approx(both[0].low + 1)


def test_a_million_hits_give_the_width_that_theory_says() -> None:
    random = np.random.default_rng(0)
    a, b = (random.random((2, 1_000_000, 1)) < 0.9) * 1.0
    found = bootstrap_gain(Score(), a, b, seed=0)
    standard_error = (a - b).std() / 1000
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_counts_of_a_wide_block_stay_below_the_bound() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 100_000, 1))
    for resamples, kept in ((300, 300 * len(a)), (400, 0)):  # 40 MB are too much to be kept
        assert (resamples * len(a) <= compare.KEPT_BYTES) == bool(kept)
        compare._kept_counts.cache_clear()
        tracemalloc.start()
        bootstrap_gain(Score(), a, b, resamples=resamples, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < compare.MEMORY_BYTES + 12 * a.nbytes + kept


@pytest.mark.parametrize("wins", [1, 2, 3, 4])
def test_few_differing_rows_prove_nothing(wins: int) -> None:
    found = bootstrap_gain(Score(), *hits(wins, 0, both=1000), seed=0)
    assert found.low < 0 < found.high
    assert found.value == pytest.approx(wins / (1000 + wins))


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (9, 2), (8, 2), (14, 5), (40, 22), (110, 81)])
def test_guarded_interval_excludes_zero_only_with_mcnemars_consent(wins: int, losses: int) -> None:
    a, b = hits(wins, losses, both=4000)
    found = bootstrap_gain(Score(), a, b, seed=0)
    if found.low > 0:
        assert mcnemar_p(a[:, 0], b[:, 0]) < 0.05
    mirrored = bootstrap_gain(Score(), b, a, seed=0)
    assert (mirrored.high < 0) == (found.low > 0)


def test_guard_respects_the_direction_of_a_loss() -> None:
    """An error rate: `a` errs on 12 rows more, so it is worse, and surely so."""
    found = bootstrap_gain(Loss(), *hits(12, 0, both=1000), seed=0)
    assert found.value < 0
    assert found.high < 0


def test_other_metrics_need_five_differing_rows() -> None:
    base = np.random.default_rng(0).random((300, 1))
    for rows, proves in ((4, False), (5, True)):
        better = base.copy()
        better[:rows] += 1
        found = bootstrap_gain(Score(), better, base, seed=0, resamples=20_000)
        assert (found.low > 0) == proves


def test_few_differing_rows_give_bonett_and_prices_interval_or_more() -> None:
    """By hand: 59 of 1,000 rows differ, 20 lost and 39 won, one more row counted on either side."""
    found = bootstrap_gain(Score(), *hits(39, 20, both=941), seed=0)
    middle = 40 / 1002 - 21 / 1002
    half = 1.959964 * ((61 / 1002 - middle**2) / 1002) ** 0.5
    assert found.low <= middle - half + 1e-8
    assert found.high >= middle + half - 1e-8
    assert found.low == pytest.approx(middle - half, abs=0.0005)
    assert found.high == pytest.approx(middle + half, abs=0.0005)


@pytest.mark.parametrize(("differ", "gain"), [(0.001, 0.0005), (0.003, 0.0027), (0.01, 0.009)])
def test_intervals_of_few_differing_rows_hold_the_truth(differ: float, gain: float) -> None:
    """Exact over all outcomes of 1,000 rows; the percentiles alone reach 18 to 94 %."""
    from scipy.stats import binom

    covered = 0.0
    for count in range(30):
        for wins in range(count + 1):
            chance = binom.pmf(count, 1000, differ)
            chance *= binom.pmf(wins, count, (1 + gain / differ) / 2)
            if chance > 1e-6:
                low, high = compare._few_differ_interval(wins, count - wins, 1000, 0.95)
                covered += chance * (low <= gain <= high)
    assert covered > 0.948


def test_equal_hits_leave_room_for_what_other_rows_may_show() -> None:
    a, _ = hits(0, 0, both=900, neither=100)
    found = bootstrap_gain(Score(), a, a.copy(), seed=0)
    assert found.value == 0
    assert found.high == -found.low == pytest.approx(1.959964 * 2**0.5 / 1002)


def test_identical_predictions_gain_nothing() -> None:
    a = np.random.default_rng(0).random((30, 1))
    found = bootstrap_gain(Loss(), a, a.copy(), seed=0)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("metric", [Score(), Loss()])
def test_without_a_choice_the_selected_gain_is_the_plain_one(metric: Score) -> None:
    a, b = np.random.default_rng(3).normal(size=(2, 200, 1))
    assert bootstrap_selected_gain(metric, [a], [b], seed=1) == bootstrap_gain(metric, a, b, seed=1)


def test_an_obvious_choice_costs_nothing() -> None:
    random = np.random.default_rng(0)
    good, bad, member = (random.normal(mean, size=(400, 1)) for mean in (1.0, -9.0, 0.5))
    found = bootstrap_selected_gain(Score(), [bad, good], [member, bad], seed=2)
    plain = bootstrap_gain(Score(), good, member, seed=2)
    assert (found.low, found.value, found.high) == pytest.approx(
        (plain.low, plain.value, plain.high), abs=1e-12
    )


@pytest.mark.parametrize("metric", [Score(), Loss()])
def test_selected_gain_equals_loops_over_resamples(metric: Score) -> None:
    random = np.random.default_rng(4)
    sign = 1 if metric.higher_is_better else -1
    candidates = random.normal(size=(4, 60, 1)) + random.normal(size=(60, 1))
    members = random.normal(size=(3, 60, 1)) + random.normal(size=(60, 1))
    optimism = []
    for group in (candidates, members):
        seen = [sign * one.mean() for one in group]
        excess = []
        for _ in range(4000):
            rows = random.integers(60, size=60)
            again = [sign * one[rows].mean() for one in group]
            best = int(np.argmax(again))
            excess.append(again[best] - seen[best])
        optimism.append(np.mean(excess))
    of_candidate, of_member = optimism
    assert of_candidate > 0.03 < of_member
    best = [max(group, key=lambda one: sign * one.mean()) for group in (candidates, members)]
    plain = bootstrap_gain(metric, *best, seed=0)
    found = bootstrap_selected_gain(metric, [*candidates], [*members], seed=0)
    shift = of_member - of_candidate
    assert found.value == pytest.approx(plain.value + shift, abs=0.01)
    low = plain.low - 2**0.5 * of_candidate + of_member
    assert found.low == pytest.approx(low, abs=0.01)
    high = plain.high - of_candidate + 2**0.5 * of_member
    assert found.high == pytest.approx(high, abs=0.01)


def test_the_choice_among_equals_is_not_mistaken_for_a_gain() -> None:
    """Six candidates as good as the one member: plain intervals are above 0 far too often."""
    random = np.random.default_rng(5)
    plain, selected = [], []
    for seed in range(250):
        candidates, member = random.normal(size=(6, 80, 1)), random.normal(size=(80, 1))
        best = max(candidates, key=np.mean)
        plain.append(bootstrap_gain(Score(), best, member, resamples=100, seed=seed).low > 0)
        found = bootstrap_selected_gain(Score(), [*candidates], [member], resamples=200, seed=seed)
        selected.append(found.low > 0)
    assert np.mean(plain) > 0.07
    assert np.mean(selected) < 0.055


def test_gains_leave_out_resamples_without_a_value() -> None:
    """ROC AUC of 12 rows, one of them positive: a third of the resamples lack it."""
    from fusetune.metrics.roc_auc import RocAuc

    random = np.random.default_rng(0)
    labels_N = np.arange(12) == 5
    a, b, c = (
        np.stack([labels_N, labels_N + noise * random.normal(size=12)], axis=1)
        for noise in (0.2, 2.0, 2.0)
    )
    for found in (
        bootstrap_gain(RocAuc(), a, b, seed=0),
        bootstrap_selected_gain(RocAuc(), [a, c], [b, c], seed=0),
        bootstrap_interval(RocAuc(), b, seed=0),
    ):
        assert found.low <= found.value <= found.high


def test_a_choice_that_is_the_best_member_itself_gains_nothing() -> None:
    random = np.random.default_rng(0)
    best, other = random.normal(1, size=(50, 1)), random.normal(0, size=(50, 1))
    found = bootstrap_selected_gain(Score(), [other, best], [best.copy(), other], seed=0)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 30), (30, 30), (3, 40), (61, 80)])
def test_interval_of_few_hits_holds_the_exact_mid_p_one(count: int, total: int) -> None:
    from scipy.optimize import brentq
    from scipy.stats import binom

    def mid_p(share: float) -> float:
        return binom.cdf(count, total, share) - 0.5 * binom.pmf(count, total, share)

    low = brentq(lambda p: mid_p(p) - 0.975, 1e-12, 1 - 1e-12) if count else 0
    high = brentq(lambda p: mid_p(p) - 0.025, 1e-12, 1 - 1e-12) if count < total else 1
    a, _ = hits(0, 0, both=count, neither=total - count)
    found = bootstrap_interval(Score(), a, seed=0)
    assert found.value == count / total
    assert found.low <= low + 1e-9
    assert found.high >= high - 1e-9
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def test_one_row() -> None:
    found = bootstrap_interval(Loss(), np.array([[0.7]]), seed=0)
    assert (found.low, found.high) == pytest.approx((0.7, 0.7))
    assert found.covers(0.7)


def test_a_class_of_one_row_has_an_interval_and_none_of_no_row():
    # One row of 8 is of the class: the resamples that miss it, about a third, have no area.
    probs_N = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    ids, names = list("abcdefgh"), ("no", "yes")
    prediction = Probabilities(ids, names, np.stack([1 - probs_N, probs_N], axis=1))
    targets = Targets(ids, names, np.array([0, 1, 0, 0, 0, 0, 0, 0]))
    found = bootstrap_interval(RocAuc(), RocAuc().statistics(prediction, targets), seed=0)
    assert found.value == pytest.approx(6 / 7)
    assert 0.3 < found.low < found.value < found.high == 1
    never = RocAuc().statistics(prediction.take([0]), targets.take([0]))
    assert np.isnan(bootstrap_interval(RocAuc(), never, seed=0).low)
