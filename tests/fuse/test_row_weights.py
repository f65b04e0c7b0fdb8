# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fusetune.errors import PredictionError
from fusetune.fuse import row_weights
from fusetune.fuse.confidence import confidence_NS
from fusetune.fuse.forms import linear_pool
from fusetune.fuse.row_weights import Scale, feature_names, feature_vectors, pool_by_row
from fusetune.predictions.kinds import Probabilities, Values
from fusetune.predictions.stack import Stack
from pools import pool

IDS = np.array(["a", "b"])


def test_the_same_weights_in_all_rows_are_the_linear_pool(monkeypatch):
    monkeypatch.setattr(row_weights, "BLOCK", 64)  # several blocks
    stack, _ = pool(members=3, rows=50, classes=4)
    weights_M = np.array([0.2, 0.5, 0.3])
    fused = pool_by_row(stack.parts, np.tile(weights_M[:, None], 50), stack.classes)
    expected = linear_pool(stack.parts, weights_M, stack.classes)
    np.testing.assert_allclose(fused.probs_NC, expected.probs_NC, rtol=1e-12)


def test_each_row_has_its_own_weights_over_the_members_that_know_a_class():
    first = Probabilities(IDS, ("x", "y", "z"), np.array([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]]))
    second = Probabilities(IDS, ("y", "x"), np.array([[0.9, 0.1], [0.5, 0.5]]))
    fused = pool_by_row((first, second), np.array([[1.0, 0.0], [3.0, 2.0]]), ("x", "y", "z"))
    sums_NC = np.array([[(0.5 + 0.3) / 4, (0.25 + 2.7) / 4, 0.25], [0.5, 0.5, 0.0]])
    np.testing.assert_allclose(fused.probs_NC, sums_NC / sums_NC.sum(axis=1, keepdims=True))


def test_values_are_averaged_and_not_normalized():
    parts = [Values(IDS, ("v",), np.array([[1.0], [2.0]])), Values(IDS, ("v",), np.ones((2, 1)))]
    fused = pool_by_row(parts, np.array([[1.0, 3.0], [1.0, 1.0]]), ("v",))
    assert isinstance(fused, Values)
    np.testing.assert_allclose(fused.values_ND, [[1.0], [1.75]])


def test_a_constant_feature_never_counts_and_others_are_standardized_by_weight():
    features_NF = np.array([[1.0, 0.1], [3.0, 0.1], [9.0, 0.1]])
    scale = Scale.of(features_NF, np.array([3.0, 3.0, 0.0]))
    np.testing.assert_allclose(scale(features_NF), [[-1, 0], [1, 0], [7, 0]])
    np.testing.assert_allclose(scale(np.array([[2.0, 5e6]])), [[0, 0]])


def test_features_are_found_by_name_and_width():
    one = Probabilities(IDS, ("x",), np.ones((2, 1)))
    features = {
        "wide": Values(IDS, ("0", "1"), np.array([[1.0, 2.0], [3.0, 4.0]])),
        "one": Values(IDS[::-1], ("0",), np.array([[6.0], [5.0]])),
    }
    stack = Stack.align({"m": one}, features=features)
    assert feature_names(stack, None) == ("one", "wide")
    np.testing.assert_array_equal(
        feature_vectors(stack, ("wide", "one"), (2, 1)), [[1, 2, 5], [3, 4, 6]]
    )
    with pytest.raises(PredictionError, match=r"'depth' are missing among 'one', 'wide'.*or leave"):
        feature_names(stack, ("depth",))
    with pytest.raises(PredictionError, match=r"'one' are missing: the predictions carry none"):
        feature_vectors(Stack.align({"m": one}), ("one",), (1,))
    with pytest.raises(PredictionError, match=r"'wide' has 2 numbers.*expected 3, as when"):
        feature_vectors(stack, ("wide",), (3,))


def test_confidence_by_hand():
    first = Probabilities(IDS, ("x", "y", "z"), np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]]))
    second = Probabilities(IDS, ("y", "x"), np.array([[0.5, 0.5], [0.75, 0.25]]))
    third = Probabilities(IDS, ("z",), np.ones((2, 1)))
    stack = Stack.align({"1": first, "2": second, "3": third}, classes=("x", "y", "z"))
    entropy = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)) / np.log(3)
    halves = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    expected_NS = [
        [*(0.5, entropy, 0.2, 0.5), *(0.5, 1.0, 0.0, 0.5), *(1.0, 0.0, 1.0, 1.0)],
        [*(1.0, 0.0, 1.0, 0.5), *(0.75, halves, 0.5, 1.0), *(1.0, 0.0, 1.0, 0.5)],
    ]
    np.testing.assert_allclose(confidence_NS(stack), expected_NS, atol=1e-12)
