# SPDX-License-Identifier: Apache-2.0
"""Beta calibration: a curve of three numbers for every class.

Shapes: N rows, C classes, F parameters (3: of log p, of -log(1 - p), and a constant).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.calibrate.calibrator import Calibration, Calibrator
from fusetune.calibrate.fitting import (
    Chances,
    by_name,
    fit_rows,
    in_its_order,
    normalized,
    num_outcomes,
    positive,
    share,
    sigmoid,
    smoothed,
    solve_newton,
)
from fusetune.predictions.kinds import Array, Floats, Kind, Marginals, Probabilities
from fusetune.predictions.targets import LabelSets, Targets

__all__ = ["Beta", "BetaCalibration"]

IDENTITY_F = np.array([1.0, 1.0, 0.0])


@dataclass(frozen=True, kw_only=True)
class Beta(Calibrator[Chances]):
    """logit q_c = a_c log p_c - b_c log(1 - p_c) + d_c for each class against the rest.

    With a, b at least 0 the curve rises; a = b = 1, d = 0 is the identity, a = b a temperature with
    a bias. They minimize, class by class, the two-outcome log-loss plus
    penalty / 2 ((a - 1)^2 + (b - 1)^2 + d^2), exactly; then each row is divided by its sum over
    the classes (with two classes it is 1 already). Probabilities are mixed with the even distribution
    first, p ← (1 - smoothing) p + smoothing / C, so 0 and 1 are safe. One class is left as it is.
    `Marginals` are mixed as predictions of two outcomes, and not divided by sums.

    It bends where one temperature cannot: timid below, over-confident above. On few rows it varies
    less than `isotonic`. Do not use it with hundreds of classes: rare ones have too few rows for three
    numbers each, and dividing by the sum then undoes part of the fit.

    Args:
        smoothing: Share of each row spread evenly over the classes; as in `temperature`.
        penalty: Strength of the pull towards the identity, beside the sum of the rows' losses; 3
            as in `vector`.

    Cost:
        About ten Newton steps of N multiplications per class.

    Reference:
        Kull, Silva Filho, Flach. "Beta calibration: a well-founded and easily implemented
        improvement on logistic calibration for binary classifiers". AISTATS 2017. The penalty and
        the smoothing are ours.

    Example:
        >>> ids = [f"row{n}" for n in range(100)]
        >>> sure = Probabilities(ids, ("cat", "dog"), np.tile([0.99, 0.01], (100, 1)))
        >>> targets = Targets.from_names(ids, ["cat"] * 80 + ["dog"] * 20)
        >>> Beta().fit(sure, targets)(sure).probs_NC[0].round(2).tolist()
        [0.8, 0.2]
    """

    smoothing: float = 1e-6
    penalty: float = 3.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals})

    def __post_init__(self) -> None:
        share("smoothing", self.smoothing)
        positive("penalty", self.penalty)

    def fit(
        self,
        prediction: Chances,
        targets: Targets | LabelSets,
        *,
        sample_weights_N: Array | None = None,
    ) -> "BetaCalibration":
        """Three numbers per class."""
        rows = fit_rows(prediction, targets, sample_weights_N)
        num_classes = len(prediction.classes)
        parameters_CF = np.tile(IDENTITY_F, (num_classes, 1))
        if rows.outcomes > 1:
            probs_NC = smoothed(rows.probs_NC, self.smoothing, rows.outcomes)
            for column, parameters_F in enumerate(parameters_CF):
                parameters_F[:] = _curve(
                    _features(probs_NC[:, column]),
                    rows.true_NC[:, column],
                    rows.weights_N,
                    self.penalty,
                )
        return BetaCalibration(
            classes=prediction.classes, parameters_CF=parameters_CF, smoothing=self.smoothing
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class BetaCalibration(Calibration[Chances]):
    """Fitted curves.

    Args:
        classes: C class names.
        parameters_CF: `(C, 3)` the curves' a, b and d.
        smoothing: Share spread evenly before the logarithm.
    """

    classes: tuple[str, ...]
    parameters_CF: Floats
    smoothing: float

    def __call__(self, prediction: Chances) -> Chances:
        """The curves' values, divided by their sum."""
        probs_NC = by_name(prediction, self.classes)
        if num_outcomes(prediction) == 1:
            return prediction
        probs_NC = smoothed(probs_NC, self.smoothing, num_outcomes(prediction))
        curved_NC = np.empty_like(probs_NC)
        for column, (above, below, constant) in enumerate(self.parameters_CF):
            said_N = probs_NC[:, column]
            logits_N = above * np.log(said_N) - below * np.log1p(-said_N) + constant
            curved_NC[:, column] = sigmoid(logits_N)
        return in_its_order(prediction, self.classes, normalized(prediction, curved_NC, probs_NC))


def _features(probs_N: Floats) -> Floats:
    """`(N, 3)` log p, -log(1 - p) and 1, of probabilities that are neither 0 nor 1."""
    return np.stack([np.log(probs_N), -np.log1p(-probs_N), np.ones(len(probs_N))], axis=1)


def _curve(features_NF: Floats, of_class_N: Array, weights_N: Floats, penalty: float) -> Floats:
    """The best a, b at least 0 and d; where a bound holds, the optimum lies on its face."""
    signs_N = np.where(of_class_N, 1.0, -1.0)

    def fitted(free: list[int]) -> tuple[float, Floats]:
        parameters_F = np.zeros(3)
        kept_NF = features_NF[:, free]

        def oracle(point_F: Floats) -> tuple[float, Floats, Floats]:
            logits_N = signs_N * (kept_NF @ point_F)
            wrong_N = sigmoid(-logits_N)
            away_F = point_F - IDENTITY_F[free]
            loss = float(weights_N @ np.logaddexp(0, -logits_N)) + penalty / 2 * float(
                away_F @ away_F
            )
            slope_F = -(weights_N * wrong_N * signs_N) @ kept_NF + penalty * away_F
            curvature_FF = (kept_NF.T * (weights_N * wrong_N * (1 - wrong_N))) @ kept_NF
            return loss, slope_F, curvature_FF + penalty * np.eye(len(free))

        parameters_F[free] = solve_newton(oracle, IDENTITY_F[free])
        return oracle(parameters_F[free])[0] + penalty / 2 * (3 - len(free)), parameters_F

    _, inside_F = fitted([0, 1, 2])
    if inside_F[:2].min() >= 0:
        return inside_F
    on_faces = [fitted(free) for free in ([0, 2], [1, 2], [2])]
    rising = [found for found in on_faces if found[1][:2].min() >= 0]
    return min(rising, key=lambda found: found[0])[1]
