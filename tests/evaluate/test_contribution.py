# SPDX-License-Identifier: Apache-2.0
"""Contributions of members: axioms of the Shapley value, and whole coalitions one by one."""

from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import numpy as np
import pytest

from fusetune.evaluate import contribution
from fusetune.evaluate.contribution import contributions
from fusetune.fuse.forms import linear_pool
from fusetune.metric import Metric, weighted_means
from fusetune.plugins import find
from fusetune.predictions.kinds import Floats, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers, Targets
from pools import pool

METRICS = ["accuracy", "balanced_accuracy", "log_loss", "brier", "macro_f1", "roc_auc"]


@dataclass(frozen=True)
class SquaredError(Metric):
    """Mean over rows and columns; of quantiles, against the one number."""

    higher_is_better: ClassVar[bool] = False
    title: ClassVar[str] = "Squared error"

    def statistics(self, prediction, targets) -> Floats:
        truth = targets.values_ND if isinstance(targets, Numbers) else targets.present_NC
        return ((prediction.array_NC - truth) ** 2).mean(axis=1)[:, None]

    def values(self, statistics_NS, weights_RN) -> Floats:
        return weighted_means(statistics_NS, weights_RN)


@dataclass(frozen=True)
class ByName(SquaredError):
    """The same, whatever the order of the target's columns."""

    def statistics(self, prediction, targets) -> Floats:
        columns = [targets.names.index(name) for name in prediction.columns]
        return ((prediction.array_NC - targets.values_ND[:, columns]) ** 2).mean(axis=1)[:, None]


def metric_of(name):
    return find(Metric, name)()


def score_of(stack, targets, metric, weights):
    """A coalition's score, by the pool that fusions use; of nobody, by the class shares."""
    if not weights:
        shares = np.bincount(targets.labels_N, minlength=len(targets.classes)) / len(targets)
        nobody = Probabilities(targets.ids, targets.classes, np.tile(shares, (len(targets), 1)))
        return metric.value(metric.statistics(nobody, targets))
    fused = linear_pool(
        stack.select([*weights]).parts, np.array([*weights.values()]), stack.classes
    )
    return metric.value(metric.statistics(fused, targets))


def shapley_by_orders(stack, targets, metric, weights):
    """Definition: what a member adds to those before it, averaged over all orders."""
    total = dict.fromkeys(stack.members, 0.0)
    orders = list(permutations(weights))
    for order in orders:
        before = score_of(stack, targets, metric, {})
        for position, name in enumerate(order):
            present = set(order[: position + 1])
            coalition = {other: w for other, w in weights.items() if other in present}
            after = score_of(stack, targets, metric, coalition)
            total[name] += metric.gain(after, before) / len(orders)
            before = after
    return [total[name] for name in stack.members]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_values_equal_the_definition(name, dtype):
    stack, targets = pool(4, 40, 3, seed=1, dtype=dtype)
    weights, metric = {"member0": 0.5, "member2": 0.2, "member3": 0.3}, metric_of(name)
    found = contributions(stack, targets, metric, weights=weights, seed=0)
    expected = shapley_by_orders(stack, targets, metric, weights)
    assert found.shapley_M == pytest.approx(expected, abs=1e-7)
    assert found.permutations == 0
    assert not found.standard_error_M.any()
    everyone = score_of(stack, targets, metric, weights)
    for member, left_out in zip(stack.members, found.leave_one_out_M, strict=True):
        rest = {other: w for other, w in weights.items() if other != member}
        without = score_of(stack, targets, metric, rest)
        assert left_out == pytest.approx(metric.gain(everyone, without), abs=1e-7)
    assert found.score_all == everyone


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_are_clipped_in_the_members_own_precision(dtype):
    """A member sure of the wrong class: log-loss is clipped at the eps of its numbers."""
    ids = ["a", "b", "c"]
    targets = Targets(ids, ("x", "y"), np.array([0, 1, 1]))
    sure = np.array([[0, 1], [0, 1], [1, 0]], dtype=dtype)
    unsure = np.array([[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]], dtype=dtype)
    parts = {name: Probabilities(ids, ("x", "y"), p) for name, p in (("s", sure), ("u", unsure))}
    stack, metric = Stack.align(parts), metric_of("log_loss")
    found = contributions(stack, targets, metric, seed=0)
    expected = shapley_by_orders(stack, targets, metric, {"s": 1.0, "u": 1.0})
    assert found.shapley_M == pytest.approx(expected)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("num_members", [1, 2, 5, 14])
def test_values_sum_to_the_gain_of_all_over_none(name, num_members):
    stack, targets = pool(num_members, 50, 3, seed=2)
    metric = metric_of(name)
    found = contributions(stack, targets, metric, pairs=3, seed=0)
    gain = metric.gain(found.score_all, found.score_none)
    assert found.shapley_M.sum() == pytest.approx(gain, abs=1e-12)
    assert (found.permutations > 0) == (num_members == 14)


@pytest.mark.parametrize("exact", [True, False])
def test_twins_share_alike_and_a_member_without_weight_gives_nothing(exact, monkeypatch):
    monkeypatch.setattr(contribution, "EXACT_MEMBERS", 12 if exact else 1)
    stack, targets = pool(3, 80, 3, seed=3)
    twins = {**dict(zip(stack.members, stack.parts, strict=True)), "twin": stack["member1"]}
    stack = Stack.align(twins, classes=stack.classes)
    weights = {"member0": 1.0, "member1": 2.0, "twin": 2.0, "member2": 0.0}
    found = contributions(stack, targets, metric_of("log_loss"), weights=weights, pairs=400, seed=0)
    value = dict(zip(stack.members, found.shapley_M, strict=True))
    error = dict(zip(stack.members, found.standard_error_M, strict=True))
    distance = 1e-12 if exact else 5 * error["twin"]
    assert value["twin"] == pytest.approx(value["member1"], abs=distance)
    assert value["member2"] == 0 == error["member2"]


def test_a_member_that_changes_no_coalition_gives_nothing():
    """A dummy: the class shares themselves, under weights too small to change any decision."""
    stack, targets = pool(2, 60, 3, seed=5)
    shares = np.bincount(targets.labels_N, minlength=3) / 60
    dummy = Probabilities(stack.ids, stack.classes, np.tile(shares, (60, 1)))
    parts = {**dict(zip(stack.members, stack.parts, strict=True)), "dummy": dummy}
    weights = {"member0": 1.0, "member1": 1.0, "dummy": 1e-12}
    wide = Stack.align(parts, classes=stack.classes)
    found = contributions(wide, targets, metric_of("accuracy"), weights=weights, seed=0)
    assert found.shapley_M[2] == pytest.approx(0, abs=1e-15)
    assert found.leave_one_out_M[2] == 0
    alone = contributions(stack, targets, metric_of("accuracy"), seed=0)
    assert found.shapley_M[:2] == pytest.approx(alone.shapley_M)


def test_sampled_values_lie_within_their_errors_of_the_exact_ones(monkeypatch):
    stack, targets = pool(6, 100, 3, seed=6)
    metric = metric_of("log_loss")
    exact = contributions(stack, targets, metric, seed=0)
    monkeypatch.setattr(contribution, "EXACT_MEMBERS", 5)
    distances = []
    for seed in range(20):
        found = contributions(stack, targets, metric, pairs=30, seed=seed)
        distances.append((found.shapley_M - exact.shapley_M) / found.standard_error_M)
        assert found.leave_one_out_M == pytest.approx(exact.leave_one_out_M, abs=1e-12)
        assert found.permutations == 60
    assert 0.7 < np.sqrt(np.mean(np.square(distances))) < 1.4
    assert np.abs(distances).max() < 5
    again = contributions(stack, targets, metric, pairs=30, seed=19)
    assert np.array_equal(again.shapley_M, found.shapley_M)


@pytest.mark.parametrize("exact", [True, False])
def test_members_that_know_other_classes_are_pooled_as_fusions_pool_them(exact, monkeypatch):
    monkeypatch.setattr(contribution, "EXACT_MEMBERS", 12 if exact else 1)
    stack, targets = pool(3, 30, 3, seed=7)
    part = stack.parts[1]
    fewer = part.probs_NC[:, [2, 0]]
    fewer = Probabilities(
        stack.ids, (part.classes[2], part.classes[0]), fewer / fewer.sum(axis=1, keepdims=True)
    )
    stack = Stack.align(
        {"a": stack.parts[0], "b": fewer, "c": stack.parts[2]}, classes=stack.classes
    )
    metric = metric_of("log_loss")
    weights = {"a": 0.3, "b": 0.3, "c": 0.4}
    found = contributions(stack, targets, metric, weights=weights, pairs=500, seed=0)
    expected = shapley_by_orders(stack, targets, metric, weights)
    distances = np.abs(found.shapley_M - expected)
    assert (distances <= 1e-12 + 5 * found.standard_error_M).all()


@pytest.mark.parametrize("exact", [True, False])
def test_squared_errors_of_numbers_equal_the_definition(exact, monkeypatch):
    """Two columns, one of which a member does not have; of nobody the means."""
    monkeypatch.setattr(contribution, "EXACT_MEMBERS", 12 if exact else 1)
    random = np.random.default_rng(1)
    ids = [f"r{row}" for row in range(40)]
    truth_ND = random.normal(size=(40, 2))
    guesses = [truth_ND + random.normal(size=(40, 2)) for _ in range(2)]
    parts = {"a": Values(ids, ("x", "y"), guesses[0]), "b": Values(ids, ("x",), guesses[1][:, :1])}
    targets = Numbers(ids, ("x", "y"), truth_ND)
    stack = Stack.align(parts, classes=("x", "y"))
    found = contributions(stack, targets, SquaredError(), seed=0)
    turned = Numbers(ids, ("y", "x"), truth_ND[:, ::-1])
    again = contributions(stack, turned, ByName(), seed=0)
    assert again.shapley_M == pytest.approx(found.shapley_M)
    means_ND = np.tile(truth_ND.mean(axis=0), (40, 1))

    def error(x_N, y_N):
        return ((np.stack([x_N, y_N], axis=1) - truth_ND) ** 2).mean()

    none, both = (
        error(*means_ND.T),
        error(guesses[0][:, 0] / 2 + guesses[1][:, 0] / 2, guesses[0][:, 1]),
    )
    only_a, only_b = error(*guesses[0].T), error(guesses[1][:, 0], means_ND[:, 1])
    assert found.score_none == pytest.approx(none)
    assert found.score_all == pytest.approx(both)
    assert found.leave_one_out_M == pytest.approx([only_b - both, only_a - both])
    if exact:
        expected = [
            ((none - only_a) + (only_b - both)) / 2,
            ((none - only_b) + (only_a - both)) / 2,
        ]
        assert found.shapley_M == pytest.approx(expected)


def test_nobody_knows_the_share_of_each_label_and_the_quantiles():
    ids = ["a", "b", "c", "d"]
    present_NC = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], dtype=bool)
    marginals = Marginals(ids, ("x", "y"), np.full((4, 2), 0.5))
    found = contributions(
        Stack.align({"m": marginals}),
        LabelSets(ids, ("x", "y"), present_NC),
        SquaredError(),
        seed=0,
    )
    assert found.score_none == pytest.approx(((present_NC - [0.75, 0.25]) ** 2).mean())
    numbers_N1 = np.array([[1.0], [2], [3], [4]])
    quantiles = Values(ids, ("q25", "q75"), np.tile(numbers_N1, (1, 2)), levels=(0.25, 0.75))
    found = contributions(
        Stack.align({"m": quantiles}), Numbers(ids, ("y",), numbers_N1), SquaredError(), seed=0
    )
    assert found.score_none == pytest.approx(((numbers_N1 - [1.75, 3.25]) ** 2).mean())
    assert found.score_all == 0


def test_one_member_one_row_one_class():
    targets = Targets(["r"], ("only",), np.array([0]))
    stack = Stack.align({"m": Probabilities(["r"], ("only",), np.ones((1, 1)))})
    found = contributions(stack, targets, metric_of("accuracy"), seed=0)
    assert found.as_results() == {
        "members": {"m": {"leave_one_out": 0.0, "shapley": 0.0, "standard_error": 0.0}},
        "score_all": 1.0,
        "score_none": 1.0,
        "permutations": 0,
    }


def test_inputs_are_not_changed():
    stack, targets = pool(3, 20, 3)
    before = [part.probs_NC.copy() for part in stack.parts]
    contributions(stack, targets, metric_of("brier"), seed=0)
    for part, copy in zip(stack.parts, before, strict=True):
        assert np.array_equal(part.probs_NC, copy)
