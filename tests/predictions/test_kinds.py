# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fusetune.errors import PredictionError
from fusetune.predictions.kinds import Probabilities, as_ids
from pools import pools

HALF = np.array([[0.5, 0.5], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ([np.nan, 1], r"row 'y' holds \(nan, 1\)"),
        ([np.inf, 0], r"row 'y' holds \(inf, 0\)"),
        ([-0.5, 1.5], r"row 'y' holds \(-0.5, 1.5\)"),
        ([0.4, 0.4], "which sum to 0.8"),
        ([2.0, -3.0], "finite probabilities of at least 0 that sum to 1"),
    ],
)
def test_rows_that_are_no_probabilities_are_named(row, shown):
    with pytest.raises(PredictionError, match=shown):
        Probabilities(["x", "y"], ("a", "b"), np.array([[0.5, 0.5], row]))


@pytest.mark.parametrize(
    ("ids", "classes", "message"),
    [
        (["x"], ("a", "b"), r"have the shape \(2, 2\); expected 1 rows and 2 classes"),
        (["x", "y"], ("a",), "expected 2 rows and 1 classes"),
        (["x", "y"], ("a", "a"), "with 'a' repeated"),
        (["x", "x"], ("a", "b"), "1 ids occur more than once: 'x'"),
    ],
)
def test_shapes_and_names_are_checked(ids, classes, message):
    with pytest.raises(PredictionError, match=message):
        Probabilities(ids, classes, HALF)


def test_sound_rows_are_kept_and_rounded_ones_divided_by_their_sums():
    assert Probabilities(["x", "y"], ("a", "b"), HALF).probs_NC is HALF
    rounded = Probabilities(["x"], ("a", "b", "c"), np.array([[0.3333, 0.3333, 0.3333]]))
    np.testing.assert_allclose(rounded.probs_NC, 1 / 3)
    half_precision = Probabilities(["x", "y"], ("a", "b"), HALF.astype(np.float16))
    assert half_precision.probs_NC.dtype == np.float32


def test_logits_of_any_scale_become_probabilities():
    logits_NC = np.array([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0]])
    made = Probabilities.from_logits(np.array(["x", "y"]), ("a", "b", "c"), logits_NC)
    np.testing.assert_allclose(made.probs_NC, softmax(logits_NC, axis=1))
    logits_NC[1, 2] = np.nan
    with pytest.raises(PredictionError, match="the logits of row 'y' hold NaN"):
        Probabilities.from_logits(np.array(["x", "y"]), ("a", "b", "c"), logits_NC)


def test_the_earlier_class_wins_an_exact_tie():
    assert Probabilities(["x", "y"], ("b", "a"), HALF).labels().tolist() == ["b", "b"]


@settings(max_examples=40, deadline=None)
@given(drawn=pools(members=(1, 1)), memory_bytes=st.integers(1, 200))
def test_pieces_make_up_the_whole(drawn, memory_bytes):
    part = drawn[0].parts[0]
    pieces = list(part.chunks(memory_bytes))
    assert all(p.probs_NC.nbytes <= memory_bytes or len(p) == 1 for p in pieces)
    whole = Probabilities.concat(pieces)
    assert whole.ids.tolist() == part.ids.tolist()
    assert whole.probs_NC.tobytes() == part.probs_NC.tobytes()


def test_ids_become_text():
    assert as_ids(np.array([3, 12])).tolist() == ["3", "12"]
    assert as_ids([]).shape == (0,)
