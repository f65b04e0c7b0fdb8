# SPDX-License-Identifier: Apache-2.0
"""Soft non-maximum suppression: overlapping boxes lose score instead of going."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.detection.fusion import BoxFusion, checked_share, checked_weights
from fusetune.fuse.detection.pool import made_of, pooled
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["SoftNms", "SoftNmsFusion"]

Decay = Literal["linear", "gaussian"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftNmsFusion(BoxFusion):
    """Fitted soft suppression; see `SoftNms` for the arguments.

    Args:
        iou_threshold: Of the linear decay.
        sigma: Of the Gaussian decay; 0: the decay is linear.
        floor: What a lowered score must exceed.
        scaled: Whether scores are multiplied by the members' weights.
        rescore: Whether boxes come out with their lowered scores.
    """

    iou_threshold: float
    sigma: float
    floor: float
    scaled: bool
    rescore: bool

    def fuse(self, stack: Stack[Boxes]) -> Boxes:
        """All boxes whose lowered scores are above the floor."""
        from fusetune.fuse.detection.numba_boxes import decayed

        weights_MC = self.weights_MC(stack)
        pool = pooled(stack, weights_MC, self.skip_threshold)
        groups_K, scores_K = pool.groups_K, pool.scores_K
        if self.scaled:
            whole_C = weights_MC.sum(axis=0)
            scores_K = scores_K * pool.weights_K / whole_C[pool.labels_G[groups_K]]
        lowered = decayed(pool.starts, pool.boxes_K4, scores_K, self.iou_threshold, self.sigma)
        kept = lowered > self.floor
        scores_K = lowered if self.rescore else scores_K
        return made_of(pool, groups_K[kept], pool.boxes_K4[kept], scores_K[kept])


@dataclass(frozen=True, kw_only=True)
class SoftNms(FusionMethod[Boxes]):
    """Soft suppression: a box loses score by how much better boxes overlap it, and stays.

    Within a row and class, the box with the highest remaining score is taken in turn, and lowers
    those that are left: `gaussian` by exp(-IoU² / sigma), `linear` by 1 - IoU where that exceeds
    `iou_threshold`. Finds objects that overlap, which `nms` loses. Do not use it to count objects:
    it keeps many boxes with low scores.

    Args:
        weights: Member → weight of at least 0; scores are multiplied by it, over the weight of all
            members that know the class. None: scores stay as they are.
        decay: `gaussian` or `linear`.
        iou_threshold: Of the linear decay; 0.3 in the paper, 0.5 in ensemble-boxes and here.
        sigma: Of the Gaussian decay, above 0; 0.5 as in the paper.
        floor: Lowered scores must exceed it; 0.001 as in the paper's code.
        skip_threshold: Boxes with a lower score are left out before.
        rescore: Boxes come out with their lowered scores, as in the paper; False: with those that
            they came in with, as ensemble-boxes 1.0.9 does it, whose boxes are then hardly ranked.

    Cost:
        Nothing to fit; in each row and class, the square of its boxes.

    Reference:
        Bodla, Singh, Chellappa, Davis. "Soft-NMS: improving object detection with one line of
        code". ICCV 2017.
    """

    weights: Mapping[str, float] | None = None
    decay: Decay = "gaussian"
    iou_threshold: float = 0.5
    sigma: float = 0.5
    floor: float = 0.001
    skip_threshold: float = 0.0
    rescore: bool = True

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        checked_share("iou_threshold", self.iou_threshold)
        checked_share("skip_threshold", self.skip_threshold)
        checked_share("floor", self.floor)
        if self.decay not in ("linear", "gaussian") or not 0 < self.sigma < np.inf:
            raise InvalidValue(
                f"decay is '{self.decay}' and sigma {self.sigma}",
                "linear or gaussian, and a sigma above 0",
                "Correct it, or leave it out.",
            )

    def fit(
        self,
        stack: Stack[Boxes],
        targets: AnyTargets,
        metric: Metric[Boxes],
        *,
        sample_weights_N: Array | None = None,
    ) -> SoftNmsFusion:
        """The weights given, or none; nothing else is read."""
        kept = checked_weights(stack, self.weights)
        return SoftNmsFusion(
            members=tuple(kept),
            weights_M=np.array(list(kept.values())),
            iou_threshold=self.iou_threshold,
            sigma=self.sigma if self.decay == "gaussian" else 0.0,
            floor=self.floor,
            skip_threshold=self.skip_threshold,
            scaled=self.weights is not None,
            rescore=self.rescore,
        )
