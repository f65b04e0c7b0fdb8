# SPDX-License-Identifier: Apache-2.0
"""Weighted averaging: the weights that lose least on the holdout, shrunk towards equal ones.

Shapes: M members, N rows, C columns (classes or values), F folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.column_average import ColumnAverage
from fusetune.fuse.forms import WeightedAverage, fit_weights, linear_pool
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.segmentation.fitting import fit_on_pixels
from fusetune.fuse.selection import Plan, select
from fusetune.fuse.threads import one_thread
from fusetune.fuse.weighing import (
    Holdout,
    JudgedWeights,
    LikelihoodWeights,
    Question,
    SearchedWeights,
    SquaredErrorWeights,
    Weights,
    shrunk,
)
from fusetune.metric import Metric
from fusetune.metrics.brier import Brier
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.multilabel_log_loss import MultilabelLogLoss
from fusetune.metrics.rmse import Rmse
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import (
    Array,
    Columnar,
    Floats,
    Kind,
    Marginals,
    Probabilities,
    Values,
)
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["WeightedMean"]

FOLDS = 5  # as in scikit-learn
SAME = {"log_loss": (LogLoss, MultilabelLogLoss), "squared_error": (Brier, Rmse)}

T = TypeVar("T", bound=Columnar)


@dataclass(frozen=True, kw_only=True)
class WeightedMean(FusionMethod[Any]):
    """Weighted averaging: p(c) = sum of w_m p_m(c), with w on the simplex fitted on the holdout.

    By default the weights minimize log-loss, -1/N sum_n s_n log(sum_m w_m p_m(true class of n)),
    for classes; for these it *is* stacking of predictive distributions. For Brier's score, and for
    values, the default is squared error. Both are convex and solved exactly; identical members
    share any split of the weight.

    The weights are then shrunk towards equal ones: w = (1 - a) w* + a / M, with the share a in
    0, 1/4, ..., 1 that does best by the user's metric in five-fold cross-validation (with weights
    per class: by the objective); ties go to more shrinkage. So few rows and many members give
    nearly the plain mean, and so do members whose confidence differs where only decisions count.
    With a > 0 every member has weight. On simulated pools judged by accuracy, log-loss weights
    shrunk like that did as well as weights searched for on accuracy, at a twentieth of the cost.

    Probabilities are clipped from below at their precision's eps, as in log-loss. A column that a
    member does not have counts as the mean of the members that have it. Quantiles are averaged
    level by level (Vincentization), with weights that are searched for on the metric. For masks, some
    32,000 pixels are the rows, and the metric is their log-loss.

    Do not use it when one member is right where all others are wrong in ways that depend on the
    row: weights are the same for all rows. Without shrinkage, do not use it with fewer holdout rows
    than ten times the members.

    Args:
        objective: `log_loss` (for values: of normal densities around each member's prediction, with
            the variance of its errors); `squared_error` (Brier's score, for classes); `metric` searches for
            the user's metric, whatever it is, from the weights of the convex objective and from
            those of greedy selection, and never ends below them on the holdout; `auto` is as
            described above.
        shrink: Share of equal weights, 0 to 1, or `auto`: chosen by cross-validation.
        per_class: Give every class (or value) weights of its own, each fitted on its own: for
            classes to log-loss (or squared error) of the class against the rest. Each class's
            weights sum to 1; rows of class probabilities are then divided by their sums, which
            the fit does not see, so that the fused log-loss may be worse than with common weights.
        tolerance: Largest duality gap of log-loss, in nats; 1e-9 is far below what any holdout can
            resolve.
        seed: Deals the rows to the folds.

    Cost:
        Log-loss: about M^2 N for few members, and some passes over M N; 100 members and 10,000
        rows take well under 0.1 s without shrinkage and some 2 times as long with; 25 evaluations of
        the metric on a fifth of the rows, where it is another. Squared error:
        M^2 N C once, then nothing that depends on the rows. `metric`: some 40 M evaluations of
        the metric on the pool, six times as many with shrinkage. `per_class`: C times as long.

    Reference:
        Yao, Vehtari, Simpson, Gelman. "Using stacking to average Bayesian predictive
        distributions". Bayesian Analysis, 2018: the same weights, from leave-one-out densities.
        Breiman, L. "Stacked regressions". Machine Learning, 1996: squared error.
    """

    objective: Literal["auto", "log_loss", "squared_error", "metric"] = "auto"
    shrink: float | Literal["auto"] = "auto"
    per_class: bool = False
    tolerance: float = 1e-9
    seed: int = 0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values, Masks})
    fit_copies: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        known = ("auto", "log_loss", "squared_error", "metric")
        if self.objective not in known:
            raise InvalidValue(
                f"objective is '{self.objective}'",
                f"one of {', '.join(known)}",
                "Write auto, the default.",
            )
        if self.shrink != "auto" and not 0 <= self.shrink <= 1:
            raise InvalidValue(
                f"shrink is {self.shrink}",
                "auto, or a share of 0 to 1",
                "Write auto, the default, or 0 for none.",
            )
        if self.per_class and self.objective == "metric":
            raise InvalidValue(
                "per_class is true and objective is metric",
                "per_class with log_loss or squared_error",
                "Leave one of them out: a metric judges all classes at once.",
            )

    def fit(
        self,
        stack: Stack[T],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> Fusion[Any]:
        """The best weights by the objective, shrunk as is best for the metric."""
        if isinstance(stack.parts[0], Masks):
            return fit_on_pixels(self, stack, targets, sample_weights_N)
        weights_N = fit_weights(stack, targets, sample_weights_N)
        folds_N = np.zeros(len(stack), dtype=np.int64)
        if self.shrink == "auto" and len(stack.members) > 1:
            folds_N = stratified_folds(targets, min(FOLDS, len(stack)), self.seed)
        holdout = Holdout(
            stack=stack, targets=targets, shares_N=weights_N / weights_N.sum(), folds_N=folds_N
        )
        share = None if self.shrink == "auto" else float(self.shrink)
        with one_thread():
            weights_KM, _ = shrunk(self._problems(holdout, metric), holdout.num_folds, share)
        if self.per_class:
            return ColumnAverage.of(stack, weights_KM)
        return WeightedAverage.of(dict(zip(stack.members, weights_KM[0].tolist(), strict=True)))

    def _problems(self, holdout: Holdout, metric: Metric[Any]) -> Sequence[Weights]:
        objective = self.objective
        first = holdout.stack.parts[0]
        values = isinstance(first, Values)
        quantiles = isinstance(first, Values) and bool(first.levels)
        if objective == "log_loss" and (quantiles or (values and self.per_class)):
            raise InvalidValue(
                "objective is log_loss, and the members predict "
                + ("quantiles" if quantiles else "values, with weights for each"),
                "squared_error or metric",
                "Write auto, the default.",
            )
        if objective == "auto":
            objective = "squared_error" if values or isinstance(metric, Brier) else "log_loss"
            if quantiles and not self.per_class:
                objective = "metric"
        searched = SearchedWeights(lambda rows: self._question(holdout, metric, rows), holdout)
        if objective == "metric":
            return [searched]
        problems: Sequence[Weights]
        if objective == "squared_error":
            problems = SquaredErrorWeights.of(holdout, per_column=self.per_class)
        else:
            problems = LikelihoodWeights.of(holdout, self.tolerance, per_column=self.per_class)
        if self.per_class or isinstance(metric, SAME[objective]):
            return problems
        return [JudgedWeights(problems[0], searched)]

    def _question(self, holdout: Holdout, metric: Metric[Any], rows: Array) -> Question:
        """The metric's value of weights on some rows, and where to start: convex and greedy."""
        stack, targets = holdout.stack.take(rows), holdout.targets.take(rows)
        shares_N = holdout.shares_N[rows] / holdout.shares_N[rows].sum()
        sign = 1 if metric.higher_is_better else -1

        def value(weights_M: Floats) -> float:
            used = np.flatnonzero(weights_M)
            parts = [stack.parts[index] for index in used]
            pool = linear_pool(parts, weights_M[used], stack.classes)
            return sign * metric.value(metric.statistics(pool, targets), shares_N)

        def starts() -> Sequence[Floats]:
            counts_M = select(stack, targets, metric, shares_N * len(rows), Plan())
            folds_N = np.zeros(len(rows), dtype=np.int64)
            some = Holdout(stack=stack, targets=targets, shares_N=shares_N, folds_N=folds_N)
            convex: Weights = SquaredErrorWeights.of(some, per_column=False)[0]
            if not isinstance(stack.parts[0], Values):
                convex = LikelihoodWeights.of(some, self.tolerance, per_column=False)[0]
            return convex.fit(), counts_M / counts_M.sum()

        return value, starts
