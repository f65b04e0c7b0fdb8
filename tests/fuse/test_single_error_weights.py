# SPDX-License-Identifier: Apache-2.0
"""Inverse errors and Bayesian model averaging: weights from each member's own losses."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, mean_squared_error

from fusetune.errors import InvalidValue
from fusetune.fuse.methods.distributions.bayesian_model_averaging import BayesianModelAveraging
from fusetune.fuse.methods.distributions.inverse_error import InverseError
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.pinball import Pinball
from fusetune.metrics.rmse import Rmse
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers, Targets
from pools import pool


def numbers(rows=60, scales=(0.5, 1.0, 2.0)):
    random = np.random.default_rng(0)
    ids, truth_N1 = np.arange(rows), random.normal(size=(rows, 1))
    parts = {
        f"m{m}": Values(ids, ("y",), truth_N1 + scale * random.normal(size=(rows, 1)))
        for m, scale in enumerate(scales)
    }
    stack = Stack.align(parts)
    return stack, Numbers(stack.ids, ("y",), truth_N1)


def shares(weights_M):
    return weights_M / np.sum(weights_M)


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_values_weigh_by_their_inverse_squared_error(power):
    stack, targets = numbers()
    errors = [mean_squared_error(targets.values_ND, part.values_ND) for part in stack.parts]
    fusion = InverseError(power=power).fit(stack, targets, Rmse())
    expected = shares(np.array(errors) ** -power)
    np.testing.assert_allclose(list(fusion.weights().values()), expected)


def test_classes_weigh_by_their_inverse_brier_score_with_sample_weights():
    stack, targets = pool(members=4, rows=50)
    weights_N = np.random.default_rng(0).uniform(0, 2, 50)
    names = np.array(stack.classes)[targets.labels_N]
    errors = [
        brier_score_loss(names, part.probs_NC, sample_weight=weights_N, labels=list(stack.classes))
        for part in stack.parts
    ]
    fusion = InverseError().fit(stack, targets, Accuracy(), sample_weights_N=weights_N)
    np.testing.assert_allclose(list(fusion.weights().values()), shares(1 / np.array(errors)))


def test_the_metric_may_be_the_error_and_is_turned_where_higher_is_better():
    stack, targets = pool(members=3, rows=80, noise=3.0)
    for metric, turn in ((LogLoss(), lambda v: v), (Accuracy(), lambda v: 1 - v)):
        errors = [turn(metric.value(metric.statistics(p, targets))) for p in stack.parts]
        fusion = InverseError(error="metric").fit(stack, targets, metric)
        np.testing.assert_allclose(list(fusion.weights().values()), shares(1 / np.array(errors)))


def test_members_without_error_share_all_weight():
    ids, labels_N = np.arange(3), np.array([0, 1, 0])
    right = Probabilities(ids, ("a", "b"), np.eye(2)[labels_N])
    wrong = Probabilities(ids, ("a", "b"), np.eye(2)[1 - labels_N])
    stack = Stack.align({"x": right, "y": wrong, "z": right})
    targets = Targets(stack.ids, ("a", "b"), labels_N)
    assert InverseError().fit(stack, targets, Accuracy()).weights() == {"x": 0.5, "z": 0.5}
    assert InverseError(power=0.0).fit(stack, targets, Accuracy()).weights_M.tolist() == [1, 1, 1]


def test_quantiles_weigh_by_the_metric():
    random = np.random.default_rng(0)
    ids, truth_N1 = np.arange(40), random.normal(size=(40, 1))
    parts = {
        f"m{m}": Values(ids, ("q1", "q9"), truth_N1 + s * np.array([-1.0, 1.0]), (0.1, 0.9))
        for m, s in enumerate((1.0, 2.0))
    }
    stack = Stack.align(parts)
    fusion = InverseError().fit(stack, Numbers(stack.ids, ("y",), truth_N1), Pinball())
    np.testing.assert_allclose(list(fusion.weights().values()), [2 / 3, 1 / 3])


def test_posterior_weights_are_likelihood_ratios():
    stack, targets = pool(members=3, rows=12, noise=0.3)
    names = np.array(stack.classes)[targets.labels_N]
    totals = [
        log_loss(names, part.probs_NC, labels=list(stack.classes), normalize=False)
        for part in stack.parts
    ]
    fusion = BayesianModelAveraging(variant="posterior").fit(stack, targets, Accuracy())
    expected = shares(np.exp(min(totals) - np.array(totals)))
    np.testing.assert_allclose(list(fusion.weights().values()), expected, rtol=1e-9)


def test_label_sets_count_every_class_of_a_row():
    present_NC = np.array([[True, False], [False, False]])
    parts = {
        "x": Marginals(["r", "s"], ("a", "b"), np.array([[0.5, 0.5], [0.5, 0.5]])),
        "y": Marginals(["r", "s"], ("a", "b"), np.array([[0.75, 0.25], [0.25, 0.5]])),
    }
    stack = Stack.align(parts)
    fusion = BayesianModelAveraging(variant="posterior").fit(
        stack, LabelSets(stack.ids, ("a", "b"), present_NC), Accuracy()
    )
    likelihoods = np.array([0.5**4, 0.75**3 * 0.5])
    np.testing.assert_allclose(list(fusion.weights().values()), shares(likelihoods))


def test_values_count_by_normal_densities_with_their_own_variance():
    stack, targets = numbers(rows=10, scales=(1.0, 1.1))
    errors = [mean_squared_error(targets.values_ND, part.values_ND) for part in stack.parts]
    fusion = BayesianModelAveraging(variant="posterior").fit(stack, targets, Rmse())
    expected = shares(np.array(errors) ** -5.0)  # the density's scale, to the power of the rows
    np.testing.assert_allclose(list(fusion.weights().values()), expected)


def test_pseudo_weights_are_means_over_dirichlet_shares_of_the_rows():
    stack, targets = pool(members=3, rows=40, noise=1.0)
    fusion = BayesianModelAveraging(draws=4_000).fit(stack, targets, Accuracy())
    logs_MN = np.log([part.probs_NC[np.arange(40), targets.labels_N] for part in stack.parts])
    shares_BN = np.random.default_rng(7).dirichlet(np.ones(40), size=20_000)
    totals_BM = 40 * shares_BN @ logs_MN.T
    posteriors_BM = np.exp(totals_BM - totals_BM.max(axis=1, keepdims=True))
    expected = (posteriors_BM / posteriors_BM.sum(axis=1, keepdims=True)).mean(axis=0)
    found = [fusion.weights().get(member, 0) for member in stack.members]
    np.testing.assert_allclose(found, expected, atol=0.02)
    again = BayesianModelAveraging(draws=4_000).fit(stack, targets, Accuracy())
    other = BayesianModelAveraging(draws=4_000, seed=1).fit(stack, targets, Accuracy())
    assert again.weights() == fusion.weights() != other.weights()


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InvalidValue, match="error is 'mse'; expected squared_error or metric"):
        InverseError(error="mse")
    with pytest.raises(InvalidValue, match=r"power is -1; expected a finite number"):
        InverseError(power=-1)
    with pytest.raises(InvalidValue, match="variant is 'plus'; expected pseudo or posterior"):
        BayesianModelAveraging(variant="plus")
    with pytest.raises(InvalidValue, match="draws is 0; expected a whole number"):
        BayesianModelAveraging(draws=0)
    quantiles = Values(["r"], ("q1", "q9"), np.array([[0.0, 1.0]]), (0.1, 0.9))
    with pytest.raises(InvalidValue, match="the members predict quantiles"):
        BayesianModelAveraging().fit(
            Stack.align({"x": quantiles}), Numbers(["r"], ("y",), np.array([[1.0]])), Pinball()
        )
