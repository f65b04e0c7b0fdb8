# SPDX-License-Identifier: Apache-2.0
"""Consensus: boxes on which enough members agree."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.detection.fusion import BoxFusion, checked_share, clusters_of, confidences
from fusetune.fuse.detection.pool import made_of, pooled
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Consensus", "ConsensusFusion"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConsensusFusion(BoxFusion):
    """Fitted consensus; see `Consensus`.

    Args:
        votes: How many members must agree; 0: more than half of those that know the class.
        iou_threshold: What the overlap must exceed.
    """

    votes: int
    iou_threshold: float

    def fuse(self, stack: Stack[Boxes]) -> Boxes:
        """The mean boxes of the clusters with enough members."""
        weights_MC = self.weights_MC(stack)
        pool = pooled(stack, weights_MC, self.skip_threshold)
        found = clusters_of(pool, self.iou_threshold)
        know_L = (weights_MC > 0).sum(axis=0)[pool.labels_G[found.groups_L]]
        needed_L = np.minimum(self.votes, know_L) if self.votes else know_L // 2 + 1
        agreed_L = found.sums_L6[:, 4] >= needed_L
        scores_L = confidences("box_and_model_avg", found, pool, weights_MC)
        return made_of(pool, found.groups_L[agreed_L], found.boxes_L4[agreed_L], scores_L[agreed_L])


@dataclass(frozen=True, kw_only=True)
class Consensus(FusionMethod[Boxes]):
    """Boxes that at least so many distinct members found, each as the mean of theirs.

    Clusters, means and scores are those of `weighted_boxes` with its default rule; a cluster of
    fewer members is left out. One vote is the affirmative strategy, all votes the unanimous one.
    Precise, and so for counting objects or labeling data. Do not use it where average precision
    counts: a box of low score costs it nothing, a missing one does.

    Args:
        votes: How many members must agree, at most all that know the class; 0: more than half of
            these, as in the paper.
        iou_threshold: The overlap that a box must exceed to join a cluster; 0.5 as in the paper.
        skip_threshold: Boxes with a lower score do not vote.

    Cost:
        Nothing to fit; in each row and class, boxes times clusters.

    Reference:
        Casado-García, Heras. "Ensemble methods for object detection". ECAI 2020.
    """

    votes: int = 0
    iou_threshold: float = 0.5
    skip_threshold: float = 0.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        checked_share("iou_threshold", self.iou_threshold)
        checked_share("skip_threshold", self.skip_threshold)
        if self.votes < 0:
            raise InvalidValue(
                f"votes is {self.votes}", "a number of members, or 0 for most", "Correct it."
            )

    def fit(
        self,
        stack: Stack[Boxes],
        targets: AnyTargets,
        metric: Metric[Boxes],
        *,
        sample_weights_N: Array | None = None,
    ) -> ConsensusFusion:
        """All members alike; nothing is read."""
        return ConsensusFusion(
            members=stack.members,
            weights_M=np.ones(len(stack.members)),
            votes=self.votes,
            iou_threshold=self.iou_threshold,
            skip_threshold=self.skip_threshold,
        )
