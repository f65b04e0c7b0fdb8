# SPDX-License-Identifier: Apache-2.0
"""Vote and mean against scikit-learn's VotingClassifier, and ties by hand."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from fusetune.errors import InvalidValue, UnknownName
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.vote import TIE_SHARE, Vote
from fusetune.metrics.accuracy import Accuracy
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack

ESTIMATORS = [
    ("bayes", GaussianNB()),
    ("tree", DecisionTreeClassifier(max_depth=6, random_state=0)),
    ("neighbors", KNeighborsClassifier(7)),
]


@pytest.fixture(scope="module", params=["hard", "soft"])
def voting(request):
    images_ND, digits_N = load_digits(return_X_y=True)
    classifier = VotingClassifier(ESTIMATORS, voting=request.param)
    classifier.fit(images_ND[:400], digits_N[:400])
    judged_ND = images_ND[400:900]
    ids = np.arange(len(judged_ND)).astype(str)
    names = tuple(map(str, range(10)))
    parts = {
        name: Probabilities(ids, names, estimator.predict_proba(judged_ND))
        for name, estimator in classifier.named_estimators_.items()
    }
    return classifier, judged_ND, Stack.align(parts, classes=names)


def test_scikit_learn_agrees(voting):
    classifier, judged_ND, stack = voting
    method = Vote() if classifier.voting == "hard" else Mean()
    fused = method.fit(stack, None, Accuracy())(stack)
    if classifier.voting == "soft":
        np.testing.assert_allclose(fused.probs_NC, classifier.predict_proba(judged_ND), atol=1e-12)
    votes_MN = np.array([part.labels() for part in stack.parts])
    untied_N = np.array([len(set(votes)) < len(votes) for votes in votes_MN.T])
    decided = untied_N if classifier.voting == "hard" else np.ones(len(stack), dtype=bool)
    assert decided.mean() > 0.8
    assert (fused.labels() == classifier.predict(judged_ND).astype(str))[decided].all()


def stack_of(*rows, classes=("a", "b", "c")):
    parts = {f"m{m}": Probabilities(["x"], classes, np.array([row])) for m, row in enumerate(rows)}
    return Stack.align(parts, classes=classes)


def voted(stack):
    return Vote().fit(stack, None, Accuracy())(stack)


def test_shares_are_votes():
    fused = voted(stack_of([0.6, 0.4, 0], [0.5, 0.3, 0.2], [0, 0.9, 0.1]))
    np.testing.assert_allclose(fused.probs_NC, [[2 / 3, 1 / 3, 0]])


def test_two_voters_decide_by_confidence_not_by_the_order_of_classes():
    fused = voted(stack_of([0.55, 0.45, 0], [0.1, 0.9, 0]))
    assert fused.labels().tolist() == ["b"]
    np.testing.assert_allclose(fused.probs_NC, [[1, 1 + TIE_SHARE, 0]] / np.float64(2 + TIE_SHARE))


def test_a_tie_is_settled_among_the_tied_classes_only():
    # c has the highest sum, but no vote.
    fused = voted(stack_of([0.5, 0.01, 0.49], [0, 0.52, 0.48]))
    assert fused.labels().tolist() == ["b"]


def test_an_exact_tie_of_votes_and_sums_goes_to_the_earlier_class():
    assert voted(stack_of([0.75, 0.25, 0], [0.25, 0.75, 0])).labels().tolist() == ["a"]


def test_members_are_compared_by_class_name():
    one = Probabilities(["x"], ("a", "b"), np.array([[0.9, 0.1]]))
    two = Probabilities(["x"], ("b", "a"), np.array([[0.2, 0.8]]))
    three = Probabilities(["x"], ("b",), np.array([[1.0]]))
    stack = Stack.align({"one": one, "two": two, "three": three}, classes=("a", "b"))
    np.testing.assert_allclose(voted(stack).probs_NC, [[2 / 3, 1 / 3]])


def test_members_without_meaningful_probabilities_can_vote():
    images_ND, digits_N = load_digits(return_X_y=True)
    names = tuple(map(str, range(10)))
    parts, labels = {}, []
    for alpha in (1, 100, 10_000):
        ridge = RidgeClassifier(alpha).fit(images_ND[:300], digits_N[:300])
        labels.append(ridge.predict(images_ND[300:400]))
        parts[f"ridge{alpha}"] = Probabilities(np.arange(100), names, np.eye(10)[labels[-1]])
    fused = voted(Stack.align(parts, classes=names))
    counts_NC = np.stack([np.bincount(column, minlength=10) for column in np.array(labels).T])
    assert fused.labels().tolist() == counts_NC.argmax(axis=1).astype(str).tolist()


def test_weighted_votes_agree_with_scikit_learn():
    images_ND, digits_N = load_digits(return_X_y=True)
    weights = {"bayes": 1.0, "tree": 2.5, "neighbors": 1.25}
    classifier = VotingClassifier(ESTIMATORS, voting="hard", weights=list(weights.values()))
    classifier.fit(images_ND[:400], digits_N[:400])
    judged_ND = images_ND[400:900]
    parts = {
        name: Probabilities(
            np.arange(500), tuple(map(str, range(10))), estimator.predict_proba(judged_ND)
        )
        for name, estimator in classifier.named_estimators_.items()
    }
    stack = Stack.align(parts)
    fused = Vote(weights=weights).fit(stack, None, Accuracy())(stack)
    assert fused.labels().tolist() == classifier.predict(judged_ND).astype(str).tolist()


def test_weights_decide_and_make_ties():
    stack = stack_of([0.6, 0.4, 0], [0.1, 0.9, 0], [0.1, 0.9, 0])
    heavy = Vote(weights={"m0": 3, "m1": 1, "m2": 1}).fit(stack, None, Accuracy())
    np.testing.assert_allclose(heavy(stack).probs_NC, [[0.6, 0.4, 0]])
    # 0.3 against 0.1 + 0.2, which is not 0.3 in binary: a tie, settled by the weighted sums.
    tied = Vote(weights={"m0": 0.3, "m1": 0.1, "m2": 0.2}).fit(stack, None, Accuracy())
    assert tied(stack).labels().tolist() == ["b"]
    np.testing.assert_allclose(tied(stack).probs_NC[0, :2], [0.5, 0.5], atol=1e-3)


def test_members_without_votes_are_left_out():
    stack = stack_of([0.6, 0.4, 0], [0.1, 0.9, 0])
    fusion = Vote(weights={"m0": 0, "m1": 2, "other": 1}).fit(stack, None, Accuracy())
    assert fusion.members == ("m1",)


def test_weights_that_make_no_sense_are_refused():
    stack = stack_of([0.6, 0.4, 0], [0.1, 0.9, 0])
    with pytest.raises(InvalidValue, match="the weight of 'm0' is -1; expected a finite number"):
        Vote(weights={"m0": -1})
    with pytest.raises(UnknownName, match=r"no weight is called 'm1'"):
        Vote(weights={"m0": 1}).fit(stack, None, Accuracy())
    with pytest.raises(InvalidValue, match="all weights are 0"):
        Vote(weights={"m0": 0, "m1": 0}).fit(stack, None, Accuracy())
