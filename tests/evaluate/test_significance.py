# SPDX-License-Identifier: Apache-2.0
"""Permutation test against scipy's and against whole patterns; Holm against worked examples."""

import tracemalloc
from itertools import product
from math import comb

import numpy as np
import pytest

from fusetune.evaluate import significance
from fusetune.evaluate.significance import holm, permutation_p, permutation_ps
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.macro_f1 import MacroF1
from fusetune.metrics.rmse import Rmse

pytestmark = pytest.mark.slow


def losses(rows, seed=0, shift=0.1):
    random = np.random.default_rng(seed)
    a = random.gamma(2, size=(rows, 1))
    return a, a + shift * random.standard_t(4, size=(rows, 1)) + shift / 8


def hits(wins, losses, both):
    a = [1.0] * wins + [0.0] * losses + [1.0] * both
    b = [0.0] * wins + [1.0] * losses + [1.0] * both
    return np.array(a)[:, None], np.array(b)[:, None]


def scipys_p(a, b, statistic, **options):
    from scipy.stats import permutation_test

    def gain(x, y, axis):
        return statistic(x, axis) - statistic(y, axis)

    return permutation_test(
        (a, b), gain, permutation_type="samples", vectorized=True, n_resamples=np.inf, **options
    ).pvalue


@pytest.mark.parametrize("rows", [2, 7, 12])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_rows_equal_scipys_exact_test(rows, seed):
    a, b = losses(rows, seed)
    found = permutation_p(LogLoss(), a, b, seed=0)
    assert found == pytest.approx(scipys_p(a[:, 0], b[:, 0], np.mean), abs=1e-12)


def test_many_rows_come_close_to_scipys_test():
    from scipy.stats import permutation_test

    a, b = losses(400, seed=5, shift=0.05)
    found = permutation_p(LogLoss(), a, b, permutations=20_000, seed=1)
    drawn = permutation_test(
        (a[:, 0], b[:, 0]),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        batch=500,
        rng=np.random.default_rng(2),
    ).pvalue
    assert 0.005 < found < 0.5
    assert found == pytest.approx(drawn, abs=0.012)


@pytest.mark.parametrize(("wins", "losses"), [(6, 0), (5, 2), (4, 4), (9, 3), (1, 0)])
def test_hits_equal_the_binomial_test(wins, losses):
    """Swapping hits and misses is tossing coins: McNemar's exact test, by whole numbers."""
    total, fewer = wins + losses, min(wins, losses)
    exact = min(1, 2 * sum(comb(total, k) for k in range(fewer + 1)) / 2**total)
    a, b = hits(wins, losses, both=30)
    assert permutation_p(Accuracy(), a, b, seed=0) == pytest.approx(exact)


def test_drawn_swaps_of_merged_hits_come_close_to_the_binomial_test():
    from scipy.stats import binomtest

    a, b = hits(40, 25, both=30)
    exact = binomtest(40, 65).pvalue
    assert permutation_p(Accuracy(), a, b, seed=0) == pytest.approx(exact, abs=0.01)


def test_merged_rows_equal_the_binomial_test_on_a_million_rows():
    from scipy.stats import binomtest

    a, b = hits(30_200, 29_800, both=940_000)
    found = permutation_p(Accuracy(), a, b, seed=3)
    assert found == pytest.approx(binomtest(30_200, 60_000).pvalue, abs=0.012)


def test_a_metric_that_is_no_mean_equals_all_patterns_swapped_by_hand():
    from sklearn.metrics import f1_score

    random = np.random.default_rng(4)
    true_N, a_N, b_N = random.integers(3, size=(3, 9))
    b_N[:2] = a_N[:2]

    def gain(first_N, second_N):
        scores = [f1_score(true_N, one_N, average="macro") for one_N in (first_N, second_N)]
        return scores[0] - scores[1]

    gains = []
    for pattern in product([False, True], repeat=len(true_N)):
        gains.append(gain(np.where(pattern, b_N, a_N), np.where(pattern, a_N, b_N)))
    exact = np.mean(np.abs(gains) >= abs(gain(a_N, b_N)) - 1e-12)
    a, b = (np.stack([true_N, one_N], axis=1).astype(float) for one_N in (a_N, b_N))
    assert permutation_p(MacroF1(), a, b, seed=0) == pytest.approx(exact)
    drawn = permutation_p(MacroF1(), a, b, seed=0, permutations=60)
    assert drawn == pytest.approx(exact, abs=0.15)


def test_drawn_p_is_never_zero_and_counts_the_pattern_seen():
    a, b = losses(300)
    assert permutation_p(LogLoss(), a, a + 1, permutations=99, seed=0) == 0.01
    assert permutation_p(LogLoss(), a, b, permutations=99, seed=0) * 100 % 1 == pytest.approx(0)


def test_several_predictions_have_the_p_that_each_has_alone():
    (a, b), others = losses(300, shift=0.03), [losses(300, seed=n)[0] for n in (1, 2)]
    found = permutation_ps(LogLoss(), [a, *others, b], b, permutations=199, seed=7)
    alone = [permutation_p(LogLoss(), one, b, permutations=199, seed=7) for one in (a, *others, b)]
    assert found == alone
    assert found[-1] == 1.0


def test_many_predictions_share_their_draws_and_each_keeps_its_p():
    b, _ = losses(300)
    others = [b + losses(300, seed=n)[0] / 10 - shift for n, shift in ((1, 0.19), (2, 0.3))]
    found = permutation_ps(LogLoss(), others, b, permutations=999, seed=7)
    alone = [permutation_p(LogLoss(), one, b, permutations=999, seed=7) for one in others]
    assert found == alone
    assert found[0] > 0.005 > found[1]


@pytest.mark.parametrize("metric", [LogLoss(), Rmse()], ids=["log_loss", "rmse"])
def test_flipped_signs_come_close_to_swapped_rows(metric, monkeypatch):
    a, b = losses(400, seed=5, shift=0.05)
    flipped = permutation_p(metric, a, b, permutations=20_000, seed=1)
    monkeypatch.setattr(type(metric), "mean_of_rows", False)
    swapped = permutation_p(metric, a, b, permutations=20_000, seed=1)
    assert 0.005 < swapped < 0.5
    assert flipped == pytest.approx(swapped, abs=0.012)


def test_infinite_losses_prove_nothing_to_any_of_several():
    a, b = losses(200)
    found = permutation_ps(LogLoss(), [np.full_like(a, np.inf), a + 1], b, permutations=99, seed=0)
    assert found == [1.0, 0.01]


def test_none_of_several_is_none():
    assert permutation_ps(LogLoss(), [], losses(200)[0], seed=0) == []


def test_a_metric_without_a_value_proves_nothing():
    from fusetune.metrics.roc_auc import RocAuc

    a, b = np.random.default_rng(0).random((2, 20, 1))
    only_one_class = np.zeros((20, 1))
    pair = [np.concatenate([only_one_class, scores], axis=1) for scores in (a, b)]
    assert permutation_p(RocAuc(), *pair, seed=0, permutations=99) == 1.0


def test_one_row_proves_nothing():
    a, b = losses(1)
    assert permutation_p(LogLoss(), a, b, seed=0) == 1.0


def test_equal_predictions_have_p_one():
    a, _ = losses(40)
    assert permutation_p(LogLoss(), a, a.copy(), seed=0) == 1.0


def test_both_directions_and_the_order_of_rows_give_the_same_exact_p():
    a, b = losses(11, seed=8)
    p = permutation_p(LogLoss(), a, b, seed=0)
    assert permutation_p(LogLoss(), b, a, seed=0) == pytest.approx(p)
    assert permutation_p(LogLoss(), a[::-1], b[::-1], seed=0) == pytest.approx(p)
    assert permutation_p(LogLoss(), a.astype(np.float32), b.astype(np.float32), seed=0) == p


def test_the_seed_decides():
    a, b = losses(200, shift=0.03)
    first, again, other = (permutation_p(LogLoss(), a, b, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_p_is_uniform_where_nothing_differs_in_truth():
    random = np.random.default_rng(0)
    found = []
    for _ in range(400):
        a, b = random.gamma(2, size=(2, 40, 1))
        found.append(permutation_p(LogLoss(), a, b, permutations=199, seed=0))
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_blocks_bound_the_memory_and_change_nothing(monkeypatch):
    a, b = losses(3000)
    whole = permutation_p(LogLoss(), a, b, permutations=400, seed=7)
    monkeypatch.setattr(significance, "MEMORY_BYTES", 8 * 6000 * 8)
    tracemalloc.start()
    assert permutation_p(LogLoss(), a, b, permutations=400, seed=7) == whole
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * significance.MEMORY_BYTES


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        # Worked by hand: sorted p times 5, 4, 3, 2, 1, then never below the one before.
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.05, 0.01, 0.04, 0.02, 0.03], [0.09, 0.05, 0.09, 0.08, 0.09]),
        ([0.005, 0.011, 0.02, 0.04, 0.13], [0.025, 0.044, 0.06, 0.08, 0.13]),
        # R's help page of p.adjust asks for monotone values at most 1.
        ([0.6, 0.9], [1.0, 1.0]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.3], [0.3]),
        ([], []),
    ],
)
def test_holm_equals_worked_examples(given, adjusted):
    assert holm(given).tolist() == pytest.approx(adjusted)


def test_holm_equals_the_step_down_procedure_as_published():
    """Holm's own form: reject the smallest while p is at most level / (tests left)."""
    random = np.random.default_rng(0)
    for _ in range(50):
        p_values = random.beta(0.3, 2, size=8)
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for left, index in zip(range(8, 0, -1), np.argsort(p_values), strict=True):
                if p_values[index] > level / left:
                    break
                rejected.add(int(index))
            assert set(np.flatnonzero(holm(p_values) <= level).tolist()) == rejected


def test_holm_refuses_what_is_no_probability():
    for wrong in ([0.1, 1.2], [-0.1], [np.nan]):
        with pytest.raises(AssertionError, match="p-values"):
            holm(wrong)
