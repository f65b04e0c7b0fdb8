# SPDX-License-Identifier: Apache-2.0
"""Expected calibration error: how far confidence is from accuracy.

Shapes: N rows, R resamples, S statistics of a row, G groups of equal
confidence.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["ExpectedCalibrationError", "Mass"]

Mass = Literal["equal_width", "equal_mass"]


@dataclass(frozen=True, kw_only=True)
class ExpectedCalibrationError(Metric[Probabilities]):
    """Mean gap between confidence and accuracy over bins of confidence; lower is better, 0 to 1.

    ECE = sum over bins of (share of rows in the bin) * |accuracy - mean confidence|, where the
    confidence is the probability of the most probable class and bin b holds the confidences in
    ((b - 1) / bins, b / bins]. It is biased upwards on few rows, and says nothing of accuracy:
    do not select a fusion by it alone.

    With `mass: equal_mass` the bins are quantiles of the confidences, so that they hold equally many
    rows: a row's bin is floor(bins * share of the weight on rows of lower confidence). Rows of
    equal confidence share a bin, and a resample has bins of its own.

    Args:
        bins: Number of bins; 15 as in the first paper's tables.
        mass: `equal_width` of the bins, as in the first paper, or `equal_mass`, as in the second,
            which resolves the crowd of confidences near 1.

    Reference:
        Guo, Pleiss, Sun, Weinberger. "On calibration of modern neural networks". ICML 2017;
        Nguyen, O'Connor. "Posterior calibration and exploratory analysis for natural language
        processing models". EMNLP 2015 (equal mass).

    Example:
        >>> from fusetune.predictions.targets import Targets
        >>> prediction = Probabilities(["a"], ("cat", "dog"), np.array([[0.75, 0.25]]))
        >>> targets = Targets.from_names(prediction.ids, ["cat"])
        >>> metric = ExpectedCalibrationError()
        >>> metric.value(metric.statistics(prediction, targets))
        0.25
    """

    bins: int = 15
    mass: Mass = "equal_width"

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    higher_is_better: ClassVar[bool] = False
    title: ClassVar[str] = "Expected calibration error"
    percent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise InvalidValue(
                f"bins is {self.bins}", "a whole number of at least 1", "Write 15, the default."
            )
        if self.mass not in ("equal_width", "equal_mass"):
            raise InvalidValue(
                f"mass is '{self.mass}'", "equal_width or equal_mass", "Choose one of these."
            )

    def statistics(self, prediction: Probabilities, targets: Targets) -> Floats:
        """`(N, bins)`: confidence - correctness in the column of the row's bin, 0 elsewhere.

        A bin's share times its gap is then a plain weighted mean of its column. With equal mass
        `(N, 2)`: confidence, and confidence - correctness.
        """
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        rows_N = np.arange(len(prediction))
        top_N = prediction.probs_NC.argmax(axis=1)
        confidence_N = prediction.probs_NC[rows_N, top_N].astype(np.float64)
        gap_N = confidence_N - (top_N == targets.columns(prediction.classes))
        if self.mass == "equal_mass":
            return np.stack([confidence_N, gap_N], axis=1)
        edges = np.linspace(0, 1, self.bins + 1)[1:-1]
        gaps_NS = np.zeros((len(prediction), self.bins))
        gaps_NS[rows_N, np.digitize(confidence_N, edges, right=True)] = gap_N
        return gaps_NS

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` calibration errors: one matrix product, or with equal mass one sort, for all."""
        if self.mass == "equal_mass":
            sums_R = self._equal_mass_sums(statistics_NS, weights_RN)
        else:
            sums_R = np.abs(weights_RN @ statistics_NS).sum(axis=1)
        with np.errstate(invalid="ignore"):  # no rows: no value, NaN
            errors_R: Floats = sums_R / weights_RN.sum(axis=1)
        return errors_R

    def _equal_mass_sums(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        sums_R = np.zeros(len(weights_RN))
        if not len(statistics_NS):
            return sums_R
        order = np.argsort(statistics_NS[:, 0], kind="stable")
        confidence_N, gap_N = statistics_NS[order].T
        firsts = np.flatnonzero(np.concatenate([[True], confidence_N[1:] > confidence_N[:-1]]))
        for index, weights_N in enumerate(weights_RN):
            weights_N = weights_N[order]
            weights_G = np.add.reduceat(weights_N, firsts)
            gaps_G = np.add.reduceat(weights_N * gap_N, firsts)
            upto_G = np.cumsum(weights_G)
            below_G = self.bins * (upto_G - weights_G) / max(upto_G[-1], np.finfo(float).tiny)
            bin_G = np.minimum(below_G.astype(int), self.bins - 1)
            sums_R[index] = np.abs(np.bincount(bin_G, gaps_G)).sum()
        return sums_R
