# SPDX-License-Identifier: Apache-2.0
"""Adaptive prediction sets: the classes that hold the truth as often as promised.

Shapes: N rows, C classes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusetune.calibrate.conformal import conformal_quantile
from fusetune.calibrate.fitting import by_name, share
from fusetune.errors import PredictionError
from fusetune.fitted import Fitted
from fusetune.predictions.folds import hashes
from fusetune.predictions.kinds import Floats, Ids, Probabilities
from fusetune.predictions.targets import Targets
from fusetune.predictions.weights import row_weights

__all__ = ["AdaptiveSets", "ClassSets", "SetCalibration"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveSets:
    """Sets of classes that hold the true one with a stated probability; larger where it is harder.

    Classes are taken in the order of their probability (of equal ones the earlier of the fit's
    order) until their sum reaches a threshold t, the class that reaches it included: the set is
    never empty. (Classes of probability 0 enter where the sum is t without them.) t is the conformal quantile of the sums down to and with the true class on the fit
    rows. Because the class that crosses t always enters, this **covers more often than
    promised**, the more so the surer the member is: with a member that is nearly certain of most
    rows the sets hold the first class and cover its accuracy, whatever was asked for.

    `randomized: true` is the paper's own: of the last class only a random part u counts, in the fit
    and in the sets, where a class enters if the sum before it plus u times its probability is at
    most t. Coverage is then exact to 1 / (N + 1), sets are smaller, and some may be empty.

    The promise holds on average over rows drawn like the fit rows, not for each class. Do not use
    it on rows that fitted the member.

    Args:
        coverage: Share of new rows whose set shall hold the true class; 0.9 as in the paper.
        randomized: Exact coverage at the price of sets that depend on a draw.
        seed: Of the draws, which depend on it and the row's id alone; 0 as everywhere else.

    Reference:
        Romano, Sesia, Candès. "Classification with valid and adaptive coverage". NeurIPS 2020;
        without the draw as in Angelopoulos, Bates. "Conformal prediction: a gentle introduction".
        Foundations and Trends in Machine Learning, 2023.

    Example:
        >>> ids = [f"row{n}" for n in range(10)]
        >>> said = Probabilities(ids, ("cat", "dog", "cow"), np.tile([0.6, 0.3, 0.1], (10, 1)))
        >>> targets = Targets.from_names(ids, ["cat"] * 6 + ["dog"] * 3 + ["cow"])
        >>> AdaptiveSets(coverage=0.8).fit(said, targets)(said).names()[0]
        ('cat', 'dog')
    """

    coverage: float = 0.9
    randomized: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        share("coverage", self.coverage)

    def fit(self, prediction: Probabilities, targets: Targets) -> "SetCalibration":
        """The threshold, from rows that fitted neither the member nor the fusion.

        Raises:
            PredictionError: There are too few rows for the coverage, or too many are of classes
                that the member does not know.
        """
        assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
        row_weights(prediction.ids, None, "the sets")
        columns_N = targets.columns(prediction.classes)
        sums_NC = _sums(
            prediction.ids,
            prediction.probs_NC.astype(np.float64),
            self.seed if self.randomized else None,
        )
        scores_N = np.where(columns_N < 0, np.inf, sums_NC[np.arange(len(columns_N)), columns_N])
        threshold = conformal_quantile(scores_N, self.coverage)
        if not np.isfinite(threshold):
            raise PredictionError(
                f"the member does not know the classes of {int((columns_N < 0).sum()):,} of "
                f"{len(columns_N):,} rows",
                f"to be able to cover {self.coverage:g} of them",
                "Ask for a lower coverage, or give a member that knows all classes.",
            )
        return SetCalibration(
            classes=prediction.classes,
            threshold=threshold,
            coverage=self.coverage,
            randomized=self.randomized,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SetCalibration(Fitted):
    """Fitted threshold.

    Args:
        classes: C class names, in whose order ties are broken.
        threshold: Of the summed probabilities.
        coverage: Share of new rows that is covered.
        randomized: Whether a random part of the last class counts.
        seed: Of these parts.
    """

    classes: tuple[str, ...]
    threshold: float
    coverage: float
    randomized: bool
    seed: int

    def __call__(self, prediction: Probabilities) -> "ClassSets":
        """The sets of new rows, over the classes in the fit's order.

        Raises:
            PredictionError: The prediction has other classes than those fitted on.
        """
        probs_NC = by_name(prediction, self.classes)
        if self.randomized:
            inside_NC = _sums(prediction.ids, probs_NC, self.seed) <= self.threshold
        else:
            order_NC = np.argsort(-probs_NC, axis=1, kind="stable")
            upto_NC = np.cumsum(np.take_along_axis(probs_NC, order_NC, axis=1), axis=1)
            before_NC = np.pad(upto_NC[:, :-1], ((0, 0), (1, 0)))
            inside_NC = np.empty(probs_NC.shape, dtype=bool)
            # The second part lets classes of probability 0 in, where the fit needed them.
            enters_NC = (before_NC < self.threshold) | (upto_NC <= self.threshold)
            np.put_along_axis(inside_NC, order_NC, enters_NC, axis=1)
        return ClassSets(
            ids=prediction.ids,
            classes=self.classes,
            inside_NC=inside_NC,
            coverage=self.coverage,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassSets:
    """A set of classes per row.

    Args:
        ids: `(N,)` row names.
        classes: C class names.
        inside_NC: `(N, C)` booleans: is the class in the row's set?
        coverage: Share of rows whose set holds the true class, by promise.
    """

    ids: Ids
    classes: tuple[str, ...]
    inside_NC: npt.NDArray[np.bool_]
    coverage: float

    def names(self) -> list[tuple[str, ...]]:
        """The classes in each row's set, in the order of `classes`."""
        named = np.asarray(self.classes)
        return [tuple(named[inside_C].tolist()) for inside_C in self.inside_NC]

    def covers(self, targets: Targets) -> npt.NDArray[np.bool_]:
        """`(N,)` booleans: does the set hold the true class?"""
        assert np.array_equal(self.ids, targets.ids), "sets and targets differ in rows"
        columns_N = targets.columns(self.classes)
        inside_N: npt.NDArray[np.bool_] = self.inside_NC[np.arange(len(self.ids)), columns_N]
        return inside_N & (columns_N >= 0)


def _sums(ids: Ids, probs_NC: Floats, seed: int | None) -> Floats:
    """`(N, C)` probabilities summed from the most probable class down to each one.

    With a seed only a random part of that last one, the same for all classes of a row, is counted.
    """
    order_NC = np.argsort(-probs_NC, axis=1, kind="stable")
    ranked_NC = np.take_along_axis(probs_NC, order_NC, axis=1)
    upto_NC = np.cumsum(ranked_NC, axis=1)
    if seed is not None:
        upto_NC -= (1 - hashes(ids, seed)[:, None] / 2.0**64) * ranked_NC
    sums_NC = np.empty_like(upto_NC)
    np.put_along_axis(sums_NC, order_NC, upto_NC, axis=1)
    return sums_NC
