# SPDX-License-Identifier: Apache-2.0
"""Fits of every candidate without some folds of the holdout, each made once.

Shapes: N rows.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fusetune.choose.candidates import Methods
from fusetune.fuse.forms import over_classes
from fusetune.fuse.method import Fusion
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Crossing"]

Fold = int


class Crossing:
    """Predictions of a fold by fits that left it out, and perhaps another fold too.

    A candidate that reads no targets cannot have seen them: it is fitted once, on all rows.

    Args:
        stack: Members' predictions of the holdout.
        targets: Their truth, in the same order.
        metric: What the user is judged by.
        candidates: Name → method.
        folds_N: `(N,)` fold numbers.
        weights_N: `(N,)` weights of the rows; None: all 1.
    """

    def __init__(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        candidates: Methods,
        folds_N: Array,
        weights_N: Array | None = None,
    ) -> None:
        self.stack, self.targets, self.metric = stack, targets, metric
        self.candidates, self.folds_N, self.weights_N = candidates, folds_N, weights_N
        self.folds = np.unique(folds_N).tolist()
        self._fusions: dict[tuple[str, frozenset[Fold]], Fusion[Any]] = {}
        self._predicted: dict[tuple[str, frozenset[Fold], Fold], Kind] = {}

    def fusion(self, name: str, left_out: Iterable[Fold] = ()) -> Fusion[Any]:
        """The candidate fitted on the rows of all other folds."""
        method = self.candidates[name]
        without = frozenset(left_out if method.needs_targets else ())
        if (name, without) not in self._fusions:
            rows = self.rows_without(without)
            stack, targets = self.stack, self.targets
            if len(rows) < len(stack):
                stack, targets = stack.take(rows), targets.take(rows)
            weights_N = self.weights_without(without)
            self._fusions[name, without] = method.fit(
                stack, targets, self.metric, sample_weights_N=weights_N
            )
        return self._fusions[name, without]

    def rows_without(self, left_out: Iterable[Fold]) -> Array:
        """Positions of the rows outside of some folds."""
        return np.flatnonzero(~np.isin(self.folds_N, list(left_out)))

    def weights_without(self, left_out: Iterable[Fold] = ()) -> Array | None:
        """The weights of these rows; None: all 1."""
        return None if self.weights_N is None else self.weights_N[self.rows_without(left_out)]

    def predicted(self, name: str, fold: Fold, also_without: Iterable[Fold] = ()) -> Kind:
        """The fold's rows by the candidate fitted without the fold, and without others.

        A fold that is the only one left has to serve both: one or two rows cannot be crossed.
        """
        without = frozenset((fold, *also_without))
        if len(without) == len(self.folds):
            without -= {fold}
        if (name, without, fold) not in self._predicted:
            fusion = self.fusion(name, without)
            fused = fusion(self.stack.take(np.flatnonzero(self.folds_N == fold)))
            self._predicted[name, without, fold] = over_classes(fused, self.stack.classes)
        return self._predicted[name, without, fold]

    def out_of_fold(self, name: str, without: Iterable[Fold] = ()) -> Kind:
        """All rows outside of some folds, each by a fit that saw neither its fold nor these."""
        folds = [fold for fold in self.folds if fold not in without]
        return self.joined([self.predicted(name, fold, without) for fold in folds], folds)

    def joined(self, parts: list[Kind], folds: list[Fold]) -> Kind:
        """Predictions of whole folds as one, in the order of the rows."""
        rows = np.concatenate([np.flatnonzero(self.folds_N == fold) for fold in folds])
        return type(parts[0]).concat(parts).take(np.argsort(rows))
