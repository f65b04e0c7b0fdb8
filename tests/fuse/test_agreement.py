# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fusetune.errors import PredictionError
from fusetune.fuse.methods.distributions.agreement import (
    Agreement,
    vote_covariance,
    voting_skills,
)
from fusetune.metrics.accuracy import Accuracy
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack


def members(votes_MN, classes=4, names=None):
    """A stack whose members vote as given."""
    num_members, num_rows = votes_MN.shape
    ids = np.array([f"row{n}" for n in range(num_rows)])
    labels = tuple("abcdefgh"[:classes])
    probs_MNC = 0.1 / classes + 0.9 * np.eye(classes)[votes_MN]
    names = names or [f"member{m}" for m in range(num_members)]
    parts = {name: Probabilities(ids, labels, probs_MNC[m]) for m, name in enumerate(names)}
    return Stack.align(parts, classes=labels)


def drawn(rows, accuracies, classes=4, seed=0, shares=None):
    """Members that err independently, evenly over the wrong classes."""
    random = np.random.default_rng(seed)
    truth_N = random.choice(classes, p=shares, size=rows)
    right_MN = random.random((len(accuracies), rows)) < np.array(accuracies)[:, None]
    wrong_MN = (truth_N + random.integers(1, classes, size=right_MN.shape)) % classes
    return truth_N, np.where(right_MN, truth_N, wrong_MN)


def naive_covariance(votes_MN, classes, weights_N):
    """Agreement less what two unrelated voters would agree on, by loops."""
    total = sum(weights_N)
    covariance = np.zeros((len(votes_MN), len(votes_MN)))
    for i, one in enumerate(votes_MN):
        for j, other in enumerate(votes_MN):
            agree = sum(w for a, b, w in zip(one, other, weights_N, strict=True) if a == b) / total
            chance = 0.0
            for c in range(classes):
                shares = [
                    sum(w for a, w in zip(votes, weights_N, strict=True) if a == c) / total
                    for votes in (one, other)
                ]
                chance += shares[0] * shares[1]
            covariance[i, j] = agree - chance
    return covariance


def test_covariances_are_agreement_beyond_chance():
    random = np.random.default_rng(0)
    votes_MN = random.integers(3, size=(4, 25))
    weights_N = random.integers(0, 4, size=25).astype(float)
    np.testing.assert_allclose(
        vote_covariance(votes_MN, 3, weights_N),
        naive_covariance(votes_MN, 3, weights_N),
        atol=1e-12,
    )


def test_with_two_classes_it_is_half_the_covariance_of_plus_and_minus_one():
    votes_MN = np.random.default_rng(1).integers(2, size=(3, 40))
    signs_MN = 2 * votes_MN - 1
    np.testing.assert_allclose(
        2 * vote_covariance(votes_MN, 2, np.ones(40)), np.cov(signs_MN, bias=True), atol=1e-12
    )


def test_products_of_skills_are_solved_exactly():
    skills_M = np.array([0.7, 0.5, 0.3, 0.05, 0.0])
    covariance_MM = np.outer(skills_M, skills_M)
    np.fill_diagonal(covariance_MM, 0.75)
    np.testing.assert_allclose(voting_skills(covariance_MM), skills_M, atol=1e-9)
    three_MM = np.array([[1.0, 0.35, 0.14], [0.35, 1.0, 0.1], [0.14, 0.1, 1.0]])
    np.testing.assert_allclose(voting_skills(three_MM), [0.7, 0.5, 0.2], atol=1e-9)


def test_the_skills_are_those_of_a_general_optimizer():
    from scipy.optimize import minimize

    _, votes_MN = drawn(200, [0.9, 0.7, 0.6, 0.3, 0.2], seed=4)
    covariance_MM = vote_covariance(votes_MN, 4, np.ones(200))
    beside_MM = ~np.eye(5, dtype=bool)

    def error(v_M):
        return (((covariance_MM - np.outer(v_M, v_M)) ** 2)[beside_MM]).sum()

    bounds = [(0, high) for high in np.sqrt(covariance_MM.diagonal())]
    found = minimize(error, np.full(5, 0.3), bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-12})
    np.testing.assert_allclose(voting_skills(covariance_MM), found.x, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "shares"), [(2, None), (4, None), (4, [0.55, 0.25, 0.15, 0.05])]
)
def test_weights_follow_accuracy_above_chance(classes, shares):
    accuracies = np.array([0.9, 0.75, 0.6, 1 / classes])
    _, votes_MN = drawn(60_000, accuracies, classes, shares=shares)
    weights = Agreement().fit(members(votes_MN, classes), None, Accuracy()).weights()
    above_M = (accuracies - 1 / classes) / (accuracies - 1 / classes).sum()
    found_M = [weights.get(f"member{m}", 0.0) for m in range(4)]
    np.testing.assert_allclose(found_M, above_M, atol=0.02)


def test_two_classes_need_no_even_errors():
    random = np.random.default_rng(5)
    truth_N = (random.random(60_000) < 0.3).astype(int)
    sensitivities, specificities = np.array([[0.95, 0.6, 0.7], [0.6, 0.9, 0.8]])
    right_MN = random.random((3, len(truth_N))) < np.where(
        truth_N, sensitivities[:, None], specificities[:, None]
    )
    stack = members(np.where(right_MN, truth_N, 1 - truth_N), 2)
    balanced_M = (sensitivities + specificities) / 2 - 0.5
    weights_M = list(Agreement().fit(stack, None, Accuracy()).weights().values())
    np.testing.assert_allclose(weights_M, balanced_M / balanced_M.sum(), atol=0.02)


def test_random_constant_and_contrary_members_lose_their_weight():
    truth_N, votes_MN = drawn(3_000, [0.8, 0.75, 0.7, 0.25])
    constant_N, contrary_N = np.full(3_000, 2), (truth_N + 1) % 4
    stack = members(
        np.vstack([votes_MN, constant_N, contrary_N]),
        names=["one", "two", "three", "random", "constant", "contrary"],
    )
    fusion = Agreement().fit(stack, None, Accuracy())
    weights = fusion.weights()
    assert weights.get("random", 0.0) < 0.03
    assert "constant" not in fusion.members
    assert "contrary" not in fusion.members
    assert weights["one"] > weights["two"] > weights["three"] > 0.25


def test_one_or_two_members_and_identical_ones_weigh_the_same():
    _, votes_MN = drawn(100, [0.9, 0.2])
    assert Agreement().fit(members(votes_MN[:1]), None, Accuracy()).weights() == {"member0": 1}
    pair = Agreement().fit(members(votes_MN), None, Accuracy())
    assert pair.weights() == {"member0": 0.5, "member1": 0.5}
    same = Agreement().fit(members(votes_MN[[0, 0, 0, 0]]), None, Accuracy()).weights()
    np.testing.assert_allclose(list(same.values()), 1 / 4)


@pytest.mark.parametrize(
    "votes_MN",
    [np.full((3, 20), 1), np.array([[0], [1], [2]]), np.array([[0, 1], [1, 0], [0, 0]])],
    ids=["all constant", "one row", "only disagreement"],
)
def test_nobody_agrees_beyond_chance(votes_MN):
    weights = Agreement().fit(members(votes_MN), None, Accuracy()).weights()
    np.testing.assert_allclose(list(weights.values()), 1 / 3)


def test_no_rows_are_refused():
    _, votes_MN = drawn(10, [0.9, 0.8, 0.7])
    with pytest.raises(PredictionError, match="no holdout row"):
        Agreement().fit(members(votes_MN).take(np.arange(0)), None, Accuracy())
