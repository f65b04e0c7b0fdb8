# SPDX-License-Identifier: Apache-2.0
"""Isotonic calibration: any rising curve from what is said to what is so.

Shapes: N rows, C classes, K knots of all classes together.
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
    positive,
)
from fusetune.calibrate.pooling import isotonic_knots
from fusetune.predictions.kinds import Array, Floats, Kind, Marginals, Probabilities
from fusetune.predictions.targets import LabelSets, Targets

__all__ = ["Isotonic", "IsotonicCalibration"]


@dataclass(frozen=True, kw_only=True)
class Isotonic(Calibrator[Chances]):
    """For each class the rising function of its probability that fits best; then rows sum to 1.

    f_c is the isotonic regression of [the row is of class c] on p_c: straight between its levels,
    constant beyond the outermost fit rows, equal probabilities sharing one value. A level of 0 or
    1 would be a certainty that no number of rows can give, so `level_rows` rows of the even share
    1 / C are added to each level, and levels that then fall are pooled again. Few rows are a curve
    of chance, so the curve is mixed with the member's own word, and divided by the sum over classes:

        q_c is proportional to W f_c(p_c) + prior_rows p_c, with W the weight of the fit rows (mean 1)

    `Marginals` have an even share of 1 / 2, and are not divided by sums.

    It can mend a curve of any rising shape. Do not use it with fewer than about a thousand rows,
    where `temperature` or `beta` vary less, nor where ties among classes matter: within a level
    much of the member's order is lost.

    Args:
        level_rows: Rows of the even share that each level counts beside its own; 1 in all is the
            Bayesian rule of Perks (1947).
        prior_rows: Rows that the member's own probabilities count for; 10 came out within
            0.016 nats of the best with 20 to 5,000 rows (docs/results/calibration.md). With both numbers 0 it is the
            plain method, which gives zeros and so an infinite log-loss sooner or later.

    Cost:
        C sorts of N numbers.

    Reference:
        Zadrozny, Elkan. "Transforming classifier scores into accurate multiclass probability
        estimates". KDD 2002. The added rows and the mixture are ours.

    Example:
        >>> ids = [f"row{n}" for n in range(1000)]
        >>> sure = Probabilities(ids, ("cat", "dog"), np.tile([0.99, 0.01], (1000, 1)))
        >>> targets = Targets.from_names(ids, ["cat"] * 800 + ["dog"] * 200)
        >>> Isotonic().fit(sure, targets)(sure).probs_NC[0].round(2).tolist()
        [0.8, 0.2]
    """

    level_rows: float = 1.0
    prior_rows: float = 10.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals})

    def __post_init__(self) -> None:
        positive("level_rows", self.level_rows, or_zero=True)
        positive("prior_rows", self.prior_rows, or_zero=True)

    def fit(
        self,
        prediction: Chances,
        targets: Targets | LabelSets,
        *,
        sample_weights_N: Array | None = None,
    ) -> "IsotonicCalibration":
        """One curve per class."""
        rows = fit_rows(prediction, targets, sample_weights_N)
        curves: list[tuple[Floats, Floats]] = [(np.zeros(1), np.zeros(1))] * len(prediction.classes)
        if len(rows.weights_N):
            curves = [
                isotonic_knots(
                    probs_N,
                    rows.true_NC[:, column].astype(np.float64),
                    rows.weights_N,
                    prior=(1 / rows.outcomes, self.level_rows),
                )
                for column, probs_N in enumerate(rows.probs_NC.T)
            ]
        weight = float(rows.weights_N.sum())
        return IsotonicCalibration(
            classes=prediction.classes,
            said_K=np.concatenate([said for said, _ in curves]),
            so_K=np.concatenate([so for _, so in curves]),
            stops_C=np.cumsum([len(said) for said, _ in curves]),
            trust=weight / (weight + self.prior_rows) if weight else 0.0,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class IsotonicCalibration(Calibration[Chances]):
    """Fitted curves, one after the other.

    Args:
        classes: C class names.
        said_K: `(K,)` positions of the knots: probabilities that the member gives.
        so_K: `(K,)` their heights: shares of rows of the class.
        stops_C: `(C,)` where each class's knots end.
        trust: Weight of the curves; the rest belongs to the member's own probabilities.
    """

    classes: tuple[str, ...]
    said_K: Floats
    so_K: Floats
    stops_C: Array
    trust: float

    def __call__(self, prediction: Chances) -> Chances:
        """The curves' values, mixed with the member's own and divided by their sum."""
        probs_NC = by_name(prediction, self.classes)
        curved_NC = np.empty_like(probs_NC)
        for column, knots in enumerate(np.split(np.arange(len(self.said_K)), self.stops_C[:-1])):
            curved_NC[:, column] = np.interp(
                probs_NC[:, column], self.said_K[knots], self.so_K[knots]
            )
        mixed_NC = self.trust * curved_NC + (1 - self.trust) * probs_NC
        return in_its_order(prediction, self.classes, normalized(prediction, mixed_NC, probs_NC))
