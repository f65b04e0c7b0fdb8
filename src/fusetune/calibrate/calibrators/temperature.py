# SPDX-License-Identifier: Apache-2.0
"""Temperature scaling: one number that makes a member more or less sure.

Shapes: N rows, C classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.calibrate.calibrator import Calibration, Calibrator
from fusetune.calibrate.fitting import (
    Chances,
    FitRows,
    by_name,
    fit_rows,
    in_its_order,
    positive,
    share,
    sigmoid,
    smoothed,
    softmax,
)
from fusetune.predictions.kinds import Array, Floats, Kind, Marginals, Probabilities
from fusetune.predictions.targets import LabelSets, Targets

__all__ = ["Temperature", "TemperatureCalibration"]

COLDEST, HOTTEST = 0.01, 100.0


@dataclass(frozen=True, kw_only=True)
class Temperature(Calibrator[Chances]):
    """softmax(log p / T), with the temperature T that makes the log-loss least.

    T above 1 makes an over-confident member less sure, T below 1 a timid one surer. The order of
    the classes within a row stays, and so does the accuracy. With b = 1 / T it minimizes the convex

        sum_n w_n (log sum_c p_nc^b - b log p_n,true) + penalty / 2 (b - 1)^2

    exactly, over T from 0.01 to 100. Before the logarithm every row is mixed with the even
    distribution, p ← (1 - smoothing) p + smoothing / C, when fitting and when calibrating: so a
    probability of exactly 0 or 1 can be scaled too. One row, constant predictions and members that
    are always right work: the penalty keeps T near 1 where the rows say little.

    `Marginals` get a T for each class, as predictions of two outcomes.

    It is the safest calibrator on few rows. Do not use it where classes are unequally
    miscalibrated (see `vector`), nor for a member that only names classes (see `confusion`).

    Args:
        smoothing: Share of each row spread evenly over the classes; 1e-6, about what single
            precision rounds away, came out best on probabilities with four digits, and nearly so
            on exact ones (docs/results/calibration.md).
        penalty: Weight of (b - 1)^2 / 2 beside the sum of the rows' losses in nats; 1 counts for
            about as much as one row.

    Cost:
        About ten passes over N C numbers.

    Reference:
        Guo, Pleiss, Sun, Weinberger. "On calibration of modern neural networks". ICML 2017. The
        smoothing and the penalty are ours.

    Example:
        >>> ids = [f"row{n}" for n in range(100)]
        >>> sure = Probabilities(ids, ("cat", "dog"), np.tile([0.99, 0.01], (100, 1)))
        >>> targets = Targets.from_names(ids, ["cat"] * 80 + ["dog"] * 20)
        >>> calibration = Temperature().fit(sure, targets)
        >>> round(calibration.temperature, 1), calibration(sure).probs_NC[0].round(2).tolist()
        (3.3, [0.8, 0.2])
    """

    smoothing: float = 1e-6
    penalty: float = 1.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals})

    def __post_init__(self) -> None:
        share("smoothing", self.smoothing)
        positive("penalty", self.penalty, or_zero=True)

    def fit(
        self,
        prediction: Chances,
        targets: Targets | LabelSets,
        *,
        sample_weights_N: Array | None = None,
    ) -> "TemperatureCalibration | MarginalTemperatures":
        """The temperature of least penalized log-loss; for `Marginals` one per class."""
        rows = fit_rows(prediction, targets, sample_weights_N)
        if isinstance(prediction, Probabilities):
            inverse = _inverse_temperature(rows, self.smoothing, self.penalty)
            return TemperatureCalibration(temperature=1 / inverse, smoothing=self.smoothing)
        temperatures = [
            1 / _inverse_temperature(_there_or_not(rows, column), self.smoothing, self.penalty)
            for column in range(len(prediction.classes))
        ]
        return MarginalTemperatures(
            classes=prediction.classes,
            temperatures_C=np.array(temperatures),
            smoothing=self.smoothing,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TemperatureCalibration(Calibration[Chances]):
    """Fitted temperature; serves probabilities over any classes.

    Args:
        temperature: T; 1 changes nothing but the smoothing.
        smoothing: Share spread evenly before the logarithm.
    """

    temperature: float
    smoothing: float

    def __call__(self, prediction: Chances) -> Chances:
        """softmax(log p / T) of every row."""
        logs_NC = _logs(prediction.probs_NC.astype(np.float64), self.smoothing)
        probs_NC = softmax(logs_NC / self.temperature)
        return prediction.with_array(prediction.classes, probs_NC.astype(prediction.probs_NC.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class MarginalTemperatures(Calibration[Chances]):
    """Fitted temperatures of classes that are there or not, each by itself.

    Args:
        classes: C class names.
        temperatures_C: `(C,)` T of each class.
        smoothing: Share spread evenly over there and not there before the logarithm.
    """

    classes: tuple[str, ...]
    temperatures_C: Floats
    smoothing: float

    def __call__(self, prediction: Chances) -> Chances:
        """sigmoid(logit p / T) of every number."""
        probs_NC = smoothed(by_name(prediction, self.classes), self.smoothing, 2)
        logits_NC = (np.log(probs_NC) - np.log1p(-probs_NC)) / self.temperatures_C
        return in_its_order(prediction, self.classes, sigmoid(logits_NC))


def _there_or_not(rows: FitRows, column: int) -> FitRows:
    """One class of a multi-label prediction, as a prediction of two outcomes."""
    said_N, true_N = rows.probs_NC[:, column], rows.true_NC[:, column]
    both_N2 = np.stack([said_N, 1 - said_N], axis=1)
    return FitRows(both_N2, np.stack([true_N, ~true_N], axis=1), rows.weights_N, 2)


def _logs(probs_NC: Floats, smoothing: float) -> Floats:
    return np.log(smoothed(probs_NC, smoothing, probs_NC.shape[1]))


def _inverse_temperature(rows: FitRows, smoothing: float, penalty: float) -> float:
    """1 / T by Newton's method on the slope, which only rises; halving where it would leave."""
    logs_NC = _logs(rows.probs_NC, smoothing)
    true_N = logs_NC[rows.true_NC]

    def slope(inverse: float) -> tuple[float, float]:
        probs_NC = softmax(inverse * logs_NC)
        mean_N = np.einsum("nc,nc->n", probs_NC, logs_NC)
        spread_N = np.einsum("nc,nc,nc->n", probs_NC, logs_NC, logs_NC) - mean_N**2
        first = float(rows.weights_N @ (mean_N - true_N)) + penalty * (inverse - 1)
        return first, float(rows.weights_N @ spread_N) + penalty

    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    for _ in range(200):
        first, second = slope(inverse)
        if first == 0:
            break
        low, high = (low, inverse) if first > 0 else (inverse, high)
        tried = inverse - first / second if second > 0 else low - 1
        if abs(tried - inverse) <= 1e-13 * inverse:  # asked first: it may be a bound by now
            break
        if not low < tried < high:
            tried = (low + high) / 2
        inverse = tried
    return inverse
