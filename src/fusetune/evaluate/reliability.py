# SPDX-License-Identifier: Apache-2.0
"""Reliability: is a row that gets 80 % right in 80 % of cases?

Shapes: N rows, B bins.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusetune.evaluate.score import correct
from fusetune.metrics.expected_calibration_error import Mass
from fusetune.predictions.kinds import Floats, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["Reliability", "reliability"]

NUM_BINS = 10  # as in the diagrams of Guo et al. (ICML 2017)


@dataclass(frozen=True, eq=False)
class Reliability:
    """What a reliability diagram shows, bin by bin of confidence, from low to high.

    Args:
        counts_B: `(B,)` rows in each bin; bins may be empty.
        confidence_B: `(B,)` mean probability of the most probable class; NaN where empty.
        accuracy_B: `(B,)` share of rows that are right; NaN where empty.
    """

    counts_B: npt.NDArray[np.int64]
    confidence_B: Floats
    accuracy_B: Floats

    def error(self) -> float:
        """The expected calibration error of these bins: mean gap, by rows; NaN without rows."""
        filled_B = self.counts_B > 0
        if not filled_B.any():
            return float("nan")
        gaps_B = np.abs(self.confidence_B - self.accuracy_B)[filled_B]
        return float(np.average(gaps_B, weights=self.counts_B[filled_B]))


def reliability(
    prediction: Probabilities,
    targets: Targets,
    *,
    num_bins: int = NUM_BINS,
    mass: Mass = "equal_width",
) -> Reliability:
    """Confidence and accuracy by bins of confidence, as `expected_calibration_error` forms them.

    Args:
        prediction: Of the same rows as the targets, in the same order.
        targets: Their true classes.
        num_bins: Number of bins B, at least 1.
        mass: `equal_width`: bin b holds the confidences in ((b - 1) / B, b / B]. `equal_mass`: a
            row's bin is floor(B * share of rows of lower confidence), so equal ones stay together.

    Example:
        >>> said = Probabilities(["a", "b"], ("x", "y"), np.array([[0.9, 0.1], [0.8, 0.2]]))
        >>> found = reliability(said, Targets.from_names(said.ids, ["x", "y"]), num_bins=1)
        >>> found.counts_B.tolist(), found.accuracy_B.tolist(), round(found.error(), 2)
        ([2], [0.5], 0.35)
    """
    assert num_bins >= 1
    confidence_N = prediction.probs_NC.max(axis=1).astype(np.float64)
    right_N = correct(prediction, targets)
    if mass == "equal_mass":
        below_N = np.searchsorted(np.sort(confidence_N), confidence_N)
        bin_N = num_bins * below_N // max(1, len(below_N))
    else:
        edges = np.linspace(0, 1, num_bins + 1)[1:-1]
        bin_N = np.digitize(confidence_N, edges, right=True)
    counts_B = np.bincount(bin_N, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # an empty bin has no means: NaN
        confidence_B = np.bincount(bin_N, confidence_N, num_bins) / counts_B
        accuracy_B = np.bincount(bin_N, right_N, num_bins) / counts_B
    return Reliability(counts_B, confidence_B, accuracy_B)
