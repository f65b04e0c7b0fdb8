# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from fusetune.evaluate.reliability import reliability
from fusetune.metrics.expected_calibration_error import ExpectedCalibrationError
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from pools import pool


@pytest.mark.parametrize("mass", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("num_bins", [1, 7, 15, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bins_are_those_of_the_calibration_error(mass, num_bins, dtype):
    stack, targets = pool(rows=120, dtype=dtype)
    part = stack.parts[0]
    probs_NC = part.probs_NC.copy()
    probs_NC[:20] = np.tile(np.array([0.5, 0.5, 0, 0]), (20, 1))  # equal confidences, at an edge
    part = part.with_array(part.classes, probs_NC)
    found = reliability(part, targets, num_bins=num_bins, mass=mass)
    metric = ExpectedCalibrationError(bins=num_bins, mass=mass)
    assert found.counts_B.sum() == 120 and len(found.counts_B) == num_bins
    assert found.error() == pytest.approx(metric.value(metric.statistics(part, targets)))


@pytest.mark.parametrize(
    ("mass", "strategy"), [("equal_width", "uniform"), ("equal_mass", "quantile")]
)
def test_scikit_learn_draws_the_same_curve(mass, strategy):
    stack, targets = pool(rows=500)
    part = stack.parts[0]
    right_N = part.labels() == targets.names()
    accuracy, confidence = calibration_curve(
        right_N, part.probs_NC.max(axis=1), n_bins=10, strategy=strategy
    )
    found = reliability(part, targets, mass=mass)
    filled_B = found.counts_B > 0
    np.testing.assert_allclose(found.confidence_B[filled_B], confidence, atol=2e-3)
    np.testing.assert_allclose(found.accuracy_B[filled_B], accuracy, atol=0.02)


def test_equal_mass_shares_the_rows_out_evenly():
    stack, targets = pool(rows=103)
    counts_B = reliability(stack.parts[0], targets, mass="equal_mass").counts_B
    assert set(counts_B.tolist()) == {10, 11}


def test_empty_bins_and_no_rows():
    prediction = Probabilities(["a"], ("x", "y"), np.array([[0.75, 0.25]]))
    targets = Targets.from_names(["a"], ["x"])
    found = reliability(prediction, targets, num_bins=2)
    assert found.counts_B.tolist() == [0, 1]
    assert np.isnan(found.confidence_B[0]) and found.confidence_B[1] == 0.75
    assert found.error() == 0.25
    for mass in ("equal_width", "equal_mass"):
        none = reliability(prediction.take(np.arange(0)), targets.take(np.arange(0)), mass=mass)
        assert none.counts_B.tolist() == [0] * 10 and np.isnan(none.error())
