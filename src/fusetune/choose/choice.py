# SPDX-License-Identifier: Apache-2.0
"""Choose how to fuse: cross-fit every candidate inside the holdout, then blend or pick.

Shapes: N rows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusetune.calibrate.calibrator import Calibrator
from fusetune.calibrated import CalibratedFusion
from fusetune.choose.blending import blend, blend_plan
from fusetune.choose.candidates import AUTO, BEST, BEST_MEMBER, TIE, Methods, all_candidates
from fusetune.choose.crossing import Crossing
from fusetune.errors import InvalidValue, PredictionError, counted, unknown_name
from fusetune.fuse.forms import fit_weights, linear_pool, over_classes
from fusetune.fuse.method import Fusion
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import Array, Floats, Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Choice", "choose", "cross_choose"]

FOLDS = 5  # as in scikit-learn

Fusions = dict[str, Fusion[Any]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `choose` found.

    Args:
        fusions: Candidate → its fusion, refitted on the whole holdout; the best single member is
            the candidate `best_member`, and `auto` is among them if it was asked for.
        chosen: Key of the chosen one.
        cross_fitted: Candidate → its out-of-fold fused predictions, rows in the order of the ids.
            Empty where nothing was cross-fitted. Each row's is by a fit that did not see the row.
        seconds: Candidate → seconds of its fit on the whole holdout; for `auto`, of the
            cross-fitting and blending.
        honest: What the chosen one gives if the choice itself, blending and calibration included,
            does not see the row; rows in the order of the ids. Only from `cross_choose`.
        uncalibrated: The same without the calibration, where there is one.
    """

    fusions: Fusions
    chosen: str
    cross_fitted: dict[str, Kind]
    seconds: dict[str, float]
    honest: Kind | None = None
    uncalibrated: Kind | None = None

    @property
    def fusion(self) -> Fusion[Any]:
        """The chosen fusion."""
        return self.fusions[self.chosen]

    @property
    def best_member(self) -> str:
        """Name of the member that looks best on the holdout."""
        return self.fusions[BEST_MEMBER].members[0]


def choose(
    stack: Stack[Any],
    targets: AnyTargets,
    metric: Metric[Any],
    methods: Methods,
    *,
    choose: str = AUTO,
    calibrator: Calibrator[Any] | None = None,
    seed: int = 0,
    sample_weights_N: Array | None = None,
) -> Choice:
    """Fit every candidate on the holdout, and say which one to use.

    Candidates are the methods and `best_member`, the single member that looks best by the metric.

    * `auto` blends: the candidates' out-of-fold fused predictions are weighted, half by greedy
      selection on the metric and half evenly over the candidates that are as good as the best (see
      `blend_plan`), and each candidate is then refitted on the whole holdout, however few rows
      it has (docs/decisions/0005). Where the metric counts classes alike (balanced accuracy), the
      holdout's class shares are divided out.
    * `best` is the candidate whose out-of-fold predictions score best. So is `auto` for kinds that
      have no average (boxes: every candidate is made of the same boxes already).
    * a candidate's name takes that candidate; it is cross-fitted only to be calibrated.

    Ties go to the simpler candidate: best_member, fixed rules, learned weights, log_pool, stacking,
    then others in the order given. The order of the rows does not matter.

    Args:
        stack: Members' predictions of the holdout rows.
        targets: Their truth, in the same order.
        metric: What the user is judged by.
        methods: Name → fusion method.
        choose: `auto`, `best` or a candidate's name.
        calibrator: Calibrates the chosen one, fitted on its out-of-fold predictions; None: nothing
            does. It is left out where it does not take the kind, or where class shares are
            divided out.
        seed: Deals the rows to the folds.
        sample_weights_N: `(N,)` numbers above 0, of which only the ratios matter; None: all 1. A
            row is in one fold whatever it weighs.

    Raises:
        UnknownName: `choose` is no such name.
        InvalidValue: A method has a reserved name, or does not accept these predictions.
        PredictionError: There is no row.

    Cost:
        Six fits of each candidate that reads targets, five of them for the folds.
    """
    return _Choosing(
        stack, targets, metric, methods, _How(choose, calibrator, seed, sample_weights_N)
    ).choice()


def cross_choose(
    stack: Stack[Any],
    targets: AnyTargets,
    metric: Metric[Any],
    methods: Methods,
    *,
    choose: str = AUTO,
    calibrator: Calibrator[Any] | None = None,
    seed: int = 0,
    sample_weights_N: Array | None = None,
) -> Choice:
    """As `choose`, and predictions of every row by a choice that did not see the row.

    All rows fit the answer, and all rows judge it: for each fold, the candidates are cross-fitted
    over the other folds, blended or picked on these, and applied to the fold. The fit without folds
    i and j serves both, as the prediction of j when i is judged and of i when j is.

    Args:
        stack: Members' predictions of the rows.
        targets: Their truth, in the same order.
        metric: What the user is judged by.
        methods: Name → fusion method.
        choose: `auto`, `best` or a candidate's name.
        calibrator: Calibrates the chosen one, fitted on its out-of-fold predictions; None: nothing
            does. It is left out where it does not take the kind, or where class shares are
            divided out.
        seed: Deals the rows to the folds.
        sample_weights_N: `(N,)` numbers above 0, of which only the ratios matter; None: all 1. A
            row is in one fold whatever it weighs.

    Returns:
        The choice, fitted on all rows, with `cross_fitted` for every candidate and `honest` for the
        chosen one.

    Raises:
        UnknownName: `choose` is no such name.
        InvalidValue: A method has a reserved name, or does not accept these predictions.
        PredictionError: There are fewer than two rows.

    Cost:
        16 fits of each candidate that reads targets, where choosing within each fold anew would
        take 36: once on all rows, 5 without a fold, 10 without two.
    """
    if len(stack) == 1:
        raise PredictionError(
            "one row is given",
            "at least two, so that a row can be predicted by a fit that did not see it",
            "Give more rows, or fit on them without judging (--holdout 1).",
        )
    choosing = _Choosing(
        stack, targets, metric, methods, _How(choose, calibrator, seed, sample_weights_N)
    )
    honest, uncalibrated = choosing.honest()
    return replace(
        choosing.choice(),
        cross_fitted=choosing.cross_fitted(),
        honest=honest,
        uncalibrated=uncalibrated,
    )


@dataclass(frozen=True)
class _How:
    choose: str
    calibrator: Calibrator[Any] | None
    seed: int
    weights_N: Array | None


class _Choosing:
    """One choice: candidates, folds, and the fits that they share."""

    def __init__(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        methods: Methods,
        settings: _How,
    ) -> None:
        how, seed, calibrator = settings.choose, settings.seed, settings.calibrator
        kind = type(stack.parts[0])
        candidates = all_candidates(methods, kind)
        if how not in (AUTO, BEST, *candidates):
            raise unknown_name("choice", how, (AUTO, BEST, *candidates), where="choose")
        weights_N = settings.weights_N
        _check_weights(fit_weights(stack, targets, weights_N))
        order = np.argsort(stack.ids)
        stack, targets = stack.take(order), targets.take(order)
        weights_N = None if weights_N is None else np.asarray(weights_N)[order]
        if how == AUTO and issubclass(kind, Boxes):
            how = BEST  # boxes have no average to blend them by
        self.how, self.metric, self.targets = how, metric, targets
        usable = calibrator is not None and kind in calibrator.accepts
        self.calibrator = calibrator if usable and not metric.weighs_classes_evenly else None
        self.names = tuple(candidates)
        folds_N = stratified_folds(targets, min(FOLDS, len(targets)), seed)
        self.crossing = Crossing(stack, targets, metric, candidates, folds_N, weights_N)

    def choice(self) -> Choice:
        """The fits on all rows, and the chosen one."""
        fusions: Fusions = {}
        seconds: dict[str, float] = {}
        for name in self.crossing.candidates:
            start = time.perf_counter()
            fusions[name] = self.crossing.fusion(name)
            seconds[name] = time.perf_counter() - start
        start = time.perf_counter()
        fused = self.cross_fitted() if self.how in (AUTO, BEST) else {}
        chosen, fusion, out_of_fold = self._pick(fused, self.targets, ())
        fusions[chosen] = fusion
        if self.how == AUTO:
            seconds[AUTO] = time.perf_counter() - start
        if self.calibrator is not None:
            output = self.calibrator.fit(
                out_of_fold(), self.targets, sample_weights_N=self.crossing.weights_N
            )
            fusions[chosen] = CalibratedFusion(fusion=fusion, output=output)
        return Choice(fusions=fusions, chosen=chosen, cross_fitted=fused, seconds=seconds)

    def cross_fitted(self) -> dict[str, Kind]:
        """Candidate → its predictions of every row by a fit that did not see the row."""
        return {name: self.crossing.out_of_fold(name) for name in self.names}

    def honest(self) -> tuple[Kind, Kind | None]:
        """Every row by a choice that did not see the row; and the same before calibration."""
        folds = self.crossing.folds
        judged = [self._judged(fold) for fold in folds]
        honest = self.crossing.joined([after for after, _ in judged], folds)
        if self.calibrator is None:
            return honest, None
        return honest, self.crossing.joined([before for _, before in judged], folds)

    def _judged(self, fold: int) -> tuple[Kind, Kind]:
        """A fold's rows by what is chosen, and calibrated, on the other folds."""
        crossing = self.crossing
        targets = self.targets.take(crossing.rows_without([fold]))
        crossed = self.names if self.how in (AUTO, BEST) else ()
        fused = {name: crossing.out_of_fold(name, [fold]) for name in crossed}
        _, fusion, out_of_fold = self._pick(fused, targets, [fold])
        rows = np.flatnonzero(crossing.folds_N == fold)
        before = over_classes(fusion(crossing.stack.take(rows)), crossing.stack.classes)
        if self.calibrator is None:
            return before, before
        weights_N = crossing.weights_without([fold])
        output = self.calibrator.fit(out_of_fold(), targets, sample_weights_N=weights_N)
        return output(before), before

    def _pick(
        self, fused: Mapping[str, Kind], targets: AnyTargets, without: Sequence[int]
    ) -> tuple[str, Fusion[Any], Callable[[], Kind]]:
        """The chosen candidate's name, its fit without some folds, its out-of-fold predictions."""
        crossing, weights_N = self.crossing, self.crossing.weights_without(without)
        if self.how == AUTO:
            columnar: Any = fused
            plan = blend_plan(columnar, targets, self.metric, weights_N)
            weights = plan.weights
            blended = blend(plan, {name: crossing.fusion(name, without) for name in weights})
            parts = [columnar[name] for name in weights]
            weights_F = np.array(list(weights.values()))
            columns = parts[0].columns
            return AUTO, blended, lambda: linear_pool(parts, weights_F, columns)
        name = _best(fused, targets, self.metric, weights_N) if self.how == BEST else self.how
        fusion = crossing.fusion(name, without)
        return name, fusion, lambda: crossing.out_of_fold(name, without)


def _check_weights(weights_N: Floats) -> None:
    if (weights_N == 0).any():
        raise InvalidValue(
            f"the sample weight of {counted(int((weights_N == 0).sum()), 'row')} is 0",
            "numbers above 0",
            "Leave these rows out.",
        )


def _best(
    fused: Mapping[str, Kind],
    targets: AnyTargets,
    metric: Metric[Any],
    weights_N: Array | None,
) -> str:
    """The first candidate, in the order of simplicity, that no other beats."""
    sign = 1 if metric.higher_is_better else -1
    values = {
        name: sign * metric.value(metric.statistics(part, targets), weights_N)
        for name, part in fused.items()
    }
    best = max(values.values())
    return next(name for name, value in values.items() if value >= best - TIE)
