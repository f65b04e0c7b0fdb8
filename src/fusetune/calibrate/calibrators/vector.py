# SPDX-License-Identifier: Apache-2.0
"""Vector scaling: a scale and a bias for every class.

Shapes: N rows, C classes, F parameters (2 C: scales, then biases).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.calibrate.calibrator import Calibration, Calibrator
from fusetune.calibrate.fitting import (
    FitRows,
    by_name,
    fit_rows,
    in_its_order,
    positive,
    share,
    smoothed,
    softmax,
    solve_newton,
)
from fusetune.predictions.kinds import Array, Floats, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["Vector", "VectorCalibration"]


@dataclass(frozen=True, kw_only=True)
class Vector(Calibrator[Probabilities]):
    """softmax over c of (a_c log p_c + b_c), shrunk towards the identity.

    The scales a and biases b minimize the convex

        sum_n w_n loss_n + penalty / 2 (sum_c (a_c - 1)^2 + sum_c b_c^2)

    with the log-loss of each row in nats. Probabilities are mixed with the even distribution
    before the logarithm, p ← (1 - smoothing) p + smoothing / C, so 0 and 1 are safe. A class that
    no fit row has is made rarer, as far as the penalty lets the other rows do so.

    It can mend wrong class shares, and classes of which the member is unequally sure; unlike
    `temperature` it can change the most probable class. Do not use it with hundreds of classes or
    with fewer than about ten rows per class.

    Args:
        smoothing: Share of each row spread evenly over the classes; as in `temperature`.
        penalty: Strength of the pull towards a = 1, b = 0, beside the sum of the rows' losses; 3
            came out within 0.001 of 1 on 1,000 rows and more, and better on fewer
            (docs/results/calibration.md).

    Cost:
        About ten Newton steps of N C^2 multiplications.

    Reference:
        Guo, Pleiss, Sun, Weinberger. "On calibration of modern neural networks". ICML 2017,
        section 4.2. The smoothing and the penalty are ours.

    Example:
        >>> ids = [f"row{n}" for n in range(100)]
        >>> sure = Probabilities(ids, ("cat", "dog"), np.tile([0.99, 0.01], (100, 1)))
        >>> targets = Targets.from_names(ids, ["cat"] * 80 + ["dog"] * 20)
        >>> Vector().fit(sure, targets)(sure).probs_NC[0].round(2).tolist()
        [0.8, 0.2]
    """

    smoothing: float = 1e-6
    penalty: float = 3.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})

    def __post_init__(self) -> None:
        share("smoothing", self.smoothing)
        positive("penalty", self.penalty)

    def fit(
        self, prediction: Probabilities, targets: Targets, *, sample_weights_N: Array | None = None
    ) -> "VectorCalibration":
        """The scales and biases of least penalized log-loss."""
        rows = fit_rows(prediction, targets, sample_weights_N)
        scales_C, biases_C = _scales_and_biases(rows, self.smoothing, self.penalty)
        return VectorCalibration(
            classes=prediction.classes,
            scales_C=scales_C,
            biases_C=biases_C,
            smoothing=self.smoothing,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorCalibration(Calibration[Probabilities]):
    """Fitted scales and biases.

    Args:
        classes: C class names.
        scales_C: `(C,)` factors of the log-probabilities.
        biases_C: `(C,)` numbers added to them.
        smoothing: Share spread evenly before the logarithm.
    """

    classes: tuple[str, ...]
    scales_C: Floats
    biases_C: Floats
    smoothing: float

    def __call__(self, prediction: Probabilities) -> Probabilities:
        """Softmax of the scaled and shifted log-probabilities."""
        probs_NC = by_name(prediction, self.classes)
        logs_NC = np.log(smoothed(probs_NC, self.smoothing, len(self.classes)))
        calibrated_NC = softmax(logs_NC * self.scales_C + self.biases_C)
        return in_its_order(prediction, self.classes, calibrated_NC)


def _scales_and_biases(rows: FitRows, smoothing: float, penalty: float) -> tuple[Floats, Floats]:
    num_classes = rows.probs_NC.shape[1]
    logs_NC = np.log(smoothed(rows.probs_NC, smoothing, num_classes))
    identity_F = np.repeat([1.0, 0.0], num_classes)
    each_C = np.arange(num_classes)
    weights_N = rows.weights_N[:, None]

    def oracle(point_F: Floats) -> tuple[float, Floats, Floats]:
        scales_C, biases_C = np.split(point_F, 2)
        logits_NC = logs_NC * scales_C + biases_C
        probs_NC = softmax(logits_NC)
        logits_NC -= logits_NC.max(axis=1, keepdims=True)
        losses_N = np.log(np.exp(logits_NC).sum(axis=1)) - logits_NC[rows.true_NC]
        errors_NC = weights_N * probs_NC
        blocks_NF = np.concatenate([probs_NC * logs_NC, probs_NC], axis=1)
        curvature_FF = -(weights_N * blocks_NF).T @ blocks_NF
        curvature_FF[np.diag_indices_from(curvature_FF)] += penalty
        curvature_FF[each_C, each_C] += (errors_NC * logs_NC**2).sum(axis=0)
        curvature_FF[num_classes:, num_classes:][each_C, each_C] += errors_NC.sum(axis=0)
        for block in (
            curvature_FF[num_classes:, :num_classes],
            curvature_FF[:num_classes, num_classes:],
        ):
            block[each_C, each_C] += (errors_NC * logs_NC).sum(axis=0)
        errors_NC[rows.true_NC] -= rows.weights_N
        away_F = point_F - identity_F
        slope_F = np.concatenate([(errors_NC * logs_NC).sum(axis=0), errors_NC.sum(axis=0)])
        loss = float(rows.weights_N @ losses_N) + penalty / 2 * float(away_F @ away_F)
        return loss, slope_F + penalty * away_F, curvature_FF

    scales_C, biases_C = np.split(solve_newton(oracle, identity_F), 2)
    return scales_C, biases_C
