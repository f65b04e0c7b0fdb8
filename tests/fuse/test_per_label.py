# SPDX-License-Identifier: Apache-2.0
"""Multi-label fusing, label by label, against formulas and against fusing two classes."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.methods.distributions.geometric_mean import GeometricMean
from fusetune.fuse.methods.distributions.log_pool import LogPool
from fusetune.fuse.methods.distributions.rank_mean import RankMean
from fusetune.fuse.methods.distributions.stacking import Stacking
from fusetune.fuse.methods.distributions.vote import Vote
from fusetune.fuse.per_label import PerLabel, yes_or_no
from fusetune.metrics.multilabel_log_loss import MultilabelLogLoss
from fusetune.predictions.kinds import Marginals
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Targets
from pools import other_pool

METRIC = MultilabelLogLoss()


def probs_MNC(stack):
    return np.stack([part.probs_NC for part in stack.parts]).astype(np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_geometric_mean_is_the_sigmoid_of_the_mean_logit(dtype):
    stack, _ = other_pool("marginals", dtype=dtype)
    fused = GeometricMean(smoothing=1e-12).fit(stack, None, METRIC)(stack)
    expected_NC = expit(logit(probs_MNC(stack)).mean(axis=0))
    assert fused.probs_NC.dtype == dtype
    rtol = 1e-4 if dtype == np.float32 else 1e-8
    np.testing.assert_allclose(fused.probs_NC, expected_NC, rtol=rtol, atol=1e-6)


def test_a_vote_is_the_share_of_members_above_one_half():
    ids, labels = ["row"], ("all", "two", "one", "none", "exact")
    rows = [[0.9, 0.8, 0.6, 0.1, 0.5], [0.8, 0.7, 0.3, 0.2, 0.5], [0.7, 0.2, 0.1, 0.3, 0.5]]
    stack = Stack.align({str(m): Marginals(ids, labels, [row]) for m, row in enumerate(rows)})
    fused = Vote().fit(stack, None, METRIC)(stack)
    np.testing.assert_allclose(fused.probs_NC, [[1, 2 / 3, 1 / 3, 0, 0]], atol=1e-6)


def test_two_voters_that_disagree_are_decided_by_confidence():
    stack = Stack.align(
        {
            "sure": Marginals(["row"], ("a", "b"), [[0.9, 0.1]]),
            "unsure": Marginals(["row"], ("a", "b"), [[0.4, 0.6]]),
        }
    )
    fused = Vote().fit(stack, None, METRIC)(stack)
    assert (fused.probs_NC > 0.5).tolist() == [[True, False]]


def test_mean_ranks_rise_with_the_mean_of_ranks():
    stack, targets = other_pool("marginals", rows=200)
    fused = RankMean().fit(stack, None, METRIC)(stack)
    ranks_MNC = probs_MNC(stack).argsort(axis=1).argsort(axis=1)
    for column in range(4):
        ours, ranks = fused.probs_NC[:, column], ranks_MNC[:, :, column].mean(axis=0)
        truth_N = targets.present_NC[:, column]
        assert roc_auc_score(truth_N, ours) == pytest.approx(
            roc_auc_score(truth_N, ranks),
            abs=1e-3,  # ties of ranks are broken by rounding
        )
    assert fused.probs_NC.mean() == pytest.approx(probs_MNC(stack).mean(), abs=0.01)


@pytest.mark.parametrize("method", [LogPool(), Stacking()], ids=lambda m: m.name)
def test_each_label_is_a_pool_of_two_classes(method):
    stack, targets = other_pool("marginals", rows=120)
    fused = method.fit(stack, targets, METRIC)(stack)
    for column, label in enumerate(stack.classes):
        two = yes_or_no(stack, label)
        present_N = targets.present_NC[:, column].astype(int)
        alone = method.fit(two, Targets(stack.ids, ("no", "yes"), present_N), METRIC)(two)
        np.testing.assert_array_equal(fused.probs_NC[:, column], alone.probs_NC[:, 1])


@pytest.mark.parametrize("method", [LogPool(), Stacking()], ids=lambda m: m.name)
def test_fitted_pools_beat_the_mean_on_over_confident_members(method):
    stack, targets = other_pool("marginals", rows=600, noise=2.0)
    half, rest = np.arange(300), np.arange(300, 600)
    fused = method.fit(stack.take(half), targets.take(half), METRIC)(stack.take(rest))
    mean = stack.parts[0].with_array(stack.classes, probs_MNC(stack).mean(axis=0)).take(rest)
    ours, plain = (
        METRIC.value(METRIC.statistics(one, targets.take(rest))) for one in (fused, mean)
    )
    assert ours < plain


def test_labels_that_members_or_targets_do_not_know():
    ids = np.arange(40)
    random = np.random.default_rng(0)
    left = Marginals(ids, ("a", "extra"), random.uniform(size=(40, 2)))
    right = Marginals(ids, ("extra", "b"), random.uniform(size=(40, 2)))
    targets = LabelSets(ids, ("a", "b"), random.uniform(size=(40, 2)) < 0.5)
    stack = Stack.align({"left": left, "right": right}, classes=targets.classes)
    fusion = LogPool().fit(stack, targets, METRIC)
    assert isinstance(fusion, PerLabel)
    assert isinstance(fusion.fusions[2], WeightedAverage)
    fused = fusion(stack)
    assert fused.classes == ("a", "b", "extra")
    np.testing.assert_allclose(
        fused.probs_NC[:, 2], (left.probs_NC[:, 1] + right.probs_NC[:, 0]) / 2
    )
    np.testing.assert_allclose(fused.probs_NC[:, 0], left.probs_NC[:, 0])
