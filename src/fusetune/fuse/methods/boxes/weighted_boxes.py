# SPDX-License-Identifier: Apache-2.0
"""Weighted boxes fusion: boxes of one object become their mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.detection.fusion import (
    BoxFusion,
    Confidence,
    checked_share,
    checked_weights,
    fused_clusters,
)
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["WeightedBoxes", "WeightedBoxesFusion"]

RULES = ("box_and_model_avg", "avg", "max", "absent_model_aware_avg")


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedBoxesFusion(BoxFusion):
    """Fitted weighted boxes fusion; see `WeightedBoxes` for the arguments.

    Args:
        iou_threshold: What the overlap must exceed.
        confidence: How a cluster's score is made.
        allows_overflow: Of `avg`.
    """

    iou_threshold: float
    confidence: Confidence
    allows_overflow: bool

    def fuse(self, stack: Stack[Boxes]) -> Boxes:
        """The mean box of every cluster."""
        return fused_clusters(
            stack,
            self.weights_MC(stack),
            (self.iou_threshold, self.skip_threshold),
            self.confidence,
            overflow=self.allows_overflow,
        )


@dataclass(frozen=True, kw_only=True)
class WeightedBoxes(FusionMethod[Boxes]):
    """Weighted boxes fusion: overlapping boxes become their mean, weighted by their scores.

    Within a row and class, boxes are taken by falling score times weight. Each joins the cluster
    whose mean box it overlaps most, if by more than `iou_threshold`, and the mean moves; else it
    begins a cluster. With s the scores of a cluster's boxes, w the weights of their members and W
    that of all members that know the class, its score is

    * `box_and_model_avg`: sum(w s) / sum(w), times the weight of its distinct members / W. Two boxes
      of one member count as one member, so it never exceeds 1: the default.
    * `avg`: sum(w s) / boxes, times min(members, boxes) / W: as ensemble-boxes, where a member with
      two boxes counts as two. With `allows_overflow`, times boxes / W.
    * `max`: the highest w s, over the highest w.
    * `absent_model_aware_avg`: sum(w s) / (sum(w) + the weight of the absent members).

    Scores are clamped to [0, 1]. A class that only some members know is judged by these alone.
    Boxes of one member that overlap by more than the threshold are merged too. Equal scores are
    ordered by their boxes, so that the order of the members does not matter. Better placed than any
    single box where members are of like quality; do not use it where one member is much better
    than the others without weights (`tuned_boxes` learns them), nor for crowds of objects that
    truly overlap by more than the threshold.

    Args:
        weights: Member → weight of at least 0, of which only the ratios matter; None: all alike.
        iou_threshold: The overlap that a box must exceed to join; 0.55 as in the paper.
        skip_threshold: Boxes with a lower score are left out; 0 as in ensemble-boxes.
        confidence: One of the four rules above.
        allows_overflow: Of `avg`: every box counts, however many.

    Cost:
        Nothing to fit; in each row and class, boxes times clusters.

    Reference:
        Solovyev, Wang, Gabruseva. "Weighted boxes fusion: ensembling boxes from different object
        detection models". Image and Vision Computing, 2021.
    """

    weights: Mapping[str, float] | None = None
    iou_threshold: float = 0.55
    skip_threshold: float = 0.0
    confidence: Confidence = "box_and_model_avg"
    allows_overflow: bool = False

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        checked_share("iou_threshold", self.iou_threshold)
        checked_share("skip_threshold", self.skip_threshold)
        if self.confidence not in RULES:
            raise InvalidValue(
                f"confidence is '{self.confidence}'", f"one of {', '.join(RULES)}", "Choose one."
            )

    def fit(
        self,
        stack: Stack[Boxes],
        targets: AnyTargets,
        metric: Metric[Boxes],
        *,
        sample_weights_N: Array | None = None,
    ) -> WeightedBoxesFusion:
        """The weights given, or equal ones; nothing else is read."""
        kept = checked_weights(stack, self.weights)
        return WeightedBoxesFusion(
            members=tuple(kept),
            weights_M=np.array(list(kept.values())),
            iou_threshold=self.iou_threshold,
            skip_threshold=self.skip_threshold,
            confidence=self.confidence,
            allows_overflow=self.allows_overflow,
        )
