# SPDX-License-Identifier: Apache-2.0
"""Non-maximum weighted: the best box stays, moved by those that overlap it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.fuse.detection.fusion import BoxFusion, checked_share, checked_weights
from fusetune.fuse.detection.pool import made_of, pooled
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["NonMaximumWeighted", "NonMaximumWeightedFusion"]


@dataclass(frozen=True, kw_only=True, eq=False)
class NonMaximumWeightedFusion(BoxFusion):
    """Fitted non-maximum weighted; see `NonMaximumWeighted`.

    Args:
        iou_threshold: What the overlap must exceed.
    """

    iou_threshold: float

    def fuse(self, stack: Stack[Boxes]) -> Boxes:
        """The mean box of every cluster, with its best box's score."""
        from fusetune.fuse.detection.numba_boxes import main_boxes

        weights_MC = self.weights_MC(stack)
        pool = pooled(stack, weights_MC, self.skip_threshold)
        weighted_K = pool.scores_K * pool.weights_K
        mains_L, boxes_L4 = main_boxes(pool.starts, pool.boxes_K4, weighted_K, self.iou_threshold)
        groups_L = pool.groups_K[mains_L]
        most_L = weights_MC.max(axis=0)[pool.labels_G[groups_L]]
        return made_of(pool, groups_L, boxes_L4, weighted_K[mains_L] / most_L)


@dataclass(frozen=True, kw_only=True)
class NonMaximumWeighted(FusionMethod[Boxes]):
    """As `nms`, but the boxes that would go move the one that stays, by score and overlap.

    Within a row and class, boxes are taken by falling score times weight; each joins the main box
    that it overlaps most, if by more than `iou_threshold`, else it is one. The fused box is the mean
    of the cluster, weighted by score times the overlap with the main box; its score is the main
    box's, times its member's weight over the highest weight. Agreement does not raise the score: do
    not use it where that tells true boxes from false ones (`weighted_boxes` does).

    Args:
        weights: Member → weight of at least 0, of which only the ratios matter; None: all alike.
        iou_threshold: The overlap that a box must exceed to join; 0.55 as in ensemble-boxes.
        skip_threshold: Boxes with a lower score are left out.

    Cost:
        Nothing to fit; in each row and class, boxes times clusters.

    Reference:
        Zhou, Li, Zhang. "CAD: scale invariant framework for real-time object detection". ICCV
        Workshops 2017.
    """

    weights: Mapping[str, float] | None = None
    iou_threshold: float = 0.55
    skip_threshold: float = 0.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        checked_share("iou_threshold", self.iou_threshold)
        checked_share("skip_threshold", self.skip_threshold)

    def fit(
        self,
        stack: Stack[Boxes],
        targets: AnyTargets,
        metric: Metric[Boxes],
        *,
        sample_weights_N: Array | None = None,
    ) -> NonMaximumWeightedFusion:
        """The weights given, or equal ones; nothing else is read."""
        kept = checked_weights(stack, self.weights)
        return NonMaximumWeightedFusion(
            members=tuple(kept),
            weights_M=np.array(list(kept.values())),
            iou_threshold=self.iou_threshold,
            skip_threshold=self.skip_threshold,
        )
