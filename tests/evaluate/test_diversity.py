# SPDX-License-Identifier: Apache-2.0
"""Diversity of members, against loops over pairs and rows."""

import numpy as np
import pytest

from fusetune.evaluate import diversity
from fusetune.evaluate.diversity import (
    agreement,
    disagreement,
    double_fault,
    error_correlation,
    mean_of_pairs,
    oracle_accuracy,
    q_statistic,
)
from fusetune.evaluate.score import correct
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers, Targets


def stack_of(num_members: int, num_rows: int, num_classes: int, seed: int = 0) -> Stack:
    random = np.random.default_rng(seed)
    ids = [f"r{row}" for row in range(num_rows)]
    classes = [f"c{index}" for index in range(num_classes)]
    members = {}
    for member in range(num_members):
        order = random.permutation(num_classes)  # columns in an order of each member's own
        probs = random.dirichlet(np.full(num_classes, 0.4), size=num_rows)
        members[f"m{member}"] = Probabilities(ids, tuple(classes[i] for i in order), probs)
    return Stack.align(members)


@pytest.mark.parametrize("shape", [(3, 50, 4), (1, 9, 2), (2, 1, 3), (4, 5, 1)])
def test_pairwise_measures_equal_loops(shape: tuple[int, int, int]) -> None:
    stack = stack_of(*shape)
    classes = tuple(sorted(stack.classes))
    labels_N = np.random.default_rng(9).integers(shape[2], size=shape[1])
    targets = Targets(stack.ids, classes, labels_N)
    said = [[str(name) for name in part.labels()] for part in stack.parts]
    truth = [str(name) for name in targets.names()]
    for i, first in enumerate(said):
        for j, second in enumerate(said):
            rows = list(zip(first, second, truth, strict=True))
            same = sum(a == b for a, b, _ in rows) / len(rows)
            one = sum((a == t) != (b == t) for a, b, t in rows) / len(rows)
            none = sum(a != t and b != t for a, b, t in rows) / len(rows)
            assert agreement(stack)[i, j] == pytest.approx(same)
            assert disagreement(stack, targets)[i, j] == pytest.approx(one)
            assert double_fault(stack, targets)[i, j] == pytest.approx(none)
    any_right = sum(t in row for *row, t in zip(*said, truth, strict=True)) / len(truth)
    assert oracle_accuracy(stack, targets) == pytest.approx(any_right)


def stack_with(right_MN):
    """Members that are right or wrong as asked for, and targets."""
    right_MN = np.asarray(right_MN, dtype=bool)
    ids, names = [f"r{row}" for row in range(right_MN.shape[1])], ("no", "yes")
    parts = {
        f"m{member}": Probabilities(ids, names, np.stack([~right_N, right_N], axis=1) * 1.0)
        for member, right_N in enumerate(right_MN)
    }
    return Stack.align(parts), Targets(ids, names, np.ones(len(ids), dtype=int))


def test_associations_equal_loops_and_numpys_correlation():
    stack, targets = (
        stack_of(4, 60, 3),
        Targets([f"r{row}" for row in range(60)], ("c0", "c1", "c2"), np.arange(60) % 3),
    )
    right = [correct(part, targets).tolist() for part in stack.parts]
    for i, first in enumerate(right):
        for j, second in enumerate(right):
            cells = list(zip(first, second, strict=True))
            n11, n00 = cells.count((True, True)), cells.count((False, False))
            n10, n01 = cells.count((True, False)), cells.count((False, True))
            expected = (n11 * n00 - n01 * n10) / (n11 * n00 + n01 * n10)
            assert q_statistic(stack, targets)[i, j] == pytest.approx(expected)
    assert error_correlation(stack, targets) == pytest.approx(np.corrcoef(right))


def test_a_table_worked_by_hand():
    counts = {(1, 1): 10, (1, 0): 2, (0, 1): 3, (0, 0): 15}
    rows = np.array([cell for cell, count in counts.items() for _ in range(count)])
    stack, targets = stack_with(rows.T)
    assert q_statistic(stack, targets)[0, 1] == pytest.approx((150 - 6) / (150 + 6))
    rho = (150 - 6) / np.sqrt(12 * 18 * 13 * 17)
    assert error_correlation(stack, targets)[1, 0] == pytest.approx(rho)
    assert disagreement(stack, targets)[0, 1] == pytest.approx(5 / 30)
    assert double_fault(stack, targets)[0, 1] == pytest.approx(15 / 30)


@pytest.mark.parametrize("always", [True, False])
def test_always_right_or_wrong_is_associated_with_nothing(always):
    stack, targets = stack_with([[always] * 4, [True, False, True, False]])
    for measure in (q_statistic(stack, targets), error_correlation(stack, targets)):
        assert measure.tolist() == [[0, 0], [0, 1]]


def test_opposite_and_equal_members():
    stack, targets = stack_with([[True, False, True, False], [False, True, False, True]])
    for measure in (q_statistic(stack, targets), error_correlation(stack, targets)):
        assert measure == pytest.approx(np.array([[1, -1], [-1, 1]]))


def test_labels_that_exclude_each_other_not_are_decided_one_by_one():
    ids = ["a", "b"]
    targets = LabelSets(ids, ("x", "y"), np.array([[True, False], [True, True]]))
    parts = {
        "one": Marginals(ids, ("x", "y"), np.array([[0.9, 0.5], [0.1, 0.6]])),
        "two": Marginals(ids, ("y",), np.array([[0.7], [0.8]])),  # never says x
    }
    stack = Stack.align(parts, classes=("x", "y"))
    # right: one says yes, yes / no, yes; two says no, no / no, yes (row a: x, y; row b: x, y)
    assert agreement(stack)[0, 1] == 2 / 4
    assert disagreement(stack, targets)[0, 1] == 2 / 4
    assert double_fault(stack, targets)[0, 1] == 1 / 4
    assert double_fault(stack, targets).diagonal().tolist() == [1 / 4, 3 / 4]
    assert oracle_accuracy(stack, targets) == 3 / 4
    expected = np.corrcoef([1, 1, 0, 1], [0, 0, 0, 1])
    assert error_correlation(stack, targets) == pytest.approx(expected)


def test_errors_of_numbers_are_correlated_column_by_column():
    random = np.random.default_rng(0)
    ids = [f"r{row}" for row in range(50)]
    truth_ND = random.normal(size=(50, 2)) * [1, 1000]
    errors_MND = random.normal(size=(3, 50, 2)) * [1, 1000]
    targets = Numbers(ids, ("small", "large"), truth_ND)
    parts = {
        f"m{m}": Values(ids, ("large", "small"), (truth_ND + errors_ND)[:, ::-1])
        for m, errors_ND in enumerate(errors_MND)
    }
    expected = (np.corrcoef(errors_MND[..., 0]) + np.corrcoef(errors_MND[..., 1])) / 2
    assert error_correlation(Stack.align(parts), targets) == pytest.approx(expected)


def test_errors_of_quantiles_are_correlated_at_each_level():
    random = np.random.default_rng(0)
    ids = [f"r{row}" for row in range(20)]
    truth_N1 = random.normal(size=(20, 1))
    low_high = [truth_N1 + np.sort(random.normal(size=(20, 2)), axis=1) for _ in range(2)]
    parts = {
        f"m{m}": Values(ids, ("q10", "q90"), both_N2, levels=(0.1, 0.9))
        for m, both_N2 in enumerate(low_high)
    }
    errors = [both_N2 - truth_N1 for both_N2 in low_high]
    expected = np.mean([np.corrcoef(errors[0][:, q], errors[1][:, q]) for q in (0, 1)], axis=0)
    found = error_correlation(Stack.align(parts), Numbers(ids, ("y",), truth_N1))
    assert found == pytest.approx(expected)


def test_a_constant_error_is_correlated_with_nothing():
    ids = ["a", "b", "c"]
    targets = Numbers(ids, ("y",), np.array([[1.0], [2], [4]]))
    parts = {
        "off by one": Values(ids, ("y",), np.array([[2.0], [3], [5]])),
        "other": Values(ids, ("y",), np.array([[1.0], [1], [1]])),
    }
    found = error_correlation(Stack.align(parts), targets)
    assert found == pytest.approx(np.array([[0, 0], [0, 1]]), abs=1e-12)


def test_mean_of_pairs_leaves_the_diagonal_out():
    assert mean_of_pairs(np.array([[9, 1, 2], [1, 9, 3], [2, 3, 9]])) == 2
    assert np.isnan(mean_of_pairs(np.ones((1, 1))))


def test_blocks_and_precision_change_nothing(monkeypatch):
    stack = stack_of(5, 70, 3, seed=3)
    targets = Targets(stack.ids, ("c0", "c1", "c2"), np.arange(70) % 3)
    measures = [disagreement, double_fault, q_statistic, error_correlation]
    whole = [agreement(stack), *(measure(stack, targets) for measure in measures)]
    monkeypatch.setattr(diversity, "BLOCK", 7)
    pieces = [agreement(stack), *(measure(stack, targets) for measure in measures)]
    for one, other in zip(whole, pieces, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, one.T)


def test_a_class_that_a_member_does_not_know_is_wrong() -> None:
    prediction = Probabilities(["a", "b"], ("cat", "dog"), np.array([[0.9, 0.1], [0.5, 0.5]]))
    targets = Targets.from_names(["a", "b"], ["owl", "cat"])
    assert correct(prediction, targets).tolist() == [False, True]  # and a tie is the earlier class


def test_rows_in_another_order_are_refused() -> None:
    prediction = Probabilities(["a", "b"], ("cat",), np.ones((2, 1)))
    with pytest.raises(AssertionError, match="differ in rows"):
        correct(prediction, Targets.from_names(["b", "a"], ["cat", "cat"]))
