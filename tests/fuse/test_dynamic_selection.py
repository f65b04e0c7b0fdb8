# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.methods.distributions.dynamic_selection import DynamicSelection
from fusetune.metrics.accuracy import Accuracy
from fusetune.predictions.kinds import Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets
from pools import pool

# Sixteen holdout rows, ten new ones and three linear members, drawn with seed 7, and what DESlib
# 0.3.7 says of them, with k=5 and features standardized as on the holdout. KNORAE(voting="soft")
# .predict_proba on the new rows where the members differ (elsewhere it averages all of them);
# KNORAU.estimate_competence on all (its predict_proba takes a softmax of the weighted sums).
HOLDOUT = np.array(
    [
        *([8, 2], [3, 8], [1, 5], [6, -5], [-8, -4], [-4, 7], [8, -9], [0, 6]),
        *([-7, 6], [-7, -1], [6, -4], [-3, -4], [4, -5], [9, -1], [0, 0], [2, 1]),
    ]
)
LABELS = [0, 1, 1, 1, 2, 0, 2, 0, 0, 1, 1, 2, 1, 1, 1, 0]
NEW = np.array(
    [
        *([0.25, 9.15], [6.25, 6.15], [4.25, 2.15], [-2.75, 9.15], [-0.75, -4.85]),
        *([7.25, -5.85], [7.25, 2.15], [-6.75, -8.85], [-0.75, -8.85], [-6.75, 0.15]),
    ]
)
MEMBERS = [
    [[3, 0, 2], [3, 2, 1], [0, 0, -2]],
    [[0, -1, -2], [3, -3, -3], [-2, 3, 1]],
    [[3, -2, 2], [-1, 0, -3], [1, 2, 1]],
]
DIFFERING = [0, 3, 4, 5, 7, 8, 9]
ELIMINATED_NC = [
    *([0.671611, 0.326279, 0.002111], [0.999983, 8e-06, 9e-06], [9.5e-05, 0.577441, 0.422464]),
    *([0.000247, 0.909682, 0.090071], [0.0, 0.233706, 0.766294], [0.0, 0.577495, 0.422505]),
    [0.003282, 0.986574, 0.010144],
]
COMPETENCES_NM = [
    *([1, 3, 1], [3, 3, 3], [2, 4, 4], [1, 3, 1], [0, 5, 1]),
    *([1, 4, 1], [2, 4, 3], [1, 4, 2], [1, 4, 1], [1, 4, 2]),
]


def linear_members(points, names=("x", "y", "z")):
    ids = np.array([f"row{n:02}" for n in range(len(points))])
    parts = {}
    for index, weights in enumerate(MEMBERS):
        logits_NC = np.c_[points, np.ones(len(points))] @ np.array(weights) / 4
        parts[f"member{index}"] = Probabilities.from_logits(ids, names, logits_NC)
    return Stack.align(parts, features={"place": Values(ids, ("0", "1"), points.astype(float))})


def naive(stack, targets, new, rule, neighbors):
    """The paper's rules row by row and member by member."""
    (points,), (asked,) = stack.features.values(), new.features.values()
    deviations = points.std(axis=0)
    fused = []
    for n in range(len(new)):
        distances = [(np.sum(((asked[n] - p) / deviations) ** 2), i) for i, p in enumerate(points)]
        nearest = [i for _, i in sorted(distances)[:neighbors]]
        right = [[part.labels()[i] == targets.names()[i] for i in nearest] for part in stack.parts]
        votes = [0] * len(stack.parts)
        if rule == "union":
            votes = [sum(row) for row in right]
        else:
            for size in range(len(nearest), 0, -1):
                votes = [all(row[:size]) for row in right]
                if any(votes):
                    break
        if not any(votes):
            votes = [1] * len(votes)
        rows = [vote * part.probs_NC[n] for vote, part in zip(votes, new.parts, strict=True)]
        fused.append(sum(rows) / sum(votes))
    return np.array(fused)


def test_it_eliminates_as_deslib_does():
    stack, new = linear_members(HOLDOUT), linear_members(NEW)
    targets = Targets(stack.ids, ("x", "y", "z"), np.array(LABELS))
    fusion = DynamicSelection(rule="eliminate", neighbors=5).fit(stack, targets, Accuracy())
    np.testing.assert_allclose(fusion(new).probs_NC[DIFFERING], ELIMINATED_NC, atol=2e-6)


def test_it_weighs_as_deslib_does():
    stack, new = linear_members(HOLDOUT), linear_members(NEW)
    targets = Targets(stack.ids, ("x", "y", "z"), np.array(LABELS))
    fusion = DynamicSelection(rule="union", neighbors=5).fit(stack, targets, Accuracy())
    probs_NMC = np.stack([part.probs_NC for part in new.parts], axis=1)
    expected_NC = np.einsum("nm,nmc->nc", COMPETENCES_NM, probs_NMC)
    expected_NC /= np.sum(COMPETENCES_NM, axis=1, keepdims=True)
    np.testing.assert_allclose(fusion(new).probs_NC, expected_NC, rtol=1e-12)


@pytest.mark.parametrize("rule", ["eliminate", "union"])
@pytest.mark.parametrize("neighbors", [1, 4, 7, 1_000])
def test_it_gives_what_loops_give(rule, neighbors):
    stack, targets = pool(members=4, rows=150, noise=3.0, skill=1.0)
    fit, judge = np.arange(100), np.arange(100, 150)
    method = DynamicSelection(rule=rule, neighbors=neighbors)
    holdout = stack.take(fit), targets.take(fit)
    fused = method.fit(*holdout, Accuracy())(stack.take(judge))
    expected_NC = naive(*holdout, stack.take(judge), rule, neighbors)
    np.testing.assert_allclose(fused.probs_NC, expected_NC, rtol=1e-9)


@pytest.mark.parametrize("rule", ["eliminate", "union"])
def test_where_nobody_is_right_all_are_averaged(rule):
    stack, targets = pool(members=2, rows=20, classes=3)
    never = Targets(targets.ids, (*targets.classes, "other"), np.full(20, 3))
    fused = DynamicSelection(rule=rule).fit(stack, never, Accuracy())(stack)
    mean_NC = (stack.parts[0].probs_NC + stack.parts[1].probs_NC) / 2
    np.testing.assert_allclose(fused.probs_NC, mean_NC)


def test_it_finds_the_region_that_each_member_is_good_in():
    random = np.random.default_rng(0)
    truth_N, side_N = random.integers(3, size=600), random.integers(2, size=600)
    wrong_N = (truth_N + random.integers(1, 3, size=600)) % 3
    ids = np.array([f"row{n}" for n in range(600)])
    parts = {}
    for side in (0, 1):
        votes_N = np.where(side_N == side, truth_N, wrong_N)
        parts[f"side{side}"] = Probabilities(ids, tuple("xyz"), 0.1 + 0.7 * np.eye(3)[votes_N])
    places = Values(ids, ("p", "q"), np.c_[side_N + random.normal(size=600) / 5, np.ones(600)])
    stack = Stack.align(parts, features={"place": places})
    targets = Targets(ids, tuple("xyz"), truth_N)
    fit, judge = np.arange(300), np.arange(300, 600)
    for rule in ("eliminate", "union"):
        fusion = DynamicSelection(rule=rule).fit(stack.take(fit), targets.take(fit), Accuracy())
        right_N = fusion(stack.take(judge)).labels() == targets.take(judge).names()
        assert right_N.mean() > 0.97


def test_only_the_features_asked_for_count_and_rows_of_no_weight_are_gone():
    stack, targets = pool(rows=40)
    noise = np.random.default_rng(9).normal(size=(40, 1))
    more = Stack(stack.members, stack.parts, stack.classes, {**stack.features, "noise": 50 * noise})
    alone = DynamicSelection().fit(stack, targets, Accuracy())(stack)
    chosen = DynamicSelection(features=("seen",)).fit(more, targets, Accuracy())(more)
    assert np.array_equal(chosen.probs_NC, alone.probs_NC)
    assert not np.array_equal(
        DynamicSelection().fit(more, targets, Accuracy())(more).probs_NC, alone.probs_NC
    )
    kept = np.arange(40) % 3 > 0
    weighted = DynamicSelection().fit(stack, targets, Accuracy(), sample_weights_N=kept * 1.0)
    fewer = DynamicSelection().fit(stack.take(kept), targets.take(kept), Accuracy())
    assert np.array_equal(weighted(stack).probs_NC, fewer(stack).probs_NC)


def test_errors_have_three_parts():
    stack, targets = pool(rows=20)
    bare = Stack(stack.members, stack.parts, stack.classes)
    with pytest.raises(
        PredictionError, match=r"given no features; expected feature vectors .*leave this method"
    ):
        DynamicSelection().fit(bare, targets, Accuracy())
    with pytest.raises(PredictionError, match=r"'deep' are missing among 'seen'"):
        DynamicSelection(features=("deep",)).fit(stack, targets, Accuracy())
    fusion = DynamicSelection().fit(stack, targets, Accuracy())
    with pytest.raises(PredictionError, match=r"'seen' are missing: the predictions carry none"):
        fusion(bare)
    with pytest.raises(InvalidValue, match=r"rule is 'both'; expected eliminate or union"):
        DynamicSelection(rule="both")
    with pytest.raises(InvalidValue, match=r"neighbors is 0"):
        DynamicSelection(neighbors=0)
