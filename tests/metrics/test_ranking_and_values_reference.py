# SPDX-License-Identifier: Apache-2.0
"""ROC AUC, regression and multi-label metrics against scikit-learn and numbers worked out by hand."""

import numpy as np
import pytest
import sklearn.metrics

from fusetune.errors import InvalidValue, PredictionError
from fusetune.metrics.hamming_accuracy import HammingAccuracy
from fusetune.metrics.mae import Mae
from fusetune.metrics.multilabel_log_loss import MultilabelLogLoss
from fusetune.metrics.multilabel_macro_f1 import MultilabelMacroF1
from fusetune.metrics.pinball import Pinball
from fusetune.metrics.rmse import Rmse
from fusetune.metrics.roc_auc import RocAuc
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.targets import LabelSets, Numbers, Targets

ROWS = 80
IDS = [f"row{n}" for n in range(ROWS)]
WEIGHTED = np.random.default_rng(3).integers(0, 5, size=ROWS).astype(float)
each_weighting = pytest.mark.parametrize("weights_N", [None, WEIGHTED], ids=["plain", "weighted"])
each_precision = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def value(metric, prediction, targets, weights_N=None):
    return metric.value(metric.statistics(prediction, targets), weights_N)


def ranked(classes, dtype):
    """Probabilities in eighths, full of ties."""
    random = np.random.default_rng(classes)
    labels_N = random.integers(classes, size=ROWS)
    counts_NC = random.multinomial(8, np.full(classes, 1 / classes), size=ROWS)
    better_N = random.random(ROWS) < 0.5
    counts_NC[better_N] = 0
    counts_NC[better_N, labels_N[better_N]] = 8
    names = tuple(f"class{c}" for c in range(classes))
    probs_NC = (counts_NC / 8).astype(dtype)
    return Probabilities(IDS, names, probs_NC), Targets(IDS, names, labels_N)


@each_precision
@each_weighting
@pytest.mark.parametrize("classes", [2, 5])
def test_scikit_learn_finds_the_same_area(classes, weights_N, dtype):
    prediction, targets = ranked(classes, dtype)
    scores = prediction.probs_NC[:, 1] if classes == 2 else prediction.probs_NC
    expected = sklearn.metrics.roc_auc_score(
        targets.labels_N, scores, multi_class="ovr", sample_weight=weights_N
    )
    assert value(RocAuc(), prediction, targets, weights_N) == pytest.approx(expected, abs=1e-12)


def test_the_area_by_all_pairs_leaves_absent_classes_out():
    prediction, targets = ranked(4, np.float64)
    rows = np.flatnonzero(targets.labels_N != 2)
    prediction, targets = prediction.take(rows), targets.take(rows)
    areas = []
    for c in (0, 1, 3):
        own = prediction.probs_NC[targets.labels_N == c, c]
        rest = prediction.probs_NC[targets.labels_N != c, c]
        pairs = [float(a > b) + (a == b) / 2 for a in own for b in rest]
        areas.append(np.mean(pairs))
    assert value(RocAuc(), prediction, targets) == pytest.approx(np.mean(areas))


def test_a_class_that_the_member_does_not_know_is_ranked_by_chance():
    _, targets = ranked(3, np.float64)
    known = Probabilities(IDS, ("class0", "class1"), np.eye(2)[np.minimum(targets.labels_N, 1)])
    perfect_but_one = (
        1 + sklearn.metrics.roc_auc_score(targets.labels_N == 1, known.probs_NC[:, 1]) + 0.5
    ) / 3
    assert value(RocAuc(), known, targets) == pytest.approx(perfect_but_one)


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_one_class_alone_has_no_area(names):
    prediction = Probabilities(["x", "y"], ("a", "b"), np.array([[0.5, 0.5], [1, 0]]))
    assert np.isnan(value(RocAuc(), prediction, Targets.from_names(["x", "y"], ["a", "a"], names)))


def numbers(dtype, columns=1):
    random = np.random.default_rng(columns)
    true_ND = random.normal(size=(ROWS, columns)).round(1)
    said_ND = (true_ND + random.normal(size=(ROWS, columns))).round(1).astype(dtype)
    names = tuple(f"y{d}" for d in range(columns))
    return Values(IDS, names, said_ND), Numbers(IDS, names, true_ND)


@each_precision
@each_weighting
@pytest.mark.parametrize("columns", [1, 3])
def test_scikit_learn_measures_the_same_errors(columns, weights_N, dtype):
    prediction, targets = numbers(dtype, columns)
    pair = targets.values_ND, prediction.values_ND
    assert value(Rmse(), prediction, targets, weights_N) == pytest.approx(
        sklearn.metrics.root_mean_squared_error(*pair, sample_weight=weights_N), rel=1e-6
    )
    assert value(Mae(), prediction, targets, weights_N) == pytest.approx(
        sklearn.metrics.mean_absolute_error(*pair, sample_weight=weights_N), rel=1e-6
    )


@each_precision
@each_weighting
def test_scikit_learn_finds_the_same_pinball_loss(weights_N, dtype):
    _, targets = numbers(dtype)
    levels, names = (0.1, 0.5, 0.8), ("low", "middle", "high")
    said_ND = (targets.values_ND + np.array([-1, 0, 1])).astype(dtype)  # ties in the middle
    said_ND[::2] += dtype(0.5)
    prediction = Values(IDS, names, said_ND, levels)
    expected = np.mean(
        [
            sklearn.metrics.mean_pinball_loss(
                targets.values_ND[:, 0], said_ND[:, d], sample_weight=weights_N, alpha=level
            )
            for d, level in enumerate(levels)
        ]
    )
    assert value(Pinball(), prediction, targets, weights_N) == pytest.approx(expected, rel=1e-6)
    assert value(Mae(), prediction, targets) == pytest.approx(0.25, rel=1e-6)


def test_the_median_lies_between_the_levels_next_to_it():
    prediction = Values(["a"], ("q2", "q6"), np.array([[0.0, 8.0]]), (0.2, 0.6))
    assert value(Mae(), prediction, Numbers(["a"], ("y",), np.array([[0.0]]))) == pytest.approx(6)


def test_what_cannot_be_compared_is_refused():
    two = Numbers(["a"], ("y", "z"), np.zeros((1, 2)))
    one = Numbers(["a"], ("y",), np.zeros((1, 1)))
    plain = Values(["a"], ("x", "z"), np.zeros((1, 2)))
    low = Values(["a"], ("q1", "q2"), np.zeros((1, 2)), (0.1, 0.2))
    with pytest.raises(PredictionError, match="no column for 'y'"):
        value(Rmse(), plain, two)
    with pytest.raises(PredictionError, match="expected levels on both sides of the median"):
        value(Mae(), low, one)
    with pytest.raises(PredictionError, match="have no quantile levels"):
        value(Pinball(), plain, one)
    with pytest.raises(PredictionError, match="expected one number per row"):
        value(Pinball(), low, two)


def sets(dtype):
    random = np.random.default_rng(0)
    present_NC = random.random((ROWS, 4)) < [0.5, 0.2, 0.05, 0]
    probs_NC = random.integers(0, 9, size=(ROWS, 4)) / 8  # exact halves, zeros and ones
    probs_NC[:, 3] /= 4
    return Marginals(IDS, tuple("abcd"), probs_NC.astype(dtype)), LabelSets(
        IDS, tuple("abcd"), present_NC
    )


@each_precision
@each_weighting
@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_scikit_learn_judges_label_sets_alike(weights_N, dtype, threshold):
    prediction, targets = sets(dtype)
    said_NC = prediction.probs_NC > threshold
    assert value(
        MultilabelMacroF1(threshold=threshold), prediction, targets, weights_N
    ) == pytest.approx(
        sklearn.metrics.f1_score(
            targets.present_NC,
            said_NC,
            average="macro",
            sample_weight=weights_N,
            zero_division=np.nan,
        )
    )
    assert value(
        HammingAccuracy(threshold=threshold), prediction, targets, weights_N
    ) == pytest.approx(
        1 - sklearn.metrics.hamming_loss(targets.present_NC, said_NC, sample_weight=weights_N)
    )
    per_class = [
        sklearn.metrics.log_loss(
            targets.present_NC[:, c],
            np.stack([1 - prediction.probs_NC[:, c], prediction.probs_NC[:, c]], axis=1),
            labels=[False, True],
            sample_weight=weights_N,
        )
        for c in range(4)
    ]
    assert value(MultilabelLogLoss(), prediction, targets, weights_N) == pytest.approx(
        np.mean(per_class), rel=1e-6
    )


def test_unknown_and_unasked_classes_of_label_sets():
    prediction = Marginals(["r"], ("b", "other"), np.array([[0.75, 0.9]]))
    targets = LabelSets(["r"], ("a", "b"), np.array([[True, True]]))
    assert value(HammingAccuracy(), prediction, targets) == 0.5
    assert value(MultilabelMacroF1(), prediction, targets) == 0.5
    eps = np.finfo(np.float64).eps
    expected = -(np.log(eps) + np.log(0.75)) / 2
    assert value(MultilabelLogLoss(), prediction, targets) == pytest.approx(expected)


def test_thresholds_outside_of_0_to_1_are_refused():
    for metric in (HammingAccuracy, MultilabelMacroF1):
        with pytest.raises(InvalidValue, match=r"threshold is 1.5; expected a number from 0 to 1"):
            metric(threshold=1.5)
