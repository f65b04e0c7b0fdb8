# SPDX-License-Identifier: Apache-2.0
"""Stacking against scikit-learn's logistic regression and StackingClassifier."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from fusetune.errors import InvalidValue
from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.logistic import LogisticProblem
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.stacking import Stacking
from fusetune.fuse.stack_forms import LogisticStack
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets
from pools import pool


def loss(prediction, targets):
    return LogLoss().value(LogLoss().statistics(prediction, targets))


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_the_final_estimator_is_scikit_learns(strength):
    random = np.random.default_rng(0)
    features_NF, labels_N = random.normal(size=(200, 5)), random.integers(4, size=200)
    weights_N = random.uniform(0, 2, size=200)
    problem = LogisticProblem(features_NF, np.zeros((200, 4)), labels_N, weights_N)
    coefficients_FC = problem.fit(strength, problem.zeros(), tolerance=1e-7)
    reference = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-9, max_iter=2_000)
    reference.fit(features_NF, labels_N, sample_weight=weights_N)
    np.testing.assert_allclose(coefficients_FC.T, reference.coef_, atol=1e-5)


def test_a_stacking_classifiers_final_estimator_is_reproduced():
    images_ND, digits_N = load_digits(return_X_y=True)
    fitted = [
        ("bayes", GaussianNB().fit(images_ND[:300], digits_N[:300])),
        (
            "tree",
            DecisionTreeClassifier(max_depth=5, random_state=0).fit(
                images_ND[:300], digits_N[:300]
            ),
        ),
    ]
    final = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-9, max_iter=2_000)
    stacking = StackingClassifier(fitted, final_estimator=final, cv="prefit")
    stacking.fit(images_ND[300:800], digits_N[300:800])
    features_NF = stacking.transform(images_ND[300:800])
    problem = LogisticProblem(features_NF, np.zeros((500, 10)), digits_N[300:800], np.ones(500))
    coefficients_FC = problem.fit(1.0, problem.zeros(), tolerance=1e-7)
    logits_NC = stacking.transform(images_ND[800:]) @ coefficients_FC
    probs_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probs_NC, stacking.predict_proba(images_ND[800:]), atol=1e-5)


def test_given_logits_are_built_upon_and_no_step_from_the_optimum_is_better():
    random = np.random.default_rng(1)
    features_NF, base_NC = random.normal(size=(50, 3)), random.normal(size=(50, 4))
    labels_N, weights_N = random.integers(4, size=50), random.uniform(0, 2, size=50)

    def objective(coefficients_FC):
        logits_NC = base_NC + features_NF @ coefficients_FC
        log_probs_NC = logits_NC - np.log(np.exp(logits_NC).sum(axis=1, keepdims=True))
        own_N = log_probs_NC[np.arange(50), labels_N]
        return -own_N @ weights_N + 2.0 / 2 * (coefficients_FC**2).sum()

    problem = LogisticProblem(features_NF, base_NC, labels_N, weights_N)
    found_FC = problem.fit(2.0, problem.zeros(), tolerance=1e-7)
    for _ in range(200):
        step_FC = 10 ** random.uniform(-4, 0) * random.normal(size=found_FC.shape)
        assert objective(found_FC + step_FC) > objective(found_FC)


def test_an_infinite_penalty_leaves_the_geometric_mean():
    stack, targets = pool(dtype=np.float64)
    fused = Stacking(penalties=(1e12,), smoothing=1e-9).fit(stack, targets, Accuracy())(stack)
    product_NC = np.prod([part.probs_NC for part in stack.parts], axis=0) ** (1 / 3)
    product_NC /= product_NC.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fused.probs_NC, product_NC, atol=1e-6)


def test_it_mends_a_member_that_confuses_two_classes():
    stack, targets = pool(members=2, rows=800, skill=4.0)
    swapped = [0, 1, 3, 2]
    wrong = stack.parts[1].with_array(stack.classes, stack.parts[1].probs_NC[:, swapped])
    stack = Stack.align({"right": stack.parts[0], "wrong": wrong}, classes=stack.classes)
    fit, judge = np.arange(400), np.arange(400, 800)
    fusion = Stacking().fit(stack.take(fit), targets.take(fit), Accuracy())
    stacked = loss(fusion(stack.take(judge)), targets.take(judge))
    averaged = loss(Mean().fit(stack, None, Accuracy())(stack.take(judge)), targets.take(judge))
    assert stacked < 0.6 * averaged
    assert stacked < loss(stack.parts[0].take(judge), targets.take(judge))


def test_few_rows_and_near_identical_members_stay_close_to_the_mean():
    worse = []
    for seed in range(10):
        stack, targets = pool(members=5, rows=430, noise=0.05, seed=seed)
        fit, judge = np.arange(30), np.arange(30, 430)
        fusion = Stacking().fit(stack.take(fit), targets.take(fit), LogLoss())
        mean = Mean().fit(stack, None, LogLoss())(stack.take(judge))
        worse.append(
            loss(fusion(stack.take(judge)), targets.take(judge)) - loss(mean, targets.take(judge))
        )
    assert np.mean(worse) < 0.02


def test_columns_of_unknown_classes_are_left_out():
    stack, targets = pool(members=2, rows=200)
    probs_NC = stack.parts[1].probs_NC[:, :3] / stack.parts[1].probs_NC[:, :3].sum(1, keepdims=True)
    part = Probabilities(stack.ids, stack.classes[:3], probs_NC)
    fusion = Stacking().fit(
        Stack.align({"all": stack.parts[0], "three": part}, classes=stack.classes),
        targets,
        Accuracy(),
    )
    assert isinstance(fusion, LogisticStack)
    assert fusion.coefficients_FC.shape == (4 + 3 + 1, 4)
    assert fusion.inputs.known == (stack.classes, stack.classes[:3])


def test_targets_that_no_member_knows_do_not_count():
    stack, targets = pool(members=2, rows=100)
    wider = Targets(targets.ids, (*targets.classes, "emu"), targets.labels_N.copy())
    wider.labels_N[:5] = 4
    one_penalty = Stacking(penalties=(1.0,), smoothing=1e-3)
    kept = np.arange(5, 100)
    fused = one_penalty.fit(stack, wider, Accuracy())(stack)
    sound = one_penalty.fit(stack.take(kept), targets.take(kept), Accuracy())(stack)
    np.testing.assert_allclose(fused.probs_NC, sound.probs_NC, atol=1e-5)
    Probabilities(
        fused.ids, fused.classes, Stacking().fit(stack, wider, Accuracy())(stack).probs_NC
    )


def test_one_row_takes_the_strongest_penalty():
    stack, targets = pool(members=2, rows=1)
    fusion = Stacking(penalties=(1.0, 50.0, 3.0)).fit(stack, targets, Accuracy())
    assert isinstance(fusion, LogisticStack)
    assert fusion.penalty == 50


def test_members_that_say_the_same_pass_through():
    stack, targets = pool(members=1)
    same = Stack.align({"x": stack.parts[0], "y": stack.parts[0]}, classes=stack.classes)
    fusion = Stacking().fit(same, targets, Accuracy())
    assert isinstance(fusion, WeightedAverage)
    assert fusion.members == ("x",)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"penalties": ()}, r"penalties is \(\); expected numbers above 0"),
        ({"penalties": (1.0, 0.0)}, "expected numbers above 0"),
        ({"smoothing": 0.0}, "smoothing is 0.0; expected a share between 0 and 1"),
        ({"folds": 1}, "folds is 1; expected a whole number of at least 2"),
    ],
)
def test_impossible_settings_are_refused(field, message):
    with pytest.raises(InvalidValue, match=message):
        Stacking(**field)
