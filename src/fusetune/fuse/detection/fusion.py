# SPDX-License-Identifier: Apache-2.0
"""What the fitted fusions of boxes share: members with weights, and rows fused in blocks.

Shapes: M members, C classes, L clusters.
"""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusetune.errors import InvalidValue, name_some
from fusetune.fuse.detection.pool import Pooled, by_blocks, knows_MC, made_of, pooled
from fusetune.fuse.method import Fusion
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.kinds import Array, Floats
from fusetune.predictions.ragged import Offsets
from fusetune.predictions.stack import Stack

__all__ = [
    "BoxFusion",
    "Clusters",
    "Confidence",
    "checked_share",
    "checked_weights",
    "clusters_of",
    "confidences",
    "fused_clusters",
]

Confidence = Literal["box_and_model_avg", "avg", "max", "absent_model_aware_avg"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxFusion(Fusion[Boxes], abc.ABC):
    """A fusion that treats each row and class alone.

    Args:
        members: Names of the members with weight.
        weights_M: `(M,)` numbers above 0; only their ratios matter.
        skip_threshold: Boxes with a lower score are left out.
    """

    members: tuple[str, ...]
    weights_M: Floats
    skip_threshold: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights_M", np.asarray(self.weights_M, dtype=np.float64))
        assert self.members and self.weights_M.shape == (len(self.members),)
        assert np.isfinite(self.weights_M).all() and self.weights_M.min() > 0

    def __call__(self, stack: Stack[Boxes]) -> Boxes:
        """The fused boxes of every row, by falling score."""
        return by_blocks(stack.select(self.members), self.fuse)

    @abc.abstractmethod
    def fuse(self, stack: Stack[Boxes]) -> Boxes:
        """The same for a stack of just these members."""

    def weights_MC(self, stack: Stack[Boxes]) -> Floats:
        """`(M, C)` weights, summing to 1 over the members, 0 where one does not know the class."""
        return (self.weights_M / self.weights_M.sum())[:, None] * knows_MC(stack)

    def weights(self) -> dict[str, float] | None:
        """Member → weight, summing to 1."""
        shares_M = self.weights_M / self.weights_M.sum()
        return dict(zip(self.members, shares_M.tolist(), strict=True))


def checked_weights(stack: Stack[Boxes], weights: Mapping[str, float] | None) -> dict[str, float]:
    """The members with weight; all alike if none is given.

    Raises:
        InvalidValue: Names that are not those of the members, or weights that are negative, not
            finite or all 0.
    """
    if weights is None:
        return dict.fromkeys(stack.members, 1.0)
    if set(weights) != set(stack.members):
        raise InvalidValue(
            f"weights are given for {name_some(list(weights))}",
            f"one for each of the members {name_some(stack.members)}",
            "Give every member a weight; 0 leaves it out.",
        )
    values = np.array([float(weights[name]) for name in stack.members])
    if not math.isfinite(sum(values.tolist())) or (values < 0).any() or not values.any():
        raise InvalidValue(
            f"the weights are {', '.join(f'{value:g}' for value in values)}",
            "finite numbers of at least 0 with a finite sum, one of them above 0",
            "Correct them, or leave them out to count every member alike.",
        )
    return {
        name: value for name, value in zip(stack.members, values.tolist(), strict=True) if value
    }


def checked_share(name: str, value: float) -> None:
    """Refuse a threshold that no overlap or score could be compared with.

    Raises:
        InvalidValue: It is below 0 or above 1.
    """
    if not 0 <= value <= 1:
        raise InvalidValue(
            f"{name} is {value}", "a number from 0 to 1", "Overlaps and scores are such numbers."
        )


@dataclass(frozen=True, eq=False)
class Clusters:
    """Boxes that were found to be of one object.

    Args:
        groups_L: `(L,)` their groups in the pool.
        boxes_L4: `(L, 4)` their mean boxes, by weighted scores.
        sums_L6: `(L, 6)` sums of weighted scores, of weights and of boxes; the best weighted score;
            the number of distinct members and the sum of their weights.
        cluster_K: `(K,)` the cluster of each box of the pool.
    """

    groups_L: Offsets
    boxes_L4: Floats
    sums_L6: Floats
    cluster_K: Offsets


def clusters_of(pool: Pooled, least: Array | float) -> Clusters:
    """Each box, by falling weighted score, joins the cluster whose mean box it overlaps most.

    Args:
        pool: Groups of boxes.
        least: What the overlap must exceed, else the box begins a cluster of its own; one number,
            or one for each class.

    Cost: In each group, boxes times clusters.
    """
    from fusetune.fuse.detection.numba_boxes import running_clusters

    least_C = np.broadcast_to(np.asarray(least, dtype=np.float64), len(pool.stack.classes))
    of_K = (pool.scores_K * pool.weights_K, pool.weights_K, pool.members_K)
    num_members = len(pool.stack.members)
    return Clusters(
        *running_clusters(pool.starts, pool.boxes_K4, of_K, least_C[pool.labels_G], num_members)
    )


def confidences(
    rule: Confidence, found: Clusters, pool: Pooled, weights_MC: Floats, *, overflow: bool = False
) -> Floats:
    """`(L,)` scores of clusters; see `WeightedBoxes`.

    Only members that know the class count as members.
    """
    scores_L, weights_L, boxes_L, best_L, _, distinct_weights_L = found.sums_L6.T
    labels_L = pool.labels_G[found.groups_L]
    whole_L = weights_MC.sum(axis=0)[labels_L]
    if rule == "max":
        return best_L / weights_MC.max(axis=0)[labels_L]
    if rule == "box_and_model_avg":
        return scores_L / weights_L * distinct_weights_L / whole_L
    if rule == "absent_model_aware_avg":
        return scores_L / (weights_L + whole_L - distinct_weights_L)
    members_L = (weights_MC > 0).sum(axis=0)[labels_L]
    counted_L = boxes_L if overflow else np.minimum(members_L, boxes_L)
    return scores_L / boxes_L * counted_L / whole_L


def fused_clusters(
    stack: Stack[Boxes],
    weights_MC: Floats,
    thresholds: tuple[Array | float, Array | float],
    confidence: Confidence,
    *,
    overflow: bool = False,
) -> Boxes:
    """Weighted boxes fusion of a whole stack.

    Args:
        stack: Members' boxes.
        weights_MC: Weights of the members for each of the stack's classes, at least 0.
        thresholds: Overlap that a box must exceed to join a cluster, and least score; each one
            number, or one for each class.
        confidence: See `confidences`.
        overflow: Likewise.
    """

    def fuse(rows: Stack[Boxes]) -> Boxes:
        pool = pooled(rows, weights_MC, thresholds[1])
        found = clusters_of(pool, thresholds[0])
        scores_L = confidences(confidence, found, pool, weights_MC, overflow=overflow)
        return made_of(pool, found.groups_L, found.boxes_L4, scores_L)

    return by_blocks(stack, fuse)
