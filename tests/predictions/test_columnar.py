# SPDX-License-Identifier: Apache-2.0
"""The kinds with columns, and the targets that belong to them."""

import numpy as np
import pytest

from fusetune.errors import PredictionError
from fusetune.fuse.forms import linear_pool
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers

IDS = np.array(["a", "b", "c"])


@pytest.mark.parametrize(
    ("kind", "array", "message"),
    [
        (Marginals, [[0.5, 0.9], [0.1, 1.1], [0, 0]], r"row 'b' holds \(0.1, 1.1\)"),
        (Marginals, [[0.5, np.nan], [0.1, 1], [0, 0]], "row 'a' holds"),
        (Values, [[0.5, 1], [np.inf, 2], [0, 0]], "the values of row 'b' hold NaN or infinity"),
        (Values, [[0.5], [1], [2]], r"values have the shape \(3, 1\); expected 3 rows and 2 names"),
    ],
)
def test_wrong_numbers_are_named_by_row(kind, array, message):
    with pytest.raises(PredictionError, match=message):
        kind(IDS, ("x", "y"), np.array(array))


@pytest.mark.parametrize("levels", [(0.5, 0.1), (0.1,), (0.0, 0.5), (0.5, 1.0)])
def test_quantile_levels_rise_between_0_and_1(levels):
    with pytest.raises(PredictionError, match="rising numbers between 0 and 1"):
        Values(IDS, ("x", "y"), np.ones((3, 2)), levels)


def test_marginals_of_logits_are_their_sigmoid_even_where_it_saturates():
    made = Marginals.from_logits(IDS, ("x",), np.array([[-800.0], [0.0], [800.0]]))
    assert made.probs_NC.ravel().tolist() == [0.0, 0.5, 1.0]


def test_levels_follow_their_columns():
    values = Values(IDS, ("q10", "q90"), np.ones((3, 2)), (0.1, 0.9))
    assert values.take(np.array([2, 0])).levels == (0.1, 0.9)
    assert values.with_array(("q90",), np.ones((3, 1))).levels == (0.9,)
    assert Values.concat([values.take([0]), values.take([1, 2])]).levels == (0.1, 0.9)


@pytest.mark.parametrize("kind", [Marginals, Values])
def test_a_missing_column_is_averaged_over_those_who_have_it(kind):
    one = kind(IDS, ("x", "y"), np.array([[0.2, 0.4], [0.4, 0.6], [1, 1]]))
    other = kind(IDS, ("y",), np.array([[0.8], [0.6], [0]], dtype=np.float32))
    pooled = linear_pool([other, one], np.array([3.0, 1.0]), ("x", "y"))
    assert type(pooled) is kind
    np.testing.assert_allclose(pooled.array_NC, [[0.2, 0.7], [0.4, 0.6], [1, 0.25]])


def test_features_follow_the_rows_of_the_stack():
    vectors = Values(np.array(["c", "x", "b", "a"]), ("f",), np.array([[3.0], [9], [2], [1]]))
    member = Probabilities(IDS, ("x",), np.ones((3, 1)))
    stack = Stack.align({"m": member}, features={"pixels": vectors})
    assert stack.features["pixels"].ravel().tolist() == [1, 2, 3]
    assert stack.take(np.array([2, 1])).select(["m"]).features["pixels"].ravel().tolist() == [3, 2]


def test_folds_hold_every_part_of_the_targets_evenly():
    random = np.random.default_rng(0)
    ids = np.array([f"r{n}" for n in range(100)])
    numbers = Numbers(ids, ("y",), random.normal(size=(100, 1)))
    folds_N = stratified_folds(numbers, 5)
    for fold in range(5):
        assert np.bincount(numbers.strata_N[folds_N == fold]).tolist() == [2] * 10
    sets = LabelSets(ids, ("often", "rare"), np.stack([np.arange(100) < 60, np.arange(100) < 5]).T)
    folds_N = stratified_folds(sets, 5)
    assert np.bincount(folds_N[sets.present_NC[:, 1]]).tolist() == [1] * 5


def test_label_sets_by_other_names():
    sets = LabelSets(IDS, ("x", "y"), np.array([[1, 0], [0, 1], [1, 1]]))
    assert sets.over(("z", "y")).tolist() == [[False, False], [False, True], [False, True]]
    assert sets.strata_N.tolist() == [0, 1, 0]
    assert sets.take([1]).ids.tolist() == ["b"]
