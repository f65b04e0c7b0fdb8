# SPDX-License-Identifier: Apache-2.0
"""Rows that count more than others, when a fusion is chosen."""

import numpy as np
import pytest

from fusetune.calibrate.calibrators.temperature import Temperature
from fusetune.choose import choose, cross_choose
from fusetune.errors import InvalidValue
from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.balanced_accuracy import BalancedAccuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets
from pools import pool

pytestmark = pytest.mark.slow

LINEAR = {"mean": Mean(), "weighted_mean": WeightedMean(), "greedy_selection": GreedySelection()}


def halves(rows=100):
    """'left' is right on the first half of the rows, 'right' on the second; the truth is mixed."""
    ids = [f"row{n:03}" for n in range(rows)]
    true_N = np.arange(rows) % 2
    first_N = np.arange(rows) < rows // 2
    good_N2 = np.where(true_N[:, None] == [0, 1], 0.9, 0.1)
    stack = Stack.align(
        {
            "left": Probabilities(ids, ("a", "b"), np.where(first_N[:, None], good_N2, 0.5)),
            "right": Probabilities(ids, ("a", "b"), np.where(first_N[:, None], 0.5, good_N2)),
        }
    )
    return stack, Targets(ids, ("a", "b"), true_N), first_N


@pytest.mark.parametrize(("heavy", "winner"), [(True, "left"), (False, "right")])
def test_the_best_member_is_best_on_the_rows_that_count(heavy, winner):
    stack, targets, first_N = halves()
    weights_N = np.where(first_N == heavy, 10.0, 1.0)
    for how in ("best", "best_member", "auto"):
        choice = choose(stack, targets, LogLoss(), {}, choose=how, sample_weights_N=weights_N)
        assert choice.best_member == winner


def test_equal_weights_are_no_weights():
    stack, targets = pool(rows=150, noise=2.0)
    for metric in (LogLoss(), Accuracy(), BalancedAccuracy()):
        for chooser in (choose, cross_choose):
            plain = chooser(stack, targets, metric, LINEAR, calibrator=Temperature())
            weighted = chooser(
                stack,
                targets,
                metric,
                LINEAR,
                calibrator=Temperature(),
                sample_weights_N=np.full(150, 7.0),
            )
            expected_NC = plain.fusion(stack).array_NC
            np.testing.assert_allclose(weighted.fusion(stack).array_NC, expected_NC, rtol=1e-9)
            if plain.honest is not None:
                np.testing.assert_allclose(
                    weighted.honest.array_NC, plain.honest.array_NC, rtol=1e-9
                )


def test_a_named_method_is_fitted_with_the_weights():
    stack, targets, first_N = halves()
    weights_N = np.where(first_N, 5.0, 1.0)
    choice = choose(
        stack, targets, LogLoss(), LINEAR, choose="weighted_mean", sample_weights_N=weights_N
    )
    alone = WeightedMean().fit(stack, targets, LogLoss(), sample_weights_N=weights_N)
    assert choice.fusion.weights() == pytest.approx(alone.weights(), rel=1e-9)
    unweighted = choose(stack, targets, LogLoss(), LINEAR, choose="weighted_mean")
    assert choice.fusion.weights()["left"] > unweighted.fusion.weights()["left"] + 0.1


def test_the_calibrator_is_fitted_with_the_weights():
    stack, targets = pool(rows=150, noise=2.0)
    order = np.argsort(stack.ids)
    stack, targets = stack.take(order), targets.take(order)
    weights_N = np.where(targets.labels_N == 0, 9.0, 1.0)
    choice = choose(
        stack,
        targets,
        LogLoss(),
        LINEAR,
        choose="mean",
        calibrator=Temperature(),
        sample_weights_N=weights_N,
    )
    fused = Mean().fit(stack, targets, LogLoss())(stack)
    expected = Temperature().fit(fused, targets, sample_weights_N=weights_N)(fused)
    np.testing.assert_allclose(choice.fusion(stack).array_NC, expected.array_NC, rtol=1e-9)
    unweighted = Temperature().fit(fused, targets)(fused)
    assert np.abs(unweighted.array_NC - expected.array_NC).max() > 1e-3


def test_weights_go_with_their_rows_whatever_the_order():
    stack, targets = pool(rows=150, noise=2.0)
    random = np.random.default_rng(0)
    weights_N, order = random.uniform(0.5, 5, 150), random.permutation(150)
    one = choose(stack, targets, LogLoss(), LINEAR, sample_weights_N=weights_N)
    other = choose(
        stack.take(order),
        targets.take(order),
        LogLoss(),
        LINEAR,
        sample_weights_N=weights_N[order],
    )
    np.testing.assert_array_equal(one.fusion(stack).array_NC, other.fusion(stack).array_NC)


def test_class_shares_are_those_of_the_weighted_rows():
    stack, targets = pool(rows=150, noise=2.0)
    weights_N = np.where(targets.labels_N == 0, 9.0, 1.0)
    choice = choose(stack, targets, BalancedAccuracy(), LINEAR, sample_weights_N=weights_N)
    shares_C = choice.fusion.fusions[0].shares_C
    plain_C = choose(stack, targets, BalancedAccuracy(), LINEAR).fusion.fusions[0].shares_C
    # Only their ratios matter.
    assert shares_C[0] / shares_C[1:].mean() > 1.5 * plain_C[0] / plain_C[1:].mean()


def test_rows_of_weight_zero_are_refused():
    stack, targets, first_N = halves()
    with pytest.raises(InvalidValue, match=r"50 rows is 0; expected numbers above 0. Leave these"):
        choose(stack, targets, LogLoss(), LINEAR, sample_weights_N=np.where(first_N, 0.0, 1.0))
