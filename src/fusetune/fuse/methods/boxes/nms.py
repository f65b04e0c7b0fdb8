# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression of all members' boxes."""

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

__all__ = ["Nms", "NmsFusion"]


@dataclass(frozen=True, kw_only=True, eq=False)
class NmsFusion(BoxFusion):
    """Fitted non-maximum suppression; see `Nms` for the arguments.

    Args:
        iou_threshold: Overlaps above it are suppressed.
        scaled: Whether scores are multiplied by the members' weights.
    """

    iou_threshold: float
    scaled: bool

    def fuse(self, stack: Stack[Boxes]) -> Boxes:
        """The boxes that no better one overlaps."""
        from fusetune.fuse.detection.numba_boxes import kept_greedily

        weights_MC = self.weights_MC(stack)
        pool = pooled(stack, weights_MC, self.skip_threshold)
        kept = kept_greedily(pool.starts, pool.boxes_K4, self.iou_threshold)
        groups_L = pool.groups_K[kept]
        scores_L = pool.scores_K[kept]
        if self.scaled:
            whole_L = weights_MC.sum(axis=0)[pool.labels_G[groups_L]]
            scores_L = scores_L * pool.weights_K[kept] / whole_L
        return made_of(pool, groups_L, pool.boxes_K4[kept], scores_L)


@dataclass(frozen=True, kw_only=True)
class Nms(FusionMethod[Boxes]):
    """Non-maximum suppression: of overlapping boxes the one with the highest score stays.

    Within a row and class, all members' boxes are taken by falling score; a box that overlaps a
    kept one by more than `iou_threshold` goes. Boxes and scores are those of the members, so it
    uses no agreement: a good baseline, and the one to beat. Do not use it where members' scores are
    not comparable: the surest one wins everywhere (`tuned_boxes` calibrates them).

    Args:
        weights: Member → weight of at least 0; scores are multiplied by it, over the weight of all
            members that know the class. None: scores stay as they are.
        iou_threshold: Overlaps above it are suppressed; 0.5 as in ensemble-boxes.
        skip_threshold: Boxes with a lower score are left out.

    Cost:
        Nothing to fit; in each row and class, boxes times kept boxes.

    Reference:
        Neubeck, Van Gool. "Efficient non-maximum suppression". ICPR 2006.
    """

    weights: Mapping[str, float] | None = None
    iou_threshold: float = 0.5
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
    ) -> NmsFusion:
        """The weights given, or none; nothing else is read."""
        kept = checked_weights(stack, self.weights)
        return NmsFusion(
            members=tuple(kept),
            weights_M=np.array(list(kept.values())),
            iou_threshold=self.iou_threshold,
            skip_threshold=self.skip_threshold,
            scaled=self.weights is not None,
        )
