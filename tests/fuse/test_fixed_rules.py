# SPDX-License-Identifier: Apache-2.0
"""Median, trimmed mean, maximum, geometric mean and mean ranks against NumPy and SciPy."""

import numpy as np
import pytest
from scipy.stats import gmean, rankdata, trim_mean
from sklearn.metrics import roc_auc_score

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.methods.distributions.geometric_mean import GeometricMean
from fusetune.fuse.methods.distributions.max import Max
from fusetune.fuse.methods.distributions.median import Median
from fusetune.fuse.methods.distributions.rank_mean import RankMean
from fusetune.fuse.methods.distributions.trimmed_mean import TrimmedMean
from fusetune.fuse.ordered import OrderedAverage, cuts
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from pools import pool


def fused(method, stack):
    return method.fit(stack, None, LogLoss())(stack)


def normalized(array_NC):
    return array_NC / array_NC.sum(axis=1, keepdims=True)


def array_MNC(stack):
    return np.stack([part.array_NC for part in stack.parts])


def stack_of(rows_MC, classes=("a", "b", "c")):
    """One row by several members."""
    parts = {
        f"m{m}": Probabilities(["row"], classes[: len(row_C)], np.array([row_C]))
        for m, row_C in enumerate(rows_MC)
    }
    return Stack.align(parts, classes=classes)


@pytest.mark.parametrize("members", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rules_are_numpys_and_scipys(members, dtype):
    stack, _ = pool(members=members, rows=50, dtype=dtype)
    probs_MNC = array_MNC(stack).astype(np.float64)
    references = {
        Median(): np.median(probs_MNC, axis=0),
        Max(): probs_MNC.max(axis=0),
        TrimmedMean(): trim_mean(probs_MNC, 0.2, axis=0),
        TrimmedMean(share=0.3): trim_mean(probs_MNC, 0.3, axis=0),
        GeometricMean(smoothing=1e-12): gmean(probs_MNC, axis=0),
    }
    for method, expected_NC in references.items():
        found = fused(method, stack)
        assert found.probs_NC.dtype == dtype
        np.testing.assert_allclose(
            found.probs_NC, normalized(expected_NC), rtol=1e-5 if dtype == np.float32 else 1e-8
        )


def test_the_two_ends_of_trimming_are_mean_and_median():
    stack, _ = pool(members=7, rows=50)
    mean_NC = array_MNC(stack).mean(axis=0)
    np.testing.assert_allclose(fused(TrimmedMean(share=0), stack).probs_NC, mean_NC)
    half = fused(TrimmedMean(share=0.5), stack).probs_NC
    np.testing.assert_array_equal(half, fused(Median(), stack).probs_NC)


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("share", [0, 0.1, 0.2, 0.3, 1 / 3, 0.5])
def test_something_is_always_left_and_both_ends_lose_alike(count, share):
    low, high = cuts(count, share, share)
    assert low == high
    assert low + high < count
    assert low == min(int(share * count + 1e-9), (count - 1) // 2)


def test_members_that_are_each_sure_of_another_class_are_averaged():
    stack = stack_of([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(fused(Median(), stack).probs_NC, [[1 / 3, 1 / 3, 1 / 3]])


def test_only_members_that_know_a_class_have_a_say_in_it():
    stack = stack_of([[0.2, 0.3, 0.5], [0.4, 0.6], [0.6, 0.4]])
    np.testing.assert_allclose(
        fused(Median(), stack).probs_NC, normalized(np.array([[0.4, 0.4, 0.5]]))
    )
    np.testing.assert_allclose(
        fused(Max(), stack).probs_NC, normalized(np.array([[0.6, 0.6, 0.5]]))
    )
    logs = np.log([[0.2 * 0.4 * 0.6, 0.3 * 0.6 * 0.4, 0.5**3]]) / 3
    found = fused(GeometricMean(smoothing=1e-12), stack).probs_NC
    np.testing.assert_allclose(found, normalized(np.exp(logs)), rtol=1e-9)


@pytest.mark.parametrize("method", [Median(), TrimmedMean(), Max()])
def test_long_stacks_are_fused_in_blocks(method, monkeypatch):
    stack, _ = pool(members=5, rows=100)
    whole = fused(method, stack).probs_NC
    monkeypatch.setattr("fusetune.fuse.ordered.BLOCK", 35)
    np.testing.assert_array_equal(fused(method, stack).probs_NC, whole)


def test_values_and_label_sets_are_not_divided_by_sums():
    random = np.random.default_rng(0)
    ids = np.array([f"row{n}" for n in range(20)])
    values_MND = random.normal(size=(5, 20, 2))
    values = Stack.align({f"m{m}": Values(ids, ("x", "y"), v) for m, v in enumerate(values_MND)})
    np.testing.assert_allclose(fused(Median(), values).values_ND, np.median(values_MND, axis=0))
    np.testing.assert_allclose(fused(TrimmedMean(), values).values_ND, trim_mean(values_MND, 0.2))
    probs_MNC = random.random((5, 20, 2))
    labels = Stack.align({f"m{m}": Marginals(ids, ("a", "b"), p) for m, p in enumerate(probs_MNC)})
    for method, expected in ((Median(), np.median), (Max(), np.max)):
        np.testing.assert_allclose(fused(method, labels).probs_NC, expected(probs_MNC, axis=0))


def test_quantiles_stay_in_order():
    random = np.random.default_rng(1)
    ids = np.array([f"row{n}" for n in range(50)])
    levels = (0.1, 0.5, 0.9)
    parts = {
        f"m{m}": Values(ids, ("q1", "q5", "q9"), np.sort(random.normal(size=(50, 3))), levels)
        for m in range(5)
    }
    for method in (Median(), TrimmedMean()):
        found = fused(method, Stack.align(parts))
        assert found.levels == levels
        assert (np.diff(found.values_ND, axis=1) >= 0).all()


def test_zeros_are_smoothed_before_the_logarithm():
    stack = stack_of([[1, 0, 0], [0.5, 0.5, 0]])
    found = fused(GeometricMean(smoothing=0.01), stack).probs_NC
    first, second = np.array(
        [[0.99 + 0.01 / 3, 0.01 / 3, 0.01 / 3], [0.495 + 0.01 / 3] * 2 + [0.01 / 3]]
    )
    np.testing.assert_allclose(found[0], normalized(np.sqrt(first * second)[None])[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TrimmedMean(share=0.6), "share is 0.6"),
        (lambda: TrimmedMean(share=-0.1), "share is -0.1"),
        (lambda: GeometricMean(smoothing=0), "smoothing is 0"),
        (lambda: RankMean(most=1), "most is 1"),
    ],
)
def test_impossible_settings_are_refused(make, match):
    with pytest.raises(InvalidValue, match=match):
        make()


def test_mean_ranks_order_the_holdout_as_average_ranks_do():
    stack, targets = pool(members=4, rows=200, classes=2, noise=2.0)
    found = fused(RankMean(), stack)
    ranks_N = np.mean([rankdata(part.probs_NC[:, 1]) for part in stack.parts], axis=0)
    assert np.abs(rankdata(found.probs_NC[:, 1]) - rankdata(ranks_N)).max() <= 1  # ties by rounding
    assert roc_auc_score(targets.labels_N, found.probs_NC[:, 1]) == pytest.approx(
        roc_auc_score(targets.labels_N, ranks_N), abs=2e-4
    )


def test_mean_ranks_have_the_members_average_distribution():
    stack, _ = pool(members=3, rows=300, classes=2, noise=0.5)
    found = np.sort(fused(RankMean(), stack).probs_NC[:, 1])
    expected = np.sort(array_MNC(stack)[:, :, 1], axis=1).mean(axis=0)
    # Averaging ranks draws them to the middle, so only there do the distributions agree.
    assert np.abs(found - expected)[75:225].max() < 0.05


def test_a_members_calibration_does_not_count():
    stack, _ = pool(members=3, rows=200, classes=2, noise=2.0)
    sharp_NC = normalized(stack.parts[0].probs_NC ** 5)
    first = Probabilities(stack.ids, stack.classes, sharp_NC)
    other = Stack(stack.members, (first, *stack.parts[1:]), stack.classes)
    one, two = (fused(RankMean(), each).probs_NC[:, 1] for each in (stack, other))
    assert np.abs(rankdata(one) - rankdata(two)).max() <= 2  # ties by rounding


def test_a_rows_ranks_do_not_depend_on_the_rows_beside_it():
    stack, _ = pool(members=3, rows=200, noise=2.0)
    fit = stack.take(np.arange(100))
    fusion = RankMean().fit(fit, None, LogLoss())
    whole = fusion(stack).probs_NC
    for row in (0, 150, 199):
        alone = fusion(stack.take(np.array([row]))).probs_NC
        np.testing.assert_array_equal(alone[0], whole[row])


def test_few_stored_ranks_come_close_to_all():
    stack, _ = pool(members=3, rows=2_000, noise=2.0)
    some, all_of_them = RankMean(most=200), RankMean(most=10_000)
    assert len(some.fit(stack, None, LogLoss()).ranks_Q) <= 3 * 4 * 202
    close = np.abs(fused(some, stack).probs_NC - fused(all_of_them, stack).probs_NC)
    assert close.max() < 0.01


def test_members_that_are_all_sure_have_ranks_too():
    rows = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 0]]
    other = np.eye(3)[[0, 1, 2, 1, 2, 0, 0, 0]]
    ids = [f"row{n}" for n in range(8)]
    stack = Stack.align(
        {"one": Probabilities(ids, "abc", rows), "other": Probabilities(ids, "abc", other)}
    )
    found = fused(RankMean(), stack)
    Probabilities(found.ids, found.classes, found.probs_NC)
    np.testing.assert_array_equal(found.probs_NC[[0, 1, 2, 6]].argmax(axis=1), [0, 1, 2, 0])


def test_ranks_need_rows():
    stack, _ = pool()
    with pytest.raises(PredictionError, match="no holdout row"):
        RankMean().fit(stack.take(np.arange(0)), None, LogLoss())


def test_one_member_passes_through_bit_for_bit():
    stack, _ = pool(members=1)
    average = OrderedAverage(members=stack.members, low=0.5, high=0.5)
    assert average(stack).probs_NC is stack.parts[0].probs_NC
