# SPDX-License-Identifier: Apache-2.0
"""Weighted boxes fusion with scores calibrated, and weights and thresholds learned."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.detection.fusion import Confidence, fused_clusters
from fusetune.fuse.detection.pool import knows_MC
from fusetune.fuse.detection.scores import calibrated_stack, member_curves, ordered
from fusetune.fuse.detection.search import Grid, Search
from fusetune.fuse.forms import fit_weights
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.folds import hashes
from fusetune.predictions.kinds import Array, Floats, Kind
from fusetune.predictions.stack import Stack

__all__ = ["TunedBoxes", "TunedBoxesFusion"]

RULES: tuple[Confidence, ...] = ("box_and_model_avg", "max", "absent_model_aware_avg")


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedBoxesFusion(Fusion[Boxes]):
    """Fitted: calibrated scores, then weighted boxes fusion.

    Args:
        members: Names of the members with weight for any class.
        classes: C classes that were fitted; others are fused by the last column of each array.
        curves: `(M, C + 1, 2)` slopes and offsets of the scores' logits.
        weights_MC: `(M, C + 1)` weights.
        thresholds_2C: `(2, C + 1)` overlaps that a box must exceed, and least calibrated scores.
        confidence: How a cluster's score is made.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    curves: Floats
    weights_MC: Floats
    thresholds_2C: Floats
    confidence: Confidence

    def __call__(self, stack: Stack[Boxes]) -> Boxes:
        """The fused boxes of every row, by falling score."""
        stack = stack.select(self.members)
        dtype = np.result_type(*(part.scores_K.dtype for part in stack.parts))
        place = {name: index for index, name in enumerate(self.classes)}
        columns = [place.get(name, len(place)) for name in stack.classes]
        weights_MC = self.weights_MC[:, columns] * knows_MC(stack).reshape(len(stack.members), -1)
        calibrated = calibrated_stack(stack, self.classes, self.curves)
        fused = fused_clusters(
            calibrated, weights_MC, tuple(self.thresholds_2C[:, columns]), self.confidence
        )
        assert fused.boxes_K4.dtype == dtype
        return fused

    def weights(self) -> dict[str, float]:
        """Member → mean of its weights for the classes, summing to 1."""
        shares_MC = self.weights_MC / self.weights_MC.sum(axis=0)
        return dict(zip(self.members, shares_MC.mean(axis=1).tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class TunedBoxes(FusionMethod[Boxes]):
    """Weighted boxes fusion whose scores are calibrated, and whose numbers the holdout chooses.

    First each member's scores are made to say how likely a box is right (Platt's scaling of the
    share of COCO's ten overlaps at which it finds an object), for each class, drawn to all classes.
    Then, by the metric, one after the other: the overlap that joins boxes, the rule of confidence,
    the members' weights (times 0, 1/2 or 2, again and again), and the least score. Last, each class
    takes the setting that was best for it, its gain counting by n / (n + `prior_objects`) for n true
    objects. See `weighted_boxes` for what is fused how.

    Do not use it with a few dozen objects: it then follows chance where `weighted_boxes` does not.

    Args:
        iou_thresholds: Overlaps to try, the usual one of 0.55 first.
        skip_thresholds: Least calibrated scores to try.
        rounds: How often each weight is tried; 2, as a third hardly changes anything.
        prior_boxes: How many boxes of a class its calibration is held back by; 20: our choice.
        prior_objects: How many objects of a class its own setting is held back by; 100: our choice.
        max_rows: Rows that settings are tried on, at most; calibration takes all. 500 images of
            COCO hold 3,700 objects.
        seed: Of the choice of these rows.

    Cost:
        Some 10 + 6 M fusions and evaluations of at most `max_rows` rows.

    Reference:
        Solovyev, Wang, Gabruseva. "Weighted boxes fusion". Image and Vision Computing, 2021 (what is
        fused); Platt. "Probabilistic outputs for support vector machines". 1999. The search is ours.
    """

    iou_thresholds: tuple[float, ...] = (0.55, 0.45, 0.5, 0.6, 0.65, 0.7)
    skip_thresholds: tuple[float, ...] = (0.0, 0.01, 0.03)
    rounds: int = 2
    prior_boxes: float = 20.0
    prior_objects: float = 100.0
    max_rows: int = 500
    seed: int = 0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})

    def __post_init__(self) -> None:
        thresholds = (*self.iou_thresholds, *self.skip_thresholds)
        if not self.iou_thresholds or not all(0 <= value <= 1 for value in thresholds):
            raise InvalidValue(
                f"the thresholds are {', '.join(f'{value:g}' for value in thresholds)}",
                "numbers from 0 to 1, one overlap at least",
                "Correct them, or leave them out.",
            )
        if min(self.rounds, self.prior_boxes, self.prior_objects) < 0 or self.max_rows < 1:
            raise InvalidValue(
                "rounds, prior_boxes or prior_objects is negative, or max_rows below 1",
                "numbers of at least 0, and a row",
                "Correct it, or leave it out.",
            )

    def fit(
        self,
        stack: Stack[Boxes],
        targets: Objects,
        metric: Metric[Boxes],
        *,
        sample_weights_N: Array | None = None,
    ) -> TunedBoxesFusion:
        """Calibrations from all rows, the rest by search on some."""
        weights_N = fit_weights(stack, targets, sample_weights_N)
        stack, targets, order = ordered(stack, targets)
        curves = member_curves(stack, targets, weights_N[order], self.prior_boxes)
        given_N = np.ones(len(order)) if sample_weights_N is None else np.asarray(sample_weights_N)
        rows = np.sort(np.argsort(hashes(targets.ids, self.seed))[: self.max_rows])
        calibrated = calibrated_stack(stack.take(rows), stack.classes, curves)
        search = Search(calibrated, targets.take(rows), metric, given_N[order][rows])
        best = search.best(Grid(self.iou_thresholds, self.skip_thresholds, RULES, self.rounds))
        settings = [*search.by_class(best, self.prior_objects), best]
        weights_MC = np.array([one.weights for one in settings]).T
        used = weights_MC.sum(axis=1) > 0
        return TunedBoxesFusion(
            members=tuple(name for name, one in zip(stack.members, used, strict=True) if one),
            classes=stack.classes,
            curves=curves[used],
            weights_MC=weights_MC[used],
            thresholds_2C=np.array([[one.iou for one in settings], [one.skip for one in settings]]),
            confidence=best.confidence,
        )
