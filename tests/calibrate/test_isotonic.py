# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from fusetune.calibrate.calibrators.isotonic import Isotonic
from fusetune.calibrate.pooling import isotonic_knots
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from pools import pool, pools

points = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=30
)


@settings(max_examples=200, deadline=None)
@given(points=points)
def test_scikit_learn_pools_alike(points):
    x_N, y_N, weights_N = np.array(points, dtype=float).T
    theirs = IsotonicRegression(out_of_bounds="clip").fit(x_N, y_N, sample_weight=weights_N)
    positions, heights = isotonic_knots(x_N, y_N, weights_N)
    assert (np.diff(positions) > 0).all() and (np.diff(heights) >= 0).all()
    asked = np.linspace(-1, 9, 81)
    np.testing.assert_allclose(
        np.interp(asked, positions, heights), theirs.predict(asked), atol=1e-12
    )


def test_scikit_learn_pools_alike_on_many_rows():
    random = np.random.default_rng(0)
    x_N, weights_N = random.random(5000).round(3), random.random(5000)
    y_N = (random.random(5000) < x_N**2).astype(float)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(x_N, y_N, sample_weight=weights_N)
    asked = random.random(1000)
    np.testing.assert_allclose(
        np.interp(asked, *isotonic_knots(x_N, y_N, weights_N)), theirs.predict(asked), atol=1e-12
    )


def test_a_falling_line_is_one_level():
    positions, heights = isotonic_knots(np.arange(4.0), np.arange(4.0)[::-1], np.ones(4))
    assert positions.tolist() == [0, 3] and heights.tolist() == [1.5, 1.5]


def test_one_point_is_one_knot():
    positions, heights = isotonic_knots(np.array([0.3]), np.array([1.0]), np.ones(1))
    assert positions.tolist() == [0.3] and heights.tolist() == [1.0]


def test_levels_that_fall_once_the_prior_is_added_are_pooled_again():
    # Levels 0.9 (99 rows) and 1 (1 row); with one row of 0.5 each: 0.896 and 0.75, pooled by weight.
    x_N, y_N = np.array([1.0, 2.0]), np.array([0.9, 1.0])
    positions, heights = isotonic_knots(x_N, y_N, np.array([99.0, 1.0]), prior=(0.5, 1.0))
    first, second = (0.9 * 99 + 0.5) / 100, (1 + 0.5) / 2
    assert positions.tolist() == [1, 2]
    assert heights == pytest.approx([(99 * first + second) / 100] * 2)


@settings(max_examples=50, deadline=None)
@given(drawn=pools(members=(1, 1), unknown=False))
def test_the_plain_method_is_one_regression_per_class(drawn):
    stack, targets = drawn
    part = stack.parts[0]
    calibrated = Isotonic(level_rows=0, prior_rows=0).fit(part, targets)(part)
    columns_N = targets.columns(part.classes)
    curves_NC = np.stack(
        [
            IsotonicRegression().fit_transform(
                part.probs_NC[:, c].astype(float), (columns_N == c).astype(float)
            )
            for c in range(len(part.classes))
        ],
        axis=1,
    )
    sums_N = curves_NC.sum(axis=1, keepdims=True)
    expected_NC = np.where(sums_N > 0, curves_NC / np.where(sums_N > 0, sums_N, 1), part.probs_NC)
    np.testing.assert_allclose(calibrated.probs_NC, expected_NC, atol=1e-6)


def test_few_rows_leave_the_member_its_word():
    stack, targets = pool(rows=400, noise=3.0)
    part = stack.parts[0]
    moved = [
        abs(Isotonic().fit(part.take(rows), targets.take(rows))(part).probs_NC - part.probs_NC)
        for rows in (np.arange(1), np.arange(400))
    ]
    assert moved[0].mean() < 0.1 < moved[1].mean() < 0.5


def test_two_classes_mirror_each_other():
    random = np.random.default_rng(3)
    said_N = random.integers(0, 65, size=300) / 64  # 1 - p is exact
    ids = [f"row{n}" for n in range(300)]
    member = Probabilities(ids, ("a", "b"), np.stack([said_N, 1 - said_N], axis=1))
    labels_N = (random.random(300) > said_N**2).astype(int)
    fitted = Isotonic().fit(member, Targets(member.ids, member.classes, labels_N))
    one, other = np.split(np.arange(len(fitted.said_K)), fitted.stops_C[:-1])
    np.testing.assert_allclose(fitted.said_K[one], 1 - fitted.said_K[other][::-1])
    np.testing.assert_allclose(fitted.so_K[one], 1 - fitted.so_K[other][::-1], atol=1e-12)
