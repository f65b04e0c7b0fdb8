# SPDX-License-Identifier: Apache-2.0
"""Dynamic selection: for every row, the members that were right on the holdout rows nearest to it.

Shapes: M members, N rows, H holdout rows, F features, K neighbors.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.forms import fit_weights, over_classes
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.neighbors import nearest_rows
from fusetune.fuse.row_weights import (
    Scale,
    feature_names,
    feature_vectors,
    feature_widths,
    pool_by_row,
)
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

__all__ = ["DynamicSelection", "NearestOracles"]

Rule = Literal["eliminate", "union"]


@dataclass(frozen=True, kw_only=True)
class DynamicSelection(FusionMethod[Probabilities]):
    """KNORA: trust the members that were right near this row. Needs feature vectors of the rows.

    The neighbors of a row are the holdout rows at the smallest Euclidean distance, all features
    standardized as on the holdout; ties go to the id that sorts first.

    * `eliminate`: the members that are right on the nearest k rows, for the largest k up to
      `neighbors` at which there is one, averaged alike;
    * `union`: all members, weighted by how many of the neighbors they are right on.

    Where no member qualifies, all are averaged alike. The members' probabilities are averaged (a
    row's selection may well be one member); a member is right where its most probable class is the
    true one (ties: the earlier class). Rows of weight 0 are no neighbors; other weights count in
    `union` only. One member alone passes through.

    Do not use it with features that say nothing about the members' strengths, nor with a small
    holdout: the nearest rows are then not near, and `weighted_mean` or `stacking` do better. It
    keeps the holdout's features and compares each new row with all of them.

    Args:
        rule: `eliminate` (KNORA-E), or `union` (KNORA-U), which is milder.
        neighbors: Size of the neighborhood; 7 as in DESlib.
        features: Names of the features that measure distance; None: all that the stack has.

    Cost:
        Nothing to fit; predicting takes N H F multiplications.

    Reference:
        Ko, Sabourin, Britto. "From dynamic classifier selection to dynamic ensemble selection".
        Pattern Recognition, 2008. Averaging probabilities where they vote is DESlib's `soft`.

    Example:
        >>> from fusetune.metrics.accuracy import Accuracy
        >>> from fusetune.predictions.kinds import Values
        >>> ids, classes = np.arange(4), ("x", "y")
        >>> left = Probabilities(ids, classes, np.array([[0.8, 0.2]] * 4))
        >>> right = Probabilities(ids, classes, np.array([[0.3, 0.7]] * 4))
        >>> place = {"place": Values(ids, ("km",), np.array([[1.0], [2.0], [8.0], [9.0]]))}
        >>> stack = Stack.align({"left": left, "right": right}, features=place)
        >>> targets = Targets.from_names(ids, ["x", "x", "y", "y"])
        >>> fusion = DynamicSelection(neighbors=2).fit(stack, targets, Accuracy())
        >>> fusion(stack).probs_NC.round(2).tolist()
        [[0.8, 0.2], [0.8, 0.2], [0.3, 0.7], [0.3, 0.7]]
    """

    rule: Rule = "eliminate"
    neighbors: int = 7
    features: tuple[str, ...] | None = None

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})

    def __post_init__(self) -> None:
        if self.rule not in ("eliminate", "union"):
            raise InvalidValue(f"rule is '{self.rule}'", "eliminate or union", "Write one of them.")
        if self.neighbors < 1:
            raise InvalidValue(
                f"neighbors is {self.neighbors}",
                "a whole number of at least 1",
                "Write 7, the default.",
            )

    def fit(
        self,
        stack: Stack[Probabilities],
        targets: Targets | None,
        metric: Metric[Probabilities],
        *,
        sample_weights_N: Array | None = None,
    ) -> "NearestOracles":
        """The holdout's features, and who was right where; the metric is not read.

        Raises:
            PredictionError: The stack has no features, or not those asked for, or no rows.
        """
        assert targets is not None
        weights_N = fit_weights(stack, targets, sample_weights_N)
        names = feature_names(stack, self.features)
        widths = feature_widths(stack, names)
        if not sum(widths):
            raise PredictionError(
                "dynamic_selection is given no features",
                "feature vectors of the rows, by which to find a row's neighbors",
                "Give features with the predictions, or leave this method out.",
            )
        order = np.argsort(stack.ids)
        order = order[weights_N[order] > 0]
        stack, targets, weights_N = stack.take(order), targets.take(order), weights_N[order]
        vectors_HF = feature_vectors(stack, names, widths)
        scale = Scale.of(vectors_HF, weights_N)
        true_H = targets.columns(stack.classes)
        parts = [over_classes(part, stack.classes) for part in stack.parts]
        right_HM = np.stack([part.probs_NC.argmax(axis=1) == true_H for part in parts], axis=1)
        return NearestOracles(
            members=stack.members,
            rule=self.rule,
            neighbors=self.neighbors,
            features=names,
            widths=widths,
            scale=scale,
            points_HF=scale(vectors_HF),
            right_HM=right_HM,
            weights_H=weights_N,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestOracles(Fusion[Probabilities]):
    """Fitted dynamic selection: the holdout, as far as it is needed.

    Args:
        members: M member names.
        rule: `eliminate` or `union`.
        neighbors: Size of the neighborhood.
        features: Names of the features.
        widths: How many numbers each has.
        scale: Their standardization.
        points_HF: `(H, F)` standardized features of the holdout rows.
        right_HM: `(H, M)` whether each member was right on each.
        weights_H: `(H,)` weights of the holdout rows, above 0.
    """

    members: tuple[str, ...]
    rule: str
    neighbors: int
    features: tuple[str, ...]
    widths: tuple[int, ...]
    scale: Scale
    points_HF: Floats
    right_HM: npt.NDArray[np.bool_]
    weights_H: Floats

    def __call__(self, stack: Stack[Probabilities]) -> Probabilities:
        """Each row's average over the members that its neighbors speak for."""
        stack = stack.select(self.members)
        points_NF = self.scale(feature_vectors(stack, self.features, self.widths))
        near_NK = nearest_rows(self.points_HF, points_NF, self.neighbors)
        right_KNM = self.right_HM[near_NK.T]
        if self.rule == "union":
            votes_NM = np.einsum("knm,nk->nm", right_KNM, self.weights_H[near_NK])
        else:
            # Right on the nearest, on the nearest two, ...: the length of the unbroken run.
            runs_NM = np.logical_and.accumulate(right_KNM, axis=0).sum(axis=0)
            longest_N1 = runs_NM.max(axis=1, keepdims=True, initial=0)
            votes_NM = (runs_NM == longest_N1).astype(np.float64)
        votes_NM[~votes_NM.any(axis=1)] = 1
        return pool_by_row(stack.parts, votes_NM.T, stack.classes)
