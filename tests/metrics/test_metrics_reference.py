# SPDX-License-Identifier: Apache-2.0
"""Metrics against scikit-learn and against numbers worked out by hand."""

import numpy as np
import pytest
import sklearn.metrics

from fusetune.errors import InvalidValue
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.balanced_accuracy import BalancedAccuracy
from fusetune.metrics.brier import Brier
from fusetune.metrics.expected_calibration_error import ExpectedCalibrationError
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.macro_f1 import MacroF1
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from pools import pool

WEIGHTED = np.random.default_rng(3).integers(0, 5, size=60).astype(float)


def value(metric, prediction, targets, weights_N=None):
    return metric.value(metric.statistics(prediction, targets), weights_N)


@pytest.fixture(params=[np.float32, np.float64], ids=["single", "double"])
def case(request):
    stack, targets = pool(classes=5, dtype=request.param, noise=3.0)
    probs_NC = stack.parts[0].probs_NC.copy()
    probs_NC[:3] = np.eye(5)[:3]  # certain, rightly and wrongly
    return Probabilities(stack.ids, stack.classes, probs_NC), targets


@pytest.mark.parametrize("weights_N", [None, WEIGHTED], ids=["plain", "weighted"])
def test_scikit_learn_agrees(case, weights_N):
    prediction, targets = case
    true_N, top_N = targets.labels_N, prediction.probs_NC.argmax(axis=1)
    labels = np.arange(5)
    assert value(Accuracy(), prediction, targets, weights_N) == pytest.approx(
        sklearn.metrics.accuracy_score(true_N, top_N, sample_weight=weights_N), abs=1e-12
    )
    assert value(MacroF1(), prediction, targets, weights_N) == pytest.approx(
        sklearn.metrics.f1_score(true_N, top_N, average="macro", sample_weight=weights_N), abs=1e-12
    )
    assert value(BalancedAccuracy(), prediction, targets, weights_N) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(true_N, top_N, sample_weight=weights_N), abs=1e-12
    )
    assert value(LogLoss(), prediction, targets, weights_N) == pytest.approx(
        sklearn.metrics.log_loss(
            true_N, prediction.probs_NC, labels=labels, sample_weight=weights_N
        ),
        rel=1e-6,
    )
    assert value(Brier(), prediction, targets, weights_N) == pytest.approx(
        sklearn.metrics.brier_score_loss(
            true_N, prediction.probs_NC, labels=labels, sample_weight=weights_N, scale_by_half=False
        ),
        rel=1e-6,
    )


def test_the_earlier_class_wins_an_exact_tie():
    prediction = Probabilities(["a", "b"], ("cat", "dog"), np.full((2, 2), 0.5))
    targets = Targets.from_names(prediction.ids, ["cat", "dog"])
    assert Accuracy().statistics(prediction, targets)[:, 0].tolist() == [1, 0]
    turned = Probabilities(["a", "b"], ("dog", "cat"), np.full((2, 2), 0.5))
    assert Accuracy().statistics(turned, targets)[:, 0].tolist() == [0, 1]


def test_a_class_the_member_does_not_know_has_probability_0():
    prediction = Probabilities(["a", "b"], ("cat", "dog"), np.array([[0.75, 0.25], [0.5, 0.5]]))
    targets = Targets.from_names(prediction.ids, ["cat", "emu"])
    eps = np.finfo(np.float64).eps
    assert Accuracy().statistics(prediction, targets)[:, 0].tolist() == [1, 0]
    np.testing.assert_allclose(
        LogLoss().statistics(prediction, targets)[:, 0], [-np.log(0.75), -np.log(eps)]
    )
    np.testing.assert_allclose(Brier().statistics(prediction, targets)[:, 0], [0.125, 1.5])
    # cat is predicted twice (right once), emu never: F1 2/3 and 0; dog does not occur.
    assert value(MacroF1(), prediction, targets) == pytest.approx(1 / 3)


def test_calibration_error_by_hand():
    # Two bins: (0, 0.5] holds one wrong row at 0.5, (0.5, 1] rows at 0.75 (right) and 1 (wrong).
    probs_NC = np.array([[0.5, 0.5, 0], [0.75, 0.25, 0], [0, 0, 1]])
    prediction = Probabilities(["a", "b", "c"], ("x", "y", "z"), probs_NC)
    targets = Targets.from_names(prediction.ids, ["z", "x", "x"])
    two_bins = ExpectedCalibrationError(bins=2)
    assert value(two_bins, prediction, targets) == pytest.approx((0.5 + abs(1.75 - 1)) / 3)


def test_calibration_error_against_a_plain_loop(case):
    prediction, targets = case
    confidence_N = prediction.probs_NC.max(axis=1).astype(np.float64)
    right_N = prediction.probs_NC.argmax(axis=1) == targets.labels_N
    error = 0.0
    for b in range(15):
        inside = (confidence_N > b / 15) & (confidence_N <= (b + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right_N[inside].mean() - confidence_N[inside].mean())
    assert value(ExpectedCalibrationError(), prediction, targets) == pytest.approx(error)


def test_equal_mass_against_a_plain_loop(case):
    prediction, targets = case
    confidence_N = prediction.probs_NC.max(axis=1).astype(np.float64)
    right_N = prediction.probs_NC.argmax(axis=1) == targets.labels_N
    for weights_N in (np.ones(60), WEIGHTED):
        gaps = np.zeros(7)
        for n in range(60):
            below = weights_N[confidence_N < confidence_N[n]].sum() / weights_N.sum()
            gaps[int(7 * below)] += weights_N[n] * (confidence_N[n] - right_N[n])
        error = abs(gaps).sum() / weights_N.sum()
        metric = ExpectedCalibrationError(bins=7, mass="equal_mass")
        assert value(metric, prediction, targets, weights_N) == pytest.approx(error)


def test_equal_mass_shares_the_rows_out_as_numpy_splits_them():
    stack, targets = pool(rows=150)
    confidence_N = stack.parts[0].probs_NC.max(axis=1)
    gap_N = confidence_N - (stack.parts[0].labels() == targets.names())
    parts = np.array_split(gap_N[np.argsort(confidence_N)], 15)
    metric = ExpectedCalibrationError(mass="equal_mass")
    expected = np.mean([abs(part.mean()) for part in parts])
    assert value(metric, stack.parts[0], targets) == pytest.approx(expected)


def test_equal_confidences_share_a_bin_of_equal_mass():
    prediction = Probabilities(list("abcd"), ("x", "y"), np.tile([0.75, 0.25], (4, 1)))
    targets = Targets.from_names(prediction.ids, list("xxxy"))
    metric = ExpectedCalibrationError(bins=4, mass="equal_mass")
    assert value(metric, prediction, targets) == 0


def test_wrong_bins_are_refused():
    with pytest.raises(InvalidValue, match="bins is 0; expected a whole number of at least 1"):
        ExpectedCalibrationError(bins=0)
    with pytest.raises(InvalidValue, match="mass is 'heavy'; expected equal_width or equal_mass"):
        ExpectedCalibrationError(mass="heavy")


def test_one_class_is_always_right():
    prediction = Probabilities(["a"], ("only",), np.ones((1, 1)))
    targets = Targets.from_names(prediction.ids, ["only"])
    for metric, best in ((Accuracy(), 1), (Brier(), 0), (MacroF1(), 1)):
        assert value(metric, prediction, targets) == best
    assert value(LogLoss(), prediction, targets) == pytest.approx(0, abs=1e-15)
